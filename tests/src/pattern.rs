//! Bytes that say where they belong: each aligned 8-byte word of a stream encodes the run, the connection, the
//! direction and its own offset, so that a wrong byte tells what was lost, repeated or mixed up.

use crate::random::{mix, unmix};

const CONNECTION_SHIFT: u32 = 44;
const DIRECTION_SHIFT: u32 = 43;

/// One direction of one connection of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub seed: u64,
    pub connection: u32,
    /// 0: from the connecting to the accepting end; 1: back.
    pub direction: u32,
}

impl Stream {
    fn word(&self, index: u64) -> u64 {
        let place = u64::from(self.connection) << CONNECTION_SHIFT
            | u64::from(self.direction) << DIRECTION_SHIFT
            | (index & ((1 << DIRECTION_SHIFT) - 1));
        mix(place ^ mix(self.seed))
    }

    /// Writes into `buf` what the stream holds from `offset` on.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let word = self.word(position / 8).to_le_bytes();
            let skip = (position % 8) as usize;
            let n = (8 - skip).min(buf.len() - at);
            buf[at..at + n].copy_from_slice(&word[skip..skip + n]);
            at += n;
        }
    }

    /// Compares `buf` with what the stream holds from `offset` on. The error is a sentence about the first
    /// wrong byte.
    pub fn check(&self, offset: u64, buf: &[u8]) -> Result<(), String> {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let word = self.word(position / 8).to_le_bytes();
            let skip = (position % 8) as usize;
            let n = (8 - skip).min(buf.len() - at);
            if buf[at..at + n] != word[skip..skip + n] {
                let wrong = (0..n).find(|&i| buf[at + i] != word[skip + i]).unwrap_or(0);
                return Err(self.describe(offset, buf, at + wrong));
            }
            at += n;
        }
        Ok(())
    }

    fn describe(&self, offset: u64, buf: &[u8], wrong: usize) -> String {
        let mut expected = [0; 16];
        self.fill(offset + wrong as u64, &mut expected);
        let got = &buf[wrong..(wrong + 16).min(buf.len())];
        let origin = match self.locate(&buf[wrong..]) {
            Some((stream, at)) => {
                format!(
                    "; they belong to connection {} direction {} offset {at}",
                    stream.connection, stream.direction
                )
            }
            None => String::new(),
        };
        format!(
            "connection {} direction {}: wrong byte at offset {} (byte {wrong} of a read of {}): expected {expected:02x?}, got {got:02x?}{origin}",
            self.connection,
            self.direction,
            offset + wrong as u64,
            buf.len(),
        )
    }

    /// Where in this run `bytes` come from, when they hold at least one whole word of it.
    fn locate(&self, bytes: &[u8]) -> Option<(Stream, u64)> {
        for skip in 0..8.min(bytes.len()) {
            let Some(word) = bytes.get(skip..skip + 8) else { break };
            let place =
                unmix(word.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))) ^ mix(self.seed);
            let stream = Stream {
                seed: self.seed,
                connection: (place >> CONNECTION_SHIFT) as u32,
                direction: (place >> DIRECTION_SHIFT) as u32 & 1,
            };
            let index = place & ((1 << DIRECTION_SHIFT) - 1);
            // Anything decodes to something; a place no run gets to is noise.
            if stream.connection < 1 << 16 && index < 1 << 36 {
                return Some((stream, (index * 8).saturating_sub(skip as u64)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { seed: 7, connection: 3, direction: 1 };

    #[test]
    fn a_stream_filled_in_pieces_is_accepted_in_other_pieces() {
        let mut bytes = vec![0; 1000];
        for (at, piece) in bytes.chunks_mut(7).enumerate() {
            STREAM.fill(at as u64 * 7, piece);
        }
        for (at, piece) in bytes.chunks(13).enumerate() {
            STREAM.check(at as u64 * 13, piece).unwrap();
        }
    }

    #[test]
    fn a_lost_byte_is_reported_with_its_place_and_its_origin() {
        let mut bytes = vec![0; 64];
        STREAM.fill(100, &mut bytes);
        bytes.remove(20);
        let error = STREAM.check(100, &bytes).unwrap_err();
        assert!(error.contains("wrong byte at offset 120 "), "{error}");
        assert!(error.contains("connection 3 direction 1 offset 121"), "{error}");
    }

    #[test]
    fn bytes_of_another_direction_are_rejected() {
        let mut bytes = vec![0; 64];
        Stream { direction: 0, ..STREAM }.fill(0, &mut bytes);
        let error = STREAM.check(0, &bytes).unwrap_err();
        assert!(error.contains("direction 0 offset 0"), "{error}");
    }
}
