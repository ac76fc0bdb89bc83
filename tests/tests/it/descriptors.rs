//! A server that may not open another file: whom it has it serves, the others wait, and it goes on
//! when it may again.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sandstone_tests::raw::Handshake;
use sandstone_tests::{Server, Witness};

/// How long the server is without descriptors.
const SHORTAGE: Duration = Duration::from_secs(3);

/// Lets the server have so many files open; `None` for as many as it may.
fn limit(server: &Server, descriptors: Option<u64>) {
    let pid = Pid::from_raw(server.pid() as i32);
    let limits =
        fs::read_to_string(format!("/proc/{}/limits", server.pid())).expect("the server runs");
    let line =
        limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of files");
    let maximum = line.split_whitespace().nth(4).and_then(|n| n.parse::<u64>().ok());
    let limit = Rlimit { current: descriptors.or(maximum), maximum };
    prlimit(pid, Resource::Nofile, limit).expect("the limit can be set");
}

fn open_files(server: &Server) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("the server runs").count() as u64
}

/// Processor time of the process, in ticks of a hundredth of a second.
fn ticks(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("the server runs");
    let behind_name = stat.rsplit_once(')').expect("a name in brackets").1;
    behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn server_without_descriptors_serves_whom_it_has_and_recovers() {
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    let log_before = server.log().len();
    limit(&server, Some(open_files(&server)));

    // More than it had connections of before, which may end late and leave theirs.
    let waiting = [(); 4].map(|()| {
        let socket = server.socket_path();
        thread::spawn(move || Handshake::unix(&socket).map(drop))
    });
    let ticks_before = ticks(&server);
    let until = Instant::now() + SHORTAGE;
    while Instant::now() < until {
        client.write(0, b"still served").unwrap();
        client.flush().unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let spent = ticks(&server) - ticks_before;
    assert!(
        spent < 100,
        "{spent} hundredths of a second of processor time to wait for three seconds"
    );
    let said = server.log().split_off(log_before);
    assert!(said.contains("could not be accepted"), "it says nothing: {said}");
    assert!(said.lines().count() < 10, "it says it again and again: {said}");

    limit(&server, None);
    // They wait, or are sent away where there was one descriptor and not the other.
    for waiting in waiting {
        let _served_or_sent_away = waiting.join().unwrap();
    }
    Witness::start(server.connect(&volume)).finish();
    assert_eq!(client.read(0, 12).unwrap(), b"still served");
}
