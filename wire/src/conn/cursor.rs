//! Cursors (RFC 7609 section 4 and A.4): positions in a ring, with a count of its wraps.

/// A cursor as CDC messages carry it. `count` is below the size of the ring; when it reaches it, it begins at 0 again and
/// `wrap` grows by one, from 65535 to 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Cursor {
    pub wrap: u16,
    /// In bytes.
    pub count: u32,
}

/// Where a received cursor lies, seen from what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    /// This many bytes further; 0 if it has not moved.
    Forward(u32),
    /// It is older than what is known, and to be ignored.
    Back,
    /// It lies outside of the ring, or further ahead than is possible.
    Impossible,
}

impl Cursor {
    /// The cursor after `position` bytes through a ring of `size` bytes.
    pub fn at(position: u64, size: u32) -> Cursor {
        let size = u64::from(size);
        Cursor { wrap: (position / size) as u16, count: (position % size) as u32 }
    }

    /// Where this cursor is, if the last one known was at `position` and it can have moved by `most` bytes at most.
    pub(crate) fn moved_from(self, position: u64, most: u32, size: u32) -> Moved {
        if self.count >= size {
            return Moved::Impossible;
        }
        let before = Cursor::at(position, size);
        // Both count modulo this; positions are told apart as in TCP, by which way round is the shorter.
        let modulus = u64::from(size) << 16;
        let linear = |cursor: Cursor| u64::from(cursor.wrap) * u64::from(size) + u64::from(cursor.count);
        let ahead = (linear(self) + modulus - linear(before)) % modulus;
        match u32::try_from(ahead) {
            Ok(ahead) if ahead <= most => Moved::Forward(ahead),
            _ if ahead > modulus / 2 => Moved::Back,
            _ => Moved::Impossible,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 16384;

    #[test]
    fn the_count_wraps_at_the_size_and_the_wraps_at_65536() {
        assert_eq!(Cursor::at(0, SIZE), Cursor { wrap: 0, count: 0 });
        assert_eq!(Cursor::at(16383, SIZE), Cursor { wrap: 0, count: 16383 });
        assert_eq!(Cursor::at(16384, SIZE), Cursor { wrap: 1, count: 0 });
        assert_eq!(Cursor::at((16384 << 16) + 5, SIZE), Cursor { wrap: 0, count: 5 });
    }

    #[test]
    fn movement_is_found_across_both_wraps() {
        for start in [0, 16380, (16384 << 16) - 4, (16384 << 16) + 16383] {
            for by in [0, 1, 3, 4, 5, 16383, 16384] {
                let cursor = Cursor::at(start + u64::from(by), SIZE);
                assert_eq!(cursor.moved_from(start, SIZE, SIZE), Moved::Forward(by), "{start} {by}");
                if by > 0 {
                    assert_eq!(cursor.moved_from(start, by - 1, SIZE), Moved::Impossible, "{start} {by}");
                    assert_eq!(
                        Cursor::at(start, SIZE).moved_from(start + u64::from(by), SIZE, SIZE),
                        Moved::Back
                    );
                }
            }
        }
        // Far ahead is not behind.
        for (eighths, expected) in
            [(1, Moved::Impossible), (3, Moved::Impossible), (5, Moved::Back), (7, Moved::Back)]
        {
            let cursor = Cursor { wrap: eighths * 8192, count: 0 };
            assert_eq!(cursor.moved_from(0, SIZE, SIZE), expected, "{eighths}");
        }
        assert_eq!(Cursor { wrap: 0, count: SIZE }.moved_from(0, SIZE, SIZE), Moved::Impossible);
    }
}
