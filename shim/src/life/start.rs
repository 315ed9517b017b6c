//! The constructor: what happens before `main`.
//!
//! Cheap, because every program a shell starts pays for it: look-ups, a few system calls, no threads, no files but the
//! configuration, if there is one (and a log, if it is asked for), no connections.

use crate::{guard, logging, ops, real};
use core::ffi::{c_char, c_int, c_void, CStr};
use smc_core::config::Settings;

#[cfg(not(test))]
#[used]
#[link_section = ".init_array"]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = constructor;

#[cfg_attr(test, allow(dead_code))]
extern "C" fn constructor(_argc: c_int, _argv: *const *const c_char, _envp: *const *const c_char) {
    let errno = crate::errno::get();
    guard::protect((), start);
    crate::errno::set(errno);
}

fn start() {
    if real::resolve().is_err() {
        return;
    }
    #[cfg(not(test))]
    crate::abi::redhooked::resolve();
    if is_privileged() || is_second_copy() {
        return;
    }
    let settings = Settings::load(|name| std::env::var_os(name));
    if settings.config.disable {
        return;
    }
    logging::start(&settings);
    guard::silence();
    match super::activate() {
        Ok(()) => {
            log::debug!("active");
            ops::life::start(settings);
        }
        Err(what) => log::warn!("inert: {what} failed"),
    }
}

/// The kernel has marked this program as more privileged than its caller: the environment is not to be believed.
fn is_privileged() -> bool {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether another copy of this library stands before us in the link map: then its hooks are called first, and two
/// engines must not serve one socket.
fn is_second_copy() -> bool {
    struct Search {
        own: usize,
        found: bool,
    }

    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid record and the `data` given below.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        if info.dlpi_name.is_null() {
            return 0;
        }
        if holds(info, search.own) {
            return 1;
        }
        // SAFETY: the loader's names end with a NUL.
        let path = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        if name.starts_with(b"libsmc_preload") {
            search.found = true;
            return 1;
        }
        0
    }

    let mut search = Search { own: is_second_copy as *const () as usize, found: false };
    // SAFETY: `visit` keeps to the callback's contract and `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&mut search as *mut Search).cast()) };
    search.found
}

/// Whether `address` lies in the object that `info` describes.
fn holds(info: &libc::dl_phdr_info, address: usize) -> bool {
    // SAFETY: the loader's program headers, `dlpi_phnum` of them.
    let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
    headers.iter().any(|header| {
        let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        header.p_type == libc::PT_LOAD && address.wrapping_sub(start) < header.p_memsz as usize
    })
}
