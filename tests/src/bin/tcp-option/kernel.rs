//! Against the kernel's AF_SMC, which writes and reads the same option.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use smc_core::capability::{self, Peer};
use smc_tests::sys::{self, Address};

use crate::checks::{core, errno, expect, listener, nothing, parse, tcp_socket, want, Check, SMC, SMC_ID};
use crate::{Outcome, Setting};

pub const ALL: &[Check] = &[
    ("a_kernel_server_answers_our_option", kernel_server),
    ("a_kernel_server_does_not_offer_it_to_who_does_not_ask", kernel_server_unasked),
    ("a_kernel_client_takes_our_answer_and_begins_with_clc", kernel_client),
    ("a_kernel_client_falls_back_where_nobody_answers", kernel_client_unanswered),
];

const AF_SMC: i32 = 43;

fn smc_socket() -> Result<OwnedFd, String> {
    let fd = sys::socket(AF_SMC, libc::SOCK_CLOEXEC).map_err(|e| format!("AF_SMC: {}", errno(e)))?;
    // SAFETY: a new descriptor that is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn smc_listener() -> Result<(OwnedFd, SocketAddr), String> {
    let fd = smc_socket()?;
    let mut address = parse("127.0.0.1:0");
    sys::bind(fd.as_raw_fd(), &Address::new(address)).map_err(errno)?;
    sys::listen(fd.as_raw_fd(), 16).map_err(errno)?;
    address.set_port(sys::getsockname(fd.as_raw_fd()).map_err(errno)?.port());
    Ok((fd, address))
}

fn kernel_server(setting: &Setting) -> Outcome {
    let (_server, address) = smc_listener()?;
    let client = tcp_socket(&address)?;
    want(client.as_raw_fd())?;
    sys::connect(client.as_raw_fd(), &Address::new(address)).map_err(errno)?;
    let syn_ack = setting.loopback.next(|s| s.source_port == address.port() && s.syn)?;
    expect("SMC option on the kernel's SYN-ACK", syn_ack.option(SMC), vec![SMC_ID])?;
    expect("what the client sees", capability::peer(client.as_raw_fd()).map_err(core)?, Peer::Capable)
}

fn kernel_server_unasked(setting: &Setting) -> Outcome {
    let (_server, address) = smc_listener()?;
    let client = tcp_socket(&address)?;
    sys::connect(client.as_raw_fd(), &Address::new(address)).map_err(errno)?;
    let syn_ack = setting.loopback.next(|s| s.source_port == address.port() && s.syn)?;
    expect("SMC options on the kernel's SYN-ACK", syn_ack.option(SMC).len(), 0)
}

fn kernel_client(_: &Setting) -> Outcome {
    let (listener, address) = listener("127.0.0.1:0", want)?;
    // Its connect waits for an answer to its proposal, which is that the server is gone.
    let client = smc_socket()?;
    let connecting = thread::spawn(move || sys::connect(client.as_raw_fd(), &Address::new(address)).err());
    let server = sys::accept(listener.as_raw_fd()).map_err(errno)?;
    let mut first = [0; 4];
    let n = sys::recv(server, &mut first, libc::MSG_WAITALL).map_err(errno)?;
    let seen = capability::peer(server).map_err(core);
    sys::close(server).map_err(errno)?;
    let _ = connecting.join();
    expect("bytes of CLC", n, 4)?;
    expect("its eye catcher", &first[..], SMC_ID)?;
    expect("what the server sees", seen?, Peer::Capable)
}

fn kernel_client_unanswered(_: &Setting) -> Outcome {
    let (listener, address) = listener("127.0.0.1:0", nothing)?;
    let client = smc_socket()?;
    sys::connect(client.as_raw_fd(), &Address::new(address)).map_err(errno)?;
    let server = sys::accept(listener.as_raw_fd()).map_err(errno)?;
    sys::send(client.as_raw_fd(), b"plain", 0).map_err(errno)?;
    let mut bytes = [0; 16];
    let n = sys::recv(server, &mut bytes, 0).map_err(errno)?;
    sys::close(server).map_err(errno)?;
    expect("the first bytes", &bytes[..n], b"plain")
}
