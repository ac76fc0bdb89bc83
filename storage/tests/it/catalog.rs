//! The catalog in pages: a checkpoint writes those in which something changed, and all others stay
//! what they are, wherever reclaim moves them.

use crate::world::{
    BLOCK, Death, Random, Shape, World, assert_holds, filled, for_seeds, name, spec, write,
};
use sandstone_ring::Runtime;
use sandstone_storage::{
    ForkSpec, Health, Kind, Store, VolumeChange, VolumeSpec,
    check::{CheckOptions, CheckReport},
};
use std::collections::BTreeMap;

const VOLUMES: u128 = 300;

fn shape(slots: u64) -> Shape {
    Shape { segment_blocks: 64, slots, cache_bytes: 1 << 20, metadata_bytes: 4 << 20 }
}

/// A volume of one block, with attributes as long as those of the HTTP API.
fn small(number: u128) -> VolumeSpec {
    VolumeSpec { attributes: vec![number as u8; 200], ..spec(name(number), BLOCK, false) }
}

async fn checked(world: &World) -> CheckReport {
    let options = CheckOptions { data: true, metadata_bytes: 1 << 20 };
    world.stopped().check(options, |_| {}).await.expect("it can be checked")
}

/// One of three hundred volumes is written, and reclaim frees and moves segments of nodes, in which
/// the pages of all others are.
#[test]
pub(crate) fn pages_in_which_nothing_changes_outlive_their_segments() {
    for death in [Death::Process, Death::Power] {
        let mut world = World::new(shape(60), 1);
        let simulation = Runtime::simulated(1);
        simulation.block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            for number in 1..=VOLUMES {
                store.create_volume(small(number)).await.expect("a volume");
            }
            let busy = store.volume(name(150)).expect("the volume");
            for round in 0..60 {
                write(&busy, 0, &filled(1, round)).await;
                store.checkpoint().await.expect("a checkpoint");
                if round % 4 == 3 {
                    store.reclaim().await.expect("a reclaim");
                }
            }
            assert!(store.reclaim_progress().forwarded_bytes > 0, "pages were moved");
        });
        drop(simulation);
        world.die(death, &mut Random::new(1));
        Runtime::simulated(2).block_on(async {
            assert_eq!(checked(&world).await.findings, []);
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            assert_eq!(store.volumes().len() as u128, VOLUMES);
            for number in 1..=VOLUMES {
                let volume = store.volume(name(number)).expect("the volume");
                assert_eq!(volume.attributes()[..], [number as u8; 200]);
            }
            let busy = store.volume(name(150)).expect("the volume");
            assert_holds(&busy, 0, &filled(1, 59)).await;
        });
    }
}

#[test]
fn checkpoint_of_one_change_is_small_however_many_volumes_there_are() {
    let mut world = World::new(shape(400), 1);
    let after_start = |world: &World, written: u8| {
        let simulation = Runtime::simulated(u64::from(written));
        let bytes = simulation.block_on(async {
            let (store, _) = world.open().await.expect("the store");
            if written == 0 {
                for number in 1..=2000 {
                    store.create_volume(small(number)).await.expect("a volume");
                }
                store.checkpoint().await.expect("a checkpoint of all");
            }
            let before = store.stats().checkpoint_bytes;
            let volume = store.volume(name(1000)).expect("the volume");
            write(&volume, 0, &filled(1, written)).await;
            store.checkpoint().await.expect("a checkpoint");
            store.stats().checkpoint_bytes - before
        });
        drop(simulation);
        bytes
    };
    let bytes = after_start(&world, 0);
    assert!(bytes <= 64 << 10, "{bytes} bytes");
    world.die(Death::Process, &mut Random::new(1));
    let bytes = after_start(&world, 1);
    assert!(bytes <= 64 << 10, "{bytes} bytes, the first checkpoint after a start");
}

/// What a volume should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    attributes: Vec<u8>,
    tag: Option<u8>,
}

async fn change_something(
    store: &Store,
    expected: &mut BTreeMap<u128, Expected>,
    next: &mut u128,
    random: &mut Random,
) {
    let some = |random: &mut Random, of: &BTreeMap<u128, Expected>| {
        of.keys().nth(random.below(of.len() as u64) as usize).copied().expect("one at least")
    };
    // Now and then a quarter of a page.
    let attributes = |random: &mut Random| {
        let len = if random.one_in(8) { random.below(2049) } else { random.below(400) };
        vec![random.below(256) as u8; len as usize]
    };
    match random.below(10) {
        0..=2 => {
            let attributes = attributes(random);
            let spec =
                VolumeSpec { attributes: attributes.clone(), ..spec(name(*next), BLOCK, false) };
            store.create_volume(spec).await.expect("a volume");
            expected.insert(*next, Expected { attributes, tag: None });
            *next += 1;
        }
        3 if !expected.is_empty() => {
            let (source, attributes) = (some(random, expected), attributes(random));
            let spec = ForkSpec {
                id: name(*next),
                size_bytes: None,
                settings: None,
                attributes: attributes.clone(),
            };
            store.create_fork(name(source), spec).await.expect("a fork");
            let tag = expected[&source].tag;
            expected.insert(*next, Expected { attributes, tag });
            *next += 1;
        }
        4 | 5 if expected.len() > 20 => {
            let number = some(random, expected);
            assert!(store.delete_volume(name(number)).await.expect("a deletion"));
            expected.remove(&number);
        }
        6 if !expected.is_empty() => {
            let (number, attributes) = (some(random, expected), attributes(random));
            let change =
                VolumeChange { attributes: Some(attributes.clone()), ..VolumeChange::default() };
            store.update_volume(name(number), change).await.expect("an update");
            expected.get_mut(&number).expect("it is there").attributes = attributes;
        }
        7 | 8 if !expected.is_empty() => {
            let (number, tag) = (some(random, expected), random.below(256) as u8);
            write(&store.volume(name(number)).expect("the volume"), 0, &filled(1, tag)).await;
            expected.get_mut(&number).expect("it is there").tag = Some(tag);
        }
        _ if random.one_in(3) => match store.reclaim().await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), Kind::NoSpace),
        },
        _ => store.checkpoint().await.expect("a checkpoint"),
    }
}

#[test]
pub(crate) fn many_entries_are_what_was_made_of_them() {
    for_seeds(1, 12, |seed| {
        let mut random = Random::new(seed);
        let mut world = World::new(shape(120), seed);
        let (mut expected, mut next) = (BTreeMap::new(), 1);
        for life in 0..6 {
            let simulation = Runtime::simulated(seed * 10 + life);
            simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                assert_eq!(store.health(), Health::Ready);
                assert_eq!(store.volumes().len(), expected.len(), "life {life}");
                for (number, Expected { attributes, tag }) in &expected {
                    let volume = store.volume(name(*number)).expect("the volume");
                    assert_eq!(volume.attributes()[..], attributes[..], "{number}");
                    let holds =
                        tag.map_or_else(|| vec![0; BLOCK as usize].into(), |t| filled(1, t));
                    assert_holds(&volume, 0, &holds).await;
                }
                for _ in 0..150 {
                    change_something(&store, &mut expected, &mut next, &mut random).await;
                }
                if random.one_in(2) {
                    store.close().await.expect("it closes");
                }
            });
            drop(simulation);
            world.die(Death::Process, &mut random);
            Runtime::simulated(seed).block_on(async {
                assert_eq!(checked(&world).await.findings, [], "life {life}");
            });
        }
    });
}

/// The entry of a volume and what its family shares are of one number, and fit into a page with
/// the entries before only without the other.
#[test]
fn page_whose_last_number_shares_something_is_read_again() {
    for attributes in 0..120 {
        let mut world = World::new(shape(60), 1);
        Runtime::simulated(1).block_on(async {
            let (store, _) = world.open().await.expect("a new store");
            for number in 1..75 {
                let attributes = vec![0; if number == 1 { attributes } else { 0 }];
                let spec = VolumeSpec { attributes, ..spec(name(number), BLOCK, false) };
                store.create_volume(spec).await.expect("a volume");
            }
            for number in 75..78 {
                let volume = store.create_volume(spec(name(number), BLOCK, false)).await;
                let volume = volume.expect("a volume");
                write(&volume, 0, &filled(1, number as u8)).await;
                store
                    .create_snapshot(name(number), name(number + 100), Vec::new())
                    .await
                    .expect("one");
            }
            store.checkpoint().await.expect("a checkpoint");
            store.close().await.expect("it closes");
        });
        world.die(Death::Process, &mut Random::new(1));
        Runtime::simulated(2).block_on(async {
            let (store, _) = world.open().await.expect("the store");
            assert_eq!(store.health(), Health::Ready);
            assert_eq!(store.volumes().len(), 77);
            let volume = store.volume(name(75)).expect("the volume");
            assert_holds(&volume, 0, &filled(1, 75)).await;
        });
    }
}

/// A store of a hundred volumes, closed.
fn closed_with_hundred() -> World {
    let world = World::new(shape(60), 1);
    Runtime::simulated(1).block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        for number in 1..=100 {
            store.create_volume(small(number)).await.expect("a volume");
        }
        store.close().await.expect("it closes");
    });
    world
}

/// Blocks of the store that begin with these bytes.
fn blocks_with(world: &World, magic: &[u8]) -> Vec<u64> {
    let blocks = (0..world.disk.len_bytes()).step_by(BLOCK as usize);
    blocks.filter(|at| world.disk.peek(*at, magic.len()) == magic).collect()
}

#[test]
fn damaged_copy_of_a_part_is_read_past_and_written_anew() {
    let mut world = closed_with_hundred();
    let pages = [b"SSC1", b"SSV1", b"SSX1"].map(|magic| blocks_with(&world, magic)).concat();
    assert!(pages.len() >= 12, "{pages:?}");
    let mut repaired = 0;
    for at in pages {
        world.disk.flip_bit(at + 40, 3);
        world.die(Death::Process, &mut Random::new(1));
        Runtime::simulated(2).block_on(async {
            let damaged = checked(&world).await;
            let (store, _) = world.open().await.expect("one copy is enough");
            assert_eq!(store.health(), Health::Ready);
            assert_eq!(store.volumes().len(), 100);
            store.close().await.expect("it closes");
            if !damaged.is_clean() {
                let [finding] = &damaged.findings[..] else { panic!("{:?}", damaged.findings) };
                assert!(finding.what.contains("the other copy of it serves"), "{}", finding.what);
                assert_eq!(checked(&world).await.findings, [], "written anew");
                repaired += 1;
            }
        });
    }
    assert!(repaired >= 5, "{repaired}");
}

#[test]
fn page_without_a_readable_copy_is_an_error_and_nothing_is_written() {
    let mut world = closed_with_hundred();
    blocks_with(&world, b"SSX1").into_iter().for_each(|at| world.disk.flip_bit(at + 20, 1));
    world.die(Death::Process, &mut Random::new(1));
    let before = world.disk.peek(0, world.disk.len_bytes() as usize);
    Runtime::simulated(2).block_on(async {
        match world.open().await {
            // The superblock before may be that of the store when it was new, and the log leads on.
            Ok((store, _)) => assert!(matches!(store.health(), Health::Corrupt(_))),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt);
                assert!(error.to_string().contains("a page's checksum"), "{error}");
            }
        }
    });
    assert!(world.disk.peek(0, before.len()) == before, "nothing was written");
}
