//! Reading and writing the fields of a message: big-endian, always within bounds.

use core::fmt;
use core::ops::Deref;

/// The message ended before the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Short;

/// Reads fields one after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// A reader from `offset` of `bytes` on.
    pub fn at(bytes: &'a [u8], offset: usize) -> Result<Reader<'a>, Short> {
        bytes.get(offset..).map(Reader::new).ok_or(Short)
    }

    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], Short> {
        if length > self.rest.len() {
            return Err(Short);
        }
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.slice(N)?.try_into().map_err(|_| Short)
    }

    pub fn skip(&mut self, length: usize) -> Result<(), Short> {
        self.slice(length).map(drop)
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Writes fields one after the other.
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new(capacity: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(capacity) }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn zeros(&mut self, count: usize) -> &mut Writer {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    pub fn u8(&mut self, value: u8) -> &mut Writer {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Writer {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Writer {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes(&value.to_be_bytes())
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// More entries than the message has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more entries than the message has room for")
    }
}

impl std::error::Error for TooMany {}

/// A list of at most `N` entries; `N` is at most 255, so that the count fits its byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bounded<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Bounded<T, N> {
    /// The empty list.
    pub const fn new() -> Bounded<T, N> {
        assert!(N <= 255);
        Bounded(Vec::new())
    }

    /// How many there are, as the byte of the message says it.
    pub fn count(&self) -> u8 {
        self.0.len() as u8
    }
}

impl<T, const N: usize> Default for Bounded<T, N> {
    fn default() -> Self {
        Bounded::new()
    }
}

impl<T, const N: usize> TryFrom<Vec<T>> for Bounded<T, N> {
    type Error = TooMany;

    fn try_from(entries: Vec<T>) -> Result<Self, TooMany> {
        if entries.len() > N {
            return Err(TooMany);
        }
        Ok(Bounded(entries))
    }
}

impl<T, const N: usize> Deref for Bounded<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
