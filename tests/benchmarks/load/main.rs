//! A lean NBD load generator, for where fio itself is the limit: a turn costs one receive and one
//! vectored send, however many replies and requests are in it.
//!
//! It prints one line of JSON: operations, bytes, seconds, latencies (from the moment a request is
//! in line to be sent until its reply was received, with the flush where a write is followed by
//! one), and its own CPU seconds.

mod connection;
mod histogram;
mod pattern;

use std::error::Error;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::event::epoll;
use rustix::net::RecvFlags;
use sandstone_tests::Random;

use crate::connection::Connection;
use crate::histogram::Histogram;
use crate::pattern::Pattern;

/// Bytes that one receive may bring.
const RECEIVE_BYTES: usize = 512 << 10;
/// Random bytes that all payloads are pieces of, beside one block.
const PAYLOADS_BYTES: usize = 1 << 20;
const EVENTS_MAX: usize = 64;

/// Loads NBD exports and prints what came of it as JSON.
#[derive(Debug, Parser)]
#[command(name = "bench-load")]
struct Options {
    /// The exports, as nbd+unix:///EXPORT?socket=PATH.
    #[arg(required = true)]
    uris: Vec<String>,
    /// Connections to each export.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    depth: u32,
    /// KiB of each request.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32768))]
    block: u32,
    /// Percent of the requests that are reads; the rest are writes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(..=100))]
    reads: u8,
    /// One block after another instead of anywhere.
    #[arg(long)]
    sequential: bool,
    /// Flush after so many writes of a slot, which last until then; 0 for never.
    #[arg(long, default_value_t = 0)]
    flush_every: u32,
    /// Use only the first MiB of each export.
    #[arg(long)]
    size: Option<u64>,
    /// End after so many seconds.
    #[arg(long, default_value_t = f64::from(u32::MAX))]
    seconds: f64,
    /// End after so many MiB on each connection.
    #[arg(long)]
    mib: Option<u64>,
    /// Threads that the connections are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// The seed of all places and bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What one thread saw.
#[derive(Debug)]
struct Tally {
    latencies: Histogram,
    ended: Instant,
    cpu_ns: u64,
}

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match load(&Options::parse()) {
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("bench-load: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs all of it and gives the report.
fn load(options: &Options) -> Result<serde_json::Value, Failure> {
    let pattern = Pattern {
        depth: options.depth as usize,
        block_bytes: (options.block as usize) << 10,
        reads_percent: options.reads,
        sequential: options.sequential,
        flush_every: options.flush_every,
        size_bytes: options.size.map(|mib| mib << 20),
        quota_bytes: options.mib.map(|mib| mib << 20),
    };
    let ready = Barrier::new(options.threads as usize);
    let (pattern, ready) = (&pattern, &ready);
    let tallies: Vec<(Instant, Tally)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|thread| scope.spawn(move || work(thread, options, pattern, ready)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect::<Result<_, _>>()
    })?;
    let begun = tallies.iter().map(|(begun, _)| *begun).min().expect("there is a thread");
    let ended = tallies.iter().map(|(_, tally)| tally.ended).max().expect("there is a thread");
    let mut latencies = Histogram::new();
    tallies.iter().for_each(|(_, tally)| latencies.merge(&tally.latencies));
    let seconds = (ended - begun).as_secs_f64();
    let operations = latencies.count();
    let microseconds = |part| latencies.percentile_ns(part) as f64 / 1e3;
    Ok(serde_json::json!({
        "operations": operations,
        "bytes": operations * pattern.block_bytes as u64,
        "seconds": seconds,
        "operations_per_second": operations as f64 / seconds,
        "p50_us": microseconds(0.5),
        "p99_us": microseconds(0.99),
        "p999_us": microseconds(0.999),
        "cpu_seconds": tallies.iter().map(|(_, tally)| tally.cpu_ns).sum::<u64>() as f64 / 1e9,
    }))
}

/// One thread: opens its share of the connections, waits for the others to have done so, and runs
/// them.
fn work(
    thread: u32,
    options: &Options,
    pattern: &Pattern,
    ready: &Barrier,
) -> Result<(Instant, Tally), Failure> {
    let opened = open(thread, options, pattern);
    // Also after a failure: the others wait for this.
    ready.wait();
    let mut connections = opened?;
    let begun = Instant::now();
    run(&mut connections, begun + Duration::from_secs_f64(options.seconds))?;
    let mut tally =
        Tally { latencies: Histogram::new(), ended: Instant::now(), cpu_ns: thread_cpu_ns()? };
    connections.iter().for_each(|connection| tally.latencies.merge(&connection.latencies));
    Ok((begun, tally))
}

fn open(thread: u32, options: &Options, pattern: &Pattern) -> io::Result<Vec<Connection>> {
    let bytes = Random::new(options.seed).bytes(PAYLOADS_BYTES + pattern.block_bytes);
    let payloads: Rc<[u8]> = bytes.into();
    let places = options.connections as usize;
    (0..options.uris.len() * places)
        .filter(|number| number % options.threads as usize == thread as usize)
        .map(|number| {
            let seed = options.seed.wrapping_add(number as u64);
            let uri = &options.uris[number / places];
            Connection::open(
                uri,
                pattern.clone(),
                (number % places, places),
                seed,
                Rc::clone(&payloads),
            )
            .map_err(|error| io::Error::new(error.kind(), format!("{uri}: {error}")))
        })
        .collect()
}

/// Runs connections until the deadline, or until their quota is used up, and until all is answered.
fn run(connections: &mut [Connection], deadline: Instant) -> io::Result<()> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let waiter = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.begin()?;
        epoll::add(
            &waiter,
            &*connection,
            epoll::EventData::new_u64(number as u64),
            interest(connection),
        )?;
    }
    let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
    while connections.iter().any(|connection| !connection.is_idle()) {
        if Instant::now() >= deadline {
            connections.iter_mut().for_each(Connection::stop);
        }
        // One connection that the server reads from needs nobody to tell it when to receive.
        if let [connection] = connections
            && !connection.is_blocked()
        {
            connection.turn(&mut buffer, RecvFlags::empty())?;
            if connection.is_blocked() {
                epoll::modify(
                    &waiter,
                    &*connection,
                    epoll::EventData::new_u64(0),
                    interest(connection),
                )?;
            }
            continue;
        }
        let (happened, _) = epoll::wait(&waiter, &mut events, None)?;
        for event in happened {
            let number = event.data;
            let connection = &mut connections[number.u64() as usize];
            let was_blocked = connection.is_blocked();
            connection.turn(&mut buffer, RecvFlags::DONTWAIT)?;
            if connection.is_blocked() != was_blocked {
                epoll::modify(&waiter, &*connection, number, interest(connection))?;
            }
        }
    }
    Ok(())
}

fn interest(connection: &Connection) -> epoll::EventFlags {
    match connection.is_blocked() {
        true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        false => epoll::EventFlags::IN,
    }
}

/// CPU time of the calling thread. Source: proc(5), `schedstat`: its first number.
fn thread_cpu_ns() -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}
