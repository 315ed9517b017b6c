//! Memory that the device reads and writes.

use super::{last_error, ProtectionDomain};
use rdma_sys::{ibv_access_flags, ibv_dereg_mr, ibv_mr, ibv_reg_mr};
use smc_core::sys::fd::OwnFd;
use smc_core::sys::{self, Errno, Result};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Shared memory, mapped. A peer may write to parts of it at any time, so it is only ever copied from and to.
pub struct Memory {
    base: NonNull<u8>,
    length: usize,
    /// Kept so that another process can be given it.
    _file: OwnFd,
}

// SAFETY: it is bytes that change at any time; all access is by copying.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `length` bytes of zeros.
    pub fn new(length: usize) -> Result<Arc<Memory>> {
        let file = sys::fd::sealed_memfd(length)?;
        let base = sys::map(length, libc::MAP_SHARED, file.raw())?;
        let base = NonNull::new(base).ok_or(Errno(libc::ENOMEM))?;
        Ok(Arc::new(Memory { base, length, _file: file }))
    }

    /// The address of the byte at `offset`, of which `length` are to be used.
    ///
    /// # Panics
    /// If they are not all in the memory.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length), "outside of the memory");
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Copies out of the memory. What the peer is writing at the same time may come out in part.
    ///
    /// # Panics
    /// If the bytes are not all in the memory.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: both have that length; the mapping is not Rust's, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(self.at(offset, to.len()), to.as_mut_ptr(), to.len()) };
    }

    /// Copies into the memory.
    ///
    /// # Panics
    /// If it has no room for the bytes.
    pub fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.at(offset, from.len()), from.len()) };
    }

    /// Makes a part of it zeros.
    ///
    /// # Panics
    /// If the part is not in the memory.
    pub fn clear(&self, offset: usize, length: usize) {
        // SAFETY: within the mapping.
        unsafe { ptr::write_bytes(self.at(offset, length), 0, length) };
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's, and what refers to it holds the Arc.
        let _ = unsafe { smc_core::sys!(SYS_munmap, self.base.as_ptr(), self.length) };
    }
}

/// Who may use registered memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Work requests of this process.
    Local,
    /// And the peer of any queue pair of the protection domain may write to it.
    RemoteWrite,
}

/// A part of some memory that the device knows.
pub struct MemoryRegion {
    raw: NonNull<ibv_mr>,
    memory: Arc<Memory>,
    offset: usize,
    length: usize,
    _domain: Arc<ProtectionDomain>,
}

// SAFETY: libibverbs allows all threads to use a memory region.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers `length` bytes from `offset` of the memory. ENOMEM: also if RLIMIT_MEMLOCK does not allow it.
    pub fn new(
        domain: &Arc<ProtectionDomain>,
        memory: &Arc<Memory>,
        offset: usize,
        length: usize,
        access: Access,
    ) -> Result<MemoryRegion> {
        let flags = match access {
            Access::Local => ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0,
            Access::RemoteWrite => {
                ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
            }
        };
        let address = memory.at(offset, length);
        // SAFETY: the part is mapped for as long as the region, which holds the memory.
        let raw = unsafe { ibv_reg_mr(domain.raw(), address.cast(), length, flags as i32) };
        let raw = NonNull::new(raw).ok_or_else(last_error)?;
        Ok(MemoryRegion { raw, memory: Arc::clone(memory), offset, length, _domain: Arc::clone(domain) })
    }

    pub fn local_key(&self) -> u32 {
        // SAFETY: the region is registered.
        unsafe { (*self.raw.as_ptr()).lkey }
    }

    pub fn remote_key(&self) -> u32 {
        // SAFETY: the region is registered.
        unsafe { (*self.raw.as_ptr()).rkey }
    }

    /// The address of its byte at `offset`, for work requests over `length` bytes, and for the peer.
    ///
    /// # Panics
    /// If these bytes are not all in the region.
    pub fn address(&self, offset: usize, length: usize) -> u64 {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length), "outside of the region");
        self.memory.at(self.offset + offset, length) as u64
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies from its byte at `offset` on.
    ///
    /// # Panics
    /// If these bytes are not all in the region.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset.checked_add(to.len()).is_some_and(|end| end <= self.length), "outside of the region");
        self.memory.read(self.offset + offset, to);
    }

    /// Copies to its byte at `offset` and those behind it.
    ///
    /// # Panics
    /// If there is no room for them in the region.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(
            offset.checked_add(from.len()).is_some_and(|end| end <= self.length),
            "outside of the region"
        );
        self.memory.write(self.offset + offset, from);
    }

    /// Makes all of it zeros.
    pub fn clear(&self) {
        self.memory.clear(self.offset, self.length);
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: registered, and not any more after this.
        unsafe { ibv_dereg_mr(self.raw.as_ptr()) };
    }
}
