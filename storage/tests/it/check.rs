//! The check of a stopped store: a sound one is clean whatever was done to it and however it died,
//! what rots is found and named, and nothing of it is changed.

use crate::world::{
    BLOCK, Death, Random, World, assert_holds, filled, for_seeds, name, shape, trim, volume, write,
};
use sandstone_ring::Runtime;
use sandstone_storage::{
    ForkSpec, Health, Kind, Store, check::CheckOptions, check::CheckReport, check::FindingKind,
    check::Place, inspect::Field,
};

const SLOTS_AT: u64 = 1 << 20;
const BLOCKS: u64 = 300;

async fn checked(world: &World, data: bool) -> CheckReport {
    let before = world.disk.peek(0, world.disk.len_bytes() as usize);
    let mut last = None;
    let options = CheckOptions { data, metadata_bytes: 1 << 20 };
    let report =
        world.stopped().check(options, |at| last = Some(at)).await.expect("it can be checked");
    assert!(world.disk.peek(0, before.len()) == before, "the check changed the store");
    if let Some(last) = last.filter(|_| report.is_clean()) {
        assert_eq!(last.done_bytes, last.total_bytes);
    }
    report
}

/// Some of everything: forks, snapshots, trims, moved blocks, a checkpoint in the middle.
async fn busy(store: &Store, random: &mut Random) {
    let first = volume(store, 1, BLOCKS, random.one_in(2)).await;
    for round in 0..20 + random.below(20) {
        let at = random.below(BLOCKS - 20);
        match random.below(12) {
            0 => trim(&first, at, 1 + random.below(20)).await,
            1 => store.checkpoint().await.expect("a checkpoint"),
            2 => store.reclaim().await.expect("a reclaim"),
            3 => {
                let id = name(u128::from(100 + round));
                let spec =
                    ForkSpec { id, size_bytes: None, settings: None, attributes: Vec::new() };
                let fork = store.create_fork(name(1), spec).await.expect("a fork");
                write(&fork, at, &filled(5, 50)).await;
            }
            4 => {
                let id = name(u128::from(200 + round));
                store.create_snapshot(name(1), id, Vec::new()).await.expect("a snapshot");
            }
            5 => first.flush().await.expect("a flush"),
            _ => write(&first, at, &filled(1 + random.below(20), round as u8)).await,
        }
    }
}

#[test]
fn sound_store_is_clean_however_it_dies() {
    for_seeds(1, 60, |seed| {
        let mut random = Random::new(seed);
        let mut world = World::new(shape(), seed);
        for _ in 0..3 {
            let simulation = Runtime::simulated(random.next());
            let death = simulation.block_on(async {
                let (store, _) = world.open().await.expect("the store");
                if let Some(first) = store.volume(name(1)) {
                    write(&first, 0, &filled(30, 77)).await;
                } else {
                    busy(&store, &mut random).await;
                }
                let death = random.pick(&[Death::Process, Death::Host, Death::Power]);
                if random.one_in(4) {
                    store.close().await.expect("it closes");
                }
                death
            });
            drop(simulation);
            world.die(death, &mut random);
            Runtime::simulated(1).block_on(async {
                let report = checked(&world, true).await;
                assert_eq!(report.findings, [], "after {death:?}: {report:#?}");
                assert_eq!(report.checked_bytes, report.unique_bytes);
            });
        }
    });
}

#[test]
fn what_staging_alone_has_is_counted_and_left_there() {
    let mut world = World::new(shape(), 1);
    let simulation = Runtime::simulated(1);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, true).await;
        // Acknowledged from staging: nothing has been sent to the disk in this turn.
        write(&volume, 0, &filled(3, 1)).await;
    });
    drop(simulation);
    world.die(Death::Process, &mut Random::new(1));
    Runtime::simulated(1).block_on(async {
        for _ in 0..2 {
            let report = checked(&world, true).await;
            assert!(report.is_clean() && report.staged_records > 0, "{report:#?}");
            assert_eq!(report.unique_bytes, 3 * BLOCK);
        }
        let (store, _) = world.open().await.expect("the store");
        assert_holds(&store.volume(name(1)).expect("the volume"), 0, &filled(3, 1)).await;
    });
}

/// A store whose blocks are all in sealed segments and in a map on disk.
fn settled() -> World {
    let mut world = World::new(shape(), 1);
    let simulation = Runtime::simulated(1);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, false).await;
        write(&volume, 0, &filled(BLOCKS, 3)).await;
        store.create_snapshot(name(1), name(2), Vec::new()).await.expect("a snapshot");
        store.reclaim().await.expect("a reclaim");
        store.close().await.expect("it closes");
    });
    drop(simulation);
    world.die(Death::Power, &mut Random::new(1));
    world
}

/// Flips a bit of each block that holds this.
fn rot(world: &World, is_it: impl Fn(&[u8]) -> bool) {
    let all = (0..world.disk.len_bytes()).step_by(BLOCK as usize);
    let found: Vec<_> = all.filter(|at| is_it(&world.disk.peek(*at, BLOCK as usize))).collect();
    assert!(!found.is_empty());
    found.iter().for_each(|at| world.disk.flip_bit(at + 1234, 5));
}

#[test]
fn rotten_data_is_found_only_where_it_is_read_and_named_once() {
    let world = settled();
    let block = &filled(BLOCKS, 3)[100 * BLOCK as usize..101 * BLOCK as usize];
    rot(&world, |there| there == block);
    Runtime::simulated(1).block_on(async {
        assert!(checked(&world, false).await.is_clean());
        let report = checked(&world, true).await;
        // `filled` makes blocks in pairs.
        let place = Place { line: name(1), offset: 100 * BLOCK, len: 2 * BLOCK };
        let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.place)).collect();
        assert_eq!(found, [(FindingKind::Data, Some(place))]);
    });
}

#[test]
fn rotten_node_is_found_with_what_lies_below_it() {
    let world = settled();
    rot(&world, |there| there.starts_with(b"SSL1"));
    Runtime::simulated(1).block_on(async {
        let report = checked(&world, false).await;
        let leaf = |number: u64| Place { line: name(1), offset: number << 20, len: 1 << 20 };
        let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.place)).collect();
        assert_eq!(found, [(FindingKind::Map, Some(leaf(0))), (FindingKind::Map, Some(leaf(1)))]);
        // It is not known how many there are, so no count is called wrong.
    });
}

/// Some segments of log behind the checkpoint, all of it synced.
fn synced_log() -> World {
    let mut world = World::new(shape(), 7);
    let simulation = Runtime::simulated(7);
    simulation.block_on(async {
        let (store, _) = world.open().await.expect("a new store");
        let volume = volume(&store, 1, BLOCKS, false).await;
        for round in 0..40 {
            write(&volume, round * 4, &filled(4, round as u8)).await;
            volume.flush().await.expect("a flush");
        }
    });
    drop(simulation);
    world.die(Death::Power, &mut Random::new(7));
    world
}

#[test]
fn damage_below_what_was_synced_is_a_finding_even_where_recovery_can_do_without() {
    let world = synced_log();
    let findings = |at: u64| {
        world.disk.flip_bit(at, 3);
        let world_then = world.reboot();
        let (report, ready) = Runtime::simulated(1).block_on(async {
            let report = checked(&world_then, false).await;
            let (store, _) = world_then.open().await.expect("the store");
            (report, store.health() == Health::Ready)
        });
        world.disk.flip_bit(at, 3);
        (report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), report.notes.len(), ready)
    };
    // A header of the first segment, which its footer repeats.
    assert_eq!(findings(SLOTS_AT + 17), (vec![FindingKind::Log], 0, true));
    // The footer's trailer: the batches know the next segment, too.
    assert_eq!(findings(SLOTS_AT + 64 * BLOCK - 128 + 40), (vec![FindingKind::Log], 0, true));
    // What the footer repeats: a death can leave the same, so it is told and is no finding.
    assert_eq!(findings(SLOTS_AT + 63 * BLOCK + 100), (vec![], 1, true));
    Runtime::simulated(1).block_on(async { assert!(checked(&world, true).await.is_clean()) });
}

#[test]
fn a_damaged_superblock_slot_is_found_and_a_store_without_one_cannot_be_checked() {
    let world = settled();
    Runtime::simulated(1).block_on(async {
        world.disk.flip_bit(3000, 1);
        assert!(checked(&world, true).await.is_clean(), "what nobody reads");
        world.disk.flip_bit(300, 1);
        let one = checked(&world, true).await;
        let found: Vec<_> = one.findings.iter().map(|f| f.kind).collect();
        assert_eq!(found, [FindingKind::Superblock], "{one:#?}");
        assert!(one.findings[0].what.starts_with("superblock slot 0"), "{one:#?}");
        world.disk.flip_bit((64 << 10) + 300, 1);
        let options = CheckOptions { data: false, metadata_bytes: 1 << 20 };
        let none = world.stopped().check(options, |_| {}).await.map_err(|e| e.kind());
        assert_eq!(none, Err(Kind::Corrupt));
        let empty =
            World::new(shape(), 1).stopped().check(options, |_| {}).await.map_err(|e| e.kind());
        assert_eq!(empty, Err(Kind::NotFound));
    });
}

#[test]
fn what_lies_there_is_shown_by_its_names() {
    let world = synced_log();
    Runtime::simulated(1).block_on(async {
        let store = world.stopped();
        let slots = store.inspect_superblocks().await;
        assert_eq!(slots.len(), 2);
        assert!(
            slots
                .iter()
                .all(|s| s.rows[0].iter().any(|(name, _)| *name == "replay start: first LSN"))
        );
        let sections = store.inspect(1 << 20).await.expect("the rest");
        let names: Vec<_> = sections.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["catalog", "catalog pages", "volumes", "segments", "log", "file"]);
        let file = &sections[5].rows[0];
        assert_eq!(file[0], ("placement", Field::Text("in_place".into())));
        assert!(matches!(file[1], ("free slots", Field::Number(1..))), "{file:?}");
        assert!(sections[3].rows.len() > 2, "{:#?}", sections[3]);
        let (mut all, mut first) = (0, 0);
        store.inspect_records(None, 1 << 20, |_| all += 1).await.expect("the log");
        store.inspect_records(Some(1), 1 << 20, |_| first += 1).await.expect("the first segment");
        // The volume, and what was written in forty rounds.
        assert!(all >= 41 && first > 1 && first < all, "{first} of {all}");
        let missing = store.inspect_records(Some(999), 1 << 20, |_| {}).await.map_err(|e| e.kind());
        assert_eq!(missing, Err(Kind::NotFound));
    });
}
