//! A hundred forks of one file system: ten are changed, the source is deleted, the server is
//! killed, and each fork still has what is its own and nothing else. In the end all space comes
//! back.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use sandstone_tests::{
    Admin, Disk, Image, Mount, Program, Random, Server, Tree, Volume, needs_disks,
};
use serde_json::{Value, json};

const FORKS: usize = 100;
const CHANGED: usize = 10;
/// So many of the changed forks are mounted at the same time.
const AT_ONCE: usize = 4;
/// What the store allocates at once.
const SEGMENT_BYTES: u64 = 64 << 20;
/// One request of a comparison.
const READ_BYTES: usize = 4 << 20;

/// All files below a directory, by their path from there.
type Files = BTreeMap<PathBuf, Rc<Vec<u8>>>;

fn files_below(root: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory can be read") {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let name = path.strip_prefix(root).expect("a path below its root").to_owned();
                files.insert(name, Rc::new(bytes));
            }
        }
    }
    files
}

/// Insists that below `root` are these files and no others.
fn assert_holds(root: &Path, expected: &Files) {
    let found = files_below(root);
    let differs = |(name, bytes): &(&PathBuf, &Rc<Vec<u8>>)| expected.get(*name) != Some(*bytes);
    let wrong: Vec<&PathBuf> = found.iter().filter(differs).map(|(name, _)| name).take(5).collect();
    let missing: Vec<&PathBuf> =
        expected.keys().filter(|name| !found.contains_key(*name)).take(5).collect();
    assert!(wrong.is_empty() && missing.is_empty(), "wrong: {wrong:?}, missing: {missing:?}");
}

/// Changes what is mounted at `root`, and `files` in the same way.
fn change(root: &Path, files: &mut Files, random: &mut Random) {
    let picked = |files: &Files, random: &mut Random| -> PathBuf {
        let at = random.below(files.len() as u64) as usize;
        files.keys().nth(at).expect("a number below the length").clone()
    };
    // A directory of some ten files.
    let folder = picked(files, random).parent().expect("every file lies in a directory").to_owned();
    fs::remove_dir_all(root.join(&folder)).expect("a directory can be removed");
    files.retain(|name, _| !name.starts_with(&folder));
    for _ in 0..40 {
        let name = picked(files, random);
        fs::remove_file(root.join(&name)).expect("a file can be removed");
        files.remove(&name);
    }
    // Replaced as a whole, patched in the middle, cut off.
    for number in 0..90 {
        let name = picked(files, random);
        let mut bytes = files[&name].to_vec();
        let path = root.join(&name);
        match number % 3 {
            0 => {
                bytes = random_file(random);
                fs::write(path, &bytes).expect("a file can be written");
            }
            1 => {
                let len = 1 + random.below(200) as usize;
                let patch = random.bytes(len);
                let at = random.below(bytes.len() as u64 + 1) as usize;
                bytes.resize(bytes.len().max(at + patch.len()), 0);
                bytes[at..at + patch.len()].copy_from_slice(&patch);
                let file = OpenOptions::new().write(true).open(path).expect("a file can be opened");
                file.write_all_at(&patch, at as u64).expect("a file can be written");
            }
            _ => {
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
                let file = OpenOptions::new().write(true).open(path).expect("a file can be opened");
                file.set_len(bytes.len() as u64).expect("a file can be cut");
            }
        }
        files.insert(name, Rc::new(bytes));
    }
    let folder = PathBuf::from(format!("added{}", random.below(1_000)));
    fs::create_dir(root.join(&folder)).expect("a directory can be made");
    for number in 0..40 {
        let (name, bytes) = (folder.join(format!("file{number}")), random_file(random));
        fs::write(root.join(&name), &bytes).expect("a file can be written");
        files.insert(name, Rc::new(bytes));
    }
}

fn random_file(random: &mut Random) -> Vec<u8> {
    let len = random.below(64 << 10) as usize;
    random.bytes(len)
}

/// One volume of the hundred.
struct Fork {
    volume: Volume,
    /// What a changed one must hold; the others are still the image.
    files: Option<Files>,
}

/// The volume or snapshot as `nbdcopy` reads it, given to a program's standard input.
fn piped(uri: &str, into: &str) -> Program {
    Program::new("sh").args(["-c", &format!("nbdcopy \"$0\" - | {into}"), uri])
}

fn sha256(uri: &str) -> String {
    piped(uri, "sha256sum").ok().stdout
}

fn e2fsck(disk: &Disk) {
    Program::new("e2fsck").args(["-f", "-n", disk.device()]).ok();
}

/// Insists that a volume is the image. Byte for byte in this process, because a checksum of so many
/// takes a minute.
fn assert_is(server: &Server, volume: &Volume, image: &[u8]) {
    assert_eq!(volume.size_bytes, image.len() as u64);
    let mut client = server.connect(volume);
    for (number, expected) in image.chunks(READ_BYTES).enumerate() {
        let offset = (number * READ_BYTES) as u64;
        let found = client.read(offset, expected.len() as u32).expect("a volume can be read");
        assert!(
            found == expected,
            "{} is not the image, {READ_BYTES} bytes at {offset}",
            volume.id
        );
    }
}

/// Insists that every fork holds what is its own.
fn assert_all_right(server: &Server, forks: &[Fork], image: &[u8]) {
    let begun = Instant::now();
    let mount_point = server.dir().join("check");
    for fork in forks {
        match &fork.files {
            Some(files) => {
                let disk = Disk::attach(server, &fork.volume);
                e2fsck(&disk);
                let mount = Mount::read_only(disk.device(), &mount_point);
                assert_holds(mount.path(), files);
                mount.unmount();
                disk.detach();
            }
            None => assert_is(server, &fork.volume, image),
        }
    }
    println!("{} forks checked in {:.1?}", forks.len(), begun.elapsed());
}

/// Bytes that the store takes of its file system, as the file system says. The metric says the
/// same, give or take what the store allocates in between.
fn allocated_bytes(server: &Server) -> u64 {
    let metrics = server.admin().get("/metrics").expect("the admin port answers").text;
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("sandstone_store_file_allocated_bytes "));
    let told = line.and_then(|number| number.parse::<u64>().ok()).expect("the metric is there");
    let real = fs::metadata(server.store_path()).expect("the store is there").blocks() * 512;
    assert!(
        told.abs_diff(real) <= SEGMENT_BYTES,
        "the metric says {told} bytes, the file system {real}"
    );
    real
}

fn fork(admin: &Admin, path: &str, name: &str) -> Volume {
    let made =
        admin.post(path, &json!({ "name": name })).expect("the admin port answers").data(201);
    Volume {
        id: text(&made["id"]),
        size_bytes: made["size_bytes"].as_u64().expect("a fork has a size"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

#[test]
fn hundred_forks_hold_their_own_while_their_source_is_changed_deleted_and_the_server_killed() {
    if !needs_disks(&["nbdcopy", "nbdinfo", "mke2fs", "e2fsck", "sha256sum"]) {
        return;
    }
    let mut random = Random::from_env();
    let mut server = Server::start();
    let empty = allocated_bytes(&server);
    let tree = Tree::generate(2_000);
    let image = Image::ext4(&tree, 96);
    let original = files_below(tree.path());
    let bytes = fs::read(image.path()).unwrap();
    let path = image.path().to_str().expect("an ASCII path");
    let base = server.cli(["import", path, "base", "--format", "raw", "--json"]).ok().json();
    let base =
        Volume { id: text(&base["id"]), size_bytes: base["size_bytes"].as_u64().expect("a size") };
    let snapshot =
        server.cli(["snapshot", "create", "base", "--name", "clean", "--json"]).ok().json();
    let snapshot_uri = format!(
        "nbd+unix:///{}?socket={}",
        text(&snapshot["export_name"]),
        server.socket_path().display()
    );
    let expected = sha256(&server.uri(&base));
    assert_eq!(expected, Program::new("sh").args(["-c", "sha256sum < \"$0\"", path]).ok().stdout);

    // By turns of the volume and of its snapshot, which hold the same.
    let admin = server.admin();
    let of_volume = format!("/api/v1/sandboxvolumes/{}/fork", base.id);
    let of_snapshot =
        format!("/api/v1/sandboxvolumes/{}/snapshots/{}/fork", base.id, text(&snapshot["id"]));
    let begun = Instant::now();
    let mut forks: Vec<Fork> = (0..FORKS)
        .map(|number| {
            let path = if number % 2 == 0 { &of_volume } else { &of_snapshot };
            Fork { volume: fork(&admin, path, &format!("fork{number}")), files: None }
        })
        .collect();
    println!("{FORKS} forks in {:.1?}", begun.elapsed());

    let begun = Instant::now();
    for group in forks[..CHANGED].chunks_mut(AT_ONCE) {
        // Mounts go before their disks, also when an assertion fails.
        let disks: Vec<Disk> =
            group.iter().map(|fork| Disk::attach(&server, &fork.volume)).collect();
        let at = |number: usize| server.dir().join(format!("fork{number}"));
        let mounts: Vec<Mount> = disks
            .iter()
            .enumerate()
            .map(|(number, disk)| Mount::new(disk.device(), &at(number)))
            .collect();
        for (fork, mount) in group.iter_mut().zip(&mounts) {
            let mut files = original.clone();
            change(mount.path(), &mut files, &mut random);
            fork.files = Some(files);
            Program::new("sync").arg("-f").arg(mount.path()).ok();
        }
        mounts.into_iter().for_each(Mount::unmount);
        disks.iter().for_each(e2fsck);
        disks.into_iter().for_each(Disk::detach);
    }
    println!("{CHANGED} forks changed in {:.1?}", begun.elapsed());
    assert_eq!(sha256(&server.uri(&base)), expected, "the source changed with its forks");
    assert_eq!(sha256(&snapshot_uri), expected, "the snapshot changed with its forks");

    server.cli(["volume", "delete", "base"]).ok();
    assert!(
        !Program::new("nbdinfo").arg(&snapshot_uri).run().status.success(),
        "the snapshot is still served"
    );
    println!("{}", server.cli(["reclaim"]).ok().stdout.trim());
    assert_all_right(&server, &forks, &bytes);
    server.kill();
    server.start_again().unwrap();
    assert_all_right(&server, &forks, &bytes);

    let full = allocated_bytes(&server);
    let admin = server.admin();
    for fork in &forks {
        let path = format!("/api/v1/sandboxvolumes/{}", fork.volume.id);
        admin.delete(&path).expect("the admin port answers").data(200);
    }
    println!("{}", server.cli(["reclaim"]).ok().stdout.trim());
    let after = allocated_bytes(&server);
    println!("empty {empty}, full {full}, after {after}");
    assert!(full > 64 << 20, "{full} bytes cannot hold the image");
    // An empty store that was never written is three blocks; what led to this one's catalog are a
    // few more.
    assert!(
        after <= empty + empty / 20 + (64 << 10),
        "{after} bytes of an empty store, which began with {empty}"
    );
}
