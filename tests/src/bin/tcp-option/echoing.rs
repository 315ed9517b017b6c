//! A peer as some firewalls and stacks are: whatever options a SYN has, it sends them all back, and knows nothing of them. What
//! comes on the connection it sends back as well.
//!
//! It is on the far end of a cable, made of raw segments, for no kernel does that. Nothing gets lost there, so it repeats
//! nothing; what it is sent must fit into the other end's buffers.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::packets::{Flags, Segment, INITIAL_SEQUENCE};
use crate::{Outcome, Setting, FAR};

/// Bytes of a segment.
const PIECE: usize = 1000;
/// How often it looks whether it is still needed.
const GLANCE: Duration = Duration::from_millis(100);

/// Runs a program while the peer serves any port of [`FAR`]. The program's failure is one, and so is a peer that
/// nobody has talked to.
pub fn serve_while(setting: &Setting, command: &[String]) -> Outcome {
    let [program, arguments @ ..] = command else { return Err("no command".into()) };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| Peer::default().serve(setting, &over));
        let status = Command::new(program).args(arguments).status();
        over.store(true, Ordering::Relaxed);
        let served = peer.join().map_err(|_| "the peer panicked")?;
        let status = status.map_err(|e| format!("{program}: {e}"))?;
        match (status.success(), served?) {
            (false, _) => Err(format!("{program}: {status}")),
            (true, 0) => Err("no connection came".into()),
            (true, connections) => {
                println!("{connections} connections to a peer that sends all options back");
                Ok(())
            }
        }
    })
}

/// The connections, by the other end's port and its own.
#[derive(Default)]
struct Peer(HashMap<(u16, u16), Connection>);

struct Connection {
    /// Next byte of its own.
    next: u32,
    /// Next byte of the other end's.
    expected: u32,
}

impl Peer {
    /// How many connections there were.
    fn serve(&mut self, setting: &Setting, over: &AtomicBool) -> Result<usize, String> {
        let mut connections = 0;
        while !over.load(Ordering::Relaxed) {
            // What it sends itself is seen here too.
            let Some(segment) = setting.far.next_within(GLANCE, |s| s.is_to(FAR))? else { continue };
            let key = (segment.source_port, segment.destination_port);
            if segment.syn {
                setting.far.answer(&segment, &segment.raw_options)?;
                let expected = segment.sequence.wrapping_add(1);
                let new = Connection { next: INITIAL_SEQUENCE.wrapping_add(1), expected };
                connections += usize::from(self.0.insert(key, new).is_none());
            } else if segment.reset {
                self.0.remove(&key);
            } else if let Some(connection) = self.0.get_mut(&key) {
                connection.take(setting, &segment)?;
            }
        }
        Ok(connections)
    }
}

impl Connection {
    fn take(&mut self, setting: &Setting, segment: &Segment) -> Outcome {
        let due = segment.sequence == self.expected;
        if segment.payload.is_empty() && !segment.fin && due {
            return Ok(());
        }
        if due {
            self.expected = self.expected.wrapping_add(segment.payload.len() as u32 + u32::from(segment.fin));
            for piece in segment.payload.chunks(PIECE) {
                self.send(setting, segment, Flags { fin: false }, piece)?;
            }
        }
        if segment.fin && due {
            return self.send(setting, segment, Flags { fin: true }, &[]);
        }
        self.send(setting, segment, Flags { fin: false }, &[])
    }

    fn send(&mut self, setting: &Setting, to: &Segment, flags: Flags, payload: &[u8]) -> Outcome {
        setting.far.reply(to, self.next, self.expected, flags, payload)?;
        self.next = self.next.wrapping_add(payload.len() as u32 + u32::from(flags.fin));
        Ok(())
    }
}
