//! libsmc_rdma.so: loaded when the program is about to connect or listen on a host that has an RDMA device and the TCP option
//! ([`smc_core::capability`]), and not before. Where it is not there, or of no use, everything stays as it is without it.

use crate::fd_table::{self, Entry};
use crate::guard;
use core::ffi::{c_char, c_int, c_void, CStr};
use core::sync::atomic::{AtomicU32, Ordering};
use smc_core::capability;
use smc_core::remote::{self, abi};
use smc_core::sys::Errno;
use smc_core::{config, conn};
use std::ffi::CString;
use std::net::SocketAddr;

/// Beside the preload library.
const NAME: &str = "libsmc_rdma.so";

const UNTRIED: u32 = 0;
const LOADING: u32 = 1;
const LOADED: u32 = 2;
const UNUSABLE: u32 = 3;
static STATE: AtomicU32 = AtomicU32::new(UNTRIED);

/// Asks for the SMC option on `fd`, which is about to be connected to `peer`, or to listen. False: it will not be sent.
#[allow(improper_ctypes_definitions)] // "C" says that nothing unwinds out of here.
pub extern "C" fn ask(fd: c_int, peer: Option<SocketAddr>) -> bool {
    guard::protect(false, || {
        if conn::stopped().is_some() {
            return false;
        }
        let state = STATE.load(Ordering::Relaxed);
        if state == UNUSABLE || peer.is_some_and(|peer| !remote::is_candidate(peer)) {
            return false;
        }
        if state != LOADED && !remote::has_device() {
            return false;
        }
        match capability::want(fd, true) {
            Ok(()) => {}
            Err(Errno(libc::EPERM)) => return false,
            Err(Errno(e)) => {
                static SAID: AtomicU32 = AtomicU32::new(0);
                if !remote::said(&SAID) {
                    log::info!(
                        "the SMC option is not there (errno {e}; smcctl tcp-option): no SMC-R, 0x03010000"
                    );
                }
                return false;
            }
        }
        let asks = peer.is_none_or(remote::may_serve) && is_loaded();
        if !asks {
            let _ = capability::want(fd, false);
        }
        asks
    })
}

/// Whether the library is there, which is loaded if need be. One thread does it; others go without meanwhile.
fn is_loaded() -> bool {
    let first = STATE.compare_exchange(UNTRIED, LOADING, Ordering::AcqRel, Ordering::Acquire);
    match first {
        Ok(_) => match load() {
            Ok(()) => {
                STATE.store(LOADED, Ordering::Release);
                true
            }
            Err(why) => {
                STATE.store(UNUSABLE, Ordering::Release);
                log::warn!("{why}: no SMC-R, 0x03030000");
                false
            }
        },
        Err(state) => state == LOADED,
    }
}

fn load() -> Result<(), String> {
    let path = match &config::get().rdma_library {
        Some(path) => path.clone(),
        None => beside_this().ok_or("the place of libsmc_preload.so is not known")?,
    };
    // SAFETY: the path ends with a NUL. The library's constructors are libibverbs' and those of its drivers.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(last_error());
    }
    // SAFETY: the name ends with a NUL.
    let symbol = unsafe { libc::dlsym(library, abi::SYMBOL.as_ptr()) };
    if symbol.is_null() {
        return Err(last_error());
    }
    // SAFETY: the function that has this name, by the interface's contract.
    let table = unsafe { core::mem::transmute::<*mut c_void, abi::Entry>(symbol)(abi::VERSION).as_ref() };
    let table = table.ok_or_else(|| format!("{} is of another version", path.to_string_lossy()))?;
    let config = config::get();
    let (eids, device) = (config.ueids.join(","), config.rdma_device.as_bytes());
    let host = abi::Host {
        mark_internal,
        log: log_line,
        log_level: log::max_level() as u32,
        buffer: remote::buffer(),
        eids: eids.as_ptr(),
        eids_length: eids.len(),
        device: device.as_ptr(),
        device_length: device.len(),
        first_port: config.rdma_ports.0,
        last_port: config.rdma_ports.1,
    };
    remote::install(table, &host).map_err(|e| format!("{} does not start ({e})", path.to_string_lossy()))?;
    log::debug!("{} is loaded", path.to_string_lossy());
    Ok(())
}

fn beside_this() -> Option<CString> {
    // SAFETY: all zero is a valid record.
    let mut found: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address of this library, and a place for what is known of it.
    if unsafe { libc::dladdr(beside_this as *const c_void, &mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's names end with a NUL.
    let own = unsafe { CStr::from_ptr(found.dli_fname) }.to_bytes();
    let folder = &own[..own.iter().rposition(|byte| *byte == b'/')? + 1];
    CString::new([folder, NAME.as_bytes()].concat()).ok()
}

fn last_error() -> String {
    // SAFETY: a message of the loader's, or null.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return format!("{NAME} cannot be loaded");
    }
    // SAFETY: it ends with a NUL.
    unsafe { CStr::from_ptr(message.cast::<c_char>()) }.to_string_lossy().into_owned()
}

extern "C" fn mark_internal(fd: c_int, on: c_int) {
    if on != 0 {
        fd_table::set(fd, Entry::Internal);
    } else {
        fd_table::replace_if(fd, Entry::Internal, Entry::None);
    }
}

unsafe extern "C" fn log_line(level: u32, text: *const u8, length: usize) {
    guard::protect((), || {
        // SAFETY: the library's, valid for the call.
        let text = unsafe { core::slice::from_raw_parts(text, length) };
        let level = log::Level::iter().nth(level.saturating_sub(1) as usize).unwrap_or(log::Level::Trace);
        log::log!(target: "smc_rdma", level, "{}", String::from_utf8_lossy(text));
    });
}
