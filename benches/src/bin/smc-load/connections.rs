//! Short connections: connect, one exchange, close; one after the other.

use crate::address::{Address, Listener};
use crate::meter::{Meter, Usage};
use crate::round_trip::{receive_all, send_all};
use crate::Work;
use nix::sys::socket::{setsockopt, sockopt};
use smc_benches::Account;
use std::io;
use std::time::Instant;

/// The first byte of the request on the last connection.
const LAST: u8 = b'L';

pub fn serve(listener: &Listener, work: &Work) -> io::Result<Account> {
    let mut message = vec![0; work.size];
    let mut usage = None;
    let mut messages = 0;
    loop {
        let fd = listener.accept(work.nagle)?;
        usage.get_or_insert_with(Usage::now);
        // A reset is how the client ends a connection.
        while matches!(receive_all(&fd, &mut message), Ok(true)) {
            if send_all(&fd, &message).is_err() {
                break;
            }
            messages += 1;
        }
        if message[0] == LAST {
            return Ok(usage.expect("set above").account(messages));
        }
    }
}

fn exchange(address: &Address, work: &Work, message: &[u8], answer: &mut [u8]) -> io::Result<()> {
    let fd = address.connect(work.nagle)?;
    // A reset at the end leaves no TIME_WAIT behind, of which there would be more than ports.
    if matches!(address, Address::Port(_)) {
        setsockopt(&fd, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    send_all(&fd, message)?;
    match receive_all(&fd, answer)? {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub fn connect(address: &Address, work: &Work) -> io::Result<Account> {
    let mut message = vec![b'c'; work.size];
    let mut answer = vec![0; work.size];
    let usage = Usage::now();
    let mut meter = Meter::new(work);
    let mut start = Instant::now();
    loop {
        exchange(address, work, &message, &mut answer)?;
        let (now, go_on) = meter.done(start);
        if !go_on {
            break;
        }
        start = now;
    }
    let account = Meter::account(vec![meter], work.measured(), &usage);
    message[0] = LAST;
    exchange(address, work, &message, &mut answer)?;
    Ok(account)
}
