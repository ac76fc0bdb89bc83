//! What `/metrics` and `sandstone top` say about clients that are really there.

use std::{thread, time::Duration};

use sandstone_tests::{Program, Running, Server, Volume, needs};
use serde_json::Value;

/// fio, writing and reading 4 KiB at this depth until it is killed or the time is over. As a
/// thread: a process of its own would live on.
fn busy(server: &Server, volume: &Volume, rw: &str, depth: u32, seconds: u32) -> Running {
    Program::new("fio")
        .args([
            "--name=busy",
            "--thread",
            "--ioengine=nbd",
            "--bs=4k",
            "--time_based",
            "--norandommap",
        ])
        .args([
            format!("--uri={}", server.uri(volume)),
            format!("--rw={rw}"),
            format!("--iodepth={depth}"),
        ])
        .args([format!("--size={}", volume.size_bytes), format!("--runtime={seconds}")])
        .dir(server.dir())
        .spawn()
}

/// The value of the one line that begins with these words.
fn metric(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

fn metrics(server: &Server) -> String {
    server.admin().get("/metrics").expect("the admin port answers").text
}

#[test]
fn requests_count_by_volume_and_command() {
    let server = Server::start();
    let (used, idle) = (server.volume("64M"), server.volume("64M"));
    let mut connection = server.connect(&used);
    connection.write(0, &[7; 8192]).expect("a write");
    connection.read(0, 4096).expect("a read");
    connection.read(4096, 4096).expect("a read");
    connection.flush().expect("a flush");
    connection.read(used.size_bytes, 4096).expect_err("beyond the end");
    let text = metrics(&server);
    let of = |name: &str, labels: &str| metric(&text, &format!("sandstone_{name}{{{labels}}} "));
    let volume = |command: &str| format!("volume=\"{}\",command=\"{command}\"", used.id);
    for (command, requests, errors, bytes) in
        [("read", 3.0, 1.0, 8192.0), ("write", 1.0, 0.0, 8192.0), ("flush", 1.0, 0.0, 0.0)]
    {
        for (name, expected) in
            [("requests", requests), ("request_errors", errors), ("request_bytes", bytes)]
        {
            let of_volume = of(&format!("volume_{name}_total"), &volume(command));
            assert_eq!(of_volume, Some(expected), "{name} of {command} in\n{text}");
            let of_all = of(&format!("{name}_total"), &format!("command=\"{command}\""));
            assert_eq!(of_all, Some(expected), "{name} of {command} in\n{text}");
        }
        let counted = of("volume_request_duration_seconds_count", &volume(command));
        assert_eq!(counted, Some(requests), "{text}");
    }
    assert_eq!(of("volume_requests_total", &volume("trim")), None, "nobody has trimmed");
    let labels = format!("volume=\"{}\"", used.id);
    assert_eq!(of("volume_connections", &labels), Some(1.0), "{text}");
    assert_eq!(of("volume_requests_in_flight", &labels), Some(0.0), "{text}");
    let workers = (0..).map_while(|i| of("worker_connections", &format!("worker=\"{i}\"")));
    assert_eq!(workers.sum::<f64>(), 1.0, "{text}");
    assert!(!text.contains(&idle.id), "nobody has been attached to it");

    // What is deleted goes, and stays in the sums.
    drop(connection);
    let path = format!("/api/v1/sandboxvolumes/{}?force=true", used.id);
    server.admin().delete(&path).expect("the admin port answers").data(200);
    let text = metrics(&server);
    assert!(!text.contains(&used.id), "{text}");
    assert_eq!(metric(&text, "sandstone_requests_total{command=\"read\"} "), Some(3.0), "{text}");
}

#[test]
fn requests_in_flight_are_the_clients_queue() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let volume = server.volume("256M");
    let fio = busy(&server, &volume, "randwrite", 32, 60);
    let line = format!("sandstone_volume_requests_in_flight{{volume=\"{}\"}} ", volume.id);
    let mut most = 0.0_f64;
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(20));
        most = most.max(metric(&metrics(&server), &line).unwrap_or(0.0));
    }
    fio.kill();
    // Between two batches some are on their way from or to the client.
    assert!((8.0..=32.0).contains(&most), "at depth 32 at most {most} were in flight");
}

#[test]
fn top_shows_the_rates_that_fio_reaches() {
    if !needs(&["fio"]) {
        return;
    }
    let server = Server::start();
    let volume = server.create_volume(&serde_json::json!({ "name": "busy disk", "size": "256M" }));
    let fio = busy(&server, &volume, "randwrite", 8, 60);
    thread::sleep(Duration::from_secs(1));
    let seen = server.cli(["top", "--once", "--json", "--interval", "2"]).ok().json();
    let table = server.cli(["top", "--once", "--interval", "0.2"]).ok().stdout;
    fio.kill();
    let [shown] = seen["volumes"].as_array().expect("a list").as_slice() else { panic!("{seen}") };
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number: {seen}"));
    assert_eq!(shown["name"], "busy disk");
    let (iops, bytes) = (number(&shown["write"]["iops"]), number(&shown["write"]["bytes"]));
    assert!(iops > 100.0, "{seen}");
    assert!((bytes / iops - 4096.0).abs() < 1.0, "{seen}");
    assert!(number(&shown["p99_us"]) >= number(&shown["p50_us"]), "{seen}");
    assert_eq!(number(&shown["read"]["iops"]), 0.0, "{seen}");
    assert!(number(&seen["store"]["log_bytes"]) > bytes, "{seen}");
    assert!(table.contains("busy disk") && table.contains("WRITE MiB/s"), "{table}");
}

#[test]
fn top_redraws_in_a_terminal_and_quits_on_q() {
    if !needs(&["fio", "tmux"]) {
        return;
    }
    let server = Server::start();
    let volume = server.create_volume(&serde_json::json!({ "name": "live", "size": "256M" }));
    let fio = busy(&server, &volume, "randwrite", 8, 60);
    let terminal = Terminal::start(&server);
    let writes = |screen: &str| -> f64 {
        let row = screen.lines().find(|line| line.starts_with("live "));
        row.and_then(|row| row.split_whitespace().nth(4)?.parse().ok()).unwrap_or(0.0)
    };
    terminal.until("rates", |screen| writes(screen) > 100.0);
    terminal.press("s");
    terminal.until("another order", |screen| screen.contains("by iops"));
    fio.kill();
    terminal.until("rest", |screen| screen.contains("live ") && writes(screen) == 0.0);
    terminal.press("q");
    terminal.until("its end", |screen| screen.contains("ended with 0"));
}

/// Starts a program in a terminal of its own that ignores the signal of a terminal that is closed,
/// closes it, and waits for the program's end.
const CLOSE_TERMINAL: &str = "
import os, pty, signal, sys, time
process, terminal = pty.fork()
if process == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(sys.argv[1], sys.argv[1:])
os.read(terminal, 1)
time.sleep(1)
os.close(terminal)
for _ in range(100):
    if os.waitpid(process, os.WNOHANG)[0]:
        sys.exit(0)
    time.sleep(0.1)
os.kill(process, signal.SIGKILL)
sys.exit('it goes on without a terminal')
";

/// It asked a closed terminal for keys for ever, and never waited.
#[test]
fn top_ends_with_its_terminal() {
    if !needs(&["python3"]) {
        return;
    }
    let server = Server::start();
    let top = sandstone_tests::sandstone();
    Program::new("python3")
        .args(["-c", CLOSE_TERMINAL])
        .arg(top)
        .args(["top", "--config"])
        .arg(server.config_path())
        .limit(Duration::from_secs(30))
        .ok();
}

/// `sandstone top` in a terminal of tmux.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn start(server: &Server) -> Self {
        let terminal = Self { socket: server.dir().join("tmux.sock") };
        let top = format!(
            "'{}' top --interval 0.2 --config '{}'; echo ended with $?; sleep 60",
            sandstone_tests::sandstone().display(),
            server.config_path().display()
        );
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "top",
            "-x",
            "140",
            "-y",
            "24",
            &top,
        ]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        Program::new("tmux").arg("-S").arg(&self.socket).args(args).ok().stdout
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "top", key]);
    }

    /// Waits until the screen is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let mut screen = String::new();
        for _ in 0..300 {
            screen = self.tmux(&["capture-pane", "-p", "-t", "top"]);
            if wanted(&screen) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("no {what} on the screen:\n{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It is gone already where the test failed early.
        Program::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").run();
    }
}
