//! Random operations against a plain array of blocks a volume or snapshot, with the state that
//! block status tells, and with who shares what.
//!
//! Most operations run one at a time; some in groups at once. Long sequences put weight on what a
//! store goes through in its life, many short ones on how the operations meet.

mod at_once;
mod family;
mod plain;
mod steps;

use crate::world::{Death, Random, Shape, World, for_seeds, unless_full};
use family::Model;
use sandstone_ring::Runtime;
use sandstone_storage::Health;
use steps::{Scale, step};

/// Few volumes, large requests, no lineage.
const VOLUMES: Scale = Scale { lines_max: 4, lineage: false, small: false };
/// Many lines with large requests.
const LINES: Scale = Scale { lines_max: 24, lineage: true, small: false };
/// Many lines with small requests that meet.
const SHORT: Scale = Scale { lines_max: 40, lineage: true, small: true };

/// Some lives of a store, with a death or a clean end between them.
fn sequence(seed: u64, shape: Shape, scale: &Scale, steps: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(shape, random.next());
    let mut model = Model::default();
    let mut left = steps;
    let mut clean = true;
    while left > 0 {
        let now = (1 + random.below(steps.min(120))).min(left);
        left -= now;
        let simulation = Runtime::simulated(random.next());
        let close = random.one_in(2);
        simulation.block_on(async {
            let (store, report) = world.open().await.expect("the store opens");
            assert_eq!(store.health(), Health::Ready);
            assert_eq!(report.volumes, model.lines.len());
            assert!(!clean || report.created || report.clean, "{report:?}");
            model.check(&store).await;
            for _ in 0..now {
                step(&store, &mut model, scale, &mut random).await;
            }
            model.check(&store).await;
            assert_eq!(store.stats().corrupt_blocks, 0);
            clean = close && unless_full(store.clone().close().await);
        });
        drop(simulation);
        world.die(Death::Process, &mut random);
    }
}

#[test]
fn volumes_equal_plain_arrays() {
    for_seeds(1, 200, |seed| sequence(seed, Shape::random(&mut Random::new(seed)), &VOLUMES, 250));
}

#[test]
fn volumes_equal_plain_arrays_in_small_stores() {
    for_seeds(50_000, 120, |seed| sequence(seed, small_shape(seed), &VOLUMES, 300));
}

#[test]
fn lines_equal_plain_arrays() {
    for_seeds(100_000, 100, |seed| {
        sequence(seed, Shape::random(&mut Random::new(seed)), &LINES, 300)
    });
}

#[test]
fn lines_equal_plain_arrays_in_small_stores() {
    for_seeds(150_000, 60, |seed| sequence(seed, small_shape(seed), &LINES, 300));
}

#[test]
fn short_sequences_equal_plain_arrays_1() {
    for_seeds(200_000, 5_000, short);
}

#[test]
fn short_sequences_equal_plain_arrays_2() {
    for_seeds(300_000, 5_000, short);
}

fn small_shape(seed: u64) -> Shape {
    let mut random = Random::new(seed);
    Shape { slots: 14 + random.below(30), ..Shape::random(&mut random) }
}

fn short(seed: u64) {
    let mut random = Random::new(seed);
    let shape = if random.one_in(2) { small_shape(seed) } else { Shape::random(&mut random) };
    sequence(seed, shape, &SHORT, 20 + random.below(60));
}

#[test]
fn same_seed_is_the_same_course_of_events() {
    let course = || {
        let world = World::new(Shape::random(&mut Random::new(3)), 3);
        let mut random = Random::new(3);
        Runtime::simulated(3).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            let mut model = Model::default();
            for _ in 0..300 {
                step(&store, &mut model, &LINES, &mut random).await;
            }
        });
        (world.disk.fingerprint(), random.next())
    };
    assert_eq!(course(), course());
}
