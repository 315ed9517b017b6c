//! The ring and arming protocol: in sequence here, and under loom (`ci/loom.sh`) in every interleaving.

use super::*;

#[cfg(not(loom))]
mod sequential {
    use super::*;

    #[test]
    fn space_shrinks_with_the_tail_and_grows_with_the_head() {
        let d = Direction::default();
        assert_eq!(d.space(0, 8), Ok(8));
        assert_eq!(d.space(8, 8), Ok(0));
        let _ = d.publish_head(3, true);
        assert_eq!(d.space(8, 8), Ok(3));
    }

    #[test]
    fn a_head_beyond_the_tail_is_broken() {
        let d = Direction::default();
        let _ = d.publish_head(5, true);
        assert_eq!(d.space(4, 8), Err(Broken));
    }

    #[test]
    fn a_tail_beyond_the_ring_or_behind_the_head_is_broken() {
        let d = Direction::default();
        let _ = d.publish_tail(9);
        assert_eq!(d.view(0, 0, 8), Err(Broken));
        assert_eq!(d.view(10, 0, 8), Err(Broken));
        assert_eq!(d.view(1, 0, 8), Ok(View { bytes: 8, next: None }));
    }

    #[test]
    fn an_epoch_too_far_ahead_is_broken() {
        let d = Direction::default();
        let _ = d.announce(MAX_LEAD + 1, 0);
        assert_eq!(d.view(0, 0, 8), Err(Broken));
        assert_eq!(d.lag(MAX_LEAD + 1), Err(Broken));
        d.reach(1);
        assert_eq!(d.lag(MAX_LEAD + 1), Ok(MAX_LEAD));
    }

    #[test]
    fn a_doorbell_is_asked_for_once_for_each_mark() {
        let d = Direction::default();
        assert!(!d.publish_tail(1));
        d.want_data();
        assert!(d.publish_tail(2));
        assert!(!d.publish_tail(3));
        d.want_space();
        assert!(!d.publish_head(1, false));
        assert!(d.publish_head(2, true));
        assert!(!d.publish_head(3, true));
    }

    #[test]
    fn bytes_held_back_are_seen_when_they_are_taken_or_published() {
        let d = Direction::default();
        let _ = d.publish_tail(1);
        d.want_data();
        assert!(d.hold(3, 77), "a sleeper hears of the time");
        d.hold_more(4);
        assert_eq!(d.held_until(), 77);
        assert_eq!(d.view(0, 0, 8), Ok(View { bytes: 1, next: None }));
        assert!(d.take_held(8));
        assert!(!d.take_held(8), "they are taken once");
        assert_eq!(d.view(0, 0, 8), Ok(View { bytes: 4, next: None }));
        d.end_hold();
        assert_eq!(d.held_until(), 0);
        let _ = d.publish_tail(6);
        assert!(!d.take_held(8), "what was held is published");
        assert_eq!(d.view(0, 0, 8), Ok(View { bytes: 6, next: None }));
    }

    #[test]
    fn what_cannot_be_held_back_is_not_taken() {
        let d = Direction::default();
        let _ = d.hold(9, 77);
        assert!(!d.take_held(8), "more than the ring");
        let _ = d.publish_tail(20);
        assert!(!d.take_held(8), "behind the tail");
        assert_eq!(d.view(20, 0, 8), Ok(View { bytes: 0, next: None }));
    }

    #[test]
    fn positions_of_all_epochs_in_flight_are_kept() {
        let d = Direction::default();
        for e in 1..=MAX_LEAD {
            let _ = d.announce(e, 100 + e as u64);
        }
        for e in 0..MAX_LEAD {
            assert_eq!(d.view(0, e, 8).unwrap().next, Some(101 + e as u64));
        }
        assert_eq!(d.view(0, MAX_LEAD, 8).unwrap().next, None);
    }
}

/// Each model was tried against a broken protocol too, and fails then, most by a deadlock:
/// - `nobody_sleeps_through_data_or_space`: without the fence of [`asked`], of `publish_tail` or of `publish_head`;
/// - `bytes_are_never_seen_before_their_epoch`: with `epoch` read before `tail` in `view`;
/// - `switching_keeps_the_order_of_bytes`: without the fences of `asked` or `publish_tail`, without the second look,
///   with a relaxed load of `epoch`, without the fence of `begin_tcp_read`, and with a return to TCP that
///   does not look at the mark of reads under way;
/// - `a_native_read_takes_nothing_from_behind_the_switch`: with a return to TCP that does not ask whether such reads
///   are over.
#[cfg(loom)]
mod interleaved {
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// An eventfd: level-triggered, reset by the sleeper.
    #[derive(Default)]
    struct Doorbell {
        rung: Mutex<bool>,
        change: Condvar,
    }

    impl Doorbell {
        fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.change.notify_all();
        }
        fn sleep(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.change.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    #[derive(Default)]
    struct Pair {
        direction: Direction,
        consumer_bell: Doorbell,
        producer_bell: Doorbell,
    }

    fn consume(p: &Pair, total: u64, size: u64) {
        let mut head = 0;
        while head < total {
            let mut bytes = p.direction.view(head, 0, size).unwrap().bytes;
            if bytes == 0 {
                p.direction.want_data();
                asked();
                bytes = p.direction.view(head, 0, size).unwrap().bytes;
                if bytes == 0 {
                    p.consumer_bell.sleep();
                    continue;
                }
            }
            head += bytes;
            if p.direction.publish_head(head, true) {
                p.producer_bell.ring();
            }
        }
    }

    fn produce(p: &Pair, total: u64, size: u64) {
        let mut tail = 0;
        while tail < total {
            if p.direction.space(tail, size).unwrap() == 0 {
                p.direction.want_space();
                asked();
                if p.direction.space(tail, size).unwrap() == 0 {
                    p.producer_bell.sleep();
                    continue;
                }
            }
            tail += 1;
            if p.direction.publish_tail(tail) {
                p.consumer_bell.ring();
            }
        }
    }

    /// What is produced at a cursor is what is consumed there, wherever the ring begins, in whichever buffer.
    #[test]
    fn the_place_holds_for_all_bytes_that_are_seen() {
        const SIZE: u64 = 2;
        const TOTAL: u64 = 3;
        bounded(3).check(|| {
            let p = Arc::new((Direction::default(), [cells(SIZE), cells(SIZE)]));
            let other = p.clone();
            let producer = thread::spawn(move || {
                let (direction, cells) = &*other;
                let (mut tail, mut base, mut buffer) = (0u64, 0u64, 0);
                while tail < TOTAL {
                    match direction.space(tail, SIZE).unwrap() {
                        0 => {
                            thread::yield_now();
                            continue;
                        }
                        SIZE => {
                            base = tail;
                            buffer = 1 - buffer;
                            direction.set_place(buffer, base);
                        }
                        _ => {}
                    }
                    cells[buffer as usize][((tail - base) % SIZE) as usize]
                        .store(100 + tail, Ordering::Relaxed);
                    tail += 1;
                    let _ = direction.publish_tail(tail);
                }
            });
            let (direction, cells) = &*p;
            let mut head = 0;
            while head < TOTAL {
                let bytes = direction.view(head, 0, SIZE).unwrap().bytes;
                for at in head..head + bytes {
                    let place = direction.place();
                    let cell = &cells[place.buffer as usize][place.offset(at, SIZE) as usize];
                    assert_eq!(cell.load(Ordering::Relaxed), 100 + at);
                }
                head += bytes;
                match bytes {
                    0 => thread::yield_now(),
                    _ => {
                        let _ = direction.publish_head(head, true);
                    }
                }
            }
            producer.join().unwrap();
        });
    }

    fn cells(n: u64) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    fn bounded(preemptions: usize) -> loom::model::Builder {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model
    }

    /// Loom reports a deadlock if any interleaving leaves a sleeper unwoken.
    #[test]
    fn nobody_sleeps_through_data_or_space() {
        bounded(3).check(|| {
            let p = Arc::new(Pair::default());
            let q = p.clone();
            let t = thread::spawn(move || produce(&q, 2, 1));
            consume(&p, 2, 1);
            t.join().unwrap();
        });
    }

    /// The producer holds a byte back and does nothing more: a consumer that sleeps hears of it, and takes it.
    #[test]
    fn nobody_sleeps_through_bytes_held_back() {
        bounded(3).check(|| {
            let p = Arc::new(Pair::default());
            let q = p.clone();
            let t = thread::spawn(move || {
                if q.direction.hold(1, 77) {
                    q.consumer_bell.ring();
                }
            });
            let d = &p.direction;
            while d.view(0, 0, 8).unwrap().bytes == 0 {
                d.want_data();
                asked();
                if d.held_until() != 0 {
                    // Its time is over.
                    assert!(d.take_held(8));
                } else {
                    p.consumer_bell.sleep();
                }
            }
            t.join().unwrap();
        });
    }

    /// The consumer takes what is held back while the producer publishes it with more: it sees no byte that was not
    /// written, and in the end all of them.
    #[test]
    fn bytes_are_taken_while_they_are_published() {
        use loom::sync::atomic::AtomicU64;
        loom::model(|| {
            let p = Arc::new((Direction::default(), AtomicU64::new(0)));
            let q = p.clone();
            let t = thread::spawn(move || {
                let (d, written) = &*q;
                written.store(1, Ordering::Relaxed);
                let _ = d.hold(1, 77);
                written.store(2, Ordering::Relaxed);
                d.end_hold();
                let _ = d.publish_tail(2);
                written.store(3, Ordering::Relaxed);
                let _ = d.hold(3, 78);
            });
            let (d, written) = &*p;
            if d.held_until() != 0 {
                d.take_held(8);
            }
            let seen = d.view(0, 0, 8).unwrap().bytes;
            assert!(seen <= written.load(Ordering::Relaxed));
            t.join().unwrap();
            d.take_held(8);
            assert_eq!(d.view(0, 0, 8).unwrap().bytes, 3);
        });
    }

    /// A consumer that sees a byte of epoch 3 sees where epochs 2 and 3 begin.
    #[test]
    fn bytes_are_never_seen_before_their_epoch() {
        loom::model(|| {
            let p = Arc::new(Direction::default());
            let _ = p.announce(1, 0);
            let q = p.clone();
            let t = thread::spawn(move || {
                let _ = q.publish_tail(1);
                let _ = q.announce(2, 1);
                let _ = q.announce(3, 7);
                let _ = q.publish_tail(2);
            });
            let view = p.view(0, 1, 8).unwrap();
            if view.bytes == 2 {
                assert_eq!(view.next, Some(1));
                assert_eq!(p.view(1, 2, 8).unwrap().next, Some(7));
            }
            t.join().unwrap();
        });
    }

    /// A connection whose producer changes its medium: the direction, the consumer's data doorbell, and the kernel's
    /// queue of TCP bytes. The consumer sleeps on the last two as ppoll does.
    #[derive(Default)]
    struct Switching {
        direction: Direction,
        /// One slot a byte; relaxed, as the copying in and out is.
        ring: [AtomicU32; 2],
        kernel: Mutex<Kernel>,
        change: Condvar,
    }

    #[derive(Default)]
    struct Kernel {
        queue: Vec<u8>,
        rung: bool,
    }

    const SIZE: u64 = 4;

    impl Switching {
        /// The byte of cursor `at - 1`: the second of the stream is the ring's first.
        fn send_ring(&self, at: u64) {
            self.ring[at as usize - 1].store(at as u32 + 1, Ordering::Relaxed);
            self.wake(self.direction.publish_tail(at));
        }
        fn wake(&self, asleep: bool) {
            if asleep {
                self.kernel.lock().unwrap().rung = true;
                self.change.notify_all();
            }
        }
        fn send_tcp(&self, byte: u8) {
            self.kernel.lock().unwrap().queue.push(byte);
            self.change.notify_all();
        }
        fn recv_tcp(&self, limit: usize) -> Vec<u8> {
            let queue = &mut self.kernel.lock().unwrap().queue;
            let n = limit.min(queue.len());
            queue.drain(..n).collect()
        }
        /// ppoll; `doorbell`: not in a native read, which knows only the socket.
        fn sleep(&self, doorbell: bool) {
            let mut kernel = self.kernel.lock().unwrap();
            while kernel.queue.is_empty() && !(doorbell && kernel.rung) {
                kernel = self.change.wait(kernel).unwrap();
            }
            if doorbell {
                kernel.rung = false;
            }
        }
    }

    /// The receiving direction, as `conn::rx` has it.
    #[derive(Default)]
    struct Reader {
        epoch: u32,
        head: u64,
        tcp: u64,
        got: Vec<u8>,
    }

    impl Reader {
        fn view(&self, s: &Switching) -> View {
            s.direction.view(self.head, self.epoch, SIZE).unwrap()
        }

        fn reach(&mut self, s: &Switching) {
            self.epoch += 1;
            s.direction.reach(self.epoch);
        }

        /// A call of the program made before the connection was attached: it waits for TCP alone, and takes what is
        /// there.
        fn native_read(&mut self, s: &Switching) {
            s.sleep(false);
            self.take_tcp(s, usize::MAX);
        }

        fn take_tcp(&mut self, s: &Switching, limit: usize) -> usize {
            let bytes = s.recv_tcp(limit);
            self.tcp += bytes.len() as u64;
            self.got.extend(&bytes);
            bytes.len()
        }

        /// Whether anything was delivered.
        fn step(&mut self, s: &Switching) -> bool {
            loop {
                if self.epoch & 1 == 1 {
                    let seen = self.view(s);
                    if seen.next == Some(self.head) {
                        self.reach(s);
                        continue;
                    }
                    let n = seen.next.map_or(seen.bytes, |next| seen.bytes.min(next - self.head));
                    let bytes = &s.ring[self.head as usize..(self.head + n) as usize];
                    self.got.extend(bytes.iter().map(|byte| byte.load(Ordering::Relaxed) as u8));
                    self.head += n;
                    let _ = s.direction.publish_head(self.head, true);
                    return n > 0;
                }
                s.direction.begin_tcp_read();
                let seen = self.view(s);
                if seen.next == Some(self.tcp) {
                    s.direction.end_tcp_read();
                    self.reach(s);
                    continue;
                }
                let n = self.take_tcp(s, seen.next.map_or(usize::MAX, |next| (next - self.tcp) as usize));
                s.direction.end_tcp_read();
                if n > 0 || self.view(s).next != Some(self.tcp) {
                    return n > 0;
                }
            }
        }

        fn news(&self, s: &Switching) -> bool {
            let seen = self.view(s);
            if self.epoch & 1 == 1 {
                seen.bytes > 0 || seen.next.is_some()
            } else {
                seen.next == Some(self.tcp)
            }
        }

        /// Reads, asleep whenever nothing is there, until `total` bytes are.
        fn read(&mut self, s: &Switching, total: usize) {
            while self.got.len() < total {
                if self.step(s) {
                    continue;
                }
                s.direction.want_data();
                asked();
                if !self.news(s) {
                    s.sleep(true);
                }
            }
        }
    }

    /// The last byte on TCP is announced before it is sent, then the ring; back as soon as the consumer allows it.
    fn there_and_back(s: &Switching, no_blind_reads: bool, bytes: usize) {
        s.wake(s.direction.announce(1, 1));
        s.send_tcp(1);
        let tail = bytes as u64 - 2;
        (1..=tail).for_each(|at| s.send_ring(at));
        // As in `Conn::tx_return`; who must not return goes on in the ring.
        let lag = s.direction.lag(1).unwrap();
        if lag > 0 && (!no_blind_reads || s.direction.tcp_read_under_way()) {
            return s.send_ring(tail + 1);
        }
        s.wake(s.direction.announce(2, tail));
        s.send_tcp(tail as u8 + 2);
    }

    /// The consumer sleeps, or looks, or reads TCP without limit at any moment of the way to the ring and back.
    #[test]
    fn switching_keeps_the_order_of_bytes() {
        bounded(3).check(|| {
            let s = Arc::new(Switching::default());
            let q = s.clone();
            let t = thread::spawn(move || there_and_back(&q, true, 3));
            let mut reader = Reader::default();
            reader.read(&s, 3);
            assert_eq!(reader.got, [1, 2, 3]);
            t.join().unwrap();
        });
    }

    /// A consumer asleep in a call made before the switch is woken by the last byte on TCP, and takes nothing that
    /// belongs behind the ring's bytes.
    #[test]
    fn a_native_read_takes_nothing_from_behind_the_switch() {
        bounded(3).check(|| {
            let s = Arc::new(Switching::default());
            let q = s.clone();
            let t = thread::spawn(move || there_and_back(&q, false, 3));
            let mut reader = Reader::default();
            reader.native_read(&s);
            assert_eq!(reader.got, [1]);
            reader.read(&s, 3);
            assert_eq!(reader.got, [1, 2, 3]);
            t.join().unwrap();
        });
    }
}
