//! A file system on top: nbdfuse makes the volume a file, a loop device makes the file a disk, ext4 does the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::{Program, Running, Server, Tree, Volume, needs, skip};

/// A volume as a block device of this machine. Dropped, it is taken down again.
struct Disk {
    device: String,
    file: PathBuf,
    fuse: Option<Running>,
}

impl Disk {
    /// Gives none, and says why, where this machine cannot do it.
    fn attach(server: &Server, volume: &Volume) -> Option<Self> {
        let file = server.scratch(&format!("{}.disk", volume.id));
        let mut fuse = Program::new("nbdfuse")
            .arg(&file)
            .arg(server.uri(volume))
            .limit(Duration::from_secs(600))
            .spawn();
        let deadline = Instant::now() + Duration::from_secs(15);
        while fs::metadata(&file).map_or(0, |m| m.len()) != volume.size_bytes {
            if !fuse.is_running() || Instant::now() > deadline {
                skip(&format!("nbdfuse cannot mount here: {}", fuse.said().trim()));
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mut disk = Self { device: String::new(), file, fuse: Some(fuse) };
        let losetup = Program::new("losetup").args(["--find", "--show"]).arg(&disk.file).run();
        if !losetup.status.success() {
            skip(&format!("no loop device here: {}", losetup.stderr.trim()));
            return None;
        }
        disk.device = losetup.stdout.trim().to_owned();
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever of this is already down stays down; the test has its verdict from before.
        if !self.device.is_empty() {
            Program::new("losetup").args(["--detach", &self.device]).run();
        }
        Program::new("umount").arg(&self.file).run();
        if let Some(mut fuse) = self.fuse.take() {
            let deadline = Instant::now() + Duration::from_secs(10);
            while fuse.is_running() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A mounted file system. Dropped, it is unmounted.
struct Mount(PathBuf);

impl Mount {
    fn new(device: &str, at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("a directory can be made");
        Program::new("mount").arg(device).arg(&at).ok();
        Self(at)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Program::new("umount").arg(&self.0).run();
    }
}

fn possible() -> bool {
    if !needs(&["nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "mount", "umount", "diff"]) {
        return false;
    }
    for device in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            skip(&format!("{device} is not here"));
            return false;
        }
    }
    if !rustix::process::geteuid().is_root() {
        skip("mounting needs root");
        return false;
    }
    true
}

#[test]
fn ext4_with_a_source_tree_is_clean() {
    if !possible() {
        return;
    }
    let mut server = Server::start();
    let tree = Tree::generate(2_000);
    let volume = server.volume("512M");
    {
        let Some(disk) = Disk::attach(&server, &volume) else { return };
        Program::new("mkfs.ext4").args(["-q", "-F", &disk.device]).ok();
        let mount = Mount::new(&disk.device, server.dir().join("mnt"));
        Program::new("cp").arg("-a").arg(tree.path()).arg(mount.path().join("tree")).ok();
        Program::new("sync").arg("-f").arg(mount.path()).ok();
        Program::new("diff").arg("-r").arg(tree.path()).arg(mount.path().join("tree")).ok();
        drop(mount);
        Program::new("e2fsck").args(["-f", "-n", &disk.device]).ok();
    }
    // The same file system after a restart.
    assert!(server.stop().success());
    server.start_again().unwrap();
    let Some(disk) = Disk::attach(&server, &volume) else { return };
    Program::new("e2fsck").args(["-f", "-n", &disk.device]).ok();
    let mount = Mount::new(&disk.device, server.dir().join("mnt"));
    Program::new("diff").arg("-r").arg(tree.path()).arg(mount.path().join("tree")).ok();
}
