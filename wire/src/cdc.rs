//! CDC messages (RFC 7609 A.4): the state of one connection, sent by RDMA SEND.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | 0xFE |
//! | 1 | 1 | length, 44 |
//! | 2 | 2 | sequence number, the first is 1 |
//! | 4 | 4 | alert token, as the **receiver** assigned it |
//! | 8 | 2 | reserved |
//! | 10 | 2 | producer cursor: wraps |
//! | 12 | 4 | producer cursor: bytes |
//! | 16 | 2 | reserved |
//! | 18 | 2 | consumer cursor: wraps |
//! | 20 | 4 | consumer cursor: bytes |
//! | 24 | 1 | producer flags |
//! | 25 | 1 | connection state flags |
//! | 26 | 18 | reserved |
//!
//! Each is a full snapshot: the receiver forgets the flags of the one before. A flag that holds goes into every CDC.

use crate::bytes::{Reader, Short};
use crate::conn::Cursor;
use core::ops::BitOr;

/// The first byte of a CDC message; those of LLC messages are below 0x30.
pub const TYPE: u8 = 0xFE;
/// The length of the message, in bytes.
pub const LENGTH: usize = 44;
/// What must be there of it; the rest is reserved. Linux takes as little.
const NEEDED: usize = 26;

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$flag_doc:meta])* $flag:ident = $bit:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: $name = $name($bit);)*

            /// Whether one of the flags of `other` is set.
            pub const fn has(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }

            /// These if `condition`, else none.
            pub const fn when(self, condition: bool) -> $name {
                $name(if condition { self.0 } else { 0 })
            }
        }

        impl BitOr for $name {
            type Output = $name;

            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }
    };
}

flags! {
    /// Producer flags. The three bits without a name are reserved.
    ProducerFlags {
        /// The sender has data for which there is no room.
        WRITE_BLOCKED = 0x80,
        /// Urgent data is under way.
        URGENT_PENDING = 0x40,
        /// The byte before the producer cursor is urgent.
        URGENT_PRESENT = 0x20,
        /// A consumer cursor is asked for. Linux never does, and answers at its next read.
        UPDATE_REQUESTED = 0x10,
        /// Only the sequence number and the token mean something (several links).
        FAILOVER_VALIDATION = 0x08,
    }
}

flags! {
    /// Connection state flags. The five bits without a name are reserved.
    StateFlags {
        /// No more data comes (shutdown for writing).
        SENDING_DONE = 0x80,
        /// Closed: nothing more comes, and nothing is read any more.
        CLOSED = 0x40,
        /// Aborted: both directions are dead.
        ABORT = 0x20,
    }
}

impl StateFlags {
    /// The two flags after which the sender neither sends nor reads.
    pub const FINAL: StateFlags = StateFlags(Self::CLOSED.0 | Self::ABORT.0);
}

/// A CDC message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cdc {
    pub sequence: u16,
    /// The receiver's id of the connection.
    pub token: u32,
    /// Where the sender will write next, in the receiver's RMBE.
    pub producer: Cursor,
    /// Up to where the sender has read its own RMBE.
    pub consumer: Cursor,
    pub producer_flags: ProducerFlags,
    pub state_flags: StateFlags,
}

/// Bytes that are no CDC message although their first byte says so. Nothing says which connection they were for: what is
/// left is to reset the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("malformed CDC message")
    }
}

impl std::error::Error for Malformed {}

impl Cdc {
    /// Reads a message; `bytes` is what the receive completion says has arrived.
    pub fn decode(bytes: &[u8]) -> Result<Cdc, Malformed> {
        let read = || {
            let mut fields = Reader::new(bytes.get(..NEEDED).ok_or(Short)?);
            if fields.u8()? != TYPE || usize::from(fields.u8()?) != LENGTH {
                return Err(Short);
            }
            let (sequence, token) = (fields.u16()?, fields.u32()?);
            let mut cursor = || {
                fields.skip(2)?;
                Ok(Cursor { wrap: fields.u16()?, count: fields.u32()? })
            };
            let (producer, consumer) = (cursor()?, cursor()?);
            let (producer_flags, state_flags) = (ProducerFlags(fields.u8()?), StateFlags(fields.u8()?));
            Ok(Cdc { sequence, token, producer, consumer, producer_flags, state_flags })
        };
        read().map_err(|Short| Malformed)
    }

    /// The bytes of the message.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = TYPE;
        bytes[1] = LENGTH as u8;
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.token.to_be_bytes());
        for (at, cursor) in [(10, self.producer), (18, self.consumer)] {
            bytes[at..at + 2].copy_from_slice(&cursor.wrap.to_be_bytes());
            bytes[at + 2..at + 6].copy_from_slice(&cursor.count.to_be_bytes());
        }
        bytes[24] = self.producer_flags.0;
        bytes[25] = self.state_flags.0;
        bytes
    }
}
