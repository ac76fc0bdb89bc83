//! One store on a real file, from its making to its reopening: the first thing to run when
//! everything fails.

use bytes::Bytes;
use sandstone_ring::{Backend, Runtime};
use sandstone_storage::{
    Allocation, Durability, Extent, ExtentState, Health, Kind, Piece, Settings, Store,
    StoreOptions, Volume, VolumeChange, VolumeSpec,
};
use std::path::Path;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

fn options(directory: &Path) -> StoreOptions {
    StoreOptions {
        path: directory.join("store"),
        size_bytes: 1 << 30,
        staging_dir: directory.to_owned(),
        cache_bytes: 16 * MIB,
        metadata_bytes: 16 * MIB,
        reclaim_rate: 256 * MIB,
        scrub_rate: 0,
    }
}

fn spec(number: u128) -> VolumeSpec {
    let settings = Settings {
        cache_bytes: 8 * MIB,
        buffer_bytes: 8 * MIB,
        prefetch_mib: 0,
        writeback: number.is_multiple_of(2),
    };
    VolumeSpec {
        id: Uuid::from_u128(number),
        size_bytes: 64 * MIB,
        settings,
        attributes: b"attributes".to_vec(),
    }
}

async fn read(volume: &Volume, offset: u64, len: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in volume.read(offset, len).await.expect("a read") {
        match piece {
            Piece::Data(data) => out.extend_from_slice(&data),
            Piece::Zero { len } => out.resize(out.len() + len as usize, 0),
        }
    }
    assert_eq!(out.len(), len as usize);
    out
}

fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect::<Vec<_>>().into()
}

async fn fill(volume: &Volume) {
    let (odd, whole, large) = (pattern(10_001, 1), pattern(8192, 2), pattern(20 << 20, 3));
    volume.write(4090, odd.clone(), Durability::Volatile).await.expect("an odd write");
    assert_eq!(read(volume, 4090, 10_001).await, odd);
    assert_eq!(read(volume, 0, 4090).await, vec![0; 4090]);
    volume.write(MIB, whole.clone(), Durability::Fua).await.expect("a durable write");
    assert_eq!(read(volume, MIB - 1, 8194).await, [&[0], &whole[..], &[0]].concat());
    volume.write(8 * MIB + 5, large.clone(), Durability::Volatile).await.expect("a large write");
    assert_eq!(read(volume, 8 * MIB + 5, 20 << 20).await, large);
    volume.flush().await.expect("a flush");
    volume.trim(10 * MIB, MIB, Durability::Volatile).await.expect("a trim");
    volume
        .write_zeroes(12 * MIB + 1, MIB, Allocation::Reserve, Durability::Fua)
        .await
        .expect("zeroes");
    volume
        .write_zeroes(14 * MIB, MIB, Allocation::Hole, Durability::Volatile)
        .await
        .expect("zeroes");
    let past =
        volume.write(64 * MIB - 1, pattern(2, 1), Durability::Volatile).await.expect_err("too far");
    assert_eq!(past.kind(), Kind::OutOfRange);
}

async fn check(volume: &Volume) {
    assert_eq!(read(volume, 4090, 10_001).await, pattern(10_001, 1));
    let mut large = pattern(20 << 20, 3).to_vec();
    for (at, len) in [(10 * MIB, MIB), (12 * MIB + 1, MIB), (14 * MIB, MIB)] {
        let at = (at - 8 * MIB - 5) as usize;
        large[at..at + len as usize].fill(0);
    }
    assert!(read(volume, 8 * MIB + 5, 20 << 20).await == large);
    let extents = volume.block_status(10 * MIB - 4096, 3 * MIB, 16).await.expect("block status");
    let is = |len_bytes, state| Extent { len_bytes, state };
    assert_eq!(
        extents,
        [
            is(4096, ExtentState::Data),
            is(MIB, ExtentState::Hole),
            is(MIB + 4096, ExtentState::Data),
            is(MIB - 8192, ExtentState::Zero),
        ]
    );
}

#[test]
fn store_on_a_real_file_keeps_what_it_was_given() {
    for engine in [Backend::Auto, Backend::Threads] {
        let directory = tempfile::tempdir().expect("a directory");
        let runtime = Runtime::new(engine).expect("a runtime");
        println!("engine {}", runtime.backend_name());
        runtime.block_on(async {
            let (store, report) =
                Store::open(options(directory.path())).await.expect("a new store");
            assert!(report.created);
            for number in [1, 2] {
                let volume = store.create_volume(spec(number)).await.expect("a new volume");
                fill(&volume).await;
                check(&volume).await;
            }
            store.checkpoint().await.expect("a checkpoint");
            let again = store.create_volume(spec(1)).await.err().map(|e| e.kind());
            assert_eq!(again, Some(Kind::Exists));
            let third = store.create_volume(spec(3)).await.expect("a new volume");
            third.write(0, pattern(5000, 9), Durability::Volatile).await.expect("a write");
            assert!(store.delete_volume(third.id()).await.expect("a delete"));
            assert!(!store.delete_volume(third.id()).await.expect("a second delete"));
            assert_eq!(third.read(0, 1).await.err().map(|e| e.kind()), Some(Kind::NotFound));
            let change = VolumeChange { size_bytes: Some(128 * MIB), ..VolumeChange::default() };
            store.update_volume(Uuid::from_u128(1), change).await.expect("a larger size");
            store.close().await.expect("a clean end");
        });
        drop(runtime);
        for clean in [true, false] {
            let runtime = Runtime::new(engine).expect("a runtime");
            runtime.block_on(async {
                let (store, report) =
                    Store::open(options(directory.path())).await.expect("the store");
                assert!(!report.created);
                assert_eq!((report.clean, report.volumes), (true, 2), "{report:?}");
                assert_eq!(store.health(), Health::Ready);
                for volume in store.volumes() {
                    check(&volume).await;
                    assert_eq!(&volume.attributes()[..], b"attributes");
                }
                let first = store.volume(Uuid::from_u128(1)).expect("the first volume");
                assert_eq!(first.size_bytes(), 128 * MIB);
                first
                    .write(100 * MIB + 7, pattern(MIB as usize, 4), Durability::Volatile)
                    .await
                    .expect("a write");
                if clean {
                    store.close().await.expect("a clean end");
                }
            });
        }
        let runtime = Runtime::new(engine).expect("a runtime");
        runtime.block_on(async {
            let (store, report) = Store::open(options(directory.path())).await.expect("the store");
            assert!(!report.clean && report.records > 0, "{report:?}");
            let first = store.volume(Uuid::from_u128(1)).expect("the first volume");
            check(&first).await;
            assert_eq!(read(&first, 100 * MIB + 7, MIB as u32).await, pattern(MIB as usize, 4));
            store.reclaim().await.expect("a round of reclaim");
            println!("{report:?} {:?}", store.stats());
        });
    }
}

#[test]
fn a_staging_file_lasts_until_its_store_is_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let staging = || {
        let entries = std::fs::read_dir(directory.path()).expect("a directory").flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "staging")).count()
    };
    for clean in [false, true, true] {
        let runtime = Runtime::new(Backend::Auto).expect("a runtime");
        runtime.block_on(async {
            let (store, _) = Store::open(options(directory.path())).await.expect("the store");
            assert_eq!(staging(), 1);
            if clean {
                store.close().await.expect("a clean end");
            }
        });
        drop(runtime);
        assert_eq!(staging(), usize::from(!clean));
    }
}
