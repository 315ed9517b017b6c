//! Ends that block: a thread for each direction of each connection.

use crate::open::{Connection, Opener};
use std::os::fd::RawFd;
use std::sync::mpsc;
use std::thread;

/// Moves everything over `connection`, which it closes.
fn serve(mut connection: Connection) -> Result<(), String> {
    let (fd, alias) = (connection.fd, connection.alias);
    let (reader, writer) = (&mut connection.reader, &mut connection.writer);
    // A step that would block comes of MSG_DONTWAIT: the next call may be one that waits.
    thread::scope(|scope| {
        let writing = scope.spawn(move || -> Result<(), String> {
            while !writer.done() {
                writer.step(alias)?;
            }
            Ok(())
        });
        let result = (|| {
            while !reader.done() {
                reader.step(fd)?;
            }
            Ok(())
        })();
        // With a failed reader, the writer may never come to its end: the process fails as a whole.
        result.and_then(|()| writing.join().unwrap_or_else(|_| Err("the writing thread panicked".to_owned())))
    })?;
    connection.close()
}

type Outcome = Result<(), String>;

fn spawn(connection: Connection, report: &mpsc::Sender<Outcome>) {
    let report = report.clone();
    thread::spawn(move || {
        let outcome = serve(connection);
        if let Err(message) = &outcome {
            // At once: the other end may now wait for ever.
            crate::fail(message);
        }
        let _ = report.send(outcome);
    });
}

pub fn client(mut opener: Opener, port: u16) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let total = opener.options.connections;
    let mut open = 0;
    for id in 0..total {
        while open >= opener.options.concurrency {
            receiver.recv().map_err(|e| e.to_string())??;
            open -= 1;
        }
        spawn(opener.connect(id, port, false)?, &sender);
        open += 1;
    }
    drop(sender);
    receiver.into_iter().collect()
}

pub fn server(mut opener: Opener, listener: RawFd) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let mut accepted = 0;
    while accepted < opener.options.connections {
        if let Some(connection) = opener.accept(listener, false)? {
            spawn(connection, &sender);
            accepted += 1;
        }
    }
    drop(sender);
    receiver.into_iter().collect()
}
