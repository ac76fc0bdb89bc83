//! The suites are not blind: each engine that leaves out one ordering or one check is found out,
//! and the one that leaves out nothing is not. See `Blindness` for what each breaks.

use crate::enumeration::{
    Operation::{self, *},
    Search, Start,
};
use crate::world::Random;
use crate::{catalog, damage, defragment, faults, host, ordering, rot};
use sandstone_ring::Placement;
use sandstone_storage::{sim::Blindness, sim::while_blind_to};
use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

/// What looks for a blindness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    /// The crash states of short sequences of these operations, as a seed decides.
    States(&'static [Operation]),
    LostEnd,
    LateSync,
    FailedSync,
    Damage,
    WornSuperblock,
    LostFooter,
    LostFooterOfFullStore,
    ServedAfterFailedSync,
    FullStore,
    StagedAcrossSegments,
    HostCrash,
    WriteBehindHole,
    ReuseBeforeCheckpoint,
    ReadUnderReclaim,
    BegunReadUnderReclaim,
    PartialWriteUnderReclaim,
    Rot,
    WritesBesideMoves,
    SharedLeaves,
    ManyEntries,
    IdlePages,
}

/// Each blindness with the suite that finds it.
const BLINDNESSES: [(Blindness, Suite); 35] = [
    (Blindness::SyncBeforeSuperblock, Suite::States(&[Write, Checkpoint])),
    (Blindness::SyncAfterSuperblock, Suite::States(&[WriteLong, Mark, Sweep])),
    (Blindness::LogBeforeCheckpoint, Suite::States(&[WriteBack, Checkpoint])),
    (Blindness::ChangedEntries, Suite::States(&[Write, Checkpoint])),
    (Blindness::ChangedEntries, Suite::ManyEntries),
    (Blindness::MarkedPages, Suite::IdlePages),
    (Blindness::FreeAfterCheckpoint, Suite::ReuseBeforeCheckpoint),
    (Blindness::LogOrder, Suite::WriteBehindHole),
    (Blindness::WriteThrough, Suite::HostCrash),
    (Blindness::WriteThrough, Suite::States(&[Write, WriteLong])),
    (Blindness::PreparedSync, Suite::LateSync),
    (Blindness::SlotReadiness, Suite::HostCrash),
    (Blindness::SyncCoverage, Suite::States(&[Together])),
    (Blindness::Fua, Suite::States(&[WriteFua, Write])),
    (Blindness::CatalogSync, Suite::States(&[Snapshot, Fork, Resize, Restore])),
    (Blindness::ReplayData, Suite::States(&[Write, WriteLong])),
    (Blindness::SnapshotWrites, Suite::States(&[Snapshot])),
    (Blindness::StagedTrailer, Suite::States(&[WriteBack, WriteLong])),
    (Blindness::Fence, Suite::States(&[Write, WriteLong, Trim])),
    (Blindness::ClearedTrailer, Suite::LostEnd),
    (Blindness::WindowInUse, Suite::StagedAcrossSegments),
    (Blindness::FailedSync, Suite::FailedSync),
    (Blindness::SyncedEnd, Suite::Damage),
    (Blindness::SuperblockDamage, Suite::WornSuperblock),
    (Blindness::NextSegment, Suite::LostFooter),
    (Blindness::NextSegment, Suite::LostFooterOfFullStore),
    (Blindness::WrittenAgain, Suite::ServedAfterFailedSync),
    (Blindness::DrainBeforeReuse, Suite::ReadUnderReclaim),
    (Blindness::DrainBeforeReuse, Suite::BegunReadUnderReclaim),
    (Blindness::EdgeChanged, Suite::PartialWriteUnderReclaim),
    (Blindness::DataChecksum, Suite::Rot),
    (Blindness::NodeChecksum, Suite::Rot),
    (Blindness::Reserve, Suite::FullStore),
    (Blindness::MoveChanged, Suite::WritesBesideMoves),
    (Blindness::MoveShared, Suite::SharedLeaves),
];

/// The log's segment ends behind the first operations; or it does not, and a long write is two
/// batches with nothing between. Or it does not either, and its slot was not prepared.
static STARTS: LazyLock<[Start; 3]> =
    LazyLock::new(|| [Start::new(6), Start::new(40), Start::unprepared(40)]);

/// Rounds of a suite, at most.
fn rounds(suite: Suite) -> u64 {
    match suite {
        Suite::States(_) => 180,
        Suite::LostEnd => 1500,
        Suite::StagedAcrossSegments => 40,
        Suite::FullStore => 10,
        Suite::HostCrash | Suite::WritesBesideMoves => 12,
        Suite::LateSync
        | Suite::FailedSync
        | Suite::Damage
        | Suite::WornSuperblock
        | Suite::LostFooter
        | Suite::LostFooterOfFullStore
        | Suite::ServedAfterFailedSync
        | Suite::WriteBehindHole
        | Suite::ReuseBeforeCheckpoint
        | Suite::ReadUnderReclaim
        | Suite::BegunReadUnderReclaim
        | Suite::PartialWriteUnderReclaim
        | Suite::SharedLeaves
        | Suite::ManyEntries
        | Suite::IdlePages
        | Suite::Rot => 1,
    }
}

/// One round of a suite.
fn look(suite: Suite, search: &Search, round: u64) -> Result<(), String> {
    match suite {
        Suite::States(operations) => {
            let mut random = Random::new(round);
            let (start, length) = (&STARTS[(round % 3) as usize], 1 + round / 3 % 3);
            let sequence: Vec<_> = (0..length).map(|_| random.pick(operations)).collect();
            return search.go_through(start, &sequence, round);
        }
        Suite::LostEnd => faults::lose_the_end(round),
        Suite::LateSync => host::slot_is_not_prepared_before_its_sync(),
        Suite::FailedSync => faults::fail_a_sync(false),
        Suite::Damage => damage::damage_below_what_was_synced_is_never_taken_for_the_end(),
        Suite::WornSuperblock => damage::damaged_superblock_is_told_in_a_store_that_reuses_slots(),
        Suite::LostFooter => damage::lost_footer_does_not_hide_what_comes_behind_it(),
        Suite::LostFooterOfFullStore => {
            damage::lost_footer_of_a_full_store_does_not_hide_what_comes_behind_it();
        }
        Suite::ServedAfterFailedSync => {
            damage::what_is_served_after_a_failed_sync_survives_the_power()
        }
        Suite::FullStore => faults::run_full(round),
        Suite::StagedAcrossSegments => faults::die_with_staged(1 + 3 * round),
        Suite::HostCrash => host::survive_hosts(1 + round, Placement::InPlace("a simulation")),
        Suite::WriteBehindHole => ordering::acknowledged_write_is_never_behind_a_hole(),
        Suite::ReuseBeforeCheckpoint => {
            ordering::slot_is_not_reused_before_the_checkpoint_that_frees_it()
        }
        Suite::ReadUnderReclaim => ordering::slot_is_not_reused_under_a_read(),
        Suite::BegunReadUnderReclaim => ordering::slot_is_not_reused_under_a_read_that_was_begun(),
        Suite::PartialWriteUnderReclaim => {
            ordering::slot_is_not_reused_under_the_read_of_a_partial_write();
        }
        Suite::WritesBesideMoves => defragment::writes_beside_moves(1 + round),
        Suite::SharedLeaves => defragment::what_is_shared_is_left_where_it_is(),
        Suite::ManyEntries => catalog::many_entries_are_what_was_made_of_them(),
        Suite::IdlePages => catalog::pages_in_which_nothing_changes_outlive_their_segments(),
        Suite::Rot => return rot::rot_on_this_thread(),
    }
    Ok(())
}

/// Rounds of a suite until one fails, and how; all of them pass otherwise.
fn first_failure(suite: Suite) -> Option<(u64, u64, String)> {
    let search = Search::default();
    for round in 0..rounds(suite) {
        let looked = panic::catch_unwind(AssertUnwindSafe(|| look(suite, &search, round)));
        let why = match looked {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_default()
            }
        };
        return Some((round + 1, search.tally().states, why));
    }
    None
}

/// Does `work` for all of `items` on two threads.
fn side_by_side<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

#[test]
fn every_blindness_is_found() {
    // Made by an engine that sees.
    LazyLock::force(&STARTS);
    let missed = Mutex::new(Vec::new());
    let hook = panic::take_hook();
    // What is expected to go wrong is told below, in a line.
    panic::set_hook(Box::new(|_| {}));
    side_by_side(&BLINDNESSES, |(blindness, suite)| {
        let began = Instant::now();
        let found = while_blind_to(*blindness, || first_failure(*suite));
        let took = began.elapsed();
        match found {
            Some((rounds, states, why)) => {
                let why: String = why.chars().take(160).collect();
                let states = if states > 0 { format!(", {states} states") } else { String::new() };
                println!(
                    "{blindness:?}: {suite:?}, round {rounds}{states}, {took:.1?}: {}",
                    why.replace('\n', " ")
                );
            }
            None => missed.lock().expect("pushing does not panic").push((*blindness, *suite)),
        }
    });
    panic::set_hook(hook);
    let missed = missed.into_inner().expect("pushing does not panic");
    assert!(missed.is_empty(), "nobody found {missed:?}");
}

#[test]
fn the_sighted_engine_passes() {
    let mut suites: Vec<Suite> = Vec::new();
    for (_, suite) in BLINDNESSES {
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    side_by_side(&suites, |suite| {
        let found = first_failure(*suite);
        assert!(found.is_none(), "{suite:?}: {found:?}");
    });
}
