//! All crash states of all sequences of up to three operations, and of some longer ones: see
//! `enumeration/mod.rs`.
//!
//! By itself it goes through a part of them. `SANDSTONE_PROOF=1`, which `tests/run` sets, goes
//! through all of them, with at least a hundred thousand different crash states. `SANDSTONE_LONG=1`
//! goes on from there with longer sequences and other seeds for `SANDSTONE_LONG_MINUTES`.

use super::{Operation, Search, Start, run, sequences};
use crate::world::{Effort, Random};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Threads that look at once.
const THREADS: usize = 2;
/// Different crash states that the whole search must judge at least.
const STATES_MIN: u64 = 100_000;
/// Of how many sequences of three a quick search takes one.
const QUICK_EVERY: usize = 61;
/// Sequences of three and four operations, of whatever kind, that are sampled.
const SAMPLES: u64 = 400;
const LONG_MINUTES: u64 = 120;

/// A sequence, and which start and seed it has.
struct Course {
    start: usize,
    sequence: Vec<Operation>,
    seed: u64,
}

/// Goes through the courses that `next` gives for 0, 1, 2 and so on, to the first failure.
fn go_through(search: &Search, next: impl Fn(u64) -> Option<Course> + Sync) {
    // The log's segment ends behind the first operations, or behind the next ones, and then its
    // slot was not prepared.
    let starts = [Start::new(6), Start::unprepared(16)];
    let (number, failure) = (AtomicU64::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failure.lock().expect("storing does not panic").is_none()
                    && let Some(Course { start, sequence, seed }) =
                        next(number.fetch_add(1, Relaxed))
                {
                    if let Err(why) = search.go_through(&starts[start], &sequence, seed) {
                        let why = format!("start {start}, {why}");
                        failure.lock().expect("storing does not panic").get_or_insert(why);
                    }
                }
            });
        }
    });
    let failure = failure.into_inner().expect("storing does not panic");
    assert!(failure.is_none(), "{}, after {:?}", failure.unwrap_or_default(), search.tally());
}

fn sample(random: &mut Random, length: u64) -> Vec<Operation> {
    (0..length).map(|_| random.pick(&Operation::ALL)).collect()
}

#[test]
fn crash_states_of_short_sequences_keep_the_promises() {
    let effort = Effort::asked();
    let (search, began) = (Search::default(), Instant::now());
    let every = if effort == Effort::Quick { QUICK_EVERY } else { 1 };
    let mut courses = Vec::new();
    for start in [0, 1] {
        let short = sequences(&Operation::ALL, 1)
            .chain(sequences(&Operation::ALL, 2))
            .step_by(every.min(5));
        courses.extend(short.map(|sequence| Course { start, sequence, seed: 1 }));
    }
    let threes = sequences(&Operation::ALL, 3).step_by(every);
    courses.extend(threes.map(|sequence| Course { start: 0, sequence, seed: 2 }));
    let samples = if effort == Effort::Quick { 20 } else { SAMPLES };
    courses.extend((0..samples).map(|seed| {
        let sequence = sample(&mut Random::new(seed), 3 + seed % 2);
        Course { start: (seed % 2) as usize, sequence, seed }
    }));
    let courses: Vec<_> = courses.into_iter().map(|course| Mutex::new(Some(course))).collect();
    go_through(&search, |number| {
        courses.get(number as usize)?.lock().expect("taking does not panic").take()
    });
    println!("{:?} in {:.1?} on {THREADS} threads", search.tally(), began.elapsed());
    if effort != Effort::Quick {
        assert!(search.tally().states >= STATES_MIN, "{:?}", search.tally());
    }
    if effort == Effort::Long {
        let minutes = std::env::var("SANDSTONE_LONG_MINUTES").ok().and_then(|s| s.parse().ok());
        let until = Instant::now() + Duration::from_secs(60 * minutes.unwrap_or(LONG_MINUTES));
        // What was met before would fill the memory within hours, so each stretch has a search of
        // its own.
        let mut first = 0;
        while Instant::now() < until {
            let (search, count) = (Search::default(), 2000);
            go_through(&search, |number| {
                let seed = 1000 + first + number;
                let mut random = Random::new(seed);
                let sequence = sample(&mut random, 4 + seed % 5);
                let goes_on = number < count && Instant::now() < until;
                goes_on.then(|| Course { start: random.below(2) as usize, sequence, seed })
            });
            first += count;
            println!("to seed {}: {:?} in {:.0?}", 1000 + first, search.tally(), began.elapsed());
        }
    }
}

/// The simulation repeats under the whole engine, reclaim and all: what one seed finds, it finds
/// again.
#[test]
fn same_seed_same_trace_of_the_whole_engine() {
    let start = Start::new(6);
    for seed in 0..8 {
        let sequence = sample(&mut Random::new(seed), 20);
        let trace = |seed| {
            let run = run(&start, &sequence, seed).expect("it does what it is asked");
            (run.fingerprint, run.content_hash, run.moments.len(), run.states)
        };
        let (first, again, other) = (trace(seed), trace(seed), trace(seed + 1000));
        assert!(first == again, "{sequence:?} with seed {seed}");
        assert_ne!(first.0, other.0, "{sequence:?} with seed {seed}");
    }
}
