//! Choosing an engine, and the runtime's owner.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::EventfdFlags;

use super::executor::{Clock, Core};
use super::handle::Handle;
use crate::engine::{Driver, Remote, Simulated, Threads, Uring};
use crate::io::Random;

/// The choice of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The ring where the kernel allows it, else threads.
    Auto,
    /// io_uring, or an error that says what forbids it.
    Uring,
    /// A thread pool for files and epoll for sockets.
    Threads,
}

/// One thread's executor and its I/O backend. It stays on the thread that made it.
///
/// Dropping it drops all tasks, then waits for the operations in flight, at most ten seconds:
/// operations keep what they own until they end; where they do not end, it is leaked, and a warning
/// is logged.
pub struct Runtime {
    core: Rc<Core>,
    fallback: Option<String>,
}

impl Runtime {
    /// Makes a runtime for this thread.
    ///
    /// # Errors
    /// With [`Backend::Uring`], the reason why io_uring is not available; otherwise only a lack of
    /// descriptors.
    pub fn new(backend: Backend) -> io::Result<Runtime> {
        match backend {
            Backend::Uring => Runtime::with_uring(),
            Backend::Threads => Runtime::with_threads(),
            Backend::Auto => match Runtime::with_uring() {
                Ok(runtime) => Ok(runtime),
                Err(error) => {
                    let mut runtime = Runtime::with_threads()?;
                    runtime.fallback = Some(error.to_string());
                    Ok(runtime)
                }
            },
        }
    }

    /// A runtime in virtual time, for files of a [`SimDisk`](crate::sim::SimDisk). `seed` decides
    /// which of the ready tasks runs next. The clock moves when all wait, to the next timer or
    /// completion; when there is none, nothing can ever happen again, and `block_on` panics rather
    /// than hang.
    ///
    /// Sockets do not work on it, and handles only on its own thread.
    #[must_use]
    pub fn simulated(seed: u64) -> Runtime {
        let clock = Clock::simulated(Random::new(seed));
        Runtime::assemble(
            Driver::Simulated(Simulated::default()),
            Arc::new(Remote::without_wake()),
            clock,
        )
    }

    fn with_uring() -> io::Result<Runtime> {
        let remote = Arc::new(Remote::new(EventfdFlags::empty())?);
        let uring = Uring::new(Arc::clone(&remote))?;
        Ok(Runtime::assemble(Driver::Uring(Box::new(uring)), remote, Clock::real()))
    }

    fn with_threads() -> io::Result<Runtime> {
        let remote = Arc::new(Remote::new(EventfdFlags::NONBLOCK)?);
        let threads = Threads::new(Arc::clone(&remote))?;
        Ok(Runtime::assemble(Driver::Threads(Box::new(threads)), remote, Clock::real()))
    }

    fn assemble(driver: Driver, remote: Arc<Remote>, clock: Clock) -> Runtime {
        Runtime { core: Rc::new(Core::new(driver, remote, clock)), fallback: None }
    }

    /// Name of the engine: "uring", "threads" or "simulated".
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.core.driver().name()
    }

    /// Why [`Backend::Auto`] fell back to threads, in words for an operator. `None` where it did
    /// not.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Sets the longest time to busy-poll for completions before sleeping, where recent waits were
    /// short. It trades processor time for latency; the default is zero.
    pub fn set_spin(&self, spin: Duration) {
        self.core.set_spin(spin);
    }

    /// A handle to this runtime, for other threads and for tasks.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.core.handle()
    }

    /// Runs `future`, and the tasks with it, until it is done. The other tasks then rest until the
    /// next call.
    ///
    /// # Panics
    /// Inside another `block_on` of this thread; and as the future or a task does.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.core.drive(future)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.core.shut_down();
    }
}
