//! The simulated disk keeps its promises, and breaks what it never promised.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;

use super::{Kept, SimDisk};
use crate::io::{File, OpKind};
use crate::memory::{WriteBuf, aligned};
use crate::runtime::{self, Runtime};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
const DISK_BYTES: u64 = 1 << 20;
const EIO: i32 = 5;

fn filled(len: usize, value: u8) -> WriteBuf {
    let mut buf = aligned(len);
    buf.resize(len, value);
    WriteBuf::Owned(buf)
}

async fn content(disk: &SimDisk, offset: u64, len: usize) -> BytesMut {
    File::simulated(disk).read(offset, aligned(len), len).await.unwrap()
}

/// The content, read in a runtime of its own.
fn visible(disk: &SimDisk, offset: u64, len: usize) -> BytesMut {
    Runtime::simulated(0).block_on(content(disk, offset, len))
}

#[test]
fn same_seed_same_trace() {
    let run = |disk_seed, order_seed| {
        let disk = SimDisk::new(DISK_BYTES, disk_seed);
        Runtime::simulated(order_seed).block_on(async {
            let file = File::simulated(&disk);
            let writers = (0..20u64).map(|writer| {
                let file = file.clone();
                async move {
                    for round in 0..10 {
                        let offset = (writer * 7 + round * 3) % 64 * PAGE as u64;
                        file.write(offset, filled(PAGE, writer as u8)).await.unwrap();
                        if round % 4 == 0 {
                            file.sync().await.unwrap();
                        }
                        file.read(offset, aligned(PAGE), PAGE).await.unwrap();
                    }
                }
            });
            join_all(writers).await;
            (disk.fingerprint(), runtime::now())
        })
    };
    assert_eq!(run(1, 1), run(1, 1));
    assert_ne!(run(1, 1), run(2, 1));
}

#[test]
fn order_of_ready_tasks_follows_the_seed() {
    let run = |seed| {
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        Runtime::simulated(seed).block_on(async {
            for number in 0..20 {
                let order = std::rc::Rc::clone(&order);
                runtime::spawn(async move { order.borrow_mut().push(number) });
            }
            runtime::sleep(Duration::from_millis(1)).await;
        });
        order.take()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn writes_complete_out_of_order() {
    let disk = SimDisk::new(DISK_BYTES, 5);
    let order = std::cell::RefCell::new(Vec::new());
    Runtime::simulated(5).block_on(async {
        let writes = (0..32u64).map(|number| {
            let (disk, order) = (&disk, &order);
            async move {
                File::simulated(disk).write(number * PAGE as u64, filled(PAGE, 1)).await.unwrap();
                order.borrow_mut().push(number);
            }
        });
        join_all(writes).await;
    });
    assert!(!order.borrow().is_sorted());
}

#[test]
fn crash_keeps_what_was_synced_and_tears_the_rest() {
    let disk = SimDisk::new(DISK_BYTES, 9);
    Runtime::simulated(9).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(PAGE, 1)).await.unwrap();
        file.sync().await.unwrap();
        file.write(PAGE as u64, filled(PAGE, 2)).await.unwrap();
    });
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let after = disk.crash(seed);
        assert!(visible(&after, 0, PAGE).iter().all(|byte| *byte == 1)); // I2, I4
        let late = visible(&after, PAGE as u64, PAGE);
        assert!(late.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        match late.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            PAGE => kept += 1,
            _ => torn += 1,
        }
        assert_eq!(visible(&disk.crash(seed), PAGE as u64, PAGE), late, "one seed, one outcome");
        assert_eq!(
            visible(&after.crash(seed + 1), PAGE as u64, PAGE),
            late,
            "what survived is durable"
        );
    }
    assert!(lost > 10 && kept > 10 && torn > 10, "{lost} {kept} {torn}");
}

#[test]
fn sync_covers_only_what_completed_before_it_began() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(DISK_BYTES, seed);
        Runtime::simulated(seed).block_on(async {
            let file = File::simulated(&disk);
            let mut write = Box::pin(file.write(0, filled(PAGE, 1)));
            assert!(futures_util::poll!(&mut write).is_pending());
            file.sync().await.unwrap();
            write.await.unwrap();
        });
        lost += u32::from(visible(&disk.crash(seed), 0, PAGE)[0] == 0);
    }
    assert!(lost > 0);
}

#[test]
fn kill_keeps_all_completed_writes_and_any_in_flight() {
    let disk = SimDisk::new(DISK_BYTES, 4);
    Runtime::simulated(4).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(PAGE, 1)).await.unwrap();
        let mut write = Box::pin(file.write(PAGE as u64, filled(PAGE, 2)));
        assert!(futures_util::poll!(&mut write).is_pending());
    });
    let (mut landed, mut lost, mut gone_later) = (0, 0, 0);
    for seed in 0..100 {
        let after = disk.kill(seed);
        assert!(visible(&after, 0, PAGE).iter().all(|byte| *byte == 1)); // I4
        let late = visible(&after, PAGE as u64, PAGE);
        landed += u32::from(late.contains(&2));
        lost += u32::from(!late.contains(&2));
        gone_later += u32::from(visible(&after.crash(seed), 0, PAGE)[0] == 0);
    }
    assert!(landed > 10 && lost > 10);
    assert!(gone_later > 10, "the death of a process is no sync");
}

#[test]
fn reads_see_completed_writes_and_any_sectors_in_flight() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..50 {
        let disk = SimDisk::new(DISK_BYTES, seed);
        Runtime::simulated(seed).block_on(async {
            let file = File::simulated(&disk);
            file.write(0, filled(PAGE, 1)).await.unwrap();
            let mut write = Box::pin(file.write(0, filled(PAGE, 2)));
            assert!(futures_util::poll!(&mut write).is_pending());
            let read = content(&disk, 0, PAGE).await;
            old += read.iter().filter(|byte| **byte == 1).count();
            new += read.iter().filter(|byte| **byte == 2).count();
            write.await.unwrap();
            assert!(content(&disk, 0, PAGE).await.iter().all(|byte| *byte == 2)); // I1
        });
    }
    assert_eq!(old + new, 50 * PAGE);
    assert!(old > 0 && new > 0);
}

#[test]
fn planned_faults_hit_the_operation_they_are_planned_for() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    disk.fail_next(OpKind::Write, 1, EIO);
    disk.fail_next(OpKind::Read, 0, EIO);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(PAGE, 1)).await.unwrap();
        let failed = file.write(PAGE as u64, filled(PAGE, 1)).await;
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(EIO));
        file.write(0, filled(PAGE, 1)).await.unwrap();
        let failed = file.read(0, aligned(PAGE), PAGE).await;
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(EIO));
        content(&disk, 0, PAGE).await;
    });
}

#[test]
fn delayed_operation_ends_that_much_later() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    let delay = Duration::from_secs(1);
    disk.delay_next(OpKind::Read, 1, delay);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        content(&disk, 0, PAGE).await;
        assert!(runtime::now() < delay);
        let mut held = Box::pin(content(&disk, 0, PAGE));
        assert!(futures_util::poll!(&mut held).is_pending());
        file.write(0, filled(PAGE, 7)).await.unwrap();
        content(&disk, 0, PAGE).await;
        assert!(runtime::now() < delay, "the others do not wait for it");
        assert!(held.await.iter().all(|byte| *byte == 7)); // I1
        assert!(runtime::now() >= delay);
    });
}

/// The second sync succeeds, and the data is not there: the reason why a failed one latches the
/// store.
#[test]
fn changes_of_a_failed_sync_may_be_lost_for_good() {
    let mut lost = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(DISK_BYTES, seed);
        disk.fail_next(OpKind::Sync, 0, EIO);
        Runtime::simulated(seed).block_on(async {
            let file = File::simulated(&disk);
            file.write(0, filled(PAGE, 1)).await.unwrap();
            file.sync().await.unwrap_err();
            file.sync().await.unwrap();
        });
        assert_eq!(disk.syncs(), 1);
        lost += u32::from(visible(&disk.crash(seed), 0, PAGE)[0] == 0);
    }
    assert!(lost > 0 && lost < 20, "{lost}"); // I3
}

#[test]
fn short_transfers_are_finished() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    disk.shorten_next(OpKind::Write, 0, 1000);
    disk.shorten_next(OpKind::Write, 1, 512);
    disk.shorten_next(OpKind::Read, 0, 700);
    disk.shorten_next(OpKind::Read, 1, 1024);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(2 * PAGE, 6)).await.unwrap();
        let read = content(&disk, 0, 2 * PAGE).await;
        assert_eq!(read.len(), 2 * PAGE);
        assert!(read.iter().all(|byte| *byte == 6));
    });
}

#[test]
fn flipped_bit_stays_flipped() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    disk.flip_bit(5000, 3);
    assert_eq!(visible(&disk, 4096, PAGE)[904], 8);
    assert_eq!(visible(&disk.crash(1), 4096, PAGE)[904], 8);
}

#[test]
fn space_is_counted_limited_and_given_back() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    disk.limit_space(Some(4 * PAGE as u64));
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        file.allocate(0, 3 * PAGE as u64).await.unwrap();
        file.write(0, filled(PAGE, 1)).await.unwrap();
        file.write(8 * PAGE as u64, filled(PAGE, 1)).await.unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 4 * PAGE as u64);
        let full = file.write(9 * PAGE as u64, filled(PAGE, 1)).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        file.punch(0, 2 * PAGE as u64).await.unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 2 * PAGE as u64);
        assert!(content(&disk, 0, PAGE).await.iter().all(|byte| *byte == 0));
        file.write(9 * PAGE as u64, filled(PAGE, 1)).await.unwrap();
    });
}

#[test]
fn unaligned_direct_io_is_refused() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        for (offset, len) in [(1, PAGE), (0, 100)] {
            let refused = file.write(offset, filled(len, 1)).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        let eof =
            file.read(DISK_BYTES - PAGE as u64, aligned(2 * PAGE), 2 * PAGE).await.unwrap_err();
        assert_eq!(eof.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
#[should_panic(expected = "changed before the write was done")]
fn data_changed_under_a_write_is_noticed() {
    let memory = std::sync::Arc::new(crate::memory::SharedMemory::anonymous(PAGE).unwrap());
    let disk = SimDisk::new(DISK_BYTES, 1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        let data = WriteBuf::Shared(std::sync::Arc::clone(&memory), 0..PAGE);
        let mut write = Box::pin(file.write(0, data));
        assert!(futures_util::poll!(&mut write).is_pending());
        memory.copy_in(7, &[1]);
        write.await.unwrap();
    });
}

#[test]
fn crash_keeps_exactly_the_chosen_changes() {
    let disk = SimDisk::new(DISK_BYTES, 3);
    Runtime::simulated(3).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(PAGE, 1)).await.unwrap();
        file.sync().await.unwrap();
        file.write(0, filled(PAGE, 2)).await.unwrap();
        file.write(PAGE as u64, filled(PAGE, 3)).await.unwrap();
        let mut late = Box::pin(file.write(2 * PAGE as u64, filled(PAGE, 4)));
        assert!(futures_util::poll!(&mut late).is_pending());
        let left: Vec<_> =
            disk.unsynced().iter().map(|u| (u.offset, u.len_bytes, u.in_flight)).collect();
        let page = PAGE as u64;
        assert_eq!(left, [(0, page, false), (page, page, false), (2 * page, page, true)]);
    });
    let sectors = |disk: &SimDisk| -> Vec<u8> {
        disk.peek(0, 3 * PAGE).chunks(SECTOR).map(|sector| sector[0]).collect()
    };
    let page = |value| [value; PAGE / SECTOR];
    let nothing = disk.crash_keeping(&[Kept::Nothing; 3]);
    assert_eq!(sectors(&nothing), [page(1), page(0), page(0)].concat());
    assert_eq!(nothing.unsynced(), []);
    let whole = disk.crash_keeping(&[Kept::Whole; 3]);
    assert_eq!(sectors(&whole), [page(2), page(3), page(4)].concat());
    let torn = disk.crash_keeping(&[Kept::Nothing, Kept::Beginning(3), Kept::Sectors(0b1000_0001)]);
    let expected = [page(1), [3, 3, 3, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 4]].concat();
    assert_eq!(sectors(&torn), expected);
    let killed = disk.kill_keeping(&[Kept::Beginning(1)]);
    assert_eq!(sectors(&killed), [page(2), page(3), [4, 0, 0, 0, 0, 0, 0, 0]].concat());
    assert_eq!(killed.unsynced().len(), 3, "the end of a process is no sync");
    assert_ne!(killed.content_hash(), whole.content_hash());
    assert_eq!(disk.copy().crash_keeping(&[Kept::Whole; 3]).content_hash(), whole.content_hash());
}

#[test]
fn lost_write_changes_nothing_and_a_misdirected_one_something_else() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        disk.lose_next(0);
        file.write(0, filled(PAGE, 1)).await.unwrap();
        disk.misdirect_next(0, 3 * PAGE as u64);
        file.write(PAGE as u64, filled(PAGE, 2)).await.unwrap();
        file.sync().await.unwrap();
    });
    let pages: Vec<u8> = disk.peek(0, 4 * PAGE).chunks(PAGE).map(|page| page[0]).collect();
    assert_eq!(pages, [0, 0, 0, 2]);
}

#[test]
fn unreadable_sector_cannot_be_read_until_it_is_written() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        file.write(0, filled(2 * PAGE, 1)).await.unwrap();
        file.sync().await.unwrap();
        disk.spoil_sector(PAGE as u64 + 600);
    });
    let disk = disk.crash(1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        for _ in 0..2 {
            let failed = file.read(0, aligned(2 * PAGE), 2 * PAGE).await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(EIO));
        }
        content(&disk, 0, PAGE).await;
        file.write(PAGE as u64, filled(PAGE, 2)).await.unwrap();
        assert!(content(&disk, PAGE as u64, PAGE).await.iter().all(|byte| *byte == 2));
    });
}

#[test]
fn stale_read_finds_what_was_there_before() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        for value in 1..=3 {
            file.write(PAGE as u64, filled(PAGE, value)).await.unwrap();
        }
        file.write(2 * PAGE as u64, filled(PAGE, 9)).await.unwrap();
        disk.stale_next(0);
        let stale = content(&disk, 0, 3 * PAGE).await;
        let pages: Vec<u8> = stale.chunks(PAGE).map(|page| page[0]).collect();
        assert_eq!(pages, [0, 2, 0]);
        assert_eq!(content(&disk, PAGE as u64, PAGE).await[0], 3, "once");
        file.punch(PAGE as u64, PAGE as u64).await.unwrap();
        disk.stale_next(0);
        assert_eq!(content(&disk, PAGE as u64, PAGE).await[0], 3);
    });
}

#[test]
fn syncs_are_watched_before_they_take_effect() {
    let disk = SimDisk::new(DISK_BYTES, 1);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&seen);
    disk.watch_syncs(move |disk| noted.lock().unwrap().push(disk.unsynced().len()));
    Runtime::simulated(1).block_on(async {
        let file = File::simulated(&disk);
        for writes in 0..3 {
            for page in 0..writes {
                file.write(page * PAGE as u64, filled(PAGE, 1)).await.unwrap();
            }
            file.sync().await.unwrap();
        }
    });
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2]);
}
