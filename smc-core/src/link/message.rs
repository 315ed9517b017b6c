//! The messages of the rendezvous. Both ends run on one host, so numbers are in native byte order.

/// Names one process (a new one after fork).
pub type ProcessId = [u8; 16];

/// Changes whenever the messages or the memory layout do.
const VERSION: u32 = 5;

/// What shows that the sender has the other end of the connection: numbers in its own descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its TCP socket.
    pub fd: i32,
    /// An epoll instance in which the socket is, or -1 (see `link::proof`).
    pub proof: i32,
}

/// From the accepting end, as soon as it has verified who listens: who it is and what it wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub process: ProcessId,
    pub held: Held,
    /// Ring sizes the sender wishes, in bytes.
    pub rcvbuf: u64,
    pub sndbuf: u64,
}

/// From the connecting end: where the rings are. Descriptors follow: the segment's memfd if `new_segment`, then
/// the slot's doorbells if `new_doorbells`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub process: ProcessId,
    pub held: Held,
    pub segment: u32,
    pub slot: u32,
    /// Ring sizes of every slot of the segment, by producing end.
    pub sizes: [u64; 2],
    pub new_segment: bool,
    pub new_doorbells: bool,
}

/// From either end, in the place of its other message: it stays on TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decline {
    pub held: Held,
    /// The number of a [`crate::reason::Reason`].
    pub reason: u32,
}

/// What the accepting end begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greeting {
    Hello(Hello),
    Decline(Decline),
}

/// What the connecting end answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Offer(Offer),
    Decline(Decline),
}

/// Not a message of this version of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    Garbled,
    OtherVersion,
}

pub const MAX_LEN: usize = 128;

/// A message being written.
struct Writer {
    buf: [u8; MAX_LEN],
    len: usize,
}

impl Writer {
    fn new(kind: &[u8; 4]) -> Writer {
        let mut w = Writer { buf: [0; MAX_LEN], len: 0 };
        w.put(kind);
        w.put(&VERSION.to_ne_bytes());
        w
    }
    fn held(&mut self, held: &Held) {
        self.put(&held.fd.to_ne_bytes());
        self.put(&held.proof.to_ne_bytes());
    }
    fn put(&mut self, bytes: &[u8]) {
        self.buf[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn open<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Result<Reader<'a>, Malformed> {
        let mut r = Reader(bytes);
        if r.take::<4>()? != *kind {
            return Err(Malformed::Garbled);
        }
        if u32::from_ne_bytes(r.take()?) != VERSION {
            return Err(Malformed::OtherVersion);
        }
        Ok(r)
    }
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Garbled)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_ne_bytes)
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_ne_bytes)
    }
    fn held(&mut self) -> Result<Held, Malformed> {
        Ok(Held { fd: self.u32()? as i32, proof: self.u32()? as i32 })
    }
    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Garbled)
        }
    }
}

impl Hello {
    const KIND: &'static [u8; 4] = b"smcH";

    pub fn encode(&self) -> ([u8; MAX_LEN], usize) {
        let mut w = Writer::new(Self::KIND);
        w.put(&self.process);
        w.held(&self.held);
        w.put(&self.rcvbuf.to_ne_bytes());
        w.put(&self.sndbuf.to_ne_bytes());
        (w.buf, w.len)
    }

    pub fn decode(bytes: &[u8]) -> Result<Hello, Malformed> {
        let mut r = Reader::open(bytes, Self::KIND)?;
        let hello = Hello { process: r.take()?, held: r.held()?, rcvbuf: r.u64()?, sndbuf: r.u64()? };
        r.end()?;
        Ok(hello)
    }
}

impl Offer {
    const KIND: &'static [u8; 4] = b"smcO";

    pub fn encode(&self) -> ([u8; MAX_LEN], usize) {
        let mut w = Writer::new(Self::KIND);
        w.put(&self.process);
        w.held(&self.held);
        w.put(&self.segment.to_ne_bytes());
        w.put(&self.slot.to_ne_bytes());
        w.put(&self.sizes[0].to_ne_bytes());
        w.put(&self.sizes[1].to_ne_bytes());
        w.put(&[self.new_segment as u8, self.new_doorbells as u8]);
        (w.buf, w.len)
    }

    pub fn decode(bytes: &[u8]) -> Result<Offer, Malformed> {
        let mut r = Reader::open(bytes, Self::KIND)?;
        let (process, held, segment, slot) = (r.take()?, r.held()?, r.u32()?, r.u32()?);
        let sizes = [r.u64()?, r.u64()?];
        let [new_segment, new_doorbells] = r.take::<2>()?;
        r.end()?;
        let flag = |b: u8| match b {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Garbled),
        };
        Ok(Offer {
            process,
            held,
            segment,
            slot,
            sizes,
            new_segment: flag(new_segment)?,
            new_doorbells: flag(new_doorbells)?,
        })
    }
}

impl Decline {
    const KIND: &'static [u8; 4] = b"smcD";

    pub fn encode(&self) -> ([u8; MAX_LEN], usize) {
        let mut w = Writer::new(Self::KIND);
        w.held(&self.held);
        w.put(&self.reason.to_ne_bytes());
        (w.buf, w.len)
    }

    pub fn decode(bytes: &[u8]) -> Result<Decline, Malformed> {
        let mut r = Reader::open(bytes, Self::KIND)?;
        let decline = Decline { held: r.held()?, reason: r.u32()? };
        r.end()?;
        Ok(decline)
    }
}

impl Answer {
    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        if bytes.starts_with(Decline::KIND) {
            Decline::decode(bytes).map(Answer::Decline)
        } else {
            Offer::decode(bytes).map(Answer::Offer)
        }
    }
}

impl Greeting {
    pub fn decode(bytes: &[u8]) -> Result<Greeting, Malformed> {
        if bytes.starts_with(Decline::KIND) {
            Decline::decode(bytes).map(Greeting::Decline)
        } else {
            Hello::decode(bytes).map(Greeting::Hello)
        }
    }

    pub fn held(&self) -> Held {
        match self {
            Greeting::Hello(hello) => hello.held,
            Greeting::Decline(decline) => decline.held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello =
        Hello { process: [7; 16], held: Held { fd: 9, proof: 8200 }, rcvbuf: 1 << 18, sndbuf: 1 << 16 };
    const OFFER: Offer = Offer {
        process: [9; 16],
        held: Held { fd: 12, proof: -1 },
        segment: 3,
        slot: 5,
        sizes: [4096, 8192],
        new_segment: true,
        new_doorbells: false,
    };

    #[test]
    fn messages_come_back_as_they_were() {
        let (buf, len) = HELLO.encode();
        assert_eq!(Hello::decode(&buf[..len]), Ok(HELLO));
        let (buf, len) = OFFER.encode();
        assert_eq!(Offer::decode(&buf[..len]), Ok(OFFER));
        let decline = Decline { held: Held { fd: 5, proof: 6 }, reason: 0x0301_0001 };
        let (buf, len) = decline.encode();
        assert_eq!(Decline::decode(&buf[..len]), Ok(decline));
        assert_eq!(Hello::decode(&buf[..len]), Err(Malformed::Garbled));
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let (buf, len) = OFFER.encode();
        for n in 0..len {
            assert_eq!(Offer::decode(&buf[..n]), Err(Malformed::Garbled), "{n}");
        }
        assert_eq!(Offer::decode(&buf[..len + 1]), Err(Malformed::Garbled));
        assert_eq!(Hello::decode(&buf[..len]), Err(Malformed::Garbled));
    }

    #[test]
    fn another_version_is_told_apart() {
        let (mut buf, len) = HELLO.encode();
        buf[4] ^= 1;
        assert_eq!(Hello::decode(&buf[..len]), Err(Malformed::OtherVersion));
        let (mut buf, len) = Decline { held: Held { fd: 5, proof: 6 }, reason: 0x0301_0001 }.encode();
        buf[4] ^= 1;
        assert_eq!(Greeting::decode(&buf[..len]), Err(Malformed::OtherVersion));
        assert_eq!(Answer::decode(&buf[..len]), Err(Malformed::OtherVersion));
    }
}
