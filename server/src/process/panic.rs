//! A panic is the end of the process: half a server, that has lost a worker or holds a poisoned
//! lock, is worse than none.
//!
//! The release profile aborts by itself (`panic = "abort"`); this makes every other build do the
//! same.

use super::logging;
use std::{backtrace::Backtrace, panic, process};

/// From now on a panic of any thread ends the process, after it was logged, whether the log is read
/// or not.
pub(crate) fn end_process() {
    panic::set_hook(Box::new(|info| {
        // Where it is asked for with RUST_BACKTRACE.
        logging::say(&format!("{info}\n{}", Backtrace::capture()));
        tracing::error!(%info, "a bug ends the server; its store recovers at the next start");
        logging::finish();
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, os::unix::process::ExitStatusExt, process::Command, thread};

    /// Set in the process that is to die.
    const DYING: &str = "SANDSTONE_TEST_DYING";

    /// This test once more, in a process of its own, where a thread panics that is never joined.
    #[test]
    fn panic_of_one_thread_ends_the_process() {
        if env::var_os(DYING).is_some() {
            end_process();
            thread::spawn(|| panic!("on purpose")).join().unwrap_err();
            return;
        }
        let test = "process::panic::tests::panic_of_one_thread_ends_the_process";
        let output = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(DYING, "1")
            .output()
            .unwrap();
        const SIGABRT: i32 = 6;
        assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("on purpose"), "{output:?}");
    }
}
