//! Urgent data (MSG_OOB), as Linux does it.
//!
//! The sender sets "urgent pending" while urgent data is under way. In the CDC after its last byte it sets "urgent present" too,
//! and the producer cursor points just behind the urgent byte. Then it sends nothing until the peer has read everything. The
//! receiver tells at once when it has read or skipped the urgent byte, without which the sender would wait for good.

use crate::cdc::ProducerFlags;

/// Of the sending direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct UrgentOut {
    /// The urgent byte is the one before this position, and has not been told as present.
    end: Option<u64>,
    /// One was told as present, and the peer has not read everything since.
    told: bool,
}

impl UrgentOut {
    /// The bytes up to `end` are urgent. Urgent data that is still under way is overtaken, as in TCP.
    pub fn mark(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// How many bytes may be sent, of `free`, with `unread` at the peer.
    pub fn limit(&self, produced: u64, unread: u32, free: u32) -> u32 {
        if self.told && unread > 0 {
            return 0;
        }
        // At its end, nothing until it has been told.
        let limit = self.end.map_or(u64::from(free), |end| end.saturating_sub(produced));
        limit.min(u64::from(free)) as u32
    }

    /// The flags of the CDC that is sent now.
    pub fn flags(&mut self, produced: u64) -> ProducerFlags {
        match self.end {
            Some(end) if end <= produced => {
                *self = UrgentOut { end: None, told: true };
                ProducerFlags::URGENT_PENDING | ProducerFlags::URGENT_PRESENT
            }
            Some(_) => ProducerFlags::URGENT_PENDING,
            None => ProducerFlags::default(),
        }
    }

    /// A consumer cursor has come; `all`: everything has been read.
    pub fn acknowledged(&mut self, all: bool) {
        self.told &= !all;
    }
}

/// Of the receiving direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct UrgentIn {
    /// Position of the urgent byte, while it has not been read or skipped.
    mark: Option<u64>,
    /// It was, and the peer has not been told.
    must_tell: bool,
}

impl UrgentIn {
    /// Flags have come with a producer cursor at `arrived`. Whether there is a new urgent byte.
    pub fn receive(&mut self, flags: ProducerFlags, arrived: u64, consumed: u64) -> bool {
        // The same CDC again, or a byte that has been read: not new.
        let mark = arrived.checked_sub(1).filter(|&mark| mark >= consumed && self.mark != Some(mark));
        match mark {
            Some(mark) if flags.has(ProducerFlags::URGENT_PRESENT) => {
                self.mark = Some(mark);
                true
            }
            _ => false,
        }
    }

    /// Position of the urgent byte.
    pub fn mark(&self) -> Option<u64> {
        self.mark
    }

    /// How many of the `unread` bytes one read may take.
    pub fn limit(&self, consumed: u64, unread: u32) -> u32 {
        match self.mark {
            Some(mark) if mark > consumed => unread.min((mark - consumed) as u32),
            Some(_) | None => unread,
        }
    }

    /// The program has read up to `consumed`.
    pub fn consumed(&mut self, consumed: u64) {
        if self.mark.is_some_and(|mark| mark < consumed) {
            self.mark = None;
            self.must_tell = true;
        }
    }

    /// Whether a CDC is due for it.
    pub fn must_tell(&self) -> bool {
        self.must_tell
    }

    /// A CDC is sent now.
    pub fn told(&mut self) {
        self.must_tell = false;
    }
}
