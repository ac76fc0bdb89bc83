//! The command line, as a person and as a program use it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sandstone_tests::{Image, Program, Random, Server, Tree, needs, sandstone};
use serde_json::{Value, json};

/// The one volume's object of a `--json` answer.
fn created(server: &Server, args: &[&str]) -> Value {
    let args = ["volume", "create", "--json"].iter().chain(args).copied();
    let volume = server.cli(args).ok().json();
    assert!(volume["id"].is_string(), "{volume:#}");
    volume
}

#[test]
fn volume_is_created_listed_shown_resized_and_deleted() {
    let server = Server::start();
    let volume =
        created(&server, &["--name", "web", "--size", "64M", "--writeback", "--prefetch", "2"]);
    let id = volume["id"].as_str().unwrap();
    assert_eq!(volume["name"], "web");
    assert_eq!(volume["size_bytes"], 64 << 20);
    assert_eq!(volume["writeback"], true);
    assert_eq!(volume["prefetch"], 2);

    let listed = server.cli(["volume", "list", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed:#}");
    assert_eq!(listed[0]["id"], json!(id));
    let table = server.cli(["volume", "list"]).ok().stdout;
    assert!(table.contains("web") && table.contains(id), "{table}");

    for key in [id, "web"] {
        assert_eq!(server.cli(["volume", "get", key, "--json"]).ok().json()["id"], json!(id));
        assert!(server.cli(["volume", "get", key]).ok().stdout.contains(id));
    }
    let resized = server.cli(["volume", "resize", "web", "128M", "--json"]).ok().json();
    assert_eq!(resized["size_bytes"], 128 << 20, "{resized:#}");
    server.cli(["volume", "delete", "web"]).ok();
    assert_eq!(server.cli(["volume", "list", "--json"]).ok().json(), json!([]));
}

#[test]
fn id_may_be_chosen() {
    let server = Server::start();
    let id = uuid::Uuid::new_v4().to_string();
    assert_eq!(created(&server, &["--id", &id])["id"], json!(id));
    let again = server.cli(["volume", "create", "--id", &id]).run();
    assert!(again.failed_with_a_sentence().contains(&id), "{again}");
}

#[test]
fn errors_are_sentences_that_say_what_is_wrong() {
    let server = Server::start();
    let cases: [(&[&str], &str); 5] = [
        (&["volume", "get", "nobody"], "nobody"),
        (&["volume", "delete", "nobody"], "nobody"),
        (&["volume", "resize", "nobody", "1G"], "nobody"),
        (&["volume", "create", "--size", "many"], "many"),
        (&["export", "nobody", "out.img"], "nobody"),
    ];
    for (args, word) in cases {
        let finished = server.cli(args.iter().copied()).run();
        assert!(finished.failed_with_a_sentence().contains(word), "{finished}");
    }
    let volume = created(&server, &["--size", "64M"]);
    let shrink = server.cli(["volume", "resize", volume["id"].as_str().unwrap(), "1M"]).run();
    shrink.failed_with_a_sentence();
}

#[test]
fn stopped_server_is_named_in_the_error() {
    let mut server = Server::start();
    let socket = server.dir().join("admin.sock").display().to_string();
    assert!(server.stop().success());
    let finished = server.cli(["volume", "list"]).run();
    assert!(finished.failed_with_a_sentence().contains(&socket), "{finished}");
}

#[test]
fn attached_volume_is_deleted_only_by_force() {
    let server = Server::start();
    let volume = server.volume("8M");
    let mut client = server.connect(&volume);
    client.write(0, b"attached").unwrap();
    server.cli(["volume", "delete", &volume.id]).run().failed_with_a_sentence();
    assert_eq!(client.read(0, 8).unwrap(), b"attached");
    server.cli(["volume", "delete", &volume.id, "--force"]).ok();
    assert!(client.stream.read_to_close().unwrap().is_empty(), "the client was not cut off");
}

#[test]
fn raw_image_is_imported_and_exported_sparse() {
    let server = Server::start();
    let image = server.scratch("in.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(96 << 20).unwrap();
    let data = Random::new(3).bytes(5_000_000);
    std::os::unix::fs::FileExt::write_all_at(&file, &data, 17 << 20).unwrap();
    let [image, out] = [image, server.scratch("out.img")].map(|p| p.to_str().unwrap().to_owned());

    let volume = created(&server, &["--name", "golden", "--size", "96M"]);
    server.cli(["import", &image, "golden"]).ok();
    let used = server.cli(["volume", "get", "golden", "--json"]).ok().json()["used_bytes"]
        .as_u64()
        .unwrap();
    assert!(used < 8 << 20, "{used} bytes used by 5 MB of data: the import was not sparse");
    fs::remove_file(&out).unwrap();
    server.cli(["export", volume["id"].as_str().unwrap(), &out]).ok();
    assert!(fs::read(&image).unwrap() == fs::read(&out).unwrap(), "the exported image differs");
    let allocated = fs::metadata(&out).unwrap().blocks() * 512;
    assert!(allocated < 8 << 20, "{allocated} bytes allocated: the export was not sparse");
}

#[test]
fn qcow2_image_is_imported_and_exported() {
    if !needs(&["qemu-img", "mke2fs"]) {
        return;
    }
    let server = Server::start();
    let image = Image::ext4(&Tree::generate(400), 64);
    let raw = image.path().to_str().unwrap();
    let [qcow2, back] =
        ["in.qcow2", "out.qcow2"].map(|n| server.dir().join(n).to_str().unwrap().to_owned());
    Program::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", raw, &qcow2]).ok();
    created(&server, &["--name", "golden", "--size", "64M"]);
    server.cli(["import", &qcow2, "golden"]).ok();
    server.cli(["export", "golden", &back]).ok();
    Program::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2", raw, &back]).ok();
}

#[test]
fn image_larger_than_the_volume_is_refused_before_anything_is_written() {
    let server = Server::start();
    let image = server.scratch("in.img");
    fs::write(&image, Random::new(3).bytes(2 << 20)).unwrap();
    created(&server, &["--name", "small", "--size", "1M"]);
    server.cli(["import", image.to_str().unwrap(), "small"]).run().failed_with_a_sentence();
    let volume = server.cli(["volume", "get", "small", "--json"]).ok().json();
    assert_eq!(volume["used_bytes"], 0, "{volume:#}");
}

#[test]
fn interrupted_import_leaves_nothing_under_the_name() {
    let server = Server::start();
    let path = server.scratch("large.raw");
    fs::write(&path, vec![0x5a; 512 << 20]).unwrap();
    let listed = || server.cli(["volume", "list", "--json"]).ok().json();
    let import = server.cli(["import", "large.raw", "base"]).spawn();
    while listed().as_array().is_some_and(Vec::is_empty) {}
    import.kill();
    assert_eq!(listed()[0]["name"], "base.partial");
    server.cli(["import", "large.raw", "base"]).ok();
    assert!(server.cli(["volume", "get", "base"]).ok().stdout.contains("512M"));
}

#[test]
fn good_configuration_is_accepted() {
    let server = Server::start();
    server.cli(["check-config"]).ok();
}

#[test]
fn every_mistake_in_a_configuration_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sandstone.toml");
    let text = "colour = \"red\"\n[store]\nsize = \"many\"\nio = \"magic\"\n[nbd]\nworkers = -3\n";
    fs::write(&path, text).unwrap();
    for command in ["check-config", "serve"] {
        let finished =
            Program::new(sandstone()).arg(command).arg("--config").arg(&path).dir(dir.path()).run();
        let said = finished.failed_with_a_sentence();
        for word in ["colour", "store.size", "many", "store.io", "magic", "workers", "-3"] {
            assert!(said.contains(word), "{word} is not named: {finished}");
        }
    }
}

#[test]
fn missing_configuration_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.toml");
    let finished = Program::new(sandstone()).arg("check-config").arg("--config").arg(&path).run();
    assert!(finished.failed_with_a_sentence().contains("absent.toml"), "{finished}");
}

#[test]
fn listening_for_everyone_needs_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sandstone.toml");
    fs::write(&path, "[nbd]\nlisten = [\"0.0.0.0:10809\"]\n").unwrap();
    let finished = Program::new(sandstone())
        .arg("check-config")
        .arg("--config")
        .arg(&path)
        .dir(dir.path())
        .run();
    assert!(finished.failed_with_a_sentence().contains("0.0.0.0:10809"), "{finished}");
}

#[test]
fn version_is_printed() {
    let version = Program::new(sandstone()).arg("version").ok().stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let version = Program::new(sandstone()).args(["version", "--json"]).ok().json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version:#}");
}

#[test]
fn help_names_every_command() {
    let help = Program::new(sandstone()).arg("--help").ok().stdout;
    for command in ["serve", "check-config", "volume", "import", "export", "version"] {
        assert!(help.contains(command), "{command} is not in\n{help}");
    }
}

#[test]
fn token_is_private_and_never_logged() {
    let server = Server::start();
    server.cli(["volume", "list"]).ok();
    let path = server.token_path();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(path).unwrap();
    assert!(token.trim().len() >= 32, "a token of {} characters", token.trim().len());
    assert!(!server.log().contains(token.trim()), "the token is in the log");
}

#[test]
fn start_says_where_it_serves_and_how_to_attach() {
    let server = Server::start();
    let log = server.log();
    let [nbd, admin] = [server.nbd_address().to_string(), server.admin_url()];
    for word in
        [nbd.as_str(), admin.trim_start_matches("http://"), "volume create", "nbd-client", "qemu"]
    {
        assert!(log.contains(word), "{word} is not in\n{log}");
    }
}
