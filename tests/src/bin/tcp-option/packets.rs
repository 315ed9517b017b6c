//! TCP segments on an interface, seen and sent through a packet socket.

use std::ffi::CString;
use std::io;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice};
use smc_tests::sys;

/// A segment as it went over the interface.
#[derive(Debug, Clone)]
pub struct Segment {
    pub source_port: u16,
    pub destination_port: u16,
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub reset: bool,
    pub sequence: u32,
    pub payload: Vec<u8>,
    /// Kind and value of each option, without those that pad.
    pub options: Vec<(u8, Vec<u8>)>,
    /// All of them, as they are in the header.
    pub raw_options: Vec<u8>,
    source: [u8; 4],
    destination: [u8; 4],
    mac_source: [u8; 6],
    mac_destination: [u8; 6],
}

impl Segment {
    /// Whether it is for this IPv4 address.
    pub fn is_to(&self, address: &str) -> bool {
        address.parse() == Ok(std::net::Ipv4Addr::from(self.destination))
    }

    /// The values of all options of a kind.
    pub fn option(&self, kind: u8) -> Vec<&[u8]> {
        self.options.iter().filter(|(k, _)| *k == kind).map(|(_, value)| &value[..]).collect()
    }
}

/// Receives all segments on an interface from its creation on. Needs root to be made, not to be used.
pub struct Interface {
    fd: i32,
}

impl Interface {
    pub fn open(name: &str) -> Result<Interface, String> {
        let failed = |what: &str| format!("{what} on {name}: {}", io::Error::last_os_error());
        let name_c = CString::new(name).expect("a name without zeros");
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: a name with its zero, and integers; the address is plain data that outlives the call.
        unsafe {
            let index = libc::if_nametoindex(name_c.as_ptr());
            if index == 0 {
                return Err(failed("if_nametoindex"));
            }
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into());
            if fd < 0 {
                return Err(failed("packet socket"));
            }
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            let length = std::mem::size_of::<libc::sockaddr_ll>() as u32;
            if libc::bind(fd, (&address as *const libc::sockaddr_ll).cast(), length) != 0 {
                return Err(failed("bind"));
            }
            Ok(Interface { fd })
        }
    }

    /// The next segment for which `wanted` holds, within a minute.
    pub fn next(&self, wanted: impl Fn(&Segment) -> bool) -> Result<Segment, String> {
        self.next_within(Duration::from_secs(60), wanted)?.ok_or_else(|| "the segment did not come".into())
    }

    /// The next segment for which `wanted` holds, or none within this time.
    pub fn next_within(
        &self,
        limit: Duration,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Option<Segment>, String> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = end.saturating_duration_since(Instant::now()).as_millis() as i32;
            let mut polled = [libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 }];
            match sys::poll(&mut polled, left) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) => return Err(sys::errno_name(e)),
            }
            let n = sys::recv(self.fd, &mut buffer, 0).map_err(sys::errno_name)?;
            match parse(&buffer[..n]) {
                Some(segment) if wanted(&segment) => return Ok(Some(segment)),
                _ => {}
            }
        }
    }

    /// Answers an IPv4 SYN with a SYN-ACK that has these options, and [`INITIAL_SEQUENCE`].
    pub fn answer(&self, syn: &Segment, options: &[u8]) -> Result<(), String> {
        let packet = to_sender(syn, INITIAL_SEQUENCE).syn().ack(syn.sequence.wrapping_add(1));
        self.send(packet.options_raw(options).map_err(|e| e.to_string())?, &[])
    }

    /// Sends a segment to where an IPv4 one came from, with these sequence numbers.
    pub fn reply(
        &self,
        to: &Segment,
        sequence: u32,
        ack: u32,
        flags: Flags,
        payload: &[u8],
    ) -> Result<(), String> {
        let packet = to_sender(to, sequence).ack(ack);
        self.send(if flags.fin { packet.fin() } else { packet }, payload)
    }

    fn send(&self, packet: PacketBuilderStep<TcpHeader>, payload: &[u8]) -> Result<(), String> {
        let mut frame = Vec::new();
        packet.write(&mut frame, payload).map_err(|e| e.to_string())?;
        sys::send(self.fd, &frame, 0).map(drop).map_err(sys::errno_name)
    }
}

/// What [`Interface::answer`] begins its bytes with, less one.
pub const INITIAL_SEQUENCE: u32 = 1000;

#[derive(Clone, Copy)]
pub struct Flags {
    pub fin: bool,
}

fn to_sender(of: &Segment, sequence: u32) -> PacketBuilderStep<TcpHeader> {
    PacketBuilder::ethernet2(of.mac_destination, of.mac_source).ipv4(of.destination, of.source, 64).tcp(
        of.destination_port,
        of.source_port,
        sequence,
        65535,
    )
}

fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
    let (source, destination) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source(), ip.header().destination()),
        // Only what is answered needs its addresses.
        _ => ([0; 4], [0; 4]),
    };
    let mac = |at: usize| frame[at..at + 6].try_into().ok();
    Some(Segment {
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        reset: tcp.rst(),
        payload: tcp.payload().to_vec(),
        sequence: tcp.sequence_number(),
        options: options(tcp.options()),
        raw_options: tcp.options().to_vec(),
        source,
        destination,
        mac_source: mac(6)?,
        mac_destination: mac(0)?,
    })
}

fn options(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    while let [kind, rest @ ..] = bytes {
        bytes = match kind {
            0 => break,
            1 => rest,
            _ => {
                let length = usize::from(*rest.first().unwrap_or(&0));
                let Some(value) = bytes.get(2..length) else { break };
                options.push((*kind, value.to_vec()));
                &bytes[length..]
            }
        };
    }
    options
}
