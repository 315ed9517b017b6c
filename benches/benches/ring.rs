//! The ring alone, without sockets, hooks and system calls: what a message costs when producer and consumer are one thread,
//! and what when they are on two CPUs.

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use smc_core::ring::layout::{segment_len, Area, SlotView};
use std::alloc::{alloc_zeroed, Layout};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The default size.
const RING: u64 = 256 * 1024;

/// The two ends of a slot in ordinary memory, which is never given back, as the views demand.
fn ends() -> [SlotView; 2] {
    let sizes = [RING, RING];
    let layout = Layout::from_size_align(segment_len(sizes, 1), 4096).expect("a segment's size");
    // SAFETY: the layout has a size; the memory is zero, as that of a fresh segment, page aligned, and stays for ever.
    unsafe {
        let base = alloc_zeroed(layout);
        assert!(!base.is_null());
        let area = Box::leak(Box::new(Area::new(base, sizes, 1)));
        [area.view(0, 0), area.view(0, 1)]
    }
}

/// One end's cursors.
#[derive(Default)]
struct Cursors {
    tail: u64,
    head: u64,
}

/// Produces `message`, if there is room for all of it.
fn produce(end: &SlotView, cursors: &mut Cursors, message: &[u8]) -> bool {
    if end.tx().space(cursors.tail, RING).expect("the peer is sound") < message.len() as u64 {
        return false;
    }
    let mut rest = message;
    for (to, len) in end.tx_pieces(0, cursors.tail, message.len()).expect("it fits") {
        let (now, later) = rest.split_at(len);
        // SAFETY: `to` names `len` bytes of the ring, which this end alone writes until it publishes them.
        unsafe { now.as_ptr().copy_to_nonoverlapping(to, len) };
        rest = later;
    }
    cursors.tail += message.len() as u64;
    let wanted = end.tx().publish_tail(cursors.tail);
    assert!(!wanted, "nobody sleeps here");
    true
}

/// Consumes what is there, up to a buffer full; how many bytes.
fn consume(end: &SlotView, cursors: &mut Cursors, buffer: &mut [u8]) -> usize {
    let view = end.rx().view(cursors.head, 0, RING).expect("the peer is sound");
    let n = (view.bytes as usize).min(buffer.len());
    if n == 0 {
        return 0;
    }
    let mut rest = &mut buffer[..n];
    for (from, len) in end.rx_pieces(cursors.head, n).expect("it is there") {
        let (now, later) = rest.split_at_mut(len);
        // SAFETY: `from` names `len` published bytes, which the producer leaves alone until they are given back.
        unsafe { now.as_mut_ptr().copy_from_nonoverlapping(from, len) };
        rest = later;
    }
    cursors.head += n as u64;
    let wanted = end.rx().publish_head(cursors.head, true);
    assert!(!wanted, "nobody sleeps here");
    n
}

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("there, one thread");
    for size in [64_usize, 1024, 65536] {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let [sender, receiver] = ends();
            let (mut tx, mut rx) = (Cursors::default(), Cursors::default());
            let (message, mut buffer) = (vec![1; size], vec![0; size]);
            bencher.iter(|| {
                assert!(produce(&sender, &mut tx, black_box(&message)));
                assert_eq!(consume(&receiver, &mut rx, &mut buffer), size);
            });
        });
    }
}

/// Round trips to a thread that polls. On one CPU this measures the scheduler.
fn two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("there and back, two threads");
    for size in [64_usize, 1024] {
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_custom(|count| {
                let [near, far] = ends();
                let over = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let (mut cursors, mut buffer) = (Cursors::default(), vec![0; size]);
                        while !over.load(Ordering::Relaxed) {
                            match consume(&far, &mut cursors, &mut buffer) {
                                0 => spin_loop(),
                                n => assert!(produce(&far, &mut cursors, &buffer[..n])),
                            }
                        }
                    });
                    let (mut cursors, mut buffer) = (Cursors::default(), vec![1; size]);
                    let start = Instant::now();
                    for _ in 0..count {
                        assert!(produce(&near, &mut cursors, &buffer));
                        let mut received = 0;
                        while received < size {
                            match consume(&near, &mut cursors, &mut buffer[received..]) {
                                0 => spin_loop(),
                                n => received += n,
                            }
                        }
                    }
                    let elapsed = start.elapsed();
                    over.store(true, Ordering::Relaxed);
                    elapsed
                })
            });
        });
    }
}

criterion_group! {
    name = ring;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2));
    targets = one_thread, two_threads
}
criterion_main!(ring);
