//! The host crashes under writers, in earnest: what was acknowledged is there. (P1, P2)
//!
//! The store lies in a file system of its own on a loop device (or is the device). The image behind
//! that is a file of an XFS, which clones it at an instant; so the clone is what a panic of the
//! kernel leaves on the disk, without what waits for the file system's journal. The server is
//! killed then, and goes on from the clone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandstone_tests::{
    BLOCK_BYTES, Floor, Ledger, Mount, Program, Random, Server, Stored, Volume, Writer, long,
    needs_mounts,
};
use serde_json::json;
use tempfile::TempDir;

/// Blocks of a volume under the ledger: small enough that blocks are overwritten many times a
/// second.
const BLOCKS: usize = 4096;
/// Blocks of the volume that has snapshots and forks.
const BASE_BLOCKS: usize = 64;
const DISK_BYTES: u64 = 2 << 30;
/// Between two snapshots or forks.
const PAUSE: Duration = Duration::from_millis(20);

/// What the store lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Ext4,
    Xfs,
    Btrfs,
    Device,
}

impl Below {
    /// The program that makes it, with its arguments.
    fn make(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Ext4 => Some(("mke2fs", &["-q", "-F", "-t", "ext4"])),
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-f"])),
            Self::Btrfs => Some(("mkfs.btrfs", &["-q", "-f"])),
            Self::Device => None,
        }
    }

    /// What `/readyz` calls it.
    fn placement(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Xfs => "in_place",
            Self::Btrfs => "moving",
            Self::Device => "device",
        }
    }
}

/// The image, attached.
enum Attached {
    Mounted(Mount),
    Loop(String),
}

impl Attached {
    /// Attaches the image so that the store is at `store`.
    fn new(below: Below, image: &Path, store: &Path) -> Self {
        match below {
            Below::Ext4 | Below::Xfs | Below::Btrfs => {
                Self::Mounted(Mount::image(image, store.parent().expect("it is in a directory")))
            }
            Below::Device => {
                let device = Program::new("losetup").args(["--find", "--show"]).arg(image).ok();
                let device = device.stdout.trim().to_owned();
                // Whatever its number is this time.
                let _first_time = fs::remove_file(store);
                symlink(&device, store).expect("a link can be made");
                Self::Loop(device)
            }
        }
    }

    fn detach(self) {
        match self {
            Self::Mounted(mount) => mount.unmount(),
            Self::Loop(device) => drop(Program::new("losetup").args(["--detach", &device]).ok()),
        }
    }
}

/// A machine whose disk can be had as it is at an instant.
struct Host {
    below: Below,
    server: Server,
    attached: Option<Attached>,
    images: Mount,
    dir: TempDir,
}

impl Host {
    fn new(below: Below) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let images = dir.path().join("images.img");
        let file = fs::File::create(&images).expect("a file can be made");
        file.set_len(4 * DISK_BYTES).expect("it can be sparse");
        Program::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&images).ok();
        let images = Mount::image(&images, &dir.path().join("images"));
        let image = images.path().join("now");
        fs::File::create(&image)
            .and_then(|file| file.set_len(DISK_BYTES))
            .expect("a file can be made");
        if let Some((program, arguments)) = below.make() {
            Program::new(program).args(arguments.iter().copied()).arg(&image).ok();
        }
        let store = Self::store(below, dir.path());
        let attached = Some(Attached::new(below, &image, &store));
        let server = Server::builder().store(&store).store_size("1600M").start();
        Self { below, server, attached, images, dir }
    }

    fn store(below: Below, dir: &Path) -> PathBuf {
        match below {
            Below::Ext4 | Below::Xfs | Below::Btrfs => dir.join("below").join("store"),
            Below::Device => dir.join("store"),
        }
    }

    /// What is on its disk now is kept.
    fn clone_disk(&self) {
        let image = |name| self.images.path().join(name);
        Program::new("cp").arg("--reflink=always").arg(image("now")).arg(image("then")).ok();
    }

    /// The server is gone, and everything is as it was when the disk was cloned.
    fn reboot(&mut self) {
        self.server.kill();
        self.attached.take().expect("it is attached").detach();
        let image = self.images.path().join("now");
        fs::rename(self.images.path().join("then"), &image).expect("a file can be renamed");
        let store = Self::store(self.below, self.dir.path());
        self.attached = Some(Attached::new(self.below, &image, &store));
        self.server.lose_staging();
        self.server.start_again().expect("the server starts on what the crash has left");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Where a check has failed, the server is still there. A mount of it goes with its last
        // file.
        if let Some(Attached::Loop(device)) = &self.attached {
            Program::new("losetup").args(["--detach", device]).run();
        }
    }
}

/// A volume under writers, and what was promised for it.
struct Watched {
    volume: Volume,
    writeback: bool,
    ledger: Arc<Mutex<Ledger>>,
}

impl Watched {
    fn new(server: &Server, writeback: bool) -> Self {
        let volume = server.volume_writeback(&(BLOCKS * BLOCK_BYTES).to_string(), writeback);
        Self { volume, writeback, ledger: Arc::new(Mutex::new(Ledger::new(BLOCKS))) }
    }

    fn check(&self, server: &Server, then: &Ledger) {
        let mut client = server.connect(&self.volume);
        let mut ledger = self.ledger.lock().expect("no writer panicked");
        ledger.promised_by(then);
        let floor = if self.writeback { Floor::Durable } else { Floor::Acknowledged };
        let checked = ledger.check(floor, |first, count| {
            let (offset, len) = (first * BLOCK_BYTES as u64, count as u32 * BLOCK_BYTES as u32);
            client.read(offset, len).unwrap_or_else(|e| panic!("block {first} cannot be read: {e}"))
        });
        checked.unwrap_or_else(|e| panic!("writeback={}: {e}", self.writeback));
    }
}

/// A snapshot or fork that was acknowledged.
struct Line {
    path: String,
    export: Volume,
    holds: Vec<Stored>,
}

/// A volume that is written a block at a time, never flushed, and copied after each.
struct Lineage {
    lines: Arc<Mutex<Vec<Line>>>,
    thread: JoinHandle<()>,
}

impl Lineage {
    fn start(server: &Server, base: &Volume, mut random: Random) -> Self {
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let (made, admin, base) = (Arc::clone(&lines), server.admin(), base.clone());
        let mut client = server.connect(&base);
        let mut holds: Vec<Stored> = vec![Stored::Zero; BASE_BLOCKS];
        let thread = thread::spawn(move || {
            let path = format!("/api/v1/sandboxvolumes/{}", base.id);
            let blank = vec![0; BASE_BLOCKS * BLOCK_BYTES];
            if client.write(0, &blank).is_err() {
                return;
            }
            for version in 1.. {
                let block = random.below(BASE_BLOCKS as u64);
                holds[block as usize] = Stored::Write(version);
                let data = Stored::Write(version).bytes(block);
                let Ok(()) = client.write(block * BLOCK_BYTES as u64, &data) else { return };
                let is_fork = random.below(2) == 0;
                let answer = match is_fork {
                    true => admin.post(&format!("{path}/fork"), &json!({})),
                    false => admin.post(&format!("{path}/snapshots"), &json!({ "name": "kept" })),
                };
                let Ok(answer) = answer else { return };
                let line = answer.data(201);
                let id = line["id"].as_str().expect("an id").to_owned();
                let prefix =
                    if is_fork { "/api/v1/sandboxvolumes" } else { &format!("{path}/snapshots") };
                let path = format!("{prefix}/{id}");
                let export = Volume { id, size_bytes: base.size_bytes };
                made.lock().expect("nobody panics with it").push(Line {
                    path,
                    export,
                    holds: holds.clone(),
                });
                thread::sleep(PAUSE);
            }
        });
        Self { lines, thread }
    }

    fn count(&self) -> usize {
        self.lines.lock().expect("nobody panics with it").len()
    }

    /// The first `promised` lines are there and what they were. All of them are deleted.
    fn check(self, server: &Server, promised: usize) {
        self.thread.join().expect("it ends with the server");
        for line in self.lines.lock().expect("nobody panics with it").iter().take(promised) {
            let bytes = server.connect(&line.export).read(0, (BASE_BLOCKS * BLOCK_BYTES) as u32);
            let bytes = bytes.unwrap_or_else(|e| panic!("{} cannot be read: {e}", line.path));
            for (block, (found, stored)) in bytes.chunks(BLOCK_BYTES).zip(&line.holds).enumerate() {
                assert_eq!(
                    Stored::of(found, block as u64),
                    Some(*stored),
                    "block {block} of {}",
                    line.path
                );
            }
            server
                .admin()
                .delete(&format!("{}?force=true", line.path))
                .expect("the admin port answers")
                .data(200);
        }
    }
}

/// Hosts crash at random moments under writers, snapshots and forks.
fn crash(below: Below, crashes: u32) {
    let programs: Vec<&str> =
        below.make().map(|(program, _)| program).into_iter().chain(["mkfs.xfs"]).collect();
    if !needs_mounts(&programs) {
        return;
    }
    let mut random = Random::from_env();
    let mut host = Host::new(below);
    let ready = host.server.admin().get("/readyz").expect("the admin port answers").data(200);
    assert_eq!(ready["store"]["placement"], below.placement(), "{ready}");
    let volumes = [false, true].map(|writeback| Watched::new(&host.server, writeback));
    let (mut acknowledged, mut copied) = (0, 0);
    for _ in 0..if long() { 10 * crashes } else { crashes } {
        let server = &host.server;
        let base = server.volume(&(BASE_BLOCKS * BLOCK_BYTES).to_string());
        let lineage = Lineage::start(server, &base, Random::new(random.draw()));
        let writers: Vec<Writer> = volumes
            .iter()
            .map(|v| {
                Writer::start(server.connect(&v.volume), &v.ledger, Random::new(random.draw()))
            })
            .collect();
        // Now a young store, now one that has gone round.
        thread::sleep(Duration::from_millis(100 + random.below(1_200)));
        let then: Vec<Ledger> =
            volumes.iter().map(|v| v.ledger.lock().expect("no writer panicked").clone()).collect();
        let promised = lineage.count();
        host.clone_disk();
        host.reboot();
        for ended in writers.into_iter().map(Writer::join) {
            assert!(ended.refused.is_empty(), "the server refused requests: {:?}", ended.refused);
            acknowledged += ended.acknowledged;
        }
        for (volume, then) in volumes.iter().zip(&then) {
            volume.check(&host.server, then);
        }
        lineage.check(&host.server, promised);
        copied += promised;
        let path = format!("/api/v1/sandboxvolumes/{}?force=true", base.id);
        host.server.admin().delete(&path).expect("the admin port answers").data(200);
    }
    println!(
        "{below:?}: {acknowledged} requests and {copied} snapshots and forks were acknowledged"
    );
    assert!(
        acknowledged > 0 && copied > 0,
        "{acknowledged} requests, {copied} snapshots and forks"
    );
    host.server.kill();
    host.attached.take().expect("it is attached").detach();
}

#[test]
fn acknowledged_survives_a_crash_of_the_host_on_ext4() {
    crash(Below::Ext4, 6);
}

#[test]
fn acknowledged_survives_a_crash_of_the_host_on_xfs() {
    crash(Below::Xfs, 6);
}

#[test]
fn acknowledged_survives_a_crash_of_the_host_on_btrfs() {
    crash(Below::Btrfs, 5);
}

#[test]
fn acknowledged_survives_a_crash_of_the_host_on_a_block_device() {
    crash(Below::Device, 3);
}
