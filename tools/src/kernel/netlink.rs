//! Requests and answers over netlink, generic or not.

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
};
use netlink_sys::{protocols::NETLINK_GENERIC, Socket, SocketAddr};

use super::Attributes;

/// The body of a message, as bytes: its family alone knows more.
struct Body {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Body {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Body {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Body { kind: header.message_type, bytes: payload.to_vec() })
    }
}

/// What a request is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Change something: answered with an acknowledgement or an error.
    Do,
    /// List everything.
    Dump,
}

/// Sends a request and collects the bodies of all answers.
pub fn request(protocol: isize, message_type: u16, kind: Kind, body: Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    let mut message = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(Body { kind: message_type, bytes: body }),
    );
    message.header.flags = NLM_F_REQUEST | if kind == Kind::Dump { NLM_F_DUMP } else { NLM_F_ACK };
    message.header.sequence_number = 1;
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, sender) = socket.recv_from_full()?;
        // Only the kernel answers; anybody may send.
        if sender.port_number() != 0 {
            continue;
        }
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<Body>::deserialize(rest).map_err(malformed)?;
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or(&[]);
            match answer.payload {
                NetlinkPayload::InnerMessage(body) => answers.push(body.bytes),
                // An error of a dump, too late to be told in a message of its own.
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(io::Error::from_raw_os_error(-done.code));
                }
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => return Ok(answers),
                NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
                _ => {}
            }
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed netlink message: {error}"))
}

/// A string attribute as the kernel wants it, with its zero.
pub fn string(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

/// A generic netlink family, found by its name.
pub struct Family {
    id: u16,
    version: u8,
}

const HEADER: usize = 4;

impl Family {
    /// ENOENT, with a sentence: the kernel has no such family.
    pub fn find(name: &str) -> io::Result<Family> {
        const GENL_ID_CTRL: u16 = 0x10;
        const CTRL_CMD_GETFAMILY: u8 = 3;
        const CTRL_ATTR_FAMILY_ID: u16 = 1;
        const CTRL_ATTR_FAMILY_NAME: u16 = 2;
        let control = Family { id: GENL_ID_CTRL, version: 1 };
        let answers = control
            .request(Kind::Do, CTRL_CMD_GETFAMILY, &[string(CTRL_ATTR_FAMILY_NAME, name)])
            .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => {
                let text = format!("this kernel has no {name}: its module smc is not there or not loaded");
                io::Error::new(io::ErrorKind::NotFound, text)
            }
            _ => e,
        })?;
        let id = answers.iter().find_map(|a| Attributes(a).find(CTRL_ATTR_FAMILY_ID)?.try_into().ok());
        Ok(Family { id: u16::from_ne_bytes(id.ok_or_else(|| malformed("no family id"))?), version: 1 })
    }

    /// Sends a command and returns the attributes of each answer.
    pub fn request(&self, kind: Kind, command: u8, attributes: &[DefaultNla]) -> io::Result<Vec<Vec<u8>>> {
        let mut body = vec![0; HEADER + attributes.buffer_len()];
        body[0] = command;
        body[1] = self.version;
        attributes.emit(&mut body[HEADER..]);
        let answers = request(NETLINK_GENERIC, self.id, kind, body)?;
        Ok(answers.into_iter().map(|mut answer| answer.split_off(HEADER.min(answer.len()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_of_every_kernel_is_found_and_one_of_none_is_not() {
        assert_eq!(Family::find("nlctrl").unwrap().id, 0x10);
        let error = Family::find("no-such").err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("no-such"), "{error}");
    }

    #[test]
    fn a_dump_collects_all_messages() {
        const CTRL_CMD_GETFAMILY: u8 = 3;
        let families = Family::find("nlctrl").unwrap().request(Kind::Dump, CTRL_CMD_GETFAMILY, &[]).unwrap();
        assert!(families.iter().any(|f| Attributes(f).string(2).as_deref() == Some("nlctrl")));
    }
}
