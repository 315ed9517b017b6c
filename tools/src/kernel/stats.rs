//! The kernel's statistics of SMC-R in this network namespace. Generic netlink family SMC_GEN_NETLINK, attributes
//! SMC_NLA_STATS_* and SMC_NLA_FBACK_STATS_* of include/uapi/linux/smc.h.

use std::io;

use serde::{Deserialize, Serialize};

use super::{dump, Attributes};

const SMC_NETLINK_GET_STATS: u8 = 7;
const SMC_NETLINK_GET_FBACK_STATS: u8 = 8;
const SMC_GEN_STATS: u16 = 7;
const SMC_GEN_FBACK_STATS: u16 = 8;
const SMC_NLA_STATS_SMCR_TECH: u16 = 2;

/// Upper bounds of the classes of sizes, in KiB; the last class is for what is above.
pub const CLASSES: [u32; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];

/// Counters since the module was loaded, or since they were set back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections on SMC-R.
    pub client_v1: u64,
    pub client_v2: u64,
    pub server_v1: u64,
    pub server_v2: u64,
    /// Handshakes that failed without leading to TCP. These count SMC-D too, as do fallbacks.
    pub client_handshake_errors: u64,
    pub server_handshake_errors: u64,
    pub client_fallbacks: u64,
    pub server_fallbacks: u64,
    pub fallback_reasons: Vec<Fallback>,
    pub rx: Direction,
    pub tx: Direction,
    pub sendpage: u64,
    pub splice: u64,
    pub cork: u64,
    pub nodelay: u64,
    pub urgent_data: u64,
}

/// How often connections fell back for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    pub server: bool,
    pub reason: u32,
    pub count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    pub bytes: u64,
    /// Calls.
    pub requests: u64,
    /// Connections by the size of their buffer, in [`CLASSES`].
    pub buffer_sizes: [u64; 9],
    /// Calls by the bytes they asked for, if sending, or got.
    pub request_sizes: [u64; 9],
    pub full: u64,
    pub full_peer: u64,
    pub too_small: u64,
    pub too_small_peer: u64,
    pub reuses: u64,
    pub allocations: u64,
    pub downgrades: u64,
    /// Bytes of buffers now. `None`: this kernel does not tell.
    pub buffers_in_use: Option<u64>,
}

pub fn read() -> io::Result<Stats> {
    let mut stats = Stats::default();
    for answer in dump(SMC_NETLINK_GET_STATS)? {
        if let Some(nest) = Attributes(&answer).nest(SMC_GEN_STATS) {
            stats.take(nest);
        }
    }
    for answer in dump(SMC_NETLINK_GET_FBACK_STATS)? {
        if let Some(nest) = Attributes(&answer).nest(SMC_GEN_FBACK_STATS) {
            stats.take_fallback(nest);
        }
    }
    Ok(stats)
}

impl Stats {
    fn take(&mut self, a: Attributes) {
        let count = |a: Attributes, kind| a.uint(kind).unwrap_or(0);
        self.client_handshake_errors = count(a, 3);
        self.server_handshake_errors = count(a, 4);
        let Some(a) = a.nest(SMC_NLA_STATS_SMCR_TECH) else { return };
        self.tx = Direction::of(a, [1, 3, 5, 17, 19, 21]);
        self.rx = Direction::of(a, [2, 4, 6, 16, 18, 20]);
        let counters = [
            (&mut self.client_v1, 7),
            (&mut self.client_v2, 8),
            (&mut self.server_v1, 9),
            (&mut self.server_v2, 10),
            (&mut self.sendpage, 11),
            (&mut self.splice, 12),
            (&mut self.cork, 13),
            (&mut self.nodelay, 14),
            (&mut self.urgent_data, 15),
        ];
        for (counter, kind) in counters {
            *counter = count(a, kind);
        }
    }

    /// One reason, and the total of its side.
    fn take_fallback(&mut self, a: Attributes) {
        let Some(kind) = a.u8(1) else { return };
        let server = kind != 0;
        if let Some(total) = a.uint(2) {
            self.server_fallbacks = total;
        }
        if let Some(total) = a.uint(3) {
            self.client_fallbacks = total;
        }
        if let (Some(reason @ 1..), Some(count)) = (a.u32(4), a.u16(5)) {
            self.fallback_reasons.push(Fallback { server, reason, count: count.into() });
        }
    }

    /// What has been counted since `earlier`; all of it if the kernel has begun anew since then.
    pub fn since(&self, earlier: &Stats) -> Stats {
        let mut since = self.clone();
        let mut begun = earlier.clone();
        let restarted =
            since.counters().into_iter().zip(begun.counters()).any(|(now, before)| *now < *before);
        if restarted {
            return since;
        }
        since.counters().into_iter().zip(begun.counters()).for_each(|(now, before)| *now -= *before);
        for fallback in &mut since.fallback_reasons {
            let same = |f: &&Fallback| (f.server, f.reason) == (fallback.server, fallback.reason);
            // The kernel counts in sixteen bits here.
            let before = earlier.fallback_reasons.iter().find(same).map_or(0, |f| f.count);
            fallback.count = fallback.count.saturating_sub(before);
        }
        since.fallback_reasons.retain(|f| f.count > 0);
        since
    }

    fn counters(&mut self) -> Vec<&mut u64> {
        let own = [
            &mut self.client_v1,
            &mut self.client_v2,
            &mut self.server_v1,
            &mut self.server_v2,
            &mut self.client_handshake_errors,
            &mut self.server_handshake_errors,
            &mut self.client_fallbacks,
            &mut self.server_fallbacks,
            &mut self.sendpage,
            &mut self.splice,
            &mut self.cork,
            &mut self.nodelay,
            &mut self.urgent_data,
        ];
        own.into_iter().chain(self.rx.counters()).chain(self.tx.counters()).collect()
    }
}

impl Direction {
    /// Attributes: buffer sizes, request sizes, events, bytes, calls, bytes in use.
    fn of(a: Attributes, [buffers, requests, events, bytes, calls, in_use]: [u16; 6]) -> Direction {
        let sizes = |kind| {
            let classes = a.nest(kind);
            std::array::from_fn(|n| classes.and_then(|c| c.uint(n as u16 + 1)).unwrap_or(0))
        };
        let events = a.nest(events);
        let event = |kind| events.and_then(|e| e.uint(kind)).unwrap_or(0);
        Direction {
            bytes: a.uint(bytes).unwrap_or(0),
            requests: a.uint(calls).unwrap_or(0),
            buffer_sizes: sizes(buffers),
            request_sizes: sizes(requests),
            too_small_peer: event(1),
            too_small: event(2),
            full_peer: event(3),
            full: event(4),
            reuses: event(5),
            allocations: event(6),
            downgrades: event(7),
            buffers_in_use: a.uint(in_use),
        }
    }

    fn counters(&mut self) -> impl Iterator<Item = &mut u64> {
        let own = [
            &mut self.bytes,
            &mut self.requests,
            &mut self.full,
            &mut self.full_peer,
            &mut self.too_small,
            &mut self.too_small_peer,
            &mut self.reuses,
            &mut self.allocations,
            &mut self.downgrades,
        ];
        own.into_iter().chain(&mut self.buffer_sizes).chain(&mut self.request_sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testdata::recorded;
    use super::*;

    fn of_kernel() -> Stats {
        let mut stats = Stats::default();
        recorded("stats").iter().for_each(|a| stats.take(Attributes(a).nest(SMC_GEN_STATS).unwrap()));
        recorded("fallback")
            .iter()
            .for_each(|a| stats.take_fallback(Attributes(a).nest(SMC_GEN_FBACK_STATS).unwrap()));
        stats
    }

    #[test]
    fn a_kernels_counters_are_read() {
        let stats = of_kernel();
        let rx = Direction {
            bytes: 365_536,
            requests: 9,
            buffer_sizes: [0, 0, 0, 2, 0, 0, 0, 0, 0],
            request_sizes: [0, 0, 2, 6, 0, 0, 0, 0, 0],
            full: 3,
            allocations: 2,
            buffers_in_use: Some(65536),
            ..Direction::default()
        };
        let tx = Direction {
            bytes: 300_000,
            requests: 8,
            buffer_sizes: [0, 0, 0, 2, 0, 0, 0, 0, 0],
            request_sizes: [0, 0, 3, 5, 0, 0, 0, 0, 0],
            full: 6,
            full_peer: 5,
            allocations: 2,
            buffers_in_use: Some(65536),
            ..Direction::default()
        };
        let fallback = Fallback { server: true, reason: 0x0500_0000, count: 1 };
        let expected = Stats {
            server_v2: 2,
            server_fallbacks: 1,
            fallback_reasons: vec![fallback],
            rx,
            tx,
            ..Stats::default()
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn a_reset_counts_from_there_and_a_kernel_that_begins_anew_from_nothing() {
        let mark = of_kernel();
        let mut now = mark.clone();
        now.server_v2 += 3;
        now.rx.bytes += 5;
        now.rx.buffer_sizes[8] += 1;
        now.fallback_reasons[0].count += 2;
        let since = now.since(&mark);
        assert_eq!((since.server_v2, since.rx.bytes, since.tx.bytes), (3, 5, 0));
        assert_eq!((since.rx.buffer_sizes[8], since.rx.buffer_sizes[3]), (1, 0));
        assert_eq!(since.fallback_reasons[0].count, 2);
        // What is no counter stays.
        assert_eq!(since.rx.buffers_in_use, Some(65536));
        let since = mark.since(&mark);
        assert!(since.fallback_reasons.is_empty() && since.server_fallbacks == 0);
        let mut anew = mark.clone();
        anew.tx.requests = 7;
        assert_eq!(anew.since(&mark), anew);
    }
}
