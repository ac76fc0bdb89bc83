//! The table of segments keeps its counts.

use super::*;

fn segments() -> Segments {
    Segments::new(Geometry::with_segments((1 << 20) + 12 * (64 << 12), 64), &[], SegmentId(1))
}

#[test]
fn each_need_leaves_the_others_theirs() {
    let s = segments();
    assert_eq!((s.free(), s.left_by_data()), (12, 4));
    let taken: Vec<_> =
        std::iter::from_fn(|| s.take(SegmentKind::Log, Need::Data, Writing::Awaited)).collect();
    assert_eq!(taken.len(), 8);
    let count = |kind, need| std::iter::from_fn(|| s.take(kind, need, Writing::Awaited)).count();
    assert_eq!(count(SegmentKind::Forwarded, Need::Forward), 2);
    assert_eq!(
        count(SegmentKind::Log, Need::Record),
        1,
        "what makes room again is not taken by moving blocks"
    );
    assert_eq!(count(SegmentKind::Node, Need::Checkpoint), 1);
    assert_eq!(s.free(), 0);
}

#[test]
fn data_leaves_room_for_two_checkpoints_and_fills_nothing_that_others_took_of_it() {
    let s =
        Segments::new(Geometry::with_segments((1 << 20) + 400 * (64 << 12), 64), &[], SegmentId(1));
    let take = |kind, need| s.take(kind, need, Writing::Awaited).is_some();
    let usable = s.usable_blocks();
    s.keep_for_checkpoint(5);
    while take(SegmentKind::Log, Need::Data) {}
    assert_eq!((s.usable(), s.is_in_reserve()), (12, false));
    assert!(take(SegmentKind::Log, Need::Record) && s.is_in_reserve(), "data does not fill it");
    while take(SegmentKind::Forwarded, Need::Forward) {}
    assert_eq!(s.usable(), 6);
    while take(SegmentKind::Log, Need::Record) {}
    assert_eq!(s.usable(), 5);
    s.keep_for_checkpoint(2);
    assert_eq!(s.usable_blocks(), usable, "it is within the working room");
    s.keep_for_checkpoint(u32::MAX);
    let kept = u64::from(s.left_by_data());
    assert!(s.usable_blocks() < usable && s.usable_blocks() <= (400 - kept) * 64);
}

#[test]
fn what_the_file_system_cannot_back_is_not_there() {
    let s = segments();
    s.set_backing(6);
    assert_eq!((s.free(), s.usable(), s.room(Need::Data)), (12, 6, 2));
    let first = s.take(SegmentKind::Log, Need::Data, Writing::Awaited).expect("room");
    let second = s.take(SegmentKind::Log, Need::Data, Writing::Awaited).expect("room");
    assert_eq!((s.usable(), s.take(SegmentKind::Log, Need::Data, Writing::Awaited)), (4, None));
    assert!(!s.is_in_reserve() && s.has_room(Need::Record));
    // A slot that comes back has its blocks, but for one that was punched.
    [first, second].iter().for_each(|taken| s.seal(taken.id));
    assert!(!s.punch(second.id, &[(0, 32)]).is_empty());
    s.retire(&[first.id, second.id]);
    s.release(&s.retired());
    assert_eq!((s.free(), s.usable()), (12, 5));
    s.set_backing(0);
    assert_eq!(
        (s.usable(), s.take(SegmentKind::Node, Need::Checkpoint, Writing::Awaited).map(|t| t.slot)),
        (1, Some(first.slot))
    );
    assert_eq!(
        (s.usable(), s.take(SegmentKind::Node, Need::Checkpoint, Writing::Awaited)),
        (0, None)
    );
}

#[test]
fn released_slots_come_back_under_new_numbers() {
    let s = segments();
    let Taken { id: first, slot, readiness } =
        s.take(SegmentKind::Log, Need::Data, Writing::Awaited).expect("room");
    assert!(readiness == Readiness::Unready && !s.offers_prepared());
    let address = Address::new(first, 3);
    assert!(s.stretches(address, 1).is_some());
    s.seal(first);
    assert_eq!(s.candidates(), [first]);
    s.retire(&[first]);
    assert!(s.candidates().is_empty());
    assert!(s.entries(&s.retired()).is_empty());
    s.release(&s.retired());
    assert_eq!(s.stretches(address, 1), None);
    // A slot that was written is preferred over raw slots, but not all of its blocks were written.
    let second = s.take(SegmentKind::Log, Need::Data, Writing::Awaited).expect("room");
    assert!(second.id > first);
    assert_eq!((second.slot, second.readiness), (slot, Readiness::Unready));
}

#[test]
fn prepared_slots_are_kept_for_the_log() {
    let s = segments();
    for _ in 0..PREPARED_KEPT + 1 {
        let slot = s.take_to(SlotPreparation::Prepared, PREPARED_KEPT + 1).expect("room");
        s.give_back(slot, SlotPreparation::Prepared);
    }
    let is_ready = |s: &Segments, writing| {
        s.take(SegmentKind::Log, Need::Data, writing).expect("room").readiness == Readiness::Ready
    };
    // One more than is kept.
    assert!(is_ready(&s, Writing::Streamed));
    assert!(!is_ready(&s, Writing::Streamed));
    // Nor are they what is given back to the file system while there are others.
    let allocated = s.take_to(SlotPreparation::Allocated, usize::MAX).expect("room");
    s.give_back(allocated, SlotPreparation::Allocated);
    assert_eq!(s.take_surplus(1), Some((allocated, SlotBacking::Blocks)));
    s.give_back(allocated, SlotPreparation::Punched);
    assert!(is_ready(&s, Writing::Awaited));
    // Where the file system has nothing left to give, every taker gets what is there.
    s.set_backing(0);
    let last = s.take(SegmentKind::Node, Need::Checkpoint, Writing::Streamed).expect("room");
    assert_eq!(last.readiness, Readiness::Ready);
}

#[test]
fn slot_comes_back_prepared_only_if_it_was_and_nothing_was_punched() {
    let s = segments();
    let goes_round = |gaps: &[(u32, u32)]| {
        let taken = s.take(SegmentKind::Log, Need::Data, Writing::Awaited).expect("room");
        s.seal(taken.id);
        s.punch(taken.id, gaps);
        s.retire(&[taken.id]);
        s.release(&s.retired());
        (taken.slot, taken.readiness)
    };
    let slot = s.take_to(SlotPreparation::Prepared, 1).expect("room");
    s.give_back(slot, SlotPreparation::Prepared);
    assert_eq!(goes_round(&[]), (slot, Readiness::Ready));
    assert_eq!(goes_round(&[(0, 32)]), (slot, Readiness::Ready));
    assert_eq!(s.prepared(), 0, "it was punched");
    // A slot that was not prepared is worth a look, and no more.
    let (gapped, _) = goes_round(&[]);
    assert_eq!((s.prepared(), s.take_written(1)), (0, Some(gapped)));
    s.give_back(gapped, SlotPreparation::Prepared);
    assert_eq!(goes_round(&[]), (gapped, Readiness::Ready));
}

#[test]
fn moved_blocks_are_found_in_their_new_place_and_it_lives_as_long_as_they_do() {
    let s = segments();
    let take = |kind, need| s.take(kind, need, Writing::Awaited).expect("room");
    let sparse: Vec<_> = (0..2).map(|_| take(SegmentKind::Log, Need::Data).id).collect();
    let destinations: Vec<_> =
        (0..2).map(|_| take(SegmentKind::Forwarded, Need::Forward)).collect();
    sparse.iter().chain(destinations.iter().map(|h| &h.id)).for_each(|id| s.seal(*id));
    let piece = |destination: usize, first, blocks: &[u32]| Piece {
        into: destinations[destination].id,
        slot: destinations[destination].slot,
        first,
        live: Bitmap::of(blocks.iter().copied(), 64),
    };
    let moved = |i: usize, from, pieces| Move { segment: sparse[i], from, pieces };
    s.move_to(vec![
        moved(0, sparse[0], vec![piece(0, 0, &[3, 4, 60])]),
        moved(1, sparse[1], vec![piece(0, 3, &[0, 9]), piece(1, 0, &[10, 11])]),
    ]);
    let found = |i: usize, block, blocks| {
        s.stretches(Address::new(sparse[i], block), blocks).map(|s| s.to_vec())
    };
    let at = |destination: usize, block| s.geometry.offset(destinations[destination].slot, block);
    assert_eq!(found(0, 3, 2), Some(vec![(at(0, 0), 2)]));
    assert_eq!(found(0, 60, 1), Some(vec![(at(0, 2), 1)]));
    assert_eq!(found(1, 9, 3), Some(vec![(at(0, 4), 1), (at(1, 0), 2)]));
    assert_eq!((found(0, 4, 2), found(1, 1, 1), found(0, 63, 2)), (None, None, None));

    assert_eq!(s.retired_slots(), 2);
    s.release(&s.retired());
    assert_eq!(
        (s.free(), s.candidates().len()),
        (10, 2),
        "two slots came back, both still have addresses"
    );
    let again = Segments::new(s.geometry, &s.entries(&s.retired()), s.next());
    assert_eq!(
        again.stretches(Address::new(sparse[0], 60), 1).map(|s| s.to_vec()),
        found(0, 60, 1)
    );
    assert_eq!(again.free(), 10);

    s.retire(&[sparse[0]]);
    assert_eq!(s.retired_slots(), 0);
    s.move_to(vec![moved(1, destinations[0].id, vec![piece(1, 9, &[9])])]);
    assert_eq!(s.retired_slots(), 1, "no segment is left in the first");
    assert_eq!(found(1, 9, 2), Some(vec![(at(1, 9), 1), (at(1, 0), 1)]));
    s.retire(&[sparse[1]]);
    s.release(&s.retired());
    assert_eq!((s.free(), s.entries(&s.retired()).len()), (12, 0));
}

#[test]
fn what_the_log_has_claimed_is_in_no_catalog_before_it_comes_there() {
    let segments = segments();
    let named =
        || segments.entries(&Retired::default()).iter().map(|entry| entry.id.0).collect::<Vec<_>>();
    let first = segments.claim_ahead().expect("there is room");
    assert_eq!((segments.free(), segments.is_free(first.slot), named()), (11, false, vec![]));
    // Another slot suits better.
    let second = segments.claim_ahead().expect("there is room");
    segments.give_up(first.id);
    assert_eq!((segments.free(), segments.is_free(first.slot)), (11, true));
    assert_eq!(segments.stretches(Address::new(first.id, 0), 1), None);
    segments.enter(second.id);
    assert_eq!(named(), [second.id.0]);
    segments.give_up(second.id);
    assert_eq!(named(), [second.id.0], "it is in use");
    assert!(segments.next() > second.id, "no number is given twice");
    // The claim is for data, so it takes nothing of the reserve.
    while segments.claim_ahead().is_some() {}
    assert_eq!(segments.free(), segments.left_by_data());
}
