use super::*;
use crate::{IoEngine, LogFormat, LogLevel};

/// Each expected text must stand in the problem of its number, and there are no further ones.
fn check(text: &str, expected: &[&[&str]]) {
    let problems = match Config::parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.list,
    };
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), expected.len(), "{text}\n{shown:#?}");
    for (line, parts) in shown.iter().zip(expected) {
        for part in *parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
}

#[test]
fn no_file_gives_the_documented_defaults() {
    let config = Config::default();
    assert_eq!(config.data_dir, Path::new("sandstone-data"));
    assert_eq!(config.store.path, Path::new("sandstone-data/store"));
    assert_eq!(config.store.size_bytes, 64 << 30);
    assert_eq!(config.store.io, IoEngine::Auto);
    assert_eq!(config.store.staging, Path::new("/dev/shm"));
    assert_eq!(config.store.reclaim_rate, 256 << 20);
    assert_eq!(config.store.scrub_rate, 16 << 20);
    assert_eq!(config.nbd.listen, ["127.0.0.1:10809".parse().unwrap()]);
    assert_eq!(config.nbd.unix.as_deref(), Some(Path::new("sandstone-data/nbd.sock")));
    assert_eq!(config.nbd.workers as usize, std::thread::available_parallelism().unwrap().get());
    assert_eq!((config.nbd.connections_max, config.nbd.stall_secs), (4096, 30));
    assert!((128 << 20..=512 << 20).contains(&config.nbd.in_flight_bytes));
    assert_eq!(config.attach.grace_secs, 60);
    assert_eq!(config.admin.listen, "127.0.0.1:8810".parse().unwrap());
    assert_eq!(config.admin.unix.as_deref(), Some(Path::new("sandstone-data/admin.sock")));
    assert_eq!((config.nbd.unix_mode, config.admin.unix_mode), (0o600, 0o600));
    assert_eq!(config.cache.memory_bytes, 1 << 30);
    assert_eq!(config.cache.metadata_bytes, 256 << 20);
    assert_eq!(config.defaults.volume_size_bytes, 64 << 30);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Text, LogLevel::Info));
    assert_eq!(Config::parse("").unwrap(), config);
}

#[test]
fn every_key_is_taken() {
    let config = Config::parse(
        r#"
        data_dir = "/srv/sandstone"
        [store]
        path = "/dev/vdb"
        size = "1TiB"
        io = "uring"
        staging = "<data_dir>/staging"
        [nbd]
        listen = ["127.0.0.1:1", "[::1]:2"]
        unix = ""
        workers = 2
        in_flight = "128M"
        connections_max = 10
        stall = 3600
        [attach]
        grace = 86400
        [admin]
        listen = "0.0.0.0:80"
        [cache]
        memory = 1073741824
        metadata = "16M"
        [defaults]
        volume_size = "1m"
        [log]
        format = "json"
        level = "debug"
        "#,
    )
    .unwrap();
    assert_eq!(config.store.path, Path::new("/dev/vdb"));
    assert_eq!(config.store.size_bytes, 1 << 40);
    assert_eq!(config.store.io, IoEngine::Uring);
    assert_eq!(config.store.staging, Path::new("/srv/sandstone/staging"));
    assert_eq!(config.nbd.listen.len(), 2);
    assert_eq!(config.nbd.unix, None);
    assert_eq!(config.nbd.workers, 2);
    let nbd = &config.nbd;
    assert_eq!((nbd.in_flight_bytes, nbd.connections_max, nbd.stall_secs), (128 << 20, 10, 3600));
    assert_eq!(config.attach.grace_secs, 86_400);
    assert_eq!(config.cache.memory_bytes, 1 << 30);
    assert_eq!(config.cache.metadata_bytes, 16 << 20);
    assert_eq!(config.defaults.volume_size_bytes, 1 << 20);
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Debug));
    assert_eq!(config.warnings().len(), 1, "the token crosses the network");
}

#[test]
fn mistakes_are_told_all_at_once_in_the_order_of_the_file() {
    check(
        "data_dri = \"x\"\n[store]\nsize = \"64Q\"\nio = \"fast\"\n[nbd]\nworkers = 0\n[log]\nlevel = 3\n",
        &[
            &["line 1: data_dri: no such key", "data_dir?"],
            &["line 3: store.size = \"64Q\": must be a size from 512M to 1024T"],
            &["line 4: store.io = \"fast\": must be \"auto\" or \"uring\" or \"threads\""],
            &["line 6: nbd.workers = 0: must be a whole number from 1 to 1024"],
            &["line 8: log.level = 3", "\"trace\""],
        ],
    );
}

#[test]
fn unknown_keys_and_sections_are_refused_with_the_nearest_known() {
    check("[store]\nsise = 1", &[&["line 2: store.sise", "did you mean store.size?"]]);
    check("[cache]\nsize = 1", &[&["cache.size", "did you mean store.size?"]]);
    check("[nothing]\nat = \"all\"", &[&["line 1: nothing: no such key", "data_dir, store.path"]]);
    check("store = 5", &[&["store = 5", "write [store]"]]);
    check("[data_dir]\nx = 1", &[&["data_dir", "must be a path"]]);
}

#[test]
fn values_outside_their_range_name_key_value_and_range() {
    check("[store]\nsize = \"511M\"", &[&["store.size = \"511M\"", "from 512M to 1024T"]]);
    check("[store]\nsize = -1", &[&["store.size = -1", "from 512M"]]);
    check(
        "[cache]\nmemory = \"1M\"\nmetadata = 1.5",
        &[&["cache.memory"], &["cache.metadata = 1.5"]],
    );
    check(
        "[defaults]\nvolume_size = \"17T\"",
        &[&["defaults.volume_size", "a size from 1 to 16T"]],
    );
    check("[nbd]\nworkers = 1025", &[&["nbd.workers = 1025"]]);
    check(
        "[nbd]\nin_flight = \"127M\"",
        &[&["nbd.in_flight = \"127M\"", "a size from 128M to 64G"]],
    );
    check(
        "[nbd]\nconnections_max = 0\nstall = 0",
        &[&["nbd.connections_max = 0"], &["nbd.stall = 0", "1 to 3600"]],
    );
    check("[attach]\ngrace = 0", &[&["attach.grace = 0", "a whole number from 1 to 86400"]]);
    check("[nbd]\nworkers = \"2\"", &[&["nbd.workers = \"2\"", "whole number"]]);
    check("[nbd]\nlisten = \"127.0.0.1:1\"", &[&["nbd.listen", "a list of"]]);
    check("[admin]\nlisten = \"localhost:8810\"", &[&["admin.listen", "IP:port"]]);
    check("data_dir = \"\"", &[&["data_dir = \"\"", "a path"]]);
}

#[test]
fn nbd_beyond_loopback_is_refused_with_the_reason() {
    for address in ["0.0.0.0:10809", "10.0.0.1:10809", "[::]:10809", "[::ffff:10.0.0.1]:10809"] {
        check(
            &format!("[nbd]\nlisten = [\"{address}\"]"),
            &[&[address, "neither TLS nor", "tunnel"]],
        );
    }
    for address in ["127.0.0.1:0", "127.1.2.3:10809", "[::1]:10809", "[::ffff:127.0.0.1]:1"] {
        check(&format!("[nbd]\nlisten = [\"{address}\"]"), &[]);
    }
}

#[test]
fn nbd_needs_a_place_to_connect_to() {
    check("[nbd]\nlisten = []", &[]);
    check("[nbd]\nlisten = []\nunix = \"\"", &[&["nbd.listen = []", "nowhere to connect"]]);
}

#[test]
fn a_socket_path_too_long_for_the_kernel_is_refused() {
    let nbd_alone = "[admin]\nunix = \"\"";
    check(&format!("data_dir = \"/{}\"\n{nbd_alone}", "d".repeat(97)), &[]);
    let too_long = format!("data_dir = \"/{}\"\n{nbd_alone}", "d".repeat(98));
    check(&too_long, &[&["nbd.unix", "has 108 bytes", "at most 107"]]);
    check(&format!("data_dir = \"/{}\"", "d".repeat(95)), &[]);
    check(
        &format!("data_dir = \"/{}\"", "d".repeat(96)),
        &[&["admin.unix", "has 108 bytes", "at most 107"]],
    );
}

#[test]
fn what_is_no_toml_names_its_line() {
    check("data_dir = \"x\"\n[store\n", &[&["line 2: not TOML"]]);
    check("data_dir = \"a\"\ndata_dir = \"b\"", &[&["line 2: not TOML", "duplicate"]]);
}

#[test]
fn a_named_file_must_be_there_and_places_its_relative_paths() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.toml");
    let problems = Config::load(Some(&file)).unwrap_err().to_string();
    assert!(problems.contains("own.toml") && problems.contains("cannot be read"), "{problems}");

    std::fs::write(&file, "data_dir = \"data\"\n[store]\npath = \"blocks\"\n").unwrap();
    let config = Config::load(Some(&file)).unwrap();
    assert_eq!(config.file.as_deref(), Some(file.as_path()));
    assert_eq!(config.data_dir, directory.path().join("data"));
    assert_eq!(config.store.path, directory.path().join("blocks"));
    assert_eq!(config.token_path(), directory.path().join("data/admin.token"));

    std::fs::write(&file, "x = 1\ny = 2\n").unwrap();
    let problems = Config::load(Some(&file)).unwrap_err().to_string();
    assert_eq!(
        problems.lines().filter(|line| line.contains("own.toml: line")).count(),
        2,
        "{problems}"
    );
}

#[test]
fn modes_are_octal_digits() {
    let config =
        Config::parse("[nbd]\nunix_mode = \"0660\"\n[admin]\nunix_mode = \"777\"").unwrap();
    assert_eq!((config.nbd.unix_mode, config.admin.unix_mode), (0o660, 0o777));
    for value in ["\"0800\"", "\"1777\"", "\"60\"", "\"00600\"", "\"+600\"", "600", "\"rw-\""] {
        check(
            &format!("[nbd]\nunix_mode = {value}"),
            &[&["nbd.unix_mode", "from \"0000\" to \"0777\""]],
        );
    }
}

#[test]
fn two_sockets_are_not_in_one_place() {
    check("[nbd]\nunix = \"a\"\n[admin]\nunix = \"a\"", &[&["admin.unix", "nbd.unix too"]]);
    check("[nbd]\nunix = \"\"\n[admin]\nunix = \"\"", &[]);
}

/// With the place of each mistake counted from the file's beginning it takes minutes.
#[test]
fn as_many_mistakes_as_fit_into_a_file_are_told_at_once() {
    let mut text = String::from("[store]\n");
    for i in 0.. {
        text.push_str(&format!("k{i}=1\n"));
        if text.len() > 1_000_000 {
            break;
        }
    }
    let began = std::time::Instant::now();
    let problems = Config::parse(&text).unwrap_err();
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(problems.list.len(), PROBLEMS_MAX + 1);
    assert!(problems.list[0].to_string().starts_with("line 2: "), "{}", problems.list[0]);
    assert!(problems.list[PROBLEMS_MAX].reason.contains("more mistakes"));
    let long = format!("{} = 1", "k".repeat(1_000_000));
    assert_eq!(Config::parse(&long).unwrap_err().list.len(), 1);
}

#[test]
fn a_file_that_is_too_long_is_not_read_to_its_end() {
    let problems = Config::load(Some(Path::new("/dev/zero"))).unwrap_err().to_string();
    assert!(problems.contains("more than 1048576 bytes"), "{problems}");
}
