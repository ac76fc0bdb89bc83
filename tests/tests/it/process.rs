//! The server as a process: who reads its lines, which signals it gets, what its host allows it.

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use sandstone_tests::raw::{Handshake, go_data, option};
use sandstone_tests::{Home, Process};

/// Sends a signal by its name or number, as the shell knows it.
fn send(process: &Process, signal: impl Display) {
    let mut kill = std::process::Command::new("bash");
    let sent = kill.args(["-c", &format!("kill -{signal} {}", process.pid())]).status();
    assert!(sent.expect("bash runs").success());
}

/// Has the server log `count` lines: one for each request, over one connection.
fn have_logged(home: &Home, count: usize) {
    let token =
        fs::read_to_string(home.data().join("admin.token")).expect("the server writes its token");
    let mut stream =
        UnixStream::connect(home.data().join("admin.sock")).expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket takes a time limit");
    let request = format!(
        "GET /api/v1/sandboxvolumes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    let mut buffer = [0; 4096];
    for answered in 0..count {
        stream.write_all(request.as_bytes()).expect("the server reads");
        let read =
            stream.read(&mut buffer).unwrap_or_else(|e| panic!("after {answered} answers: {e}"));
        assert!(
            buffer[..read].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..read])
        );
    }
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let home = Home::new();
    // stdout is the same pipe.
    let mut process = home.spawn("");
    home.wait_ready(&mut process);
    // More than a pipe holds, and than the queue in front of it.
    have_logged(&home, 12_000);
    assert_eq!(home.probe().get("/healthz").unwrap().status, 200);
    let metrics = home.probe().get("/metrics").unwrap().text;
    let dropped =
        metrics.lines().find_map(|line| line.strip_prefix("sandstone_log_lines_dropped_total "));
    assert_ne!(dropped, Some("0"), "{dropped:?}");
    assert!(dropped.is_some(), "{metrics}");
    process.signal(Signal::TERM);
    assert!(process.wait_within(Duration::from_secs(30)).success());
    assert!(!home.data().join("nbd.sock").exists() && !home.data().join("admin.sock").exists());
}

#[test]
fn the_last_line_of_a_log_that_is_read_is_the_end() {
    let home = Home::new();
    let mut process = home.start("");
    have_logged(&home, 3000);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let said = process.said();
    assert!(said.trim_end().ends_with("stopped"), "{}", &said[said.len().saturating_sub(500)..]);
    assert!(said.matches("/api/v1/sandboxvolumes").count() >= 3000);
}

#[test]
fn signals_that_end_a_process_stop_the_server() {
    for (signal, name) in [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::POWER, "SIGPWR"),
    ] {
        let home = Home::new();
        let mut process = home.start("");
        process.signal(signal);
        let status = process.wait();
        let said = process.said();
        assert!(status.success(), "{name}: {status}\n{said}");
        assert!(said.contains(name) && said.contains("stopped"), "{name}: {said}");
        for socket in ["nbd.sock", "admin.sock"] {
            assert!(!home.data().join(socket).exists(), "{name}: {socket}");
        }
    }
}

#[test]
fn signals_that_mean_nothing_are_told_and_end_nothing() {
    let home = Home::new();
    // As under nohup(1).
    let mut process = home.start("trap '' HUP");
    let signals =
        ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "STKFLT", "XFSZ", "PIPE", "WINCH"];
    signals.iter().for_each(|name| send(&process, name));
    [34, 37, 50, 64].iter().for_each(|signal| send(&process, signal));
    thread::sleep(Duration::from_millis(200));
    assert!(process.is_running());
    assert_eq!(home.probe().get("/readyz").unwrap().status, 200);
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let said = process.said();
    for name in
        ["SIGHUP", "nohup", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPROF", "SIGXFSZ", "SIGRTMIN+3"]
    {
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[test]
fn limits_that_are_too_low_are_told_in_one_line() {
    for (before, word) in [
        ("ulimit -f 1000", "ulimit -f"),
        ("ulimit -v 100000", "ulimit -v"),
        ("ulimit -n 64", "ulimit -n"),
    ] {
        let home = Home::new();
        let told = home.spawn(before).failure();
        assert!(told.contains(word), "{before}: {told}");
        assert!(!home.data().join("nbd.sock").exists(), "{before}");
    }
}

#[test]
fn a_server_that_waits_for_the_store_stops_at_once() {
    let home = Home::new();
    let _first = home.start("");
    let rival = Home::new();
    let text = fs::read_to_string(rival.config()).unwrap();
    let store = format!("[store]\npath = {:?}", home.data().join("store"));
    fs::write(rival.config(), text.replace("[store]", &store)).unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let mut waiting = rival.spawn("");
        waiting.listen();
        // It listens before it opens the store.
        while !rival.data().join("nbd.sock").exists() {
            assert!(waiting.is_running());
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(100));
        waiting.signal(signal);
        let status = waiting.wait_within(Duration::from_secs(10));
        let said = waiting.said();
        assert!(status.success(), "{status}: {said}");
        assert!(said.contains("waiting for another server"), "{said}");
        assert!(said.contains("stopped before the store was open"), "{said}");
        assert!(
            !rival.data().join("nbd.sock").exists() && !rival.data().join("admin.sock").exists()
        );
    }
}

#[test]
fn a_failed_start_says_why_and_leaves_no_socket() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::create_dir(home.data().join("store")).unwrap();
    let told = home.spawn("").failure();
    assert!(
        told.contains("neither a file nor a block device") && told.contains("set store.path"),
        "{told}"
    );
    assert!(!home.data().join("nbd.sock").exists() && !home.data().join("admin.sock").exists());

    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("nbd.sock"), "mine").unwrap();
    let told = home.spawn("").failure();
    assert!(told.contains("nbd.sock") && told.contains("no socket"), "{told}");
    assert_eq!(fs::read(home.data().join("nbd.sock")).unwrap(), b"mine");
    assert!(!home.data().join("admin.sock").exists());

    let home = Home::new();
    let text = fs::read_to_string(home.config()).unwrap();
    let nowhere = format!("[store]\npath = {:?}", home.dir().join("missing/store"));
    fs::write(home.config(), text.replace("[store]", &nowhere)).unwrap();
    let told = home.spawn("").failure();
    assert!(
        told.contains("No such file or directory") && told.contains("make its directory"),
        "{told}"
    );

    let home = Home::new();
    let text = fs::read_to_string(home.config()).unwrap();
    let data = format!("{:?}", home.data());
    fs::write(home.config(), text.replacen(&data, "\"/proc/sandstone\"", 1)).unwrap();
    let told = home.spawn("").failure();
    assert!(told.contains("data directory /proc/sandstone") && !told.contains("token"), "{told}");
}

#[test]
fn sockets_have_the_modes_that_are_configured() {
    let home = Home::new();
    home.configure("unix_mode = \"0660\"", "");
    let mut process = home.start("umask 0");
    let mode =
        |name: &str| fs::metadata(home.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("nbd.sock"), mode("admin.sock")), (0o660, 0o600));
    process.kill();
    let _process = home.start("umask 0777");
    assert_eq!((mode("nbd.sock"), mode("admin.sock")), (0o660, 0o600));
}

#[test]
fn nbd_clients_leave_descriptors_for_control() {
    let home = Home::new();
    let mut process = home.start("ulimit -n 300");
    let socket = home.data().join("nbd.sock");
    // Each takes two, as long as there are two for it.
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = Handshake::unix(&socket).expect("a greeting");
        let replies = client.ask(option::GO, &go_data("nobody")).expect("an answer");
        let reply = replies.last().expect("an answer");
        if reply.text().contains("limit of open files") {
            break reply.text();
        }
        assert!(reply.is_error(), "{reply:?}");
        clients.push(client);
        assert!(clients.len() < 300, "they are not bounded");
    };
    assert!(clients.len() > 20, "only {}: {refused}", clients.len());
    for _ in 0..20 {
        drop(UnixStream::connect(&socket).unwrap());
    }
    for _ in 0..10 {
        assert_eq!(home.probe().get("/healthz").unwrap().status, 200);
    }
    home.cli(["volume", "create", "--name", "disk", "--size", "1G"]).ok();
    let metrics = home.probe().get("/metrics").unwrap().text;
    let counted =
        metrics.lines().find_map(|l| l.strip_prefix("sandstone_nbd_connections_refused_total "));
    assert!(counted.is_some_and(|count| count != "0"), "{counted:?}");

    drop(clients);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while Handshake::unix(&socket).and_then(|client| client.go("disk")).is_err() {
        assert!(std::time::Instant::now() < deadline, "there is no place again");
        thread::sleep(Duration::from_millis(20));
    }
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    assert_eq!(process.said().matches("a client is refused").count(), 1);
}
