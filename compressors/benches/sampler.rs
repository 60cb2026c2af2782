//! What `Sampler::offer` costs a hot path: sampling off, sampling of a wide window by one thread and by two, and,
//! for comparison, a shared counter that each call increments.

#![allow(
    missing_docs,
    clippy::expect_used,
    reason = "criterion's macro makes a function without a comment; a failure ends the bench"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use compressors::training::{Sampler, SamplerSettings};
use criterion::{Criterion, criterion_group, criterion_main};

/// Returns a sampler that has seen a window of values, so that few of the next ones are taken.
fn warm() -> Sampler {
    let settings = SamplerSettings { window: 1 << 24, ..Default::default() };
    let sampler = Sampler::new(settings).expect("the settings are in range");
    for number in 0..1_u64 << 25 {
        sampler.offer(black_box(&number.to_le_bytes()));
    }
    sampler
}

/// Runs `work` here while another thread runs it, too.
fn beside(work: impl Fn() + Sync, bench: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: the flag only ends the loop.
            while !done.load(Ordering::Relaxed) {
                work();
            }
        });
        bench();
        // Relaxed: as above.
        done.store(true, Ordering::Relaxed);
    });
}

fn offer(c: &mut Criterion) {
    let value = [7_u8; 4096];
    let sampler = warm();
    let mut group = c.benchmark_group("sampler");
    group.bench_function("offer", |b| b.iter(|| sampler.offer(black_box(&value))));
    beside(
        || sampler.offer(black_box(&value)),
        || {
            group.bench_function("offer, two threads", |b| {
                b.iter(|| sampler.offer(black_box(&value)))
            });
        },
    );
    sampler.clear();
    group.bench_function("offer, off", |b| b.iter(|| sampler.offer(black_box(&value))));
    let counter = AtomicU64::new(0);
    // Relaxed: a counter to compare with.
    let count = || counter.fetch_add(1, Ordering::Relaxed);
    beside(
        || {
            count();
        },
        || {
            group
                .bench_function("a shared counter, two threads", |b| b.iter(|| black_box(count())));
        },
    );
    group.finish();
}

criterion_group!(benches, offer);
criterion_main!(benches);
