//! What libnbd's `nbdinfo` is told: flags, sizes, contexts, list.

use sandstone_tests::{Program, Random, Server, needs};
use serde_json::{Value, json};

fn nbdinfo<'a>(args: impl IntoIterator<Item = &'a str>) -> Value {
    Program::new("nbdinfo").args(args).ok().json()
}

#[test]
fn info_shows_size_flags_and_contexts() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("64M");
    for uri in [server.uri(&volume), server.tcp_uri(&volume)] {
        let info = nbdinfo(["--json", &uri]);
        assert_eq!(info["protocol"], "newstyle-fixed", "{info:#}");
        assert_eq!(info["structured"], json!(true), "{info:#}");
        assert_eq!(info["TLS"], json!(false), "{info:#}");
        let export = &info["exports"][0];
        assert_eq!(export["export-name"], json!(volume.id), "{info:#}");
        assert_eq!(export["export-size"], json!(64 << 20), "{info:#}");
        assert_eq!(export["is_read_only"], json!(false), "{info:#}");
        assert_eq!(export["is_rotational"], json!(false), "{info:#}");
        let can = ["flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn"];
        for what in can {
            assert_eq!(export[format!("can_{what}")], json!(true), "can_{what}: {info:#}");
        }
        assert_eq!(export["contexts"], json!(["base:allocation"]), "{info:#}");
        assert_eq!(export["block_size_minimum"], json!(1), "{info:#}");
        assert_eq!(export["block_size_preferred"], json!(4096), "{info:#}");
        assert_eq!(export["block_size_maximum"], json!(64 << 20), "{info:#}");
    }
}

#[test]
fn size_is_plain_bytes() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("3G");
    let finished = Program::new("nbdinfo").args(["--size", &server.uri(&volume)]).ok();
    assert_eq!(finished.stdout.trim(), (3u64 << 30).to_string());
}

#[test]
fn named_volume_is_found_by_its_name() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    server.create_volume(&json!({ "name": "builder-cache", "size": "8M" }));
    let uri = format!("nbd+unix:///builder-cache?socket={}", server.socket_path().display());
    let finished = Program::new("nbdinfo").args(["--size", &uri]).ok();
    assert_eq!(finished.stdout.trim(), (8 << 20).to_string());
}

#[test]
fn list_names_every_volume() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    let mut expected: Vec<String> =
        ["4M", "1G", "16T"].iter().map(|s| server.volume(s).id).collect();
    let info = nbdinfo(["--list", "--json", &server.list_uri()]);
    let exports = info["exports"].as_array().expect("a list of exports");
    let mut listed: Vec<String> =
        exports.iter().filter_map(|e| e["export-name"].as_str()).map(str::to_owned).collect();
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected, "{info:#}");
}

#[test]
fn unknown_export_is_refused() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    let uri = format!("nbd+unix:///nobody?socket={}", server.socket_path().display());
    let finished = Program::new("nbdinfo").args(["--json", &uri]).run();
    assert!(!finished.status.success(), "{finished}");
}

#[test]
fn map_shows_data_zeroes_and_holes() {
    if !needs(&["nbdinfo"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    client.write(8 << 20, &Random::new(1).bytes(1 << 20)).unwrap();
    client.write_zeroes(sandstone_tests::raw::flag::NO_HOLE, 16 << 20, 1 << 20).unwrap();
    drop(client);
    let map = nbdinfo(["--map", "--json", &server.uri(&volume)]);
    let row = |offset: u64, length: u64, kind: u64| (json!(offset), json!(length), json!(kind));
    let rows: Vec<_> = map
        .as_array()
        .expect("a list of extents")
        .iter()
        .map(|e| (e["offset"].clone(), e["length"].clone(), e["type"].clone()))
        .collect();
    let mib = 1 << 20;
    let expected = [
        row(0, 8 * mib, 3),
        row(8 * mib, mib, 0),
        row(9 * mib, 7 * mib, 3),
        row(16 * mib, mib, 2),
        row(17 * mib, 47 * mib, 3),
    ];
    assert_eq!(rows, expected, "{map:#}");
}
