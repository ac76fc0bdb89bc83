//! qemu-img, for every image format but raw.
//!
//! It is told what to open, file by file (see `image_chain`), never a name that it could take for
//! something else. What it reads a stranger may have made, so it has bounds: of memory, of what it
//! prints, and of the time in which it neither prints, reads nor writes. It stays in our process
//! group, where Ctrl-C at a terminal reaches it as well, and has no children of its own; where we
//! are killed, it ends at its next look at the closed pipe.

use super::{chain::Chain, error::ImageError, format::Format};
use crate::cli::base::{CliError, Progress};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use std::{
    collections::VecDeque,
    fs,
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = "qemu-img";

/// Requests that qemu-img keeps in flight; its own most.
const COROUTINES: &str = "16";

/// What bounds a run of qemu-img.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Its address space, with the stacks of its threads and its libraries. It takes less than 1
    /// GiB for the largest tables that it reads itself.
    memory_bytes_max: u64,
    /// How long it may do nothing that can be seen.
    still_time_max: Duration,
    /// What is kept of each of its outputs. Damaged images have a line an error.
    output_bytes_max: usize,
}

/// Guesses, far from what any image needs that was made in good faith. A server that is full may
/// keep a writer waiting.
const BOUNDS: Bounds = Bounds {
    memory_bytes_max: 4 << 30,
    still_time_max: Duration::from_secs(300),
    output_bytes_max: 1 << 20,
};

/// How often a run is looked at.
const LOOK_TIME: Duration = Duration::from_millis(500);

/// In so many last bytes of what it prints there is a whole `    (12.34/100%)\r`.
const PERCENT_BYTES: usize = 64;

/// malloc reserves 64 MiB of addresses an arena, and one for each thread of many; that would count.
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "4");

/// Bytes of the disk that an image holds, which the file's own size need not be.
pub(super) fn disk_bytes(chain: &Chain, image: &Path) -> Result<u64, CliError> {
    let doing = format!("looking at {}", image.display());
    let alone = chain.alone().map_err(|error| refused(image, error))?;
    let finished = run(command(&["info", "--output=json", "--", &alone]), &doing, BOUNDS, None)?;
    finished.success(&doing)?;
    let answer: Value = serde_json::from_slice(&finished.stdout).unwrap_or_default();
    let said = || "its answer names no size".to_owned();
    answer["virtual-size"].as_u64().ok_or_else(|| CliError::QemuImg { doing, said: said() })
}

/// Exit codes of `qemu-img check` for what can be read all the same: unused space, and formats
/// without a check.
const CHECK_LEAKS: i32 = 3;
const CHECK_UNSUPPORTED: i32 = 63;
const CHECK_CORRUPT: i32 = 2;

/// Has qemu-img check the tables of an image.
///
/// # Errors
/// [`ImageError::Check`] where they are damaged, or name what is behind the file's end.
pub(super) fn check(chain: &Chain, image: &Path) -> Result<(), CliError> {
    let doing = format!("checking {}", image.display());
    let alone = chain.alone().map_err(|error| refused(image, error))?;
    let finished = run(command(&["check", "-q", "--", &alone]), &doing, BOUNDS, None)?;
    match finished.status.code() {
        Some(0 | CHECK_LEAKS | CHECK_UNSUPPORTED) => Ok(()),
        Some(CHECK_CORRUPT) => {
            let said = first_line(&finished.stderr).or_else(|| first_line(&finished.stdout));
            Err(refused(
                image,
                ImageError::Check(said.unwrap_or_else(|| "no reason given".to_owned())),
            ))
        }
        Some(_) | None => finished.success(&doing),
    }
}

fn refused(image: &Path, error: ImageError) -> CliError {
    CliError::ImageRefused(image.to_path_buf(), Box::new(error))
}

/// Whether what is converted into holds zeroes already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Onto {
    Zeroes,
    Anything,
}

/// Converts an image into the export at `uri`, and makes it durable there.
pub(super) fn into_export(
    chain: &Chain,
    image: &Path,
    uri: &str,
    onto: Onto,
    progress: &Progress,
) -> Result<(), CliError> {
    let whole = chain.whole().map_err(|error| refused(image, error))?;
    let mut command = convert();
    // -t writeback: qemu-img's own default for what it writes is to leave the flush out.
    command.args(["-n", "-t", "writeback", "-O", "raw"]);
    match onto {
        Onto::Zeroes => drop(command.arg("--target-is-zero")),
        Onto::Anything => {}
    }
    command.args(["--", &whole, uri]);
    let doing = format!("importing {}", image.display());
    run(command, &doing, BOUNDS, Some(progress))?.success(&doing)
}

/// Converts the export at `uri` into `file`, which exists and is replaced, on its way to become
/// `image`.
pub(super) fn from_export(
    uri: &str,
    format: Format,
    file: &Path,
    image: &Path,
    progress: &Progress,
) -> Result<(), CliError> {
    let mut command = convert();
    command.args(["-t", "writeback", "-f", "raw", "-O", format.qemu_driver()]);
    if format == Format::Vhd {
        // Without it the disk grows to a whole number of cylinders.
        command.args(["-o", "force_size=on"]);
    }
    // A relative path with a colon in it would be taken for a URL.
    let place =
        std::path::absolute(file).map_err(|error| CliError::Image(image.to_path_buf(), error))?;
    command.arg("--").arg(uri).arg(place);
    let doing = format!("exporting to {}", image.display());
    run(command, &doing, BOUNDS, Some(progress))?.success(&doing)
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    command
}

fn convert() -> Command {
    command(&["convert", "-p", "-W", "-m", COROUTINES])
}

/// How a run ended.
struct Finished {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Finished {
    fn success(&self, doing: &str) -> Result<(), CliError> {
        if self.status.success() {
            return Ok(());
        }
        let said = format!("{} ({})", last_line(&self.stderr), self.status);
        Err(CliError::QemuImg { doing: doing.to_owned(), said })
    }
}

/// Runs a program within `bounds`; what it prints of its progress is told to `progress`.
fn run(
    mut command: Command,
    doing: &str,
    bounds: Bounds,
    progress: Option<&Progress>,
) -> Result<Finished, CliError> {
    let failed = |said: String| CliError::QemuImg { doing: doing.to_owned(), said };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env(ARENAS.0, ARENAS.1);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CliError::QemuImgMissing("this image is not raw"));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let outcome = attend(&mut child, bounds, progress);
    if outcome.is_err() {
        // It has ended already where that fails.
        let _ended = child.kill();
        let _reaped = child.wait();
    }
    outcome.map_err(failed)
}

/// Follows a child to its end. The error is why it must be ended.
fn attend(
    child: &mut Child,
    bounds: Bounds,
    progress: Option<&Progress>,
) -> Result<Finished, String> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let limit =
        Rlimit { current: Some(bounds.memory_bytes_max), maximum: Some(bounds.memory_bytes_max) };
    match prlimit(pid, Resource::As, limit) {
        Ok(_) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(format!("its memory cannot be bounded: {error}")),
    }
    // Both pipes are read at once: it would wait for ever on a full one.
    let (sender, receiver) = mpsc::channel();
    let mut readers = Vec::new();
    let pipes: [(Output, Option<Box<dyn Read + Send>>); 2] = [
        (Output::Stdout, child.stdout.take().map(|pipe| Box::new(pipe) as _)),
        (Output::Stderr, child.stderr.take().map(|pipe| Box::new(pipe) as _)),
    ];
    for (output, pipe) in pipes {
        let sender = sender.clone();
        readers.extend(pipe.map(|pipe| thread::spawn(move || forward(pipe, output, &sender))));
    }
    drop(sender);

    let [mut stdout, mut stderr] = [(); 2].map(|()| Tail::new(bounds.output_bytes_max));
    let mut watch = Watch::new(child.id());
    loop {
        match receiver.recv_timeout(LOOK_TIME.min(bounds.still_time_max)) {
            Ok((output, bytes)) => {
                watch.moved();
                match output {
                    Output::Stdout => stdout.add(&bytes),
                    Output::Stderr => stderr.add(&bytes),
                }
                if let (Some(progress), Some(percent)) =
                    (progress, last_percent(&stdout.end(PERCENT_BYTES)))
                {
                    progress.percent(percent);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                    return Ok(Finished { status, stdout: stdout.bytes(), stderr: stderr.bytes() });
                }
                thread::sleep(Duration::from_millis(1));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if watch.still_time() > bounds.still_time_max {
            return Err(format!(
                "it made no progress for {:?}, and was ended",
                bounds.still_time_max
            ));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
}

fn forward(mut pipe: Box<dyn Read + Send>, output: Output, to: &mpsc::Sender<(Output, Vec<u8>)>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = pipe.read(&mut buffer) {
        if to.send((output, buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// The last bytes of an output.
struct Tail {
    bytes: VecDeque<u8>,
    bytes_max: usize,
}

impl Tail {
    fn new(bytes_max: usize) -> Tail {
        Tail { bytes: VecDeque::new(), bytes_max }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(self.bytes_max);
        self.bytes.drain(..excess);
    }

    fn bytes(&self) -> Vec<u8> {
        self.end(self.bytes.len())
    }

    fn end(&self, len_max: usize) -> Vec<u8> {
        let len = self.bytes.len();
        self.bytes.range(len - len.min(len_max)..).copied().collect()
    }
}

/// Sees whether a process does anything: prints, reads or writes.
struct Watch {
    process: u32,
    io_bytes: Option<u64>,
    moved_at: Instant,
}

impl Watch {
    fn new(process: u32) -> Watch {
        Watch { process, io_bytes: None, moved_at: Instant::now() }
    }

    fn moved(&mut self) {
        self.moved_at = Instant::now();
    }

    fn still_time(&mut self) -> Duration {
        let now = io_bytes(self.process);
        if now != self.io_bytes {
            self.io_bytes = now;
            self.moved();
        }
        self.moved_at.elapsed()
    }
}

/// Bytes that a process has read and written so far; None where the kernel does not tell.
fn io_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    let counts = text
        .lines()
        .filter_map(|line| line.strip_prefix("rchar: ").or(line.strip_prefix("wchar: ")));
    counts.map(|count| count.trim().parse::<u64>().ok()).sum()
}

fn last_percent(text: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(text);
    let (before, _) = text.rsplit_once("/100%")?;
    before.rsplit_once('(')?.1.trim().parse().ok()
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("qemu-img: ").to_owned()
}

fn first_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, bounds: Bounds) -> Result<Finished, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, "testing", bounds, None).map_err(|error| error.to_string())
    }

    #[test]
    fn progress_is_read_from_what_qemu_img_prints() {
        assert_eq!(last_percent(b"    (0.00/100%)\r    (12.34/100%)"), Some(12.34));
        assert_eq!(last_percent(b"    (100.00/100%)"), Some(100.0));
        assert_eq!(last_percent(b"    (1"), None);
        assert_eq!(last_percent(b"(x/100%)"), None);
    }

    #[test]
    fn an_error_is_its_last_line() {
        assert_eq!(last_line(b"warning\nqemu-img: Could not open 'x'\n\n"), "Could not open 'x'");
        assert_eq!(last_line(b""), "it said nothing");
    }

    #[test]
    fn what_makes_no_progress_is_ended() {
        let bounds = Bounds { still_time_max: Duration::from_millis(200), ..BOUNDS };
        let error = shell("echo $$ >&2; exec sleep 1000", bounds).err().unwrap();
        assert!(error.contains("no progress"), "{error}");
        // Whatever prints goes on for longer than that.
        let finished = shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done", bounds).unwrap();
        assert_eq!(finished.stdout, b"1\n2\n3\n4\n5\n6\n");
    }

    #[test]
    fn memory_is_bounded() {
        let bounds = Bounds { memory_bytes_max: 100 << 20, ..BOUNDS };
        let finished = shell("sleep 0.2; ulimit -v", bounds).unwrap();
        assert_eq!(finished.stdout, format!("{}\n", 100 << 10).into_bytes());
    }

    #[test]
    fn of_endless_output_the_end_is_kept() {
        let bounds = Bounds { output_bytes_max: 1000, ..BOUNDS };
        let finished = shell("yes | head -c 1000000; echo last >&2; exit 3", bounds).unwrap();
        assert_eq!((finished.stdout.len(), finished.status.code()), (1000, Some(3)));
        assert_eq!(finished.stderr, b"last\n");
    }
}
