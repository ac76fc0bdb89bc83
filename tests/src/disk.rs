//! A volume as a disk of this machine: nbdfuse makes it a file, a loop device makes the file a
//! disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{Program, Running};
use crate::server::{Server, Volume};
use crate::skip::{needs, skip};

/// How long nbdfuse may take to connect and mount, or to end. It bounds a hang.
const FUSE_LIMIT: Duration = Duration::from_secs(15);
/// How often nbdfuse is looked at.
const POLL: Duration = Duration::from_millis(5);
/// How long a mount may stay busy after its last process.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// The bit of the capability to mount, from `linux/capability.h`.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Whether this machine can make disks of volumes and mount them, and has `programs` as well. When
/// not, says so and gives false; panics instead where `CI` is set and what is missing can be
/// installed.
///
/// The machine is asked, not the server: where this says yes, a volume that cannot be attached is a
/// failure.
pub fn needs_disks(programs: &[&str]) -> bool {
    needs(&["nbdfuse"]) && has_device("/dev/fuse") && needs_mounts(programs)
}

/// The same for file systems in image files, which need no disk of a volume.
pub fn needs_mounts(programs: &[&str]) -> bool {
    if !needs(&["losetup", "mount", "umount"])
        || !needs(programs)
        || !has_device("/dev/loop-control")
    {
        return false;
    }
    match lacking() {
        None => true,
        Some(reason) => {
            skip(&reason);
            false
        }
    }
}

fn has_device(device: &str) -> bool {
    match File::options().read(true).write(true).open(device) {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("{device}: {error}"));
            false
        }
    }
}

fn lacking() -> Option<String> {
    if !may_mount() {
        return Some("mounting needs root".to_owned());
    }
    // In some containers there is the control device and none of those that it hands out.
    let free = Program::new("losetup").arg("--find").run();
    let there = free.status.success() && Path::new(free.stdout.trim()).exists();
    (!there).then(|| format!("no loop device: {} {}", free.stdout.trim(), free.stderr.trim()))
}

fn may_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & CAP_SYS_ADMIN != 0)
}

/// A volume as a block device of this machine. Dropped, it is taken down again, whatever state it
/// is in.
pub struct Disk {
    device: Option<String>,
    file: PathBuf,
    fuse: Running,
}

impl Disk {
    /// Makes a disk of `volume`; panics where that fails, so [`needs_disks`] goes first.
    pub fn attach(server: &Server, volume: &Volume) -> Self {
        let file = server.scratch(&format!("{}.disk", volume.id));
        let fuse = Program::new("nbdfuse")
            .arg(&file)
            .arg(server.uri(volume))
            .limit(Duration::from_secs(600))
            .spawn();
        let mut disk = Self { device: None, file, fuse };
        let deadline = Instant::now() + FUSE_LIMIT;
        while fs::metadata(&disk.file).map_or(0, |m| m.len()) != volume.size_bytes {
            let up = disk.fuse.is_running() && Instant::now() < deadline;
            assert!(up, "nbdfuse does not mount {}: {}", volume.id, disk.fuse.said().trim());
            thread::sleep(POLL);
        }
        let losetup = Program::new("losetup").args(["--find", "--show"]).arg(&disk.file).ok();
        disk.device = Some(losetup.stdout.trim().to_owned());
        disk
    }

    /// The block device.
    pub fn device(&self) -> &str {
        self.device.as_deref().expect("an attached disk has a device")
    }

    /// Takes it down and insists on every step: with nbdfuse's end, all that was written to the
    /// device is the server's.
    pub fn detach(mut self) {
        let device = self.device.take().expect("an attached disk has a device");
        Program::new("losetup").args(["--detach", &device]).ok();
        Program::new("umount").arg(&self.file).ok();
        assert!(self.fuse_ends(), "nbdfuse is still there: {}", self.fuse.said().trim());
    }

    fn fuse_ends(&mut self) -> bool {
        let deadline = Instant::now() + FUSE_LIMIT;
        while self.fuse.is_running() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After `detach` nothing is left to do. Otherwise the test is failing, or does not care.
        if let Some(device) = self.device.take() {
            Program::new("losetup").args(["--detach", &device]).run();
        }
        if self.fuse.is_running() {
            Program::new("umount").arg(&self.file).run();
            self.fuse_ends();
        }
    }
}

/// A mounted file system. Dropped, it is unmounted.
pub struct Mount {
    at: Option<PathBuf>,
}

impl Mount {
    /// Mounts the file system in an image file, by a loop device.
    pub fn image(image: &Path, at: &Path) -> Self {
        Self::with_options(image.to_str().expect("a path of ours is UTF-8"), at, "loop")
    }

    /// Mounts the device at a directory, which is made where it is missing.
    pub fn new(device: &str, at: &Path) -> Self {
        Self::with_options(device, at, "rw")
    }

    /// The same, read-only.
    pub fn read_only(device: &str, at: &Path) -> Self {
        Self::with_options(device, at, "ro")
    }

    /// Makes an ext4 of `mebibytes` in a file of `dir` and mounts it there.
    pub fn ext4(dir: &Path, mebibytes: u64) -> Self {
        let image = dir.join("image");
        let size = format!("{mebibytes}M");
        // Nothing kept for root, so that what is free is free for everybody.
        Program::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0"])
            .arg(&image)
            .arg(size)
            .ok();
        Self::image(&image, &dir.join("mounted"))
    }

    fn with_options(device: &str, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).expect("a directory can be made");
        Program::new("mount").args(["-o", options, device]).arg(at).ok();
        Self { at: Some(at.to_owned()) }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.at.as_deref().expect("a mount has a path")
    }

    /// Unmounts it and insists on it: the device holds all of the file system then.
    pub fn unmount(mut self) {
        let at = self.at.take().expect("a mount has a path");
        assert!(is_unmounted(&at), "{} cannot be unmounted", at.display());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(at) = self.at.take()
            && !is_unmounted(&at)
        {
            eprintln!("{} stays mounted", at.display());
        }
    }
}

/// Unmounts, and says whether that went well. What a process that was killed had under way, or a
/// loop device that was let go of, keeps a mount busy for a while.
fn is_unmounted(at: &Path) -> bool {
    let deadline = Instant::now() + BUSY_LIMIT;
    while !Program::new("umount").arg(at).run().status.success() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}
