//! An opened RDMA device, its ports, and protection domains.

use super::{check, last_error};
use rdma_sys::{
    ___ibv_query_port, ibv_ack_async_event, ibv_alloc_pd, ibv_async_event, ibv_close_device, ibv_context,
    ibv_dealloc_pd, ibv_event_type, ibv_free_device_list, ibv_get_async_event, ibv_get_device_list,
    ibv_get_device_name, ibv_open_device, ibv_pd, ibv_port_attr, ibv_port_state,
};
use smc_core::sys::{Errno, Result};
use smc_wire::MtuCode;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// An RDMA device that this process has opened.
pub struct Context(NonNull<ibv_context>);

// SAFETY: libibverbs allows all threads to use a context.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What a port can do at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortState {
    pub active: bool,
    /// The active MTU.
    pub mtu: MtuCode,
}

/// Something that happened to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsyncEvent {
    /// The device is gone, or does not work any more.
    DeviceFatal,
    /// This port has no link.
    PortDown(u8),
    /// Anything else; what concerns a queue pair shows in its completions.
    Other,
}

impl Context {
    /// Opens the device called `name`. ENODEV: there is none that libibverbs knows.
    pub fn open(name: &str) -> Result<Arc<Context>> {
        let mut count = 0;
        // SAFETY: the list is freed below, and devices are used before that only.
        let list = unsafe { ibv_get_device_list(&mut count) };
        if list.is_null() {
            return Err(last_error());
        }
        let mut opened = Err(Errno(libc::ENODEV));
        for index in 0..count.max(0) as usize {
            // SAFETY: the list has `count` entries, each a device with a name that ends in NUL.
            let device = unsafe { *list.add(index) };
            // SAFETY: as above.
            let found = unsafe { CStr::from_ptr(ibv_get_device_name(device)) };
            if found.to_bytes() == name.as_bytes() {
                // SAFETY: a device of the list.
                let context = unsafe { ibv_open_device(device) };
                opened = NonNull::new(context).map(|c| Arc::new(Context(c))).ok_or_else(last_error);
                break;
            }
        }
        // SAFETY: it came from ibv_get_device_list.
        unsafe { ibv_free_device_list(list) };
        let context = opened?;
        set_nonblocking(context.async_fd())?;
        Ok(context)
    }

    pub(super) fn raw(&self) -> *mut ibv_context {
        self.0.as_ptr()
    }

    /// The name of its file in /dev/infiniband.
    pub fn file(&self) -> String {
        // SAFETY: the context is open, and its device has a name that ends in NUL.
        unsafe { CStr::from_ptr((*(*self.raw()).device).dev_name.as_ptr()) }.to_string_lossy().into_owned()
    }

    /// Asks for the state of a port, from 1.
    pub fn port(&self, number: u8) -> Result<PortState> {
        // SAFETY: an all-zero port attribute is valid: numbers only.
        let mut attributes: ibv_port_attr = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the context is open, and the attributes are written to.
        check(unsafe { ___ibv_query_port(self.raw(), number, &mut attributes) })?;
        Ok(PortState {
            active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
            // The numbers of verbs are the codes of CLC.
            mtu: MtuCode::truncated(attributes.active_mtu as u8),
        })
    }

    /// Readable when there is an event to take.
    pub fn async_fd(&self) -> i32 {
        // SAFETY: the context is open.
        unsafe { (*self.raw()).async_fd }
    }

    /// Takes the next event, without waiting; `None`: there is none.
    pub fn next_event(&self) -> Option<AsyncEvent> {
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the descriptor does not block, and the event is written to if the result is 0.
        if unsafe { ibv_get_async_event(self.raw(), event.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: written to. Read as a number, since a later library may know events that the enumeration does not.
        let kind = unsafe { ptr::read((&raw const (*event.as_ptr()).event_type).cast::<u32>()) };
        // SAFETY: a union of pointers and a number; the events of ports have the number.
        let port = unsafe { (*event.as_ptr()).element.port_num } as u8;
        // SAFETY: an event that was got, acknowledged once.
        unsafe { ibv_ack_async_event(event.as_mut_ptr()) };
        Some(match kind {
            k if k == ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32 => AsyncEvent::DeviceFatal,
            k if k == ibv_event_type::IBV_EVENT_PORT_ERR as u32 => AsyncEvent::PortDown(port),
            _ => AsyncEvent::Other,
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything made from it holds the Arc, so it is the last.
        unsafe { ibv_close_device(self.raw()) };
    }
}

/// Queue pairs and memory that may be used together.
pub struct ProtectionDomain {
    raw: NonNull<ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: libibverbs allows all threads to use a protection domain.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl ProtectionDomain {
    pub fn new(context: &Arc<Context>) -> Result<Arc<ProtectionDomain>> {
        // SAFETY: the context is open.
        let raw = unsafe { ibv_alloc_pd(context.raw()) };
        let raw = NonNull::new(raw).ok_or_else(last_error)?;
        Ok(Arc::new(ProtectionDomain { raw, context: Arc::clone(context) }))
    }

    pub(super) fn raw(&self) -> *mut ibv_pd {
        self.raw.as_ptr()
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: everything made from it holds the Arc, so it is the last.
        unsafe { ibv_dealloc_pd(self.raw()) };
    }
}

/// Makes a descriptor of libibverbs non-blocking.
pub(super) fn set_nonblocking(fd: i32) -> Result<()> {
    // SAFETY: integer arguments only.
    unsafe {
        let flags = smc_core::sys!(SYS_fcntl, fd, libc::F_GETFL)?;
        smc_core::sys!(SYS_fcntl, fd, libc::F_SETFL, flags as i32 | libc::O_NONBLOCK)?;
    }
    Ok(())
}
