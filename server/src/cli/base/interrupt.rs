//! Ctrl-C, for commands that have something to put away before they end.

use super::error::CliError;
use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

/// Exit code of a program that Ctrl-C ended, as shells have it: 128 and the signal's number.
const EXIT_INTERRUPTED: i32 = 130;

/// Whether a signal asks the command to end; by default it listens to none. Work asks in between
/// its steps; a second signal does not wait for that.
#[derive(Default)]
pub(crate) struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP do not end the process the first time.
    pub(crate) fn listen() -> Result<Interrupt, CliError> {
        let came = Arc::new(AtomicBool::new(false));
        wait_for_signals(Arc::clone(&came)).map_err(CliError::Signals)?;
        Ok(Interrupt { came })
    }

    /// # Errors
    /// [`CliError::Interrupted`].
    pub(crate) fn check(&self) -> Result<(), CliError> {
        if self.has_come() { Err(CliError::Interrupted) } else { Ok(()) }
    }

    pub(crate) fn has_come(&self) -> bool {
        self.came.load(Relaxed)
    }
}

fn wait_for_signals(came: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let [mut interrupt, mut terminate, mut hangup] = {
        let _inside = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if came.swap(true, Relaxed) {
                    process::exit(EXIT_INTERRUPTED);
                }
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
