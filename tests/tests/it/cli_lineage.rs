//! Snapshots, forks and the tree of both, from the command line.

use sandstone_tests::{Program, Server, Volume, sandstone};
use serde_json::{Value, json};

/// A volume of 8 MiB by that name, with `text` at its beginning.
fn volume_with(server: &Server, name: &str, text: &[u8]) -> Volume {
    let volume = server.create_volume(&json!({ "name": name, "size": "8M" }));
    write(server, &volume, text);
    volume
}

fn write(server: &Server, volume: &Volume, text: &[u8]) {
    let mut client = server.connect(volume);
    client.write(0, text).expect("a write succeeds");
    client.flush().expect("a flush succeeds");
}

fn read(server: &Server, volume: &Volume, len: u32) -> Vec<u8> {
    server.connect(volume).read(0, len).expect("a read succeeds")
}

fn json_of(server: &Server, args: &[&str]) -> Value {
    server.cli(args.iter().copied().chain(["--json"])).ok().json()
}

/// The volume of a `--json` answer.
fn as_volume(answer: &Value) -> Volume {
    Volume {
        id: answer["id"].as_str().expect("a volume has an id").to_owned(),
        size_bytes: answer["size_bytes"].as_u64().expect("a volume has a size"),
    }
}

#[test]
fn snapshot_is_taken_listed_shown_and_deleted() {
    let server = Server::start();
    volume_with(&server, "disk", b"one");
    let first = json_of(
        &server,
        &["snapshot", "create", "disk", "--name", "first", "--description", "a try"],
    );
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        (&first["name"], &first["description"]),
        (&json!("first"), &json!("a try")),
        "{first:#}"
    );
    server.cli(["snapshot", "create", "disk", "--name", "second"]).ok();

    let listed = json_of(&server, &["snapshot", "list", "disk"]);
    let names: Vec<&Value> =
        listed.as_array().unwrap().iter().map(|snapshot| &snapshot["name"]).collect();
    assert_eq!(names, ["second", "first"]);
    let table = server.cli(["snapshot", "list", "disk"]).ok().stdout;
    assert!(table.contains("NAME") && table.contains(id) && table.contains("a try"), "{table}");
    for key in ["first", id] {
        assert_eq!(json_of(&server, &["snapshot", "get", "disk", key])["id"], json!(id));
        assert!(server.cli(["snapshot", "get", "disk", key]).ok().stdout.contains("a try"));
    }
    server.cli(["snapshot", "delete", "disk", "first"]).ok();
    server.cli(["snapshot", "delete", "disk", "second"]).ok();
    assert_eq!(json_of(&server, &["snapshot", "list", "disk"]), json!([]));
}

#[test]
fn snapshot_is_named_in_errors_and_must_be_unique_by_name() {
    let server = Server::start();
    volume_with(&server, "disk", b"one");
    for _ in 0..2 {
        server.cli(["snapshot", "create", "disk", "--name", "twin"]).ok();
    }
    let id = uuid::Uuid::new_v4().to_string();
    let cases: [(&[&str], &str); 7] = [
        (&["snapshot", "create", "nobody", "--name", "x"], "nobody"),
        (&["snapshot", "get", "disk", "absent"], "absent"),
        (&["snapshot", "delete", "disk", &id], &id),
        (&["snapshot", "restore", "disk", "absent"], "snapshot list disk"),
        (&["snapshot", "get", "disk", "twin"], "by its id"),
        (&["fork", "nobody"], "nobody"),
        (&["fork", "disk", "--snapshot", "absent"], "absent"),
    ];
    for (args, word) in cases {
        let finished = server.cli(args.iter().copied()).run();
        assert!(finished.failed_with_a_sentence().contains(word), "{word} is not in {finished}");
    }
}

#[test]
fn restore_goes_back_and_asks_for_force_while_somebody_writes() {
    let server = Server::start();
    let volume = volume_with(&server, "disk", b"before");
    server.cli(["snapshot", "create", "disk", "--name", "good"]).ok();
    let mut client = server.connect(&volume);
    client.write(0, b"after!").unwrap();

    let refused = server.cli(["snapshot", "restore", "disk", "good"]).run();
    let said = refused.failed_with_a_sentence();
    let holder = format!("process {}", std::process::id());
    assert!(said.contains(&holder) && said.contains("--force"), "{refused}");
    assert_eq!(client.read(0, 6).unwrap(), b"after!");

    server.cli(["snapshot", "restore", "disk", "good", "--force"]).ok();
    assert!(client.stream.read_to_close().unwrap().is_empty(), "the client was not cut off");
    // By another process: this one is the client of before.
    server.cli(["export", "disk", "restored.raw"]).ok();
    assert_eq!(std::fs::read(server.dir().join("restored.raw")).unwrap()[..6], *b"before");
}

#[test]
fn fork_copies_what_a_volume_holds_or_what_its_snapshot_held() {
    let server = Server::start();
    let source = volume_with(&server, "disk", b"one");
    server.cli(["snapshot", "create", "disk", "--name", "first"]).ok();
    write(&server, &source, b"two");
    let head = json_of(
        &server,
        &["fork", "disk", "--name", "head", "--size", "16M", "--access-mode", "rwx"],
    );
    let old = json_of(&server, &["fork", "disk", "--snapshot", "first"]);
    assert_eq!(
        (&head["name"], &head["size_bytes"]),
        (&json!("head"), &json!(16 << 20)),
        "{head:#}"
    );
    assert_eq!(
        (&head["access_mode"], &head["source_volume_id"]),
        (&json!("RWX"), &json!(source.id))
    );
    assert_eq!(read(&server, &as_volume(&head), 3), b"two");
    assert_eq!(read(&server, &as_volume(&old), 3), b"one");
    assert!(server.cli(["volume", "get", "head"]).ok().stdout.contains(&source.id));
}

#[test]
fn tree_shows_who_came_from_where_also_when_the_source_is_gone() {
    let server = Server::start();
    volume_with(&server, "base", b"one");
    server.cli(["snapshot", "create", "base", "--name", "clean"]).ok();
    server.cli(["fork", "base", "--snapshot", "clean", "--name", "agent"]).ok();
    server.cli(["fork", "base", "--name", "scratch"]).ok();
    server.cli(["snapshot", "create", "base", "--name", "upgraded"]).ok();
    let drawn = server.cli(["tree"]).ok().stdout;
    let order = ["base", "├─ snapshot clean", "│  └─ agent", "├─ snapshot upgraded", "└─ scratch"];
    let lines: Vec<&str> = drawn.lines().skip(1).collect();
    assert_eq!(lines.len(), order.len(), "{drawn}");
    for (line, expected) in lines.iter().zip(order) {
        assert!(line.starts_with(expected), "{expected:?} is not in its place in\n{drawn}");
    }
    assert!(lines[0].contains("4K"), "no used bytes in\n{drawn}");

    let roots = json_of(&server, &["tree"]);
    assert_eq!(roots[0]["snapshots"][0]["forks"][0]["name"], "agent", "{roots:#}");
    assert_eq!(roots[0]["forks"][0]["name"], "scratch", "{roots:#}");

    server.cli(["volume", "delete", "base"]).ok();
    let drawn = server.cli(["tree"]).ok().stdout;
    for orphan in ["agent (source deleted)", "scratch (source deleted)"] {
        assert!(drawn.lines().any(|line| line.starts_with(orphan)), "{orphan} is not in\n{drawn}");
    }
}

#[test]
fn help_names_every_command_of_lineage() {
    let help = Program::new(sandstone()).arg("--help").ok().stdout;
    for command in ["snapshot", "fork", "tree", "reclaim"] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(command)),
            "{command} is not in\n{help}"
        );
    }
    let help = Program::new(sandstone()).args(["snapshot", "--help"]).ok().stdout;
    for command in ["create", "list", "get", "delete", "restore"] {
        assert!(help.contains(command), "{command} is not in\n{help}");
    }
}
