//! What goes over a connection.

use crate::transport::Pipe;
use crate::{Mode, Outcome, Run, PATIENCE};
use smc_core::sys::Errno;
use smc_tests::pattern::Stream;
use std::thread;
use std::time::Instant;

const SEED: u64 = 0x736d_6372;
const BUFFER: usize = 1 << 16;

fn named(what: &'static str) -> impl Fn(Errno) -> String {
    move |Errno(code)| format!("{what}: {}", smc_tests::sys::errno_name(code))
}

/// All connections carry the same two streams: which of them is the server's first, it cannot know.
fn stream(direction: u32) -> Stream {
    Stream { seed: SEED, connection: 0, direction }
}

fn send(pipe: &Pipe, run: &Run<'_>, direction: u32) -> Outcome {
    let (bytes, size) = (run.options.bytes, run.options.size);
    let mut buffer = vec![0; size];
    let mut offset = 0;
    while offset < bytes {
        let n = size.min((bytes - offset) as usize);
        stream(direction).fill(offset, &mut buffer[..n]);
        pipe.write(&buffer[..n])
            .map_err(|e| format!("{} of {bytes} bytes", named("write")(e) + &format!(" at {offset}")))?;
        offset += n as u64;
    }
    Ok(())
}

fn receive(pipe: &Pipe, run: &Run<'_>, direction: u32) -> Outcome {
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    while offset < run.options.bytes {
        let n = pipe.read(&mut buffer).map_err(|e| format!("{} at {offset}", named("read")(e)))?;
        if n == 0 {
            return Err(format!("ended after {offset} of {} bytes", run.options.bytes));
        }
        stream(direction).check(offset, &buffer[..n])?;
        if offset == 0 && direction == 0 {
            run.command()?;
        }
        offset += n as u64;
    }
    Ok(())
}

fn end(pipe: &Pipe) -> Outcome {
    match pipe.read(&mut [0]).map_err(named("read the end"))? {
        0 => Ok(()),
        _ => Err("more came than was sent".into()),
    }
}

fn shutdown(pipe: &Pipe) -> Outcome {
    pipe.shutdown_write().map_err(named("shutdown"))
}

/// Both at the same time.
fn both(one: impl FnOnce() -> Outcome + Send, other: impl FnOnce() -> Outcome) -> Outcome {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        one.join().unwrap_or_else(|_| Err("a thread panicked".into())).and(other)
    })
}

pub fn client(pipe: &Pipe, run: &Run<'_>) -> Outcome {
    match run.options.mode {
        Mode::Echo => {
            both(|| receive(pipe, run, 0), || send(pipe, run, 0))?;
            shutdown(pipe)?;
            end(pipe)
        }
        Mode::Stream => both(
            || receive(pipe, run, 1).and_then(|()| end(pipe)),
            || send(pipe, run, 0).and_then(|()| run.command()).and_then(|()| shutdown(pipe)),
        ),
        Mode::Half => {
            send(pipe, run, 0)?;
            shutdown(pipe)?;
            receive(pipe, run, 1)?;
            end(pipe)
        }
        Mode::Abort => {
            let mut byte = [0];
            match pipe.read(&mut byte).map_err(named("read"))? {
                0 => Err("the end, and no bytes".into()),
                _ => stream(1).check(0, &byte),
            }
        }
        Mode::Hang => {
            if pipe.read(&mut [0]).map_err(named("read"))? == 0 {
                return Err("the end, and no bytes".into());
            }
            run.command()?;
            until_error(pipe)
        }
    }
}

pub fn server(pipe: &Pipe, run: &Run<'_>) -> Outcome {
    match run.options.mode {
        Mode::Echo => echo(pipe, run),
        Mode::Stream => both(
            || receive(pipe, run, 0).and_then(|()| end(pipe)),
            || send(pipe, run, 1).and_then(|()| shutdown(pipe)),
        ),
        Mode::Half => {
            receive(pipe, run, 0)?;
            end(pipe)?;
            send(pipe, run, 1)?;
            shutdown(pipe)
        }
        Mode::Abort => loop {
            // More than fits anywhere.
            let mut buffer = vec![0; BUFFER];
            stream(1).fill(0, &mut buffer);
            match pipe.write(&buffer) {
                Ok(()) => {}
                Err(Errno(libc::ECONNRESET | libc::EPIPE)) => return Ok(()),
                Err(error) => return Err(named("write to an aborted connection")(error)),
            }
        },
        Mode::Hang => {
            pipe.write(&[1]).map_err(named("write"))?;
            run.command()?;
            until_error(pipe)
        }
    }
}

fn echo(pipe: &Pipe, run: &Run<'_>) -> Outcome {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let n = pipe.read(&mut buffer).map_err(|e| format!("{} at {total}", named("read")(e)))?;
        if n == 0 {
            break;
        }
        if total == 0 {
            // Before the answer, for which the client waits with the connection open.
            run.command()?;
        }
        pipe.write(&buffer[..n]).map_err(|e| format!("{} at {total}", named("write")(e)))?;
        total += n as u64;
    }
    if total != run.options.bytes {
        return Err(format!("{total} bytes came, not {}", run.options.bytes));
    }
    shutdown(pipe)
}

/// Reads until the connection ends, with an error or without, and says how and when.
fn until_error(pipe: &Pipe) -> Outcome {
    let mut buffer = [0; 100];
    let begun = Instant::now();
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => {
                println!("ended after {:.1?}", begun.elapsed());
                return Ok(());
            }
            Ok(_) => {}
            // Not the connection's end, but that of the read.
            Err(Errno(code)) if begun.elapsed() >= PATIENCE => {
                return Err(format!("no end for {PATIENCE:?}: {}", smc_tests::sys::errno_name(code)));
            }
            Err(Errno(code)) => {
                println!("ended after {:.1?} with {}", begun.elapsed(), smc_tests::sys::errno_name(code));
                return Ok(());
            }
        }
    }
}
