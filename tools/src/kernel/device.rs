//! The RDMA devices that the kernel's SMC-R knows. Generic netlink family SMC_GEN_NETLINK, attributes SMC_NLA_DEV_* of
//! include/uapi/linux/smc.h.

use std::io;

use serde::Serialize;

use super::{dump, interface_name, Attributes};

const SMC_NETLINK_GET_DEV_SMCR: u8 = 6;
const SMC_GEN_DEV_SMCR: u16 = 6;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    pub name: String,
    /// A link group has no other device to go to if this one fails.
    pub critical: bool,
    /// Of a PCI device.
    pub pci: Option<Pci>,
    /// Those that are there, of the two that the kernel's SMC uses of a device.
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pci {
    pub id: String,
    pub vendor: u16,
    pub device: u16,
    /// On s390: function id and physical channel.
    pub function: u32,
    pub channel: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// From 1.
    pub number: u8,
    pub active: bool,
    pub interface: Option<String>,
    pub pnet_id: String,
    /// Set by the user, not by the hardware.
    pub pnet_id_by_user: bool,
    pub links: u32,
}

pub fn all() -> io::Result<Vec<Device>> {
    let answers = dump(SMC_NETLINK_GET_DEV_SMCR)?;
    Ok(answers.iter().filter_map(|answer| device(Attributes(answer).nest(SMC_GEN_DEV_SMCR)?)).collect())
}

fn device(a: Attributes) -> Option<Device> {
    let ports = [(1, 8), (2, 9)].iter().filter_map(|(number, kind)| port(*number, a.nest(*kind)?));
    Some(Device { name: a.string(10)?, critical: a.u8(2)? != 0, pci: pci(a), ports: ports.collect() })
}

/// `None`: the kernel has sent none of it.
fn pci(a: Attributes) -> Option<Pci> {
    Some(Pci {
        id: a.string(7)?,
        vendor: a.u16(5)?,
        device: a.u16(6)?,
        function: a.u32(3).unwrap_or(0),
        channel: a.u16(4).unwrap_or(0),
    })
}

fn port(number: u8, a: Attributes) -> Option<Port> {
    let valid = a.u8(5)? != 0;
    valid.then_some(())?;
    Some(Port {
        number,
        active: a.u8(4)? == 1,
        interface: a.u32(3).and_then(interface_name),
        pnet_id: a.string(2).unwrap_or_default().trim_end().to_owned(),
        pnet_id_by_user: a.u8(1)? != 0,
        links: a.u32(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testdata::recorded;
    use super::*;

    #[test]
    fn a_device_without_pci_is_read_with_the_port_that_it_has() {
        let answers = recorded("devices");
        let read = |bytes: &[u8]| device(Attributes(bytes).nest(SMC_GEN_DEV_SMCR)?);
        let port = Port {
            number: 1,
            active: true,
            interface: interface_name(2),
            pnet_id: "LABNET".into(),
            pnet_id_by_user: true,
            links: 1,
        };
        let expected = Device { name: "rxe0".into(), critical: true, pci: None, ports: vec![port] };
        assert_eq!(read(&answers[0]), Some(expected));
        assert!((0..answers[0].len()).all(|end| read(&answers[0][..end]).is_none()));
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_device_with_pci_has_its_numbers() {
        let port = |valid: u8| {
            let parts = [attribute(1, &[0]), attribute(4, &[0]), attribute(5, &[valid])];
            [parts.concat(), attribute(6, &3u32.to_ne_bytes())].concat()
        };
        let parts = [
            attribute(2, &[0]),
            attribute(3, &0x31u32.to_ne_bytes()),
            attribute(4, &0x1ccu16.to_ne_bytes()),
            attribute(5, &0x15b3u16.to_ne_bytes()),
            attribute(6, &0x1016u16.to_ne_bytes()),
            attribute(7, b"0011:00:00.0\0"),
            attribute(8, &port(0)),
            attribute(9, &port(1)),
            attribute(10, b"mlx5_0\0"),
        ];
        let device = device(Attributes(&parts.concat())).unwrap();
        let pci =
            Pci { id: "0011:00:00.0".into(), vendor: 0x15b3, device: 0x1016, function: 0x31, channel: 0x1cc };
        assert_eq!(device.pci, Some(pci));
        let [port] = &device.ports[..] else { panic!("{device:?}") };
        assert_eq!((port.number, port.active, port.links, &*port.pnet_id), (2, false, 3, ""));
    }
}
