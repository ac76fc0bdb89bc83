//! Programs that none of us wrote, run with a time limit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::skip::find_program;

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A command line about to be run.
pub struct Program {
    program: OsString,
    args: Vec<OsString>,
    command: Command,
    limit: Duration,
}

impl Program {
    /// `program` is a path, or a name looked for in `PATH` and the administrator's directories.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_owned();
        let found = program.to_str().and_then(find_program);
        let command = Command::new(found.as_ref().map_or(program.as_os_str(), |p| p.as_os_str()));
        Self { program, args: Vec::new(), command, limit: Duration::from_secs(120) }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Program::arg)
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// How long it may run before it is killed and the test fails. Without this, two minutes.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it in a process group of its own, so that its children end with it.
    pub fn spawn(mut self) -> Running {
        // Files, not pipes: a program that says much cannot block, and one killed leaves what it
        // said.
        let output = TempDir::new().expect("a temporary directory can be made");
        let file = |name| {
            File::create(output.path().join(name)).expect("a file for the output can be made")
        };
        let spawned = self
            .command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .process_group(0)
            .spawn();
        let line = shown(&self.program, &self.args);
        let child = spawned.unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
        Running { child: Some(child), output, line, deadline: Instant::now() + self.limit }
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// Runs it and insists on exit status 0.
    pub fn ok(self) -> Finished {
        let finished = self.run();
        assert!(finished.status.success(), "{finished}");
        finished
    }
}

fn shown(program: &OsStr, args: &[OsString]) -> String {
    let quoted = |word: &OsString| {
        let word = word.to_string_lossy();
        if word.contains([' ', '"', '\'', '?', '&', '$']) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    };
    let words: Vec<String> = args.iter().map(quoted).collect();
    format!("{} {}", program.to_string_lossy(), words.join(" "))
}

/// A program at work. Dropped, it is killed with its whole process group.
pub struct Running {
    child: Option<Child>,
    output: TempDir,
    line: String,
    deadline: Instant,
}

impl Running {
    /// Waits for its end; panics, after killing it, when its time is over.
    pub fn wait(mut self) -> Finished {
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return self.finished(status);
            }
            if Instant::now() > self.deadline {
                let status = self.kill_now().expect("a killed program has a status");
                panic!("took too long and was killed: {}", self.finished(status));
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it and gives what it said until then.
    pub fn kill(mut self) -> Finished {
        let status = self.kill_now().expect("a killed program has a status");
        self.finished(status)
    }

    /// Whether it is still at work.
    pub fn is_running(&mut self) -> bool {
        self.exited().is_none()
    }

    /// What it wrote to standard output and standard error so far.
    pub fn said(&self) -> String {
        format!("{}{}", self.text("stdout"), self.text("stderr"))
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|c| c.try_wait().expect("a child can be waited for"))
    }

    fn kill_now(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait().ok()
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        Finished {
            status,
            stdout: self.text("stdout"),
            stderr: self.text("stderr"),
            line: self.line.clone(),
        }
    }

    fn text(&self, name: &str) -> String {
        let bytes = fs::read(self.output.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_now();
    }
}

/// A program that has ended. Shown, it is its command line with all it said.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    line: String,
}

impl Finished {
    /// Its standard output as one JSON value; panics where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}) from {self}"))
    }

    /// Insists that it failed with one sentence on standard error: a program's user reads no panics
    /// and no dumps.
    pub fn failed_with_a_sentence(&self) -> &str {
        assert!(!self.status.success(), "should have failed: {self}");
        assert!(self.status.code().is_some(), "died of a signal: {self}");
        let text = self.stderr.trim();
        assert!(!text.is_empty(), "failed without a word: {self}");
        assert!(!text.contains("panicked"), "panicked: {self}");
        assert!(!text.contains("Error {") && !text.contains("Os {"), "shows a debug dump: {self}");
        text
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ({})", self.line, self.status)?;
        writeln!(f, "--- stdout\n{}", tail(&self.stdout))?;
        write!(f, "--- stderr\n{}", tail(&self.stderr))
    }
}

/// The last part of a text, at most 8,000 bytes.
pub(crate) fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(8_000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
