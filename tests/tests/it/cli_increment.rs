//! Incremental backups, from one server to another.

use std::fs;
use std::path::{Path, PathBuf};

use sandstone_tests::{Program, Random, Server, Volume, needs};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A server whose volume `disk` has changed, and a place for backups.
struct Source {
    server: Server,
    volume: Volume,
    random: Random,
}

impl Source {
    fn start() -> Source {
        let server = Server::start();
        let volume = server.create_volume(&json!({ "name": "disk", "size": "64M" }));
        let mut source = Source { server, volume, random: Random::new(11) };
        source.change();
        source
    }

    /// Writes here and there, then zeroes and trims.
    fn change(&mut self) {
        let mut client = self.server.connect(&self.volume);
        for _ in 0..40 {
            let offset = self.random.below(56 * MIB) / 512 * 512;
            let len = self.random.below(300_000) as usize + 1;
            client.write(offset, &self.random.bytes(len)).expect("a write succeeds");
        }
        client.write_zeroes(0, self.random.below(32) * MIB, 2 << 20).expect("zeroing succeeds");
        client.trim(self.random.below(32) * MIB, 3 << 20).expect("a trim succeeds");
        // All increments meet here.
        client.write(57 * MIB, &self.random.bytes(8192)).expect("a write succeeds");
        client.flush().expect("a flush succeeds");
    }

    fn snapshot(&self, name: &str) {
        self.server.cli(["snapshot", "create", "disk", "--name", name]).ok();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.dir().join(name)
    }

    fn export(&self, args: &[&str], name: &str) -> PathBuf {
        let file = self.file(name);
        self.server
            .cli(
                ["export", "disk", file.to_str().expect("a path of ours is text")]
                    .iter()
                    .chain(args)
                    .copied(),
            )
            .ok();
        file
    }

    fn snapshots(&self) -> Value {
        self.server.cli(["snapshot", "list", "disk", "--json"]).ok().json()
    }
}

/// A base and three increments: between snapshots, across a growth, and up to a head.
fn backups(source: &mut Source) -> [PathBuf; 4] {
    source.snapshot("s0");
    let base = source.export(&["--snapshot", "s0"], "base.raw");
    source.change();
    source.snapshot("s1");
    let first = source.export(&["--snapshot", "s1", "--since", "s0"], "first.inc");
    source.server.cli(["volume", "resize", "disk", "96M"]).ok();
    source
        .server
        .connect(&source.volume)
        .write(90 * MIB, b"behind the old end")
        .expect("a write succeeds");
    source.change();
    source.snapshot("s2");
    // From here on the volume goes on; the increment does not.
    source.change();
    let second = source.export(&["--snapshot", "s2", "--since", "s1"], "second.inc");
    let third = source.export(&["--since", "s2"], "third.inc");
    [base, first, second, third]
}

fn import(server: &Server, file: &Path, args: &[&str]) -> Program {
    server.cli(
        ["import", file.to_str().expect("a path of ours is text"), "copy"]
            .iter()
            .chain(args)
            .copied(),
    )
}

fn content(server: &Server) -> Vec<u8> {
    let file = server.dir().join("content.raw");
    server.cli(["export", "copy", file.to_str().expect("a path of ours is text")]).ok();
    fs::read(file).expect("the image is there")
}

#[test]
fn base_and_increments_make_the_same_volume_in_another_store() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let mut source = Source::start();
    let [base, increments @ ..] = backups(&mut source);
    assert_eq!(
        source.snapshots().as_array().map(Vec::len),
        Some(3),
        "the temporary snapshot is still there"
    );
    let target = Server::start();
    import(&target, &base, &[]).ok();
    for increment in &increments {
        let size = fs::metadata(increment).unwrap().len();
        assert!(size < 32 * MIB, "an increment of {size} bytes");
        import(&target, increment, &["--onto"]).ok();
    }
    let left = target.cli(["snapshot", "list", "copy", "--json"]).ok().json();
    assert_eq!(left, json!([]), "the import's snapshot is still there");
    let whole = source.export(&[], "whole.raw");
    let copy = target.dir().join("copy.raw");
    target.cli(["export", "copy", copy.to_str().unwrap()]).ok();
    Program::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "raw"])
        .arg(&whole)
        .arg(&copy)
        .ok();
    assert_eq!(fs::metadata(&whole).unwrap().len(), 96 * MIB);
}

#[test]
fn increment_that_does_not_follow_is_refused_and_changes_nothing() {
    let mut source = Source::start();
    let [base, first, second, _] = backups(&mut source);
    let target = Server::start();
    import(&target, &base, &[]).ok();
    let before = content(&target);
    let refused = import(&target, &second, &["--onto"]).run();
    assert!(refused.failed_with_a_sentence().contains("not in the state"), "{refused}");
    assert!(content(&target) == before, "a refused increment changed the volume");
    import(&target, &first, &["--onto"]).ok();
    // The same a second time does not follow either.
    let before = content(&target);
    import(&target, &first, &["--onto"]).run().failed_with_a_sentence();
    assert!(content(&target) == before, "a refused increment changed the volume");
}

#[test]
fn damaged_increment_is_refused_and_changes_nothing() {
    let mut source = Source::start();
    let [base, first, ..] = backups(&mut source);
    let target = Server::start();
    import(&target, &base, &[]).ok();
    let before = content(&target);
    let whole = fs::read(&first).unwrap();
    let damaged = source.file("damaged.inc");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut in_data = whole.clone();
    in_data[whole.len() / 2] ^= 0x10;
    let cases: [(&[u8], &str); 4] = [
        (&whole[..whole.len() - 1], "cut off"),
        (&whole[..whole.len() / 2], "cut off"),
        (&flipped, "damaged"),
        (&in_data, "damaged"),
    ];
    for (bytes, word) in cases {
        fs::write(&damaged, bytes).unwrap();
        let refused = import(&target, &damaged, &["--onto"]).run();
        assert!(refused.failed_with_a_sentence().contains(word), "{word} is not in {refused}");
        assert!(content(&target) == before, "a damaged increment changed the volume");
    }
}

#[test]
fn increment_and_image_are_not_taken_for_each_other() {
    let mut source = Source::start();
    let [base, first, ..] = backups(&mut source);
    let as_image = import(&source.server, &first, &[]).run();
    assert!(as_image.failed_with_a_sentence().contains("--onto"), "{as_image}");
    let as_increment =
        source.server.cli(["import", base.to_str().unwrap(), "disk", "--onto"]).run();
    assert!(as_increment.failed_with_a_sentence().contains("--since"), "{as_increment}");
}

/// The temporary snapshot of a head is the proof that the export is at work, and that it put it
/// away.
#[test]
fn interrupted_export_of_a_head_leaves_no_snapshot_and_no_file() {
    let source = Source::start();
    source.snapshot("s0");
    let mut client = source.server.connect(&source.volume);
    source.server.cli(["volume", "resize", "disk", "1G"]).ok();
    for i in 0..768 {
        client.write(i * MIB, &[i as u8 | 1; MIB as usize]).unwrap();
    }
    // The shell tells its process id, which the export then has.
    let (pid, file) = (source.file("pid"), source.file("head.inc"));
    let mut export = Program::new("sh")
        .args(["-c", "echo $$ > \"$0.new\" && mv \"$0.new\" \"$0\" && exec \"$@\""])
        .arg(&pid)
        .arg(sandstone_tests::sandstone())
        .args(["export", "disk", file.to_str().unwrap(), "--since", "s0", "--config"])
        .arg(source.server.config_path())
        .spawn();
    while source.snapshots().as_array().map(Vec::len) != Some(2) {
        assert!(export.is_running(), "no temporary snapshot was seen: {}", export.said());
    }
    Program::new("kill").args(["-INT", fs::read_to_string(&pid).unwrap().trim()]).ok();
    let finished = export.wait();
    assert!(finished.failed_with_a_sentence().contains("interrupted"), "{finished}");
    assert_eq!(source.snapshots().as_array().map(Vec::len), Some(1));
    let left: Vec<_> = fs::read_dir(source.server.dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("head.inc")), "{left:?}");
}
