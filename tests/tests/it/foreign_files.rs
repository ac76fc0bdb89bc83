//! Files that others have put where the server and the command line look for their own, and those
//! that nobody needs any more.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sandstone_tests::{Home, Program, sandstone, skip};

/// Somebody else, whom root can give files to.
const OTHER_USER: u32 = 65_432;

fn make_pipe(path: &Path) {
    Program::new("mkfifo").arg(path).ok();
}

/// A home whose server was killed while it had something staged, and its staging file.
fn killed() -> (Home, PathBuf) {
    let home = Home::new();
    let mut process = home.start("");
    home.cli(["volume", "create", "--name", "disk", "--size", "1G"]).ok();
    process.kill();
    let [staging] = &home.staging_files()[..] else {
        panic!("not one: {:?}", home.staging_files())
    };
    (home, staging.clone())
}

fn starts_and_says(home: &Home, words: &str) {
    let mut process = home.start("");
    home.cli(["volume", "get", "disk"]).ok();
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let said = process.said();
    assert!(said.contains(words), "{words:?} is not in {said}");
}

#[test]
fn a_pipe_holds_no_start_up() {
    for (name, word) in
        [("store", "neither a file"), ("mounts.json", "a pipe"), ("admin.token", "a pipe")]
    {
        let home = Home::new();
        fs::create_dir(home.data()).unwrap();
        make_pipe(&home.data().join(name));
        let began = Instant::now();
        let told = home.spawn("").failure();
        assert!(told.contains(name) && told.contains(word), "{name}: {told}");
        assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
    }
    let (home, staging) = killed();
    fs::remove_file(&staging).unwrap();
    make_pipe(&staging);
    starts_and_says(&home, "is not this server's");
}

#[test]
fn a_link_at_the_place_of_the_staging_file_is_not_followed() {
    let (home, staging) = killed();
    let mine = home.dir().join("mine");
    // As long as what the server would write, or empty: neither is touched.
    for len in [0, fs::metadata(&staging).unwrap().len()] {
        fs::File::create(&mine).unwrap().set_len(len).unwrap();
        fs::remove_file(&staging).unwrap();
        symlink(&mine, &staging).unwrap();
        let before = fs::metadata(&mine).unwrap();
        starts_and_says(&home, "is not this server's");
        let after = fs::metadata(&mine).unwrap();
        assert_eq!(
            (before.len(), before.modified().unwrap()),
            (after.len(), after.modified().unwrap())
        );
        assert!(fs::read(&mine).unwrap().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_staging_file_that_others_may_open_is_not_used() {
    let (home, staging) = killed();
    fs::set_permissions(&staging, Permissions::from_mode(0o666)).unwrap();
    let mut process = home.start("");
    // Cutting it off ends no mapping.
    fs::OpenOptions::new().write(true).open(&staging).unwrap().set_len(0).unwrap();
    home.cli(["volume", "create", "--name", "second", "--size", "1G"]).ok();
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(process.said().contains("others may open it (mode 666)"), "{}", process.said());
    assert_eq!(fs::metadata(&staging).unwrap().len(), 0, "it is left as it is");

    if chown(&staging, Some(OTHER_USER), None).is_err() {
        return skip("only root can give a file to somebody else");
    }
    fs::set_permissions(&staging, Permissions::from_mode(0o600)).unwrap();
    starts_and_says(&home, "belongs to user 65432");
}

#[test]
fn a_clean_stop_leaves_no_staging_file() {
    let (home, _) = killed();
    let mut process = home.start("");
    assert_eq!(home.staging_files().len(), 1);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert_eq!(home.staging_files(), [] as [PathBuf; 0]);
}

#[test]
fn a_start_removes_the_staging_files_of_stores_that_are_gone_alone() {
    let (gone, orphan) = killed();
    let (crashed, kept) = killed();
    let living = Home::new();
    let _living = living.start("");
    let [used] = &living.staging_files()[..] else { panic!("not one") };
    // All in one directory, as in /dev/shm.
    let shared = Home::new();
    let moved = |from: &Path| {
        let to = shared.staging().join(from.file_name().unwrap());
        fs::rename(from, &to).unwrap();
        to
    };
    let (orphan, kept, used) = (moved(&orphan), moved(&kept), moved(used));
    fs::remove_dir_all(gone.data()).unwrap();
    fs::remove_dir_all(living.data()).unwrap();
    let mut process = shared.start("");
    assert!(!orphan.exists(), "its store is gone");
    assert!(kept.exists(), "its store is there, to be recovered");
    assert!(used.exists(), "a server has it");
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert!(process.said().contains("whose store is gone was removed"), "{}", process.said());

    fs::rename(&kept, crashed.staging().join(kept.file_name().unwrap())).unwrap();
    let _recovered = crashed.start("");
    crashed.cli(["volume", "get", "disk"]).ok();
}

#[test]
fn a_configuration_of_somebody_else_gets_no_token() {
    let home = Home::new();
    let _process = home.start("");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "data_dir = {:?}\n[admin]\nunix = \"\"\nlisten = \"{}\"\n",
        home.data(),
        listener.local_addr().unwrap()
    );
    let trap = home.dir().join("trap");
    fs::create_dir(&trap).unwrap();
    let planted = trap.join("sandstone.toml");
    fs::write(&planted, text).unwrap();
    fs::set_permissions(&planted, Permissions::from_mode(0o666)).unwrap();
    let list = || {
        Program::new(sandstone()).args(["volume", "list"]).dir(&trap).limit(Duration::from_secs(30))
    };
    let told = list().run().failed_with_a_sentence().to_owned();
    assert!(told.contains("can be written by others") && told.contains("--config"), "{told}");

    fs::set_permissions(&planted, Permissions::from_mode(0o644)).unwrap();
    if chown(&planted, Some(OTHER_USER), None).is_ok() {
        let told = list().run().failed_with_a_sentence().to_owned();
        assert!(told.contains("belongs to user 65432"), "{told}");
    }
    listener.set_nonblocking(true).unwrap();
    let came = listener.accept().map(|(mut stream, _)| {
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    });
    assert!(came.is_err(), "{came:?}");
}

#[test]
fn a_data_directory_of_somebody_else_is_not_relied_on() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("admin.token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::set_permissions(home.data().join("admin.token"), Permissions::from_mode(0o606)).unwrap();
    let told = home.spawn("").failure();
    assert!(told.contains("admin.token") && told.contains("written by others"), "{told}");

    if chown(home.data(), Some(OTHER_USER), None).is_err() {
        return skip("only root can give a directory to somebody else");
    }
    let told = home.spawn("").failure();
    assert!(told.contains("belongs to user 65432"), "{told}");
    let told = home.cli(["volume", "list"]).run().failed_with_a_sentence().to_owned();
    assert!(told.contains("belongs to user 65432"), "{told}");
}

#[test]
fn the_command_line_speaks_over_the_unix_socket() {
    let home = Home::new();
    home.configure("", "unix_mode = \"0600\"");
    let _process = home.start("");
    // Nobody listens on the port that the commands are told.
    let text = fs::read_to_string(home.config()).unwrap();
    let elsewhere: Vec<String> = text
        .lines()
        .map(|line| {
            if line.starts_with("listen = \"") {
                "listen = \"127.0.0.1:9\"".into()
            } else {
                line.into()
            }
        })
        .collect();
    fs::write(home.config(), elsewhere.join("\n")).unwrap();
    home.cli(["volume", "create", "--name", "disk", "--size", "1G"]).ok();
    let socket = format!("unix:{}", home.data().join("admin.sock").display());
    home.cli(["volume", "list", "--admin", &socket]).ok();
    let told = home
        .cli(["volume", "list", "--admin", "http://127.0.0.1:9"])
        .run()
        .failed_with_a_sentence()
        .to_owned();
    assert!(told.contains("127.0.0.1:9") && told.contains("refused"), "{told}");
}
