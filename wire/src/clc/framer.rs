//! Takes CLC messages out of a byte stream without touching the byte behind them.

use super::{Clc, Header, Malformed, HEADER, KEPT};

/// Collects the bytes of one CLC message after another.
///
/// ```
/// # use smc_wire::clc::Framer;
/// # let mut stream: &[u8] = &[0xe2, 0xd4, 0xc3, 0xd9, 4, 0, 28, 0x10, 1, 2, 3, 4, 5, 6, 7, 8, 3, 3, 0, 0, 0, 0, 0, 0,
/// #     0xe2, 0xd4, 0xc3, 0xd9, b'G', b'E', b'T'];
/// let mut framer = Framer::default();
/// let message = loop {
///     // Read at most framer.wanted() bytes from the socket.
///     let (mut read, rest) = stream.split_at(framer.wanted().min(stream.len()));
///     stream = rest;
///     if let Some(message) = framer.feed(&mut read)? {
///         break message;
///     }
/// };
/// assert_eq!(stream, b"GET");
/// # Ok::<(), smc_wire::clc::Malformed>(())
/// ```
#[derive(Clone, Default, Debug)]
pub struct Framer {
    /// At most [`KEPT`] bytes.
    kept: Vec<u8>,
    /// Set when `kept` has [`HEADER`] bytes.
    header: Option<Header>,
    /// Bytes beyond [`KEPT`] that were dropped.
    dropped: usize,
}

impl Framer {
    /// How many bytes may be taken from the stream next; at least one.
    pub fn wanted(&self) -> usize {
        let length = self.header.map_or(HEADER, |header| usize::from(header.length));
        length - self.kept.len() - self.dropped
    }

    /// Whether it has a part of a message.
    pub fn is_midway(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Takes bytes from the front of `input`, no more than are [wanted](Framer::wanted) for the message under way, and
    /// returns the message when it is complete. `None`: `input` is empty now, and more is needed.
    ///
    /// After an error the stream is lost. If no more than the first eight bytes were looked at, with MSG_PEEK, and they fail
    /// with [`Malformed::EyeCatcher`], nothing has been taken from the stream that is not CLC.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Clc>, Malformed> {
        while !input.is_empty() {
            let (head, rest) = input.split_at(self.wanted().min(input.len()));
            *input = rest;
            let keep = head.len().min(KEPT - self.kept.len());
            self.kept.extend_from_slice(&head[..keep]);
            self.dropped += head.len() - keep;
            if self.header.is_none() {
                let Some(header) = self.kept.first_chunk() else { continue };
                self.header = Some(Header::decode(header)?);
            } else if self.wanted() == 0 {
                let message = Clc::decode(&self.kept);
                *self = Framer::default();
                return message.map(Some);
            }
        }
        Ok(None)
    }
}
