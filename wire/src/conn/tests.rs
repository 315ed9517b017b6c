//! Two connections over a fake fabric that delivers RDMA WRITEs and CDCs in their order, whenever the test says.

use super::*;
use crate::{Rmb, SizeCode};
use proptest::prelude::*;
use proptest::{collection, sample};
use std::collections::VecDeque;

fn rmbe(size_code: u8, token: u32) -> Rmbe {
    let rmb = Rmb { rkey: token, address: 0 };
    Rmbe { rmb, index: 1, size: SizeCode::truncated(size_code), token }
}

/// What is under way from one end to the other.
enum Op {
    Write(u32, Vec<u8>),
    Cdc(Cdc),
}

/// The byte at a position of the stream that `end` sends.
fn byte(end: usize, position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) as u8) ^ end as u8
}

struct End {
    connection: Connection,
    ring: Vec<u8>,
    /// How far the program has sent and received.
    sent: u64,
    received: u64,
    /// Positions of the urgent bytes sent that the peer has not seen.
    urgent: VecDeque<u64>,
}

struct Fabric {
    ends: [End; 2],
    /// From end 0 to end 1, and back.
    under_way: [VecDeque<Op>; 2],
    cdcs: u64,
}

impl Fabric {
    fn new(size_codes: [u8; 2]) -> Fabric {
        let rmbes = [rmbe(size_codes[0], 100), rmbe(size_codes[1], 101)];
        let ends = [0, 1].map(|end: usize| End {
            connection: Connection::new(&rmbes[1 - end], &rmbes[end]),
            ring: vec![0; rmbes[end].size.bytes() as usize],
            sent: 0,
            received: 0,
            urgent: VecDeque::new(),
        });
        Fabric { ends, under_way: Default::default(), cdcs: 0 }
    }

    fn cdc(&mut self, end: usize) {
        let cdc = self.ends[end].connection.cdc();
        // Over the wire.
        let cdc = Cdc::decode(&cdc.encode()).unwrap();
        assert_eq!(cdc.token, 101 - end as u32);
        self.under_way[end].push_back(Op::Cdc(cdc));
        self.cdcs += 1;
    }

    /// The program has `wanted` bytes to send; returns how many went.
    fn send(&mut self, end: usize, wanted: u64) -> u64 {
        let side = &mut self.ends[end];
        let spans = side.connection.plan(wanted);
        for span in spans.0.into_iter().filter(|span| span.length > 0) {
            let bytes = (0..u64::from(span.length)).map(|i| byte(end, side.sent + i)).collect();
            side.sent += u64::from(span.length);
            self.under_way[end].push_back(Op::Write(span.offset, bytes));
        }
        side.connection.wrote(spans.length());
        if spans.length() > 0 || side.connection.must_tell_blocked() {
            self.cdc(end);
        }
        spans.length().into()
    }

    /// The program reads up to `wanted` bytes.
    fn read(&mut self, end: usize, wanted: u64) -> u64 {
        let side = &mut self.ends[end];
        let at_mark = side.connection.is_at_mark();
        let spans = side.connection.readable(wanted);
        for span in spans.0 {
            for i in span.offset..span.offset + span.length {
                assert_eq!(side.ring[i as usize], byte(1 - end, side.received), "at {}", side.received);
                side.received += 1;
            }
        }
        side.connection.consume(spans.length());
        if at_mark {
            assert!(spans.length() == 0 || !side.connection.is_at_mark());
        }
        if spans.length() > 0 && side.connection.update_is_due() {
            self.cdc(end);
        }
        spans.length().into()
    }

    /// What `from` sent first arrives. Whether there was something.
    fn deliver(&mut self, from: usize) -> bool {
        let Some(op) = self.under_way[from].pop_front() else { return false };
        let [sender, receiver] = self.ends.each_mut().map(Some);
        let (sender, receiver) = if from == 0 { (sender, receiver) } else { (receiver, sender) };
        let (sender, receiver) = (sender.unwrap(), receiver.unwrap());
        match op {
            Op::Write(offset, bytes) => {
                receiver.ring[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            Op::Cdc(cdc) => {
                let received = receiver.connection.receive(&cdc).unwrap();
                if received.urgent {
                    let mark = sender.urgent.pop_front().expect("no urgent byte was sent");
                    let at = receiver.connection.urgent_offset().unwrap() as usize;
                    assert_eq!(receiver.ring[at], byte(from, mark));
                }
                if receiver.connection.update_is_due() {
                    self.cdc(1 - from);
                }
            }
        }
        true
    }

    /// Both programs send `left` and read everything, until nothing moves any more.
    fn finish(&mut self, mut left: [u64; 2]) {
        let mut quiet = 0;
        while quiet < 2 {
            let mut moved = false;
            for end in [0, 1] {
                while self.deliver(end) {
                    moved = true;
                }
                if left[end] > 0 {
                    let went = self.send(end, left[end]);
                    left[end] -= went;
                    moved |= went > 0;
                }
                while self.read(end, u64::MAX) > 0 {
                    moved = true;
                }
            }
            quiet = if moved { 0 } else { quiet + 1 };
        }
        assert_eq!(left, [0, 0], "somebody waits for good");
        for end in [0, 1] {
            assert_eq!(self.ends[end].received, self.ends[1 - end].sent);
            assert!(self.ends[end].urgent.is_empty(), "an urgent byte was never told");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(usize, u64),
    SendUrgent(usize, u64),
    Read(usize, u64),
    Deliver(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![1..40_000u64, 1..100u64, sample::select(vec![1, 16383, 16384, 16385, 65536])];
    prop_oneof![
        4 => (0..2usize, amount()).prop_map(|(end, amount)| Step::Send(end, amount)),
        1 => (0..2usize, amount()).prop_map(|(end, amount)| Step::SendUrgent(end, amount)),
        4 => (0..2usize, amount()).prop_map(|(end, amount)| Step::Read(end, amount)),
        8 => (0..2usize).prop_map(Step::Deliver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order in which things are sent, delivered and read: all bytes come through, in their order, and neither end waits for
    /// good.
    #[test]
    fn every_byte_arrives_however_the_fabric_and_the_programs_are_scheduled(
        sizes in [0..3u8, 0..3u8], steps in collection::vec(step(), 0..200),
    ) {
        let mut fabric = Fabric::new(sizes);
        // What the programs still have to send: a send of a program is not cut short.
        let mut left = [0, 0];
        for step in steps {
            match step {
                Step::Send(end, amount) => {
                    left[end] += amount;
                    left[end] -= fabric.send(end, left[end]);
                }
                // While one is unsent the next would overtake it.
                Step::SendUrgent(end, amount) if left[end] == 0 => {
                    left[end] += amount;
                    let position = fabric.ends[end].sent + left[end] - 1;
                    fabric.ends[end].urgent.push_back(position);
                    fabric.ends[end].connection.mark_urgent(left[end]);
                    left[end] -= fabric.send(end, left[end]);
                }
                Step::SendUrgent(..) => {}
                Step::Read(end, amount) => drop(fabric.read(end, amount)),
                Step::Deliver(from) => drop(fabric.deliver(from)),
            }
        }
        fabric.finish(left);
    }
}

#[test]
fn the_wraps_of_a_cursor_come_round() {
    let mut fabric = Fabric::new([0, 0]);
    // 16 KiB a time: a wrap each.
    for _ in 0..70_000 {
        let connection = &mut fabric.ends[0].connection;
        connection.plan(16384);
        connection.wrote(16384);
        let cdc = connection.cdc();
        let reader = &mut fabric.ends[1].connection;
        assert_eq!(reader.receive(&cdc).unwrap().bytes, 16384);
        reader.consume(16384);
        assert!(reader.update_is_due());
        let cdc = reader.cdc();
        assert_eq!(fabric.ends[0].connection.receive(&cdc).unwrap().freed, 16384);
    }
}

/// A reader whose peer has filled the ring of 16 KiB, blocked or not.
fn full(blocked: bool) -> (Connection, Connection) {
    let [mut writer, mut reader] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    let spans = writer.plan(if blocked { 20_000 } else { 16383 });
    writer.wrote(spans.length());
    assert_eq!(writer.must_tell_blocked(), blocked);
    let cdc = writer.cdc();
    assert_eq!(cdc.producer_flags.has(ProducerFlags::WRITE_BLOCKED), blocked);
    assert!(!writer.must_tell_blocked());
    reader.receive(&cdc).unwrap();
    (writer, reader)
}

#[test]
fn updates_are_due_beyond_a_tenth_if_the_sender_is_blocked_or_half_the_ring_is_used() {
    for blocked in [true, false] {
        let (_, mut reader) = full(blocked);
        reader.consume(2304);
        assert!(!reader.update_is_due(), "not worth it");
        reader.consume(1);
        assert!(reader.update_is_due());
        reader.cdc();
        assert!(!reader.update_is_due());
    }
    // Less than half was used, and nobody waits.
    let [mut writer, mut reader] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    let spans = writer.plan(8000);
    writer.wrote(spans.length());
    reader.receive(&writer.cdc()).unwrap();
    reader.consume(8000);
    assert!(!reader.update_is_due());
    // Half is.
    let spans = writer.plan(192);
    writer.wrote(spans.length());
    reader.receive(&writer.cdc()).unwrap();
    assert!(reader.update_is_due());
    reader.cdc();
    // One that was asked for.
    reader.consume(1);
    assert!(!reader.update_is_due());
    let mut asking = writer.cdc();
    asking.producer_flags = ProducerFlags::UPDATE_REQUESTED;
    reader.receive(&asking).unwrap();
    assert!(reader.update_is_due());
}

#[test]
fn flags_hold_until_the_next_cdc() {
    let (mut writer, mut reader) = full(true);
    reader.consume(16384);
    writer.receive(&reader.cdc()).unwrap();
    writer.plan(0);
    let spans = writer.plan(4000);
    writer.wrote(spans.length());
    reader.receive(&writer.cdc()).unwrap();
    reader.consume(4000);
    assert!(!reader.update_is_due(), "it is not blocked any more");
}

#[test]
fn a_blocked_sender_hears_when_the_ring_is_empty() {
    let (_, mut reader) = full(true);
    reader.consume(14_080);
    reader.cdc();
    reader.consume(2303);
    assert!(!reader.update_is_due());
    reader.consume(1);
    assert!(reader.update_is_due());
}

#[test]
fn a_ring_that_is_just_full_is_a_reason_to_say_blocked_as_in_linux() {
    let mut writer = Fabric::new([0, 0]).ends.map(|end| end.connection)[0];
    assert_eq!(writer.plan(16383).length(), 16383);
    assert!(!writer.must_tell_blocked());
    assert_eq!(writer.plan(16384).length(), 16384);
    assert!(writer.must_tell_blocked());
    writer.wrote(16384);
    assert_eq!(writer.plan(0), Spans::new(16384, 0, 16384));
    assert!(!writer.must_tell_blocked(), "nothing waits");
}

#[test]
fn an_urgent_byte_stops_reads_before_it_and_sends_behind_it() {
    let [mut writer, mut reader] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    writer.mark_urgent(10);
    let pending = writer.cdc();
    assert_eq!(pending.producer_flags, ProducerFlags::URGENT_PENDING);
    let received = reader.receive(&pending).unwrap();
    assert!(received.urgent_pending && !received.urgent);
    // 20 are waiting, 10 of them up to the urgent byte.
    let spans = writer.plan(20);
    assert_eq!(spans.length(), 10);
    writer.wrote(10);
    assert_eq!(writer.plan(10).length(), 0, "not before it is told");
    let present = writer.cdc();
    let flags = ProducerFlags::URGENT_PENDING | ProducerFlags::URGENT_PRESENT | ProducerFlags::WRITE_BLOCKED;
    assert_eq!(present.producer_flags, flags);
    assert_eq!(writer.plan(10).length(), 0, "not before it is read");
    assert!(reader.receive(&present).unwrap().urgent);
    assert!(!reader.receive(&present).unwrap().urgent, "the same again");
    assert_eq!((reader.readable(100).length(), reader.urgent_offset()), (9, Some(9)));
    assert!(!reader.is_at_mark());
    reader.consume(9);
    assert!(reader.is_at_mark() && !reader.update_is_due());
    assert_eq!(reader.readable(100).length(), 1);
    reader.consume(1);
    assert!(!reader.is_at_mark() && reader.update_is_due(), "or the sender waits for good");
    writer.receive(&reader.cdc()).unwrap();
    assert_eq!(writer.plan(10).length(), 10);
    writer.wrote(10);
    assert_eq!(writer.cdc().producer_flags, ProducerFlags::default());
}

#[test]
fn a_second_urgent_byte_waits_until_the_first_is_read() {
    let [mut writer, mut reader] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    let urgent = ProducerFlags::URGENT_PENDING | ProducerFlags::URGENT_PRESENT;
    for _ in 0..2 {
        writer.mark_urgent(1);
        assert_eq!(writer.plan(1).length(), 1);
        writer.wrote(1);
        let first = writer.cdc();
        assert_eq!(first.producer_flags, urgent);
        writer.mark_urgent(1);
        assert_eq!(writer.plan(1).length(), 0);
        assert!(writer.must_tell_blocked());
        reader.receive(&first).unwrap();
        reader.consume(1);
        writer.receive(&reader.cdc()).unwrap();
        assert_eq!(writer.plan(1).length(), 1);
        writer.wrote(1);
        assert!(reader.receive(&writer.cdc()).unwrap().urgent);
        reader.consume(1);
        writer.receive(&reader.cdc()).unwrap();
    }
}

#[test]
fn that_an_urgent_byte_was_read_is_told_even_if_nothing_waits_behind_it() {
    let [mut writer, mut reader] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    writer.mark_urgent(1);
    assert_eq!(writer.plan(1).length(), 1);
    writer.wrote(1);
    let received = reader.receive(&writer.cdc()).unwrap();
    assert!(received.urgent && reader.is_at_mark());
    reader.consume(1);
    assert!(reader.update_is_due());
    reader.cdc();
    assert!(!reader.update_is_due());
    // The same message again brings nothing back.
    let again = Cdc { sequence: 1, ..{ writer }.cdc() };
    let again = Cdc { producer_flags: ProducerFlags::URGENT_PRESENT, ..again };
    assert_eq!(reader.receive(&again), Ok(Received::default()));
    assert_eq!(reader.urgent_offset(), None);
}

#[test]
fn impossible_cursors_and_data_after_the_end_are_violations() {
    let (writer, reader) = full(false);
    let cdc = { writer }.cdc();
    let fresh = Cdc { sequence: 2, ..cdc };
    let cursor = |wrap, count| Cursor { wrap, count };
    for (producer, consumer, why) in [
        (cursor(0, 16384), cursor(0, 0), Violation::Producer),
        (cursor(1, 1), cursor(0, 0), Violation::Producer),
        (cursor(2, 0), cursor(0, 0), Violation::Producer),
        (cursor(0, 16383), cursor(0, 1), Violation::Consumer),
        (cursor(0, 16383), cursor(1, 0), Violation::Consumer),
        (cursor(0, 16383), cursor(0, u32::MAX), Violation::Consumer),
    ] {
        let mut reader = reader;
        assert_eq!(
            reader.receive(&Cdc { producer, consumer, ..fresh }),
            Err(why),
            "{producer:?} {consumer:?}"
        );
        assert!(reader.abort());
        assert_eq!(reader.cdc().state_flags, StateFlags::ABORT);
    }
    // Older ones are ignored: an older number, or older cursors.
    let mut reader = reader;
    assert_eq!(reader.receive(&Cdc { producer: cursor(0, 5), ..fresh }), Ok(Received::default()));
    assert_eq!(
        reader.receive(&Cdc { sequence: 1, producer: cursor(9, 9), ..fresh }),
        Ok(Received::default())
    );
    assert_eq!(reader.unread(), 16383);

    let closed = Cdc { sequence: 3, producer: cursor(0, 16383), state_flags: StateFlags::CLOSED, ..fresh };
    assert_eq!(reader.receive(&closed).unwrap().state, StateFlags::CLOSED);
    let more = Cdc { sequence: 4, producer: cursor(1, 0), ..closed };
    assert_eq!(reader.receive(&more), Err(Violation::AfterFinal));
}

#[test]
fn a_failover_asks_only_whether_a_number_was_seen() {
    let (_, mut reader) = full(false);
    let flags = ProducerFlags::FAILOVER_VALIDATION;
    let cdc = |sequence| Cdc {
        sequence,
        token: 0,
        producer: Cursor::default(),
        consumer: Cursor { wrap: 9, count: 9 },
        producer_flags: flags,
        state_flags: StateFlags::default(),
    };
    assert_eq!(reader.receive(&cdc(1)), Ok(Received::default()));
    assert_eq!(reader.receive(&cdc(0xffff)), Ok(Received::default()));
    assert_eq!(reader.receive(&cdc(2)), Err(Violation::DataLost));
}

#[test]
fn nothing_is_written_after_the_final_flag() {
    let [mut one, mut other] = Fabric::new([0, 0]).ends.map(|end| end.connection);
    assert!(one.close());
    assert_eq!(one.plan(10).length(), 0);
    let cdc = one.cdc();
    assert_eq!((cdc.state_flags, cdc.producer_flags), (StateFlags::CLOSED, ProducerFlags::default()));
    other.receive(&cdc).unwrap();
    assert_eq!(other.close_state().may_send(), Err(Ended::Reset));
    assert_eq!(other.close_state().may_receive(), Ok(false));
    // With data unread it is an abort.
    let (_, mut reader) = full(false);
    assert!(reader.close());
    assert_eq!(reader.cdc().state_flags, StateFlags::ABORT);
}
