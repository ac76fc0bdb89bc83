//! A file system below the store that is smaller than the store may become, and that others fill
//! too. (P7)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::filling::{CHUNK, chunk, fill, written_in_time};
use sandstone_tests::raw::errno;
use sandstone_tests::{
    Admin, BLOCK_BYTES, Floor, Ledger, Mount, Random, Server, Writer, needs_disks,
};
use tempfile::TempDir;

/// The store may take eight times as much.
const DISK_MIB: u64 = 2048;

/// A small file system, and a server whose store is on it.
struct Small {
    // Dropped in this order: the server lets go of the store before the file system goes.
    server: Server,
    mount: Mount,
    _dir: TempDir,
}

impl Small {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let mount = Mount::ext4(dir.path(), DISK_MIB);
        let server = Server::builder().store(&mount.path().join("store")).start();
        Self { server, mount, _dir: dir }
    }

    fn readiness(&self) -> (u16, String) {
        let answer = Admin::new(self.server.admin_url(), None)
            .get("/readyz")
            .expect("the admin port answers");
        (answer.status, answer.text)
    }
}

/// A file that takes what room there is, until it is dropped.
struct Filler(PathBuf);

impl Filler {
    fn fill(directory: &Path) -> Self {
        let path = directory.join("filler");
        let file = File::create(&path).expect("a file can be made");
        // In ever smaller steps, to the last block.
        let (mut at, mut step) = (0, 64 << 20);
        while step >= 4096 {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(_) => step /= 2,
            }
        }
        assert!(at > 0, "there was no room at all");
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("the filler can be removed");
    }
}

#[test]
fn full_file_system_is_told_as_a_full_store_and_recovers_by_trims_deletions_and_room() {
    if !needs_disks(&["mke2fs"]) {
        return;
    }
    let mut small = Small::new();
    let [filled_up, other] = ["4G", "256M"].map(|size| small.server.volume(size));
    let mut client = small.server.connect(&filled_up);
    small.server.connect(&other).write(0, &chunk(77)).unwrap();
    let filled = fill(&mut client);
    assert!(filled > 256, "a file system of a GiB was full after {filled} MiB");
    // Full is no failure, and said.
    let (status, text) = small.readiness();
    assert!(status == 200 && text.contains("\"status\":\"full\""), "{status} {text}");
    for number in (0..filled).step_by(7) {
        assert!(
            client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(number),
            "chunk {number}"
        );
    }
    client.flush().unwrap();

    // A trim makes room, and so does a deletion.
    let half = filled / 2;
    client.trim(0, (half * CHUNK as u64) as u32).unwrap();
    for number in 0..half / 2 {
        written_in_time(&mut client, number * CHUNK as u64, &chunk(1000 + number));
    }
    let path = format!("/api/v1/sandboxvolumes/{}?force=true", other.id);
    small.server.admin().delete(&path).unwrap().data(200);
    client.flush().unwrap();

    small.server.kill();
    small.server.lose_staging();
    small.server.cli(["check", "--data"]).ok();
    small.server.start_again().unwrap();
    let mut client = small.server.connect(&filled_up);
    for number in (0..half / 2).step_by(5) {
        assert!(client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(1000 + number));
    }
    for number in (half..filled).step_by(7) {
        assert!(
            client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(number),
            "chunk {number}"
        );
    }
}

#[test]
fn others_may_take_all_the_room_and_nothing_is_lost() {
    if !needs_disks(&["mke2fs"]) {
        return;
    }
    const BLOCKS: usize = 8192;
    let mut random = Random::from_env();
    let mut small = Small::new();
    let volume = small.server.volume(&(BLOCKS * BLOCK_BYTES).to_string());
    let spare = small.server.volume("8M");
    let ledger = Arc::new(Mutex::new(Ledger::new(BLOCKS)));
    let writer = |small: &Small, random: &mut Random| {
        Writer::start(small.server.connect(&volume), &ledger, Random::new(random.draw()))
    };
    let check = |small: &Small| {
        let mut client = small.server.connect(&volume);
        let checked = ledger.lock().unwrap().check(Floor::Acknowledged, |first, count| {
            client.read(first * BLOCK_BYTES as u64, count as u32 * BLOCK_BYTES as u32).unwrap()
        });
        checked.unwrap();
    };

    // It ends with the first refusal, or with the server.
    let writing = writer(&small, &mut random);
    thread::sleep(Duration::from_millis(300));
    let filler = Filler::fill(small.mount.path());
    thread::sleep(Duration::from_secs(3));
    // What it had prepared for itself may go to the writer or to this write at any moment: it is
    // answered, or it waits and readiness says why.
    let mut client = small.server.connect(&spare);
    let write = thread::spawn(move || client.write(0, &[1; BLOCK_BYTES]));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !write.is_finished() {
        let (status, text) = small.readiness();
        if status != 200 {
            assert!(text.contains("the file system below the store is full"), "{status} {text}");
            break;
        }
        assert!(Instant::now() < deadline, "a write waits and nothing says why: {text}");
        thread::sleep(Duration::from_millis(50));
    }
    // Reads go on.
    small.server.connect(&volume).read(0, 1 << 20).unwrap();
    drop(filler);
    match write.join().unwrap() {
        Ok(()) => {}
        Err(refused) => assert_eq!(refused.errno(), errno::ENOSPC),
    }
    let mut client = small.server.connect(&volume);
    let deadline = Instant::now() + Duration::from_secs(10);
    while small.readiness().0 != 200 {
        assert!(Instant::now() < deadline, "not ready with room: {:?}", small.readiness());
        thread::sleep(Duration::from_millis(50));
    }
    client.flush().unwrap();
    drop(client);

    // Once more, and this time the server dies while there is no room.
    let again = writer(&small, &mut random);
    thread::sleep(Duration::from_millis(300));
    let filler = Filler::fill(small.mount.path());
    thread::sleep(Duration::from_secs(2));
    small.server.kill();
    for ended in [writing, again].map(Writer::join) {
        assert!(ended.refused.iter().all(|refused| *refused == errno::ENOSPC), "{ended:?}");
    }
    drop(filler);
    small.server.start_again().unwrap();
    check(&small);
    small.server.kill();
    small.server.cli(["check", "--data"]).ok();
}
