//! The RDMA connection manager, librdmacm: how queue pairs of iWARP devices are connected.
//!
//! The library is loaded when the first of them is, so that hosts without such a device need not have it. Queue pairs are ours: only their
//! numbers are given to it, and the kernel's driver moves them to "ready to send" when the connection is there. But for [`Id::connect`], no
//! call waits for the network; what happens comes as [`Event`]s. An id that is destroyed while it connects, or is accepted, waits for the peer.

use super::context::set_nonblocking;
use super::{last_error, QueuePair};
use rdma_sys::{
    ibv_get_device_name, rdma_cm_event, rdma_cm_event_type as kind, rdma_cm_id, rdma_conn_param,
    rdma_event_channel, rdma_port_space::RDMA_PS_TCP,
};
use smc_core::sys::{Errno, Result};
use std::ffi::{c_int, c_void, CStr};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};

/// How long the peer's address may take to be found, in milliseconds.
const RESOLVE_MS: c_int = 2000;
/// Requests to connect that may wait at a listener.
const BACKLOG: c_int = 64;
/// RDMA reads under way; none are made, but some devices begin a connection with one.
const READS: u8 = 1;

type Address = *mut libc::sockaddr;

/// Functions of librdmacm.
macro_rules! library {
    ($($name:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Library {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load() -> Option<Library> {
                // SAFETY: a name that ends in NUL; the library's constructors do nothing but set defaults.
                let handle = unsafe { libc::dlopen(c"librdmacm.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
                let symbol = |name: &CStr| {
                    // SAFETY: a library that stays loaded, and a name that ends in NUL.
                    NonNull::new(unsafe { libc::dlsym(handle, name.as_ptr()) })
                };
                (!handle.is_null()).then_some(())?;
                Some(Library {
                    $($name: {
                        let found = symbol($symbol)?;
                        // SAFETY: the function of this name, as rdma/rdma_cma.h declares it.
                        unsafe { mem::transmute::<NonNull<c_void>, unsafe extern "C" fn($($argument),*) $(-> $result)?>(found) }
                    },)*
                })
            }
        }
    };
}

library! {
    create_channel = c"rdma_create_event_channel": fn() -> *mut rdma_event_channel;
    destroy_channel = c"rdma_destroy_event_channel": fn(*mut rdma_event_channel);
    create_id = c"rdma_create_id": fn(*mut rdma_event_channel, *mut *mut rdma_cm_id, *mut c_void, u32) -> c_int;
    destroy_id = c"rdma_destroy_id": fn(*mut rdma_cm_id) -> c_int;
    bind = c"rdma_bind_addr": fn(*mut rdma_cm_id, Address) -> c_int;
    listen = c"rdma_listen": fn(*mut rdma_cm_id, c_int) -> c_int;
    resolve_address = c"rdma_resolve_addr": fn(*mut rdma_cm_id, Address, Address, c_int) -> c_int;
    resolve_route = c"rdma_resolve_route": fn(*mut rdma_cm_id, c_int) -> c_int;
    connect = c"rdma_connect": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
    accept = c"rdma_accept": fn(*mut rdma_cm_id, *mut rdma_conn_param) -> c_int;
    get_event = c"rdma_get_cm_event": fn(*mut rdma_event_channel, *mut *mut rdma_cm_event) -> c_int;
    acknowledge = c"rdma_ack_cm_event": fn(*mut rdma_cm_event) -> c_int;
}

/// `None`: the host has none.
fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(Library::load).as_ref()
}

/// The result of a call that returns -1 and sets errno.
fn check(code: c_int) -> Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(last_error())
    }
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// Where the events of connections come.
pub struct Channel {
    raw: NonNull<rdma_event_channel>,
    library: &'static Library,
}

// SAFETY: librdmacm allows all threads to use a channel.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

/// A listener, a connection, or an attempt at one. Its number is what [`Channel::next_event`] names it by.
pub struct Id {
    raw: NonNull<rdma_cm_id>,
    channel: Arc<Channel>,
}

// SAFETY: librdmacm allows all threads to use an id.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

/// What has happened.
pub enum Event {
    /// The way to the peer is known, by this device.
    AddressResolved,
    RouteResolved,
    /// Somebody wants to connect to a listener. Dropped, it is refused.
    Request(Id, Vec<u8>),
    /// The queue pair is ready to send.
    Established,
    /// There is no connection: number and status of librdmacm's event.
    Failed(u32, i32),
    /// The connection is over.
    Disconnected,
    Other,
}

impl Event {
    /// After this event an id that nobody wants connected any more can be destroyed without waiting for the peer: what was under way is over,
    /// or nobody takes the next step.
    pub fn ends_an_attempt(&self) -> bool {
        match self {
            Event::AddressResolved
            | Event::RouteResolved
            | Event::Established
            | Event::Failed(..)
            | Event::Disconnected => true,
            Event::Request(..) | Event::Other => false,
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Event::AddressResolved => "address resolved",
            Event::RouteResolved => "route resolved",
            Event::Request(..) => "request",
            Event::Established => "established",
            Event::Failed(..) => "failed",
            Event::Disconnected => "disconnected",
            Event::Other => "something else",
        })
    }
}

impl Channel {
    /// ENOSYS: the host has no librdmacm. Other errors: no /dev/infiniband/rdma_cm.
    pub fn new() -> Result<Arc<Channel>> {
        let library = library().ok_or(Errno(libc::ENOSYS))?;
        // SAFETY: no arguments.
        let raw = unsafe { (library.create_channel)() };
        let channel = Channel { raw: NonNull::new(raw).ok_or_else(last_error)?, library };
        set_nonblocking(channel.fd())?;
        Ok(Arc::new(channel))
    }

    /// Readable when there is an event.
    pub fn fd(&self) -> i32 {
        // SAFETY: the channel is valid.
        unsafe { self.raw.as_ref() }.fd
    }

    /// Takes the next event, and the number of the id it is for; `None`: there is none.
    pub fn next_event(self: &Arc<Self>) -> Option<(u64, Event)> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel is valid and does not block.
        if unsafe { (self.library.get_event)(self.raw.as_ptr(), &mut event) } != 0 {
            return None;
        }
        // SAFETY: an event that was got is valid until it is acknowledged, and so is its id.
        let (happened, number) = unsafe { (&*event, (*(*event).id).context as u64) };
        let said = match happened.event {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => Event::AddressResolved,
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => Event::RouteResolved,
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => {
                // SAFETY: the id is new, and ours from now on; the private data is valid until the event is acknowledged.
                unsafe {
                    let about = happened.param.conn;
                    let (data, length) = (about.private_data.cast::<u8>(), about.private_data_len);
                    let bytes = match data.is_null() {
                        true => Vec::new(),
                        false => std::slice::from_raw_parts(data, usize::from(length)).to_vec(),
                    };
                    let raw = NonNull::new_unchecked(happened.id);
                    Event::Request(Id { raw, channel: Arc::clone(self) }, bytes)
                }
            }
            kind::RDMA_CM_EVENT_ESTABLISHED => Event::Established,
            kind::RDMA_CM_EVENT_DISCONNECTED | kind::RDMA_CM_EVENT_DEVICE_REMOVAL => Event::Disconnected,
            kind::RDMA_CM_EVENT_ADDR_ERROR
            | kind::RDMA_CM_EVENT_ROUTE_ERROR
            | kind::RDMA_CM_EVENT_CONNECT_ERROR
            | kind::RDMA_CM_EVENT_UNREACHABLE
            | kind::RDMA_CM_EVENT_REJECTED => Event::Failed(happened.event, happened.status),
            _ => Event::Other,
        };
        // SAFETY: acknowledged once.
        unsafe { (self.library.acknowledge)(event) };
        Some((number, said))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: ids hold the Arc, so it is the last.
        unsafe { (self.library.destroy_channel)(self.raw.as_ptr()) };
    }
}

impl Id {
    pub fn new(channel: &Arc<Channel>, number: u64) -> Result<Id> {
        let mut raw = ptr::null_mut();
        // SAFETY: the channel is valid, and the id is written to. The context is a number, and nobody's memory.
        check(unsafe {
            (channel.library.create_id)(channel.raw.as_ptr(), &mut raw, number as *mut c_void, RDMA_PS_TCP)
        })?;
        Ok(Id { raw: NonNull::new(raw).ok_or(Errno(libc::EIO))?, channel: Arc::clone(channel) })
    }

    /// Listens. EADDRINUSE: somebody else has the port, in the connection manager or as a TCP socket.
    pub fn listen(&self, at: SocketAddrV4) -> Result<()> {
        let mut address = socket_address(at);
        // SAFETY: the id is valid, and the address is read.
        check(unsafe { (self.channel.library.bind)(self.raw.as_ptr(), (&raw mut address).cast()) })?;
        // SAFETY: as above.
        check(unsafe { (self.channel.library.listen)(self.raw.as_ptr(), BACKLOG) })
    }

    /// Begins to look for the way to a peer: [`Event::AddressResolved`] follows, or a failure.
    pub fn resolve_address(&self, from: Ipv4Addr, to: SocketAddrV4) -> Result<()> {
        let (mut from, mut to) = (socket_address(SocketAddrV4::new(from, 0)), socket_address(to));
        // SAFETY: the id is valid, and the addresses are read.
        check(unsafe {
            (self.channel.library.resolve_address)(
                self.raw.as_ptr(),
                (&raw mut from).cast(),
                (&raw mut to).cast(),
                RESOLVE_MS,
            )
        })
    }

    /// The next step: [`Event::RouteResolved`] follows, or a failure.
    pub fn resolve_route(&self) -> Result<()> {
        // SAFETY: the id is valid.
        check(unsafe { (self.channel.library.resolve_route)(self.raw.as_ptr(), RESOLVE_MS) })
    }

    /// The last: [`Event::Established`] follows, or a failure. This may wait for the network: Linux's siw opens a TCP connection here, others
    /// do it in the background.
    pub fn connect(&self, pair: &QueuePair, private: &[u8]) -> Result<()> {
        let mut parameters = parameters(pair, private);
        // SAFETY: the id is valid, and the parameters are read.
        check(unsafe { (self.channel.library.connect)(self.raw.as_ptr(), &mut parameters) })
    }

    /// Accepts a request: [`Event::Established`] follows, or a failure, under that number.
    pub fn accept(&mut self, number: u64, pair: &QueuePair) -> Result<()> {
        let mut parameters = parameters(pair, &[]);
        let id = self.raw.as_ptr();
        // SAFETY: the id is valid, and only this thread takes its events. The queue pair is there for the length of the call, in which
        // the library uses it.
        check(unsafe {
            (*id).context = number as *mut c_void;
            (*id).qp = pair.raw();
            let code = (self.channel.library.accept)(id, &mut parameters);
            (*id).qp = ptr::null_mut();
            code
        })
    }

    /// The device it has come to be on.
    pub fn device(&self) -> Option<String> {
        // SAFETY: the id is valid; its context is null or one of the library's, which are never closed.
        let name = unsafe {
            let context = self.raw.as_ref().verbs.as_ref()?;
            ibv_get_device_name(context.device)
        };
        // SAFETY: a name that ends in NUL, or null.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }
}

fn parameters(pair: &QueuePair, private: &[u8]) -> rdma_conn_param {
    // SAFETY: all zeros are valid: numbers, and a null pointer.
    let mut parameters: rdma_conn_param = unsafe { MaybeUninit::zeroed().assume_init() };
    parameters.private_data = private.as_ptr().cast();
    parameters.private_data_len = private.len().min(usize::from(u8::MAX)) as u8;
    parameters.responder_resources = READS;
    parameters.initiator_depth = READS;
    parameters.qp_num = pair.raw_number();
    parameters
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: nothing uses it any more, and all its events are acknowledged.
        unsafe { (self.channel.library.destroy_id)(self.raw.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_ends_where_the_next_step_is_this_sides() {
        // Nobody asks for more after these, so no other event comes.
        assert!(Event::AddressResolved.ends_an_attempt() && Event::RouteResolved.ends_an_attempt());
        let over = [Event::Established, Event::Failed(kind::RDMA_CM_EVENT_REJECTED, 28), Event::Disconnected];
        assert!(over.iter().all(Event::ends_an_attempt));
        assert!(!Event::Other.ends_an_attempt());
    }
}
