//! `sandstone check` and `sandstone inspect` on the store of a stopped server.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Read;
use std::path::Path;

use sandstone_tests::{BLOCK_BYTES, Program, Random, Server, rot, sandstone};

const BLOCKS: usize = 64;

/// Of all that a file holds.
fn fingerprint(path: &Path) -> u64 {
    let (mut file, mut hasher) = (File::open(path).expect("the file"), DefaultHasher::new());
    let mut here = vec![0; 1 << 20];
    loop {
        match file.read(&mut here).expect("a read") {
            0 => return hasher.finish(),
            len => hasher.write(&here[..len]),
        }
    }
}

/// A stopped server whose volume holds these bytes.
fn stopped() -> (Server, String, Vec<u8>) {
    let mut server = Server::builder().store_size("1G").start();
    let volume = server.volume("64M");
    let data = Random::new(11).bytes(BLOCKS * BLOCK_BYTES);
    server.connect(&volume).write_fua(1 << 20, &data).expect("a write");
    assert!(server.stop().success());
    (server, volume.id, data)
}

#[test]
fn sound_store_is_clean_and_left_as_it_is() {
    let (server, id, _) = stopped();
    let before = fingerprint(&server.store_path());
    let said = server.cli(["check", "--data"]).ok();
    assert!(
        said.stdout.contains("Nothing is wrong") && said.stdout.contains("1 volume(s)"),
        "{said}"
    );
    let json = server.cli(["check", "--data", "--json"]).ok().json();
    assert_eq!((&json["clean"], &json["findings_count"]), (&true.into(), &0.into()));
    assert_eq!(json["checked_bytes"], BLOCKS * BLOCK_BYTES);
    let inspected = server.cli(["inspect"]).ok().stdout;
    for part in ["superblock 1", "replay start: first LSN", "segments", "moved blocks", &id] {
        // There are no moved blocks in a store this young.
        assert_eq!(inspected.contains(part), part != "moved blocks", "{part:?} in {inspected}");
    }
    let json = server.cli(["inspect", "--json"]).ok().json();
    assert_eq!(json["volumes"][0]["id"], id);
    let records = server.cli(["inspect", "--segment", "1"]).ok().stdout;
    assert!(records.contains("volume put") && records.contains("data"), "{records}");
    assert_eq!(fingerprint(&server.store_path()), before, "the store was changed");
}

#[test]
fn store_that_was_killed_is_clean_and_starts_as_it_would_have() {
    let mut server = Server::builder().store_size("1G").start();
    let volume = server.volume_writeback("64M", true);
    let data = Random::new(12).bytes(BLOCKS * BLOCK_BYTES);
    server.connect(&volume).write(1 << 20, &data).unwrap();
    server.kill();
    for _ in 0..2 {
        server.cli(["check", "--data"]).ok();
        server.cli(["inspect"]).ok();
    }
    server.start_again().unwrap();
    assert!(server.connect(&volume).read(1 << 20, data.len() as u32).unwrap() == data);
}

#[test]
fn what_is_lost_is_named_and_tells_by_the_exit_status() {
    let (server, id, data) = stopped();
    rot(&server, &data[7 * BLOCK_BYTES..8 * BLOCK_BYTES]);
    server.cli(["check"]).ok();
    let rotten = server.cli(["check", "--data"]).run();
    assert_eq!(rotten.status.code(), Some(1), "{rotten}");
    let place = format!("{id}, {BLOCK_BYTES} bytes at {}", (1 << 20) + 7 * BLOCK_BYTES);
    assert!(rotten.stdout.contains(&place), "{place} is not named: {rotten}");
    assert!(rotten.failed_with_a_sentence().contains("backup"), "{rotten}");
    let json = server.cli(["check", "--data", "--json"]).run().json();
    assert_eq!((&json["clean"], &json["findings"][0]["kind"]), (&false.into(), &"data".into()));
}

#[test]
fn store_of_a_running_server_or_none_at_all_cannot_be_checked() {
    let server = Server::start();
    for command in ["check", "inspect"] {
        let refused = server.cli([command]).run();
        assert_eq!(refused.status.code(), Some(2), "{refused}");
        assert!(refused.failed_with_a_sentence().contains("a server holds"), "{refused}");
        let nothing =
            Program::new(sandstone()).args([command, "/nowhere/store"]).dir(server.dir()).run();
        assert_eq!(nothing.status.code(), Some(2), "{nothing}");
        nothing.failed_with_a_sentence();
    }
    let blank = server.scratch("blank");
    fs::write(&blank, vec![0; 2 << 20]).unwrap();
    let no_store = Program::new(sandstone()).arg("check").arg(&blank).dir(server.dir()).run();
    assert_eq!(no_store.status.code(), Some(2), "{no_store}");
    assert!(no_store.failed_with_a_sentence().contains("there is no store"), "{no_store}");
}
