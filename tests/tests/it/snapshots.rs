//! Snapshots, forks and restore over HTTP, and what NBD clients see of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{errno, go_data, option, reply};
use sandstone_tests::{Answer, BLOCK_BYTES, Program, Random, Server, Volume, needs};
use serde_json::{Value, json};

const BLOCK: u64 = BLOCK_BYTES as u64;

fn path(volume: &Volume) -> String {
    format!("/api/v1/sandboxvolumes/{}", volume.id)
}

fn snapshot_path(volume: &Volume, snapshot: &Volume) -> String {
    format!("{}/snapshots/{}", path(volume), snapshot.id)
}

/// A volume or snapshot as the harness's own, which names any export.
fn export(data: &Value) -> Volume {
    Volume {
        id: data["id"].as_str().expect("an id").to_owned(),
        size_bytes: data["size_bytes"].as_u64().expect("a size"),
    }
}

fn post(server: &Server, path: &str) -> Answer {
    server.admin().post(path, &json!({})).expect("the admin port answers")
}

fn snapshot(server: &Server, volume: &Volume, name: &str) -> Volume {
    let fields = json!({ "name": name });
    let path = format!("{}/snapshots", path(volume));
    export(&server.admin().post(&path, &fields).expect("the admin port answers").data(201))
}

fn fork(server: &Server, of: &str) -> Volume {
    export(&post(server, &format!("{of}/fork")).data(201))
}

fn read(server: &Server, volume: &Volume, offset: u64, len: u32) -> Vec<u8> {
    server.connect(volume).read(offset, len).expect("a read")
}

/// What another client has: those of before a restore are not let in after it.
fn exported(server: &Server, volume: &Volume) -> Vec<u8> {
    server.cli(["export", &volume.id, "exported.raw"]).ok();
    std::fs::read(server.dir().join("exported.raw")).expect("an image")
}

#[test]
fn snapshot_is_a_read_only_export() {
    if !needs(&["nbdinfo", "qemu-io"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("16M");
    let mut writer = server.connect(&volume);
    writer.write(1 << 20, &[0x51; 1 << 20]).unwrap();
    // Attached and not flushed: what was acknowledged is in it.
    let snapshot = snapshot(&server, &volume, "before");
    writer.write(1 << 20, &[0x52; 1 << 20]).unwrap();

    let info = Program::new("nbdinfo").args(["--json", &server.uri(&snapshot)]).ok().json();
    let shown = &info["exports"][0];
    assert_eq!(shown["is_read_only"], json!(true), "{info:#}");
    assert_eq!(shown["export-size"], json!(16 << 20), "{info:#}");
    assert_eq!(shown["can_multi_conn"], json!(true), "{info:#}");
    for what in ["trim", "zero"] {
        assert_eq!(shown[format!("can_{what}")], json!(false), "can_{what}: {info:#}");
    }
    assert!(
        shown["description"]
            .as_str()
            .is_some_and(|d| d.contains("before") && d.contains(&volume.id))
    );

    let commands = ["read -P 0 0 1M", "read -P 0x51 1M 1M", "read -P 0 2M 14M"];
    let commands = commands.iter().flat_map(|c| ["-c", c]);
    let finished = Program::new("qemu-io")
        .args(["-r", "-f", "raw"])
        .args(commands)
        .arg(server.uri(&snapshot))
        .ok();
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!said.contains("verification failed") && !said.contains("error"), "{finished}");

    let mut reader = server.connect(&snapshot);
    let refused = reader.write(0, &[1; 4096]).unwrap_err();
    assert_eq!(refused.errno(), errno::EPERM);
    assert_eq!(reader.read(1 << 20, 1).unwrap(), [0x51]);
    assert_eq!(read(&server, &volume, 1 << 20, 1), [0x52]);
}

#[test]
fn list_shows_snapshots_behind_the_volumes() {
    let server = Server::start();
    let old = server.volume("4M");
    let mut expected = vec![snapshot(&server, &old, "a").id];
    expected.insert(0, snapshot(&server, &old, "b").id);
    let new = server.volume("4M");
    expected.splice(0..0, [new.id, old.id]);
    let replies = server.handshake().ask(option::LIST, &[]).unwrap();
    let names = replies.iter().filter(|r| r.kind == reply::SERVER).map(|r| {
        let len = u32::from_be_bytes(r.data[..4].try_into().unwrap()) as usize;
        String::from_utf8_lossy(&r.data[4..4 + len]).into_owned()
    });
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

#[test]
fn snapshot_holds_what_was_acknowledged_before_it_was_asked_for() {
    let server = Server::start();
    let volume = server.volume_writeback("16M", true);
    let (stop, issued, acknowledged) =
        (AtomicBool::new(false), [0; 2].map(AtomicU64::new), [0; 2].map(AtomicU64::new));
    thread::scope(|scope| {
        for lane in 0..2 {
            let (stop, issued, acknowledged) = (&stop, &issued[lane], &acknowledged[lane]);
            let mut client = server.connect(&volume);
            scope.spawn(move || {
                let mut number = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    issued.store(number, Ordering::SeqCst);
                    client.write(lane as u64 * BLOCK, &number.to_le_bytes()).unwrap();
                    acknowledged.store(number, Ordering::SeqCst);
                }
            });
        }
        for i in 0..20 {
            thread::sleep(Duration::from_millis(10));
            let before = [0, 1].map(|lane: usize| acknowledged[lane].load(Ordering::SeqCst));
            let snapshot = snapshot(&server, &volume, &i.to_string());
            let after = [0, 1].map(|lane: usize| issued[lane].load(Ordering::SeqCst));
            for lane in 0..2 {
                let bytes = read(&server, &snapshot, lane as u64 * BLOCK, 8);
                let held = u64::from_le_bytes(bytes.try_into().unwrap());
                assert!(
                    (before[lane]..=after[lane]).contains(&held),
                    "{held} in lane {lane} of {before:?}..{after:?}"
                );
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(
        acknowledged.iter().all(|n| n.load(Ordering::SeqCst) > 100),
        "the writers were held up"
    );
}

#[test]
fn restore_waits_for_writers_and_cuts_them_off_by_force() {
    let server = Server::start();
    let volume = server.volume("16M");
    let mut client = server.connect(&volume);
    client.write(0, b"before").unwrap();
    let snapshot = snapshot(&server, &volume, "before");
    client.write(0, b"after!").unwrap();
    let restore = format!("{}/restore", snapshot_path(&volume, &snapshot));
    let answer = post(&server, &restore);
    answer.error(409, "conflict");
    assert_eq!(answer.body["error"]["details"]["active_mounts"], 1, "{answer:?}");
    assert_eq!(client.read(0, 6).unwrap(), b"after!", "nobody was cut off");

    assert_eq!(
        post(&server, &format!("{restore}?force=true")).data(200),
        json!({ "status": "restored" })
    );
    assert!(client.read(0, 6).is_err(), "the client was cut off");
    let refused = server.handshake().ask(option::GO, &go_data(&volume.id)).unwrap();
    assert_eq!(refused[0].kind, reply::ERR_POLICY);
    assert!(refused[0].text().contains("restored"), "{}", refused[0].text());
    assert_eq!(exported(&server, &volume)[..6], *b"before");
    assert_eq!(server.describe(&volume)["state"], "ready");
}

/// It has closed its connection, and the server may have noticed or not.
#[test]
fn client_that_has_just_gone_is_in_nobodys_way() {
    let server = Server::start();
    let volume = server.volume("16M");
    let snapshot = snapshot(&server, &volume, "before");
    let restore = format!("{}/restore", snapshot_path(&volume, &snapshot));
    for round in 0..200 {
        let mut client = server.connect(&volume);
        client.write(0, &[round as u8; 1 << 20]).unwrap();
        drop(client);
        post(&server, &restore).data(200);
        let fork = export(&post(&server, &format!("{}/fork", path(&volume))).data(201));
        let mut client = server.connect(&fork);
        assert_eq!(client.read(0, 4096).unwrap(), [0; 4096]);
        drop(client);
        server.admin().delete(&path(&fork)).unwrap().data(200);
    }
}

#[test]
fn readers_do_not_stand_in_the_way_of_a_restore_and_are_cut_off() {
    let server = Server::start();
    let volume = server.volume("16M");
    server.connect(&volume).write(0, b"before").unwrap();
    let snapshot = snapshot(&server, &volume, "before");
    server.connect(&volume).write(0, b"after!").unwrap();
    detached(&server, &volume);
    server.admin().patch(&path(&volume), &json!({ "access_mode": "ROX" })).unwrap().data(200);
    let (mut reader, mut of_snapshot) = (server.connect(&volume), server.connect(&snapshot));
    assert_eq!(reader.read(0, 6).unwrap(), b"after!");
    post(&server, &format!("{}/restore", snapshot_path(&volume, &snapshot))).data(200);
    assert!(reader.read(0, 6).is_err(), "what it has cached would be wrong");
    assert_eq!(of_snapshot.read(0, 6).unwrap(), b"before", "a snapshot does not change");
    assert_eq!(exported(&server, &volume)[..6], *b"before");
}

/// Waits until nobody is attached any more: connections end a little after they were dropped.
fn detached(server: &Server, volume: &Volume) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.describe(volume)["attachments"] != 0 {
        assert!(Instant::now() < deadline, "a client stays attached");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn snapshot_that_is_read_is_deleted_by_force_only() {
    let server = Server::start();
    let volume = server.volume("16M");
    let snapshot = snapshot(&server, &volume, "read");
    let mut reader = server.connect(&snapshot);
    for path in [snapshot_path(&volume, &snapshot), path(&volume)] {
        let answer = server.admin().delete(&path).unwrap();
        answer.error(409, "conflict");
        assert_eq!(answer.body["error"]["details"]["mounts"][0]["export_name"], json!(snapshot.id));
    }
    assert_eq!(reader.read(0, 4).unwrap(), [0; 4]);
    server.admin().delete(&format!("{}?force=true", path(&volume))).unwrap().data(200);
    assert!(reader.read(0, 4).is_err());
    let refused = server.handshake().go(&snapshot.id);
    assert!(refused.is_err(), "it went with its volume");
}

#[test]
fn everything_is_there_after_a_kill() {
    let mut server = Server::start();
    let volume =
        server.create_volume(&json!({ "name": "base", "size": "16M", "cache_size": "3M" }));
    server.connect(&volume).write(0, b"one").unwrap();
    let first = snapshot(&server, &volume, "first");
    server.connect(&volume).write(0, b"two").unwrap();
    let second = snapshot(&server, &volume, "second");
    let gone = snapshot(&server, &volume, "gone");
    let of_volume = fork(&server, &path(&volume));
    let of_snapshot = fork(&server, &snapshot_path(&volume, &first));
    server.connect(&of_volume).write(0, b"six").unwrap();
    detached(&server, &volume);
    post(&server, &format!("{}/restore", snapshot_path(&volume, &first))).data(200);
    server.admin().delete(&snapshot_path(&volume, &gone)).unwrap().data(200);

    let all = |server: &Server| {
        let get = |path: &str| server.admin().get(path).unwrap().data(200);
        let mut lists =
            [get("/api/v1/sandboxvolumes"), get(&format!("{}/snapshots", path(&volume)))];
        for entry in lists.iter_mut().flat_map(|list| list.as_array_mut().unwrap()) {
            // The port is another one after each start.
            entry.as_object_mut().unwrap().remove("uris");
        }
        lists
    };
    for export in [&of_volume, &of_snapshot] {
        detached(&server, export);
    }
    let before = all(&server);
    assert_eq!(before[1].as_array().unwrap().len(), 2);
    for _ in 0..2 {
        server.kill();
        server.lose_staging();
        server.start_again().unwrap();
        assert_eq!(all(&server), before);
        let expected = [
            (&volume, b"one"),
            (&first, b"one"),
            (&second, b"two"),
            (&of_volume, b"six"),
            (&of_snapshot, b"one"),
        ];
        for (export, bytes) in expected {
            assert_eq!(read(&server, export, 0, 3), bytes, "{export:?}");
        }
        for export in [&volume, &of_volume, &of_snapshot] {
            detached(&server, export);
        }
    }
    assert!(server.handshake().go(&gone.id).is_err());
    // And it goes on: the volume goes first, its forks live.
    server.admin().delete(&path(&volume)).unwrap().data(200);
    server.kill();
    server.start_again().unwrap();
    assert!(server.handshake().go(&second.id).is_err());
    assert_eq!(read(&server, &fork(&server, &path(&of_volume)), 0, 3), b"six");
}

/// The blocks of ranges, given as (offset, length).
fn blocks(ranges: impl IntoIterator<Item = (u64, u64)>) -> BTreeSet<u64> {
    ranges
        .into_iter()
        .flat_map(|(offset, len)| offset / BLOCK..(offset + len).div_ceil(BLOCK))
        .collect()
}

#[track_caller]
fn check_same(found: &BTreeSet<u64>, expected: &BTreeSet<u64>) {
    let wrong: Vec<_> = found.symmetric_difference(expected).collect();
    assert!(wrong.is_empty(), "of {} blocks these are wrong: {wrong:?}", expected.len());
}

fn diff(server: &Server, volume: &Volume, query: &str) -> Vec<(u64, u64, String)> {
    let mut ranges = Vec::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let path = format!("{}/diff?{query}&offset={offset}", path(volume));
        let page = server.admin().get(&path).expect("the admin port answers").data(200);
        for range in page["ranges"].as_array().expect("a list") {
            let number = |field: &str| range[field].as_u64().expect("a number");
            ranges.push((
                number("offset"),
                number("length"),
                range["state"].as_str().expect("a state").to_owned(),
            ));
        }
        offset = page["next_offset"].clone();
    }
    ranges
}

#[test]
fn diff_and_changed_since_agree_with_what_was_written() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let mut random = Random::from_env();
    let server = Server::start();
    let volume = server.volume("256M");
    let mut client = server.connect(&volume);
    client.write(0, &random.bytes(32 << 20)).unwrap();
    // Each time a trim elsewhere: to trim what is trimmed already changes nothing.
    let mut write_some = |written: &mut BTreeSet<u64>, trimmed: u64| {
        for _ in 0..200 {
            let (offset, len) = (random.below(255 << 20), 1 + random.below(64 << 10));
            client.write(offset, &random.bytes(len as usize)).unwrap();
            written.extend(blocks([(offset, len)]));
        }
        client.trim(trimmed, 1 << 20).unwrap();
        written.extend(blocks([(trimmed, 1 << 20)]));
    };
    let first = snapshot(&server, &volume, "first");
    let mut between = BTreeSet::new();
    write_some(&mut between, 3 << 20);
    let second = snapshot(&server, &volume, "second");
    let mut since = BTreeSet::new();
    write_some(&mut since, 9 << 20);
    let both: BTreeSet<u64> = between.union(&since).copied().collect();
    drop(client);

    let check = |of: &Volume, to: &str, from: &Volume, expected: &BTreeSet<u64>| {
        for limit in [65536, 7] {
            let ranges = diff(&server, &volume, &format!("from={}&to={to}&limit={limit}", from.id));
            assert!(
                ranges.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0),
                "in order: {ranges:?}"
            );
            check_same(&blocks(ranges.iter().map(|r| (r.0, r.1))), expected);
            assert!(ranges.iter().any(|r| r.2 == "data") && ranges.iter().any(|r| r.2 == "hole"));
        }
        let context = format!("--map=x-sandstone:changed-since:{}", from.id);
        let map = Program::new("nbdinfo").args(["--json", &context, &server.uri(of)]).ok().json();
        let map = map.as_array().unwrap();
        let number = |entry: &Value, field: &str| entry[field].as_u64().unwrap();
        let changed = map.iter().filter(|entry| number(entry, "type") == 1);
        let changed = changed.map(|entry| (number(entry, "offset"), number(entry, "length")));
        check_same(&blocks(changed), expected);
        let covered: u64 = map.iter().map(|entry| number(entry, "length")).sum();
        assert_eq!(covered, 256 << 20);
    };
    check(&volume, "head", &first, &both);
    check(&volume, "head", &second, &since);
    check(&second, &second.id, &first, &between);

    // What is offered: to the volume all of its snapshots, to a snapshot those before it.
    let contexts = |of: &Volume| {
        let info = Program::new("nbdinfo").args(["--json", &server.uri(of)]).ok().json();
        info["exports"][0]["contexts"].clone()
    };
    let name = |of: &Volume| format!("x-sandstone:changed-since:{}", of.id);
    assert_eq!(contexts(&volume), json!(["base:allocation", name(&second), name(&first)]));
    assert_eq!(contexts(&second), json!(["base:allocation", name(&first)]));
    assert_eq!(contexts(&first), json!(["base:allocation"]));
}

#[test]
fn many_forks_at_once_are_all_there() {
    let server = Arc::new(Server::start());
    let volume = server.volume("16M");
    server.connect(&volume).write(0, b"base").unwrap();
    let threads: Vec<_> = (0..8u8)
        .map(|lane| {
            let (server, of) = (Arc::clone(&server), path(&volume));
            thread::spawn(move || {
                for round in 0..8u8 {
                    let fork = fork(&server, &of);
                    let mut client = server.connect(&fork);
                    assert_eq!(client.read(0, 4).unwrap(), b"base");
                    client.write(0, &[lane, round]).unwrap();
                    assert_eq!(client.read(0, 4).unwrap(), [lane, round, b's', b'e']);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let listed = server.admin().get("/api/v1/sandboxvolumes").unwrap().data(200);
    let exclusive =
        listed.as_array().unwrap().iter().map(|v| v["exclusive_bytes"].as_u64().unwrap());
    // Each fork has its own first block; the source is the only one left with the old one.
    assert_eq!(exclusive.collect::<Vec<_>>(), vec![BLOCK; 65]);
}
