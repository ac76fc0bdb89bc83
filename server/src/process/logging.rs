//! The log: to stderr, as text for people or JSON for programs.
//!
//! Where stderr has no reader, a write to it can wait for ever. So it has a thread of its own:
//!
//! ```text
//!   any thread ─► lines, at most QUEUE_BYTES_MAX ─► thread "log" ─► stderr
//!                         └─► full: dropped, counted, and told once there is room again
//! ```
//!
//! I1  Who logs never waits for who reads.
//! I2  The last lines of the process come out if stderr is read: its end waits for them, at most
//!     [`LAST_WORDS_TIME_MAX`].
//!
//! tracing-appender has such a thread. At its end it prints to stdout when stderr is stuck, which
//! waits for ever where both are one pipe, and its bound is in lines.

use prometheus_client::metrics::counter::Counter;
use rustix::event::{PollFd, PollFlags, poll};
use sandstone_config::{Log, LogFormat, LogLevel};
use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, filter::Targets, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Our crates; `log.level` is theirs. Libraries speak up only to warn.
const OWN_CRATES: [&str; 4] =
    ["sandstone", "sandstone_storage", "sandstone_protocol", "sandstone_config"];
/// Most bytes of lines that wait to be written: some ten thousand lines. A guess.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Longest wait of the process's end for its last lines.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);

/// Where the process's lines go, once logging has begun.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();
/// Lines that were dropped because the ones before were not read.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Begins logging. Called once, before anything logs.
///
/// # Errors
/// Where the host gives no thread.
pub(crate) fn start(log: &Log) -> io::Result<()> {
    let own = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_targets(OWN_CRATES.map(|name| (name, own)));
    let lines = Lines::to(io::stderr(), DROPPED.clone())?;
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(Events(Arc::clone(&lines)));
    let layer = match log.format {
        LogFormat::Text => {
            to_stderr.with_ansi(io::stderr().is_terminal()).with_target(false).boxed()
        }
        LogFormat::Json => to_stderr.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    // Logging begins once.
    let _first = LINES.set(lines);
    Ok(())
}

/// Says something that is no event of the log, to stderr: why a command failed.
pub(crate) fn say(text: &str) {
    match LINES.get() {
        Some(lines) => lines.push(format!("{text}\n").into_bytes()),
        // A failure has no other place to go.
        None => drop(writeln!(io::stderr(), "{text}")),
    }
}

/// Waits until all that was logged is written, if it is read. Keeps I2.
pub(crate) fn finish() {
    if let Some(lines) = LINES.get() {
        lines.wait_written(LAST_WORDS_TIME_MAX);
    }
}

/// How long the line that is being written has waited for its reader, if one is.
pub(crate) fn waits() -> Option<Duration> {
    LINES.get()?.waits()
}

/// Lines that were dropped since the start.
pub(crate) fn dropped() -> Counter {
    DROPPED.clone()
}

/// Lines on their way to a thread that writes them.
struct Lines {
    queue: Mutex<Queue>,
    /// A line has come.
    came: Condvar,
    /// The last one is written.
    written: Condvar,
    dropped: Counter,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Of all of them.
    bytes: usize,
    /// Since when one is out of the queue and not yet written.
    writing_since: Option<Instant>,
    /// Dropped, and not yet told.
    untold: u64,
}

impl Lines {
    fn to(mut out: impl Write + AsFd + Send + 'static, dropped: Counter) -> io::Result<Arc<Lines>> {
        let lines = Arc::new(Lines {
            queue: Mutex::default(),
            came: Condvar::new(),
            written: Condvar::new(),
            dropped,
        });
        let thread = thread::Builder::new().name("log".to_owned());
        let taken = Arc::clone(&lines);
        thread.spawn(move || {
            loop {
                let line = taken.next();
                // Its reader is gone, or it never had one: then no reader misses the line.
                let _unread = write(&mut out, &line);
                taken.lock().writing_since = None;
                taken.written.notify_all();
            }
        })?;
        Ok(lines)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under this lock, and a panic is the last that should keep lines from being
        // written.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>) {
        let mut queue = self.lock();
        // Keeps I1.
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            queue.untold += 1;
            self.dropped.inc();
            return;
        }
        if queue.untold > 0 {
            let untold = std::mem::take(&mut queue.untold);
            queue.push(told(untold));
        }
        queue.push(line);
        drop(queue);
        self.came.notify_one();
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing_since = Some(Instant::now());
                return line;
            }
            if queue.untold > 0 {
                queue.writing_since = Some(Instant::now());
                return told(std::mem::take(&mut queue.untold));
            }
            queue = self.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How long the line has waited that is being written.
    fn waits(&self) -> Option<Duration> {
        self.lock().writing_since.map(|since| since.elapsed())
    }

    fn wait_written(&self, time_max: Duration) {
        let is_busy = |queue: &mut Queue| queue.writing_since.is_some() || !queue.lines.is_empty();
        drop(self.written.wait_timeout_while(self.lock(), time_max, is_busy));
    }
}

impl Queue {
    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }
}

fn told(dropped: u64) -> Vec<u8> {
    format!(
        "sandstone: {dropped} line(s) of the log were dropped here, because they were not read\n"
    )
    .into_bytes()
}

/// Writes all of it, also to what was made non-blocking by another who has it too, as shells'
/// terminals are at times.
fn write<W: Write + AsFd>(out: &mut W, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What keeps it from waiting is told by the next write.
                let _ready = poll(&mut [PollFd::new(&*out, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One event on its way to be a line.
struct Event<'a> {
    lines: &'a Lines,
    line: Vec<u8>,
}

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.lines.push(std::mem::take(&mut self.line));
        }
    }
}

/// What tracing's layer writes its events to.
#[derive(Clone)]
struct Events(Arc<Lines>);

impl<'a> MakeWriter<'a> for Events {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { lines: &self.0, line: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn lines_to_pipe() -> (Arc<Lines>, io::PipeReader, Counter) {
        let (reader, writer) = io::pipe().unwrap();
        let dropped = Counter::default();
        (Lines::to(writer, dropped.clone()).unwrap(), reader, dropped)
    }

    #[test]
    fn who_logs_does_not_wait_for_who_reads_and_what_is_dropped_is_counted_and_told() {
        let (lines, mut reader, dropped) = lines_to_pipe();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        let count = 2 * QUEUE_BYTES_MAX / line.len();
        let began = Instant::now();
        for _ in 0..count {
            lines.push(line.clone());
        }
        lines.wait_written(Duration::from_millis(10));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(dropped.get() > 0);
        // The line before may have been the last that the pipe had room for.
        while lines.waits().is_none_or(|wait| wait < Duration::from_millis(10)) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", lines.waits());
            thread::sleep(Duration::from_millis(1));
        }

        // It is read after all.
        let reading = thread::spawn(move || {
            let mut said = Vec::new();
            let mut chunk = [0; 4096];
            while !said.ends_with(b"last\n") {
                let n = reader.read(&mut chunk).unwrap();
                assert!(n > 0);
                said.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8(said).unwrap()
        });
        lines.wait_written(Duration::from_secs(20));
        lines.push(b"last\n".to_vec());
        let said = reading.join().unwrap();
        let told = said.lines().filter_map(|line| {
            line.strip_prefix("sandstone: ")?.split(' ').next()?.parse::<u64>().ok()
        });
        assert_eq!(told.sum::<u64>(), dropped.get());
        let written = said.lines().filter(|said| said.starts_with('x')).count() as u64;
        assert_eq!(written + dropped.get(), count as u64);
    }

    #[test]
    fn the_last_line_is_written_before_the_end() {
        let (lines, mut reader, _) = lines_to_pipe();
        lines.push(b"last words\n".to_vec());
        lines.wait_written(Duration::from_secs(20));
        let mut said = [0; 11];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"last words\n");
        assert_eq!(lines.waits(), None);
    }

    #[test]
    fn an_event_is_one_line() {
        let (lines, mut reader, _) = lines_to_pipe();
        let events = Events(Arc::clone(&lines));
        let mut event = events.make_writer();
        event.write_all(b"half ").unwrap();
        assert!(lines.lock().lines.is_empty());
        event.write_all(b"and half\n").unwrap();
        drop(event);
        lines.wait_written(Duration::from_secs(20));
        let mut said = [0; 14];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"half and half\n");
    }

    #[test]
    fn a_reader_that_is_gone_holds_nobody_up() {
        let (lines, reader, dropped) = lines_to_pipe();
        drop(reader);
        for _ in 0..100 {
            lines.push(vec![b'x'; 64 << 10]);
            lines.wait_written(Duration::from_secs(20));
        }
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_pipe_that_does_not_block_gets_all_of_a_long_line() {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let lines = Lines::to(writer, Counter::default()).unwrap();
        lines.push(vec![b'x'; 512 << 10]);
        let read = thread::spawn(move || {
            let mut said = vec![0; 512 << 10];
            let mut reader = reader;
            reader.read_exact(&mut said).map(|()| said)
        });
        assert!(read.join().unwrap().unwrap().iter().all(|byte| *byte == b'x'));
    }
}
