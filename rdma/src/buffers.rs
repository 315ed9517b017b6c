//! The two rings of a connection.

use crate::link::Link;
use crate::verbs::{Access, Memory, MemoryRegion};
use smc_core::sys::Result;
use smc_wire::clc::Rmbe;
use smc_wire::{Rmb, SizeCode};

/// The RMB that the peer writes to, with one RMBE, and the ring from which this side's bytes go out, which the peer cannot
/// reach. Both lie in one piece of shared memory.
pub struct Buffers {
    pub rmb: MemoryRegion,
    pub send: MemoryRegion,
    size: SizeCode,
}

impl Buffers {
    /// Rings of that size for connections on a link.
    pub fn new(link: &Link, size: SizeCode) -> Result<Buffers> {
        let length = size.bytes() as usize;
        let memory = Memory::new(2 * length)?;
        Ok(Buffers {
            rmb: MemoryRegion::new(link.domain(), &memory, 0, length, Access::RemoteWrite)?,
            send: MemoryRegion::new(link.domain(), &memory, length, length, Access::Local)?,
            size,
        })
    }

    /// As LLC messages name the RMB.
    pub fn name(&self) -> Rmb {
        Rmb { rkey: self.rmb.remote_key(), address: self.rmb.address(0, self.rmb.len()) }
    }

    /// As CLC messages name the RMBE.
    pub fn rmbe(&self, token: u32) -> Rmbe {
        Rmbe { rmb: self.name(), index: 1, size: self.size, token }
    }
}
