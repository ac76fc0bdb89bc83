//! The signals that terminals, shells and supervisors send, and what each means here.
//!
//! | signals | sent by | meaning |
//! |---|---|---|
//! | TERM, INT, QUIT, HUP, PWR, XCPU | supervisors, Ctrl-C, Ctrl-\, a terminal that closes, init, the limit of processor time | stop |
//! | HUP under nohup(1) | a terminal that closes | nothing, and a line |
//! | USR1, USR2, ALRM, VTALRM, PROF, IO, STKFLT, real-time ones | scripts that mean another program, timers | nothing, and a line |
//! | XFSZ | the kernel, at the limit of file size | nothing, and a line; the write that hit it fails and tells |
//! | TSTP, TTIN, TTOU, CONT | job control | as everywhere: the process rests until it is continued |
//!
//! PIPE is ignored by Rust from the start; the rest are faults of the program, or cannot be had.

use std::{
    fs,
    future::poll_fn,
    io,
    task::{Context, Poll},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal means to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Stop,
    Ignore(&'static str),
}

use rustix::process::Signal as Number;

/// All that do not keep their usual meaning, but for the real-time ones.
const SIGNALS: [(Number, &str, Meaning); 14] = [
    (Number::TERM, "SIGTERM", Meaning::Stop),
    (Number::INT, "SIGINT", Meaning::Stop),
    (Number::QUIT, "SIGQUIT", Meaning::Stop),
    (Number::HUP, "SIGHUP", Meaning::Stop),
    (Number::POWER, "SIGPWR", Meaning::Stop),
    (Number::XCPU, "SIGXCPU", Meaning::Stop),
    (
        Number::XFSZ,
        "SIGXFSZ",
        Meaning::Ignore("a write met the limit of file size (ulimit -f, LimitFSIZE)"),
    ),
    (Number::USR1, "SIGUSR1", NOTHING),
    (Number::USR2, "SIGUSR2", NOTHING),
    (Number::ALARM, "SIGALRM", NOTHING),
    (Number::VTALARM, "SIGVTALRM", NOTHING),
    (Number::PROF, "SIGPROF", NOTHING),
    (Number::IO, "SIGIO", NOTHING),
    (Number::STKFLT, "SIGSTKFLT", NOTHING),
];

const NOTHING: Meaning = Meaning::Ignore("it means nothing to this server");

/// The real-time signals that programs may use. Source: signal(7), "Real-time signals"; the C
/// library keeps the first two.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The signals that were sent. From its making on none of them ends the process by itself.
pub(crate) struct Signals(Vec<Listened>);

struct Listened {
    name: String,
    meaning: Meaning,
    stream: Signal,
}

impl Signals {
    /// Begins to listen. Inside a runtime.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub(crate) fn listen() -> io::Result<Signals> {
        let ignored =
            ignored_at_start(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let mut all = Vec::new();
        for (number, name, meaning) in SIGNALS {
            let meaning = match number {
                Number::HUP if ignored & bit(number.as_raw()) != 0 => {
                    Meaning::Ignore("it was to be ignored when the server was started (nohup)")
                }
                _ => meaning,
            };
            let stream = signal(SignalKind::from_raw(number.as_raw()))?;
            all.push(Listened { name: name.to_owned(), meaning, stream });
        }
        for number in REAL_TIME {
            let name = format!("SIGRTMIN+{}", number - REAL_TIME.start());
            all.push(Listened {
                name,
                meaning: NOTHING,
                stream: signal(SignalKind::from_raw(number))?,
            });
        }
        Ok(Signals(all))
    }

    /// Waits for one that means to stop, and tells of the others. Dropping the future loses none.
    pub(crate) async fn stop(&mut self) -> String {
        poll_fn(|context| self.poll_stop(context)).await
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<String> {
        for Listened { name, meaning, stream } in &mut self.0 {
            while stream.poll_recv(context).is_ready() {
                match meaning {
                    Meaning::Stop => return Poll::Ready(name.clone()),
                    Meaning::Ignore(why) => {
                        tracing::warn!(signal = name, why, "a signal is ignored")
                    }
                }
            }
        }
        Poll::Pending
    }
}

fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// The set of ignored signals from the content of /proc/self/status. Source: proc_pid_status(5),
/// "SigIgn".
fn ignored_at_start(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        let ignored = ignored_at_start(status);
        assert!(
            ignored & bit(Number::HUP.as_raw()) != 0 && ignored & bit(Number::PIPE.as_raw()) != 0
        );
        assert_eq!(ignored & bit(Number::TERM.as_raw()), 0);
        assert_eq!(ignored_at_start(""), 0);
    }

    #[test]
    fn every_signal_that_ends_a_process_by_itself_has_a_meaning() {
        // Source: signal(7), "Standard signals": Term and Core, but for faults of the program,
        // KILL, and PIPE.
        let ending = [1, 2, 3, 10, 12, 14, 15, 16, 24, 25, 26, 27, 29, 30];
        for number in ending {
            assert!(SIGNALS.iter().any(|(listened, ..)| listened.as_raw() == number), "{number}");
        }
    }
}
