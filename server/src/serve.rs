//! Start and stop of the server.
//!
//! ```text
//!   start   log ─► data directory, token ─► listeners bound ─► keeper ─► store (recovery) ─► registry, mounts ─► workers
//!           ─► NBD and admin served ─► start-up lines
//!   stop    readiness red ─► nobody new is let in ─► what has arrived over NBD is answered ─► admin ends
//!           ─► store closed (a reclaim ended, flush, checkpoint) ─► workers end ─► keeper ends ─► exit 0
//! ```
//!
//! What starts later leans on what started earlier, so stopping goes the other way round. A second signal while stopping
//! ends the process at once; the store then recovers at its next start as after any other death.

use crate::{
    admin::{self, Admin, Metrics, Reclaim},
    descriptors,
    keeper::Keeper,
    logging,
    mounts::{self, Mounts, MountsError},
    nbd::{self, ListenError, Workers},
    panic,
    registry::{Registry, UnreadableRecord},
    startup,
    token::{Token, TokenError, make_data_dir},
};
use sandstone_config::{Config, IoEngine};
use sandstone_storage::{Engine, RecoveryReport, Store, StoreOptions};
use std::{
    error, fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

/// Threads of the control side (accepting, handshakes, admin). None of them is on the data path.
const CONTROL_THREADS: usize = 2;

/// Longest wait for admin requests under way at a stop. A deletion that waits for clients is the slowest of them.
const ADMIN_STOP_SECS_MAX: u64 = 12;
/// Longest wait for the last answers to leave.
const ADMIN_CLOSE_TIME_MAX: Duration = Duration::from_millis(500);

/// Why the server did not start, or did not stop well.
#[derive(Debug)]
pub(crate) enum ServeError {
    DataDir(PathBuf, io::Error),
    Token(TokenError),
    Engine(IoEngine, io::Error),
    Control(io::Error),
    Open(PathBuf, sandstone_storage::Error),
    Record(UnreadableRecord),
    Mounts(MountsError),
    AdminListen(SocketAddr, io::Error),
    NbdListen(ListenError),
    Close(sandstone_storage::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::DataDir(path, error) => {
                write!(
                    f,
                    "the data directory {} cannot be made: {error}; choose another data_dir",
                    path.display()
                )
            }
            ServeError::Token(error) => error.fmt(f),
            ServeError::Engine(IoEngine::Uring, error) => {
                write!(f, "io_uring cannot be used: {error}; set store.io to \"auto\" or \"threads\"")
            }
            ServeError::Engine(IoEngine::Auto | IoEngine::Threads, error) => {
                write!(f, "the I/O engine does not start: {error}")
            }
            ServeError::Control(error) => write!(f, "the control threads do not start: {error}"),
            ServeError::Open(path, error) => {
                write!(f, "the store {} cannot be opened: {error}", path.display())
            }
            ServeError::Record(error) => error.fmt(f),
            ServeError::Mounts(error) => error.fmt(f),
            ServeError::AdminListen(address, error) => {
                write!(
                    f,
                    "the admin API cannot listen on {address}: {error}; stop what does, or set admin.listen"
                )
            }
            ServeError::NbdListen(error) => error.fmt(f),
            ServeError::Close(error) => {
                write!(f, "the store was not closed well: {error}; it recovers at the next start")
            }
        }
    }
}

impl error::Error for ServeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            ServeError::DataDir(_, error)
            | ServeError::Engine(_, error)
            | ServeError::Control(error)
            | ServeError::AdminListen(_, error) => Some(error),
            ServeError::Token(error) => Some(error),
            ServeError::NbdListen(error) => Some(error),
            ServeError::Open(_, error) | ServeError::Close(error) => Some(error),
            ServeError::Record(error) => Some(error),
            ServeError::Mounts(error) => Some(error),
        }
    }
}

/// Runs the server until it is told to stop.
pub(crate) fn run(config: Config) -> Result<(), ServeError> {
    logging::start(&config.log);
    panic::end_process();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    descriptors::raise_limit();
    make_data_dir(&config.data_dir).map_err(|error| ServeError::DataDir(config.data_dir.clone(), error))?;
    let token = Token::read_or_make(&config.token_path()).map_err(ServeError::Token)?;

    let engine = engine(config.store.io);
    let keeper = Keeper::start(engine).map_err(|error| ServeError::Engine(config.store.io, error))?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(ServeError::Control)?;
    let outcome = control.block_on(serve(&config, token, &keeper, engine));
    keeper.stop();
    outcome
}

/// What the configuration calls it.
pub(crate) fn engine(io: IoEngine) -> Engine {
    match io {
        IoEngine::Auto => Engine::Auto,
        IoEngine::Uring => Engine::Uring,
        IoEngine::Threads => Engine::Threads,
    }
}

async fn serve(config: &Config, token: Token, keeper: &Keeper, engine: Engine) -> Result<(), ServeError> {
    // Before the store opens: a signal during a long recovery is not lost.
    let mut signals = Signals::new().map_err(ServeError::Control)?;
    // Before the store opens too: a taken address is told at once, and early callers wait instead of being refused.
    let admin_listener = TcpListener::bind(config.admin.listen)
        .await
        .map_err(|error| ServeError::AdminListen(config.admin.listen, error))?;
    let admin_address =
        admin_listener.local_addr().map_err(|error| ServeError::AdminListen(config.admin.listen, error))?;
    let bound = nbd::bind(&config.nbd).await.map_err(ServeError::NbdListen)?;
    let (store, recovery) = open_store(config, keeper).await?;
    let mounts = Mounts::new(config.data_dir.join(mounts::FILE_NAME), recovery.epoch);
    let registry =
        Registry::load(store.volumes(), store.all_snapshots(), mounts).map_err(ServeError::Record)?;
    registry.mounts.recover(&registry, recovery.staging).await.map_err(ServeError::Mounts)?;
    let registry = Arc::new(registry);

    let endpoints = bound.endpoints.clone();
    let workers = Workers::start(&config.nbd, engine, &store)
        .map_err(|error| ServeError::Engine(config.store.io, error))?;
    let workers = Arc::new(workers);
    let mut exported = prometheus_client::registry::Registry::default();
    workers.register(&mut exported);
    let metrics = Metrics::new(exported, store.clone(), Arc::clone(&registry), workers.loads());
    let admin = Arc::new(Admin {
        store: store.clone(),
        keeper: keeper.handle(),
        registry: Arc::clone(&registry),
        token,
        endpoints: endpoints.clone(),
        volume_size_bytes: config.defaults.volume_size_bytes,
        metrics,
        reclaim: Reclaim::default(),
        stopping: AtomicBool::new(false),
        under_way: TaskTracker::new(),
    });
    let accepting = bound.accept(&registry, &workers);
    let expiry = tokio::spawn({
        let (registry, grace) = (Arc::clone(&registry), config.attach.grace_secs);
        async move { registry.mounts.expire(Duration::from_secs(grace.into())).await }
    });
    startup::announce(&startup::Started {
        config,
        endpoints: &endpoints,
        admin: admin_address,
        engine: keeper.engine_name(),
        recovery: &recovery,
        volumes: registry.volume_count(),
        snapshots: registry.snapshot_count(),
    });
    // After the announcement: whoever finds the server ready finds that told too.
    let (stop, stopped) = watch::channel(());
    let serving = tokio::spawn(serve_admin(admin_listener, Arc::clone(&admin), stopped));

    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    tokio::spawn(async move {
        let signal = signals.next().await;
        tracing::error!(signal, "told to stop a second time: ending at once");
        std::process::exit(1);
    });
    admin.begin_stopping();
    drop(accepting);
    // Who is only waiting for the next server keeps its mount.
    expiry.abort();
    workers.drain().await;
    drop(stop);
    end_admin(serving, &admin.under_way).await;
    drop(admin);
    drop(registry);
    // The workers' rings may still be writing batches that the last checkpoint waits for.
    let closed = keeper.handle().run(move || async move { store.close().await }).await;
    stop_workers(workers).await;
    closed.map_err(ServeError::Close)?;
    tracing::info!("stopped");
    Ok(())
}

async fn open_store(config: &Config, keeper: &Keeper) -> Result<(Store, RecoveryReport), ServeError> {
    let options = StoreOptions {
        path: config.store.path.clone(),
        size_bytes: config.store.size_bytes,
        staging_dir: staging_dir(config),
        cache_bytes: config.cache.memory_bytes,
        metadata_bytes: config.cache.metadata_bytes,
        reclaim_rate: config.store.reclaim_rate,
        scrub_rate: config.store.scrub_rate,
    };
    let handle = keeper.handle();
    let opening = handle.run(move || async move { Store::open(options).await });
    opening.await.map_err(|error| ServeError::Open(config.store.path.clone(), error))
}

/// The configured directory; where there is none, as in containers without shared memory, the data directory.
pub(crate) fn staging_dir(config: &Config) -> PathBuf {
    if config.store.staging.is_dir() {
        return config.store.staging.clone();
    }
    tracing::warn!(
        missing = %config.store.staging.display(),
        instead = %config.data_dir.display(),
        "the staging directory is not there"
    );
    config.data_dir.clone()
}

/// Ends the worker threads, off the control threads, because it waits for them.
async fn stop_workers(workers: Arc<Workers>) {
    match Arc::try_unwrap(workers) {
        Ok(workers) => {
            if tokio::task::spawn_blocking(move || workers.stop()).await.is_err() {
                tracing::error!("the workers could not be stopped");
            }
        }
        // A handshake that was just ending holds them; its connection is refused by the ended threads.
        Err(_still_held) => tracing::warn!("the workers are left to the end of the process"),
    }
}

async fn serve_admin(
    listener: TcpListener,
    admin: Arc<Admin>,
    mut stopped: watch::Receiver<()>,
) -> io::Result<()> {
    let until_stopped = async move {
        // The sender says nothing; that it is gone is the message.
        let _gone = stopped.changed().await;
    };
    axum::serve(listener, admin::router(admin)).with_graceful_shutdown(until_stopped).await
}

/// Waits for the requests under way, but not for a client that keeps one open for ever, nor for connections without any:
/// axum waits for one that has sent half a request.
async fn end_admin(mut serving: JoinHandle<io::Result<()>>, under_way: &TaskTracker) {
    under_way.close();
    let answered = tokio::time::timeout(Duration::from_secs(ADMIN_STOP_SECS_MAX), under_way.wait()).await;
    if answered.is_err() {
        tracing::warn!("an admin request did not end in time and is cut off");
    }
    match tokio::time::timeout(ADMIN_CLOSE_TIME_MAX, &mut serving).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the admin listener failed"),
        Ok(Err(error)) => tracing::error!(%error, "the admin listener died"),
        Err(_elapsed) => serving.abort(),
    }
}

/// The signals that mean "stop".
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
