//! A server as a shell or a supervisor starts it: with limits, signals and pipes of the test's
//! choice.

use std::fs;
use std::io::{PipeReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::admin::Admin;
use crate::binary::sandstone;
use crate::program::Program;

/// How long a start or an end may take. It bounds a hang.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Directories and a configuration for servers that come one after the other.
pub struct Home {
    dir: TempDir,
    admin: SocketAddr,
}

impl Home {
    /// An empty one.
    pub fn new() -> Self {
        let dir =
            tempfile::Builder::new().prefix("sandstone-").tempdir().expect("a temporary directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let home = Self { dir, admin: free.local_addr().expect("a bound listener has an address") };
        fs::create_dir(home.staging()).expect("a directory can be made");
        home.configure("", "");
        home
    }

    /// Writes the configuration, with these lines in `[nbd]` and `[admin]`, in front of what
    /// follows them.
    pub fn configure(&self, nbd: &str, more: &str) {
        let Self { admin, .. } = self;
        let text = format!(
            "data_dir = {:?}\n[store]\nsize = \"1G\"\nstaging = {:?}\n[nbd]\nlisten = []\nworkers = 1\n{nbd}\n\
             [cache]\nmemory = \"16M\"\nmetadata = \"16M\"\n[admin]\nlisten = \"{admin}\"\n{more}\n",
            self.data(),
            self.staging()
        );
        fs::write(self.config(), text).expect("a file can be written");
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `data_dir`, which the server makes.
    pub fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// `[store] staging`.
    pub fn staging(&self) -> PathBuf {
        self.dir().join("staging")
    }

    /// `sandstone.toml`.
    pub fn config(&self) -> PathBuf {
        self.dir().join("sandstone.toml")
    }

    /// The staging files that are there.
    pub fn staging_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.staging()).expect("the directory is there").flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The admin port, without a token.
    pub fn probe(&self) -> Admin {
        Admin::new(format!("http://{}", self.admin), None)
    }

    /// A command of the command line, with the configuration.
    pub fn cli<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        Program::new(sandstone()).args(args).arg("--config").arg(self.config()).dir(self.dir())
    }

    /// Starts a server behind `before`, a command of the shell such as `ulimit -n 64`. It speaks
    /// into a pipe.
    pub fn spawn(&self, before: &str) -> Process {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let before = if before.is_empty() { "true" } else { before };
        // Under nohup(1) the tests ignore SIGHUP, and so would the server.
        let child = Command::new("env")
            .args([
                "--default-signal",
                "bash",
                "-c",
                &format!("{before} && exec \"$0\" serve --config \"$1\""),
            ])
            .arg(sandstone())
            .arg(self.config())
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("a descriptor can be doubled"))
            .stderr(writer)
            .spawn()
            .expect("bash runs");
        Process { child, said: Said::Unread(reader) }
    }

    /// Starts a server and waits until it is ready.
    pub fn start(&self, before: &str) -> Process {
        let mut process = self.spawn(before);
        process.listen();
        self.wait_ready(&mut process);
        process
    }

    /// Waits until a server is ready; panics with all it said when it ends before.
    pub fn wait_ready(&self, process: &mut Process) {
        let deadline = Instant::now() + LIMIT;
        while !self.probe().get("/readyz").is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = process.child.try_wait().expect("a child can be waited for") {
                panic!("{status}: it said\n{}", process.said());
            }
            assert!(Instant::now() < deadline, "not ready after {LIMIT:?}");
            thread::sleep(POLL);
        }
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// A server at work. Dropped, it is killed.
pub struct Process {
    child: Child,
    said: Said,
}

enum Said {
    /// Nobody reads it.
    Unread(PipeReader),
    Read(thread::JoinHandle<String>),
    All(String),
}

impl Process {
    /// Reads what it says from now on.
    pub fn listen(&mut self) {
        if let Said::Unread(reader) = &self.said {
            let mut reader = reader.try_clone().expect("a descriptor can be doubled");
            self.said = Said::Read(thread::spawn(move || {
                let mut said = Vec::new();
                reader.read_to_end(&mut said).expect("a pipe can be read");
                String::from_utf8_lossy(&said).into_owned()
            }));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id is positive");
        kill_process(pid, signal).expect("the server can be signalled");
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for its end, at most so long.
    pub fn wait_within(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}");
            thread::sleep(POLL);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(LIMIT)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// All that it said, once it has ended.
    pub fn said(&mut self) -> String {
        self.listen();
        if let Said::Read(reading) = std::mem::replace(&mut self.said, Said::All(String::new())) {
            self.said = Said::All(reading.join().expect("a pipe can be read"));
        }
        let Said::All(said) = &self.said else { unreachable!("it was read to its end") };
        said.clone()
    }

    /// Waits for its end, which must be a failure that is told in one line, and gives that.
    pub fn failure(&mut self) -> String {
        self.listen();
        let status = self.wait();
        let said = self.said();
        assert_eq!(status.code(), Some(1), "{status}: {said}");
        let told: Vec<&str> = said.lines().filter(|line| line.starts_with("sandstone: ")).collect();
        let [told] = told[..] else { panic!("not one line: {said}") };
        assert!(!said.contains("panicked") && !said.contains(" bug "), "{said}");
        told.to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
