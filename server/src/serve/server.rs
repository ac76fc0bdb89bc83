//! The server from its first line of the log to its last.

use super::{error::ServeError, startup};
use crate::{
    admin::{self, Admin, Metrics, Reclaim},
    mounts::{self, Mounts},
    nbd::{self, Clients, ConnectionSlots, Workers},
    net::{SocketFile, socket_file},
    process::{Signals, limits, logging, panic},
    registry::Registry,
    runtime_thread::RuntimeThread,
    token::{Token, make_data_dir},
    watchdog::Watchdog,
};
use sandstone_config::{Config, IoEngine, trust};
use sandstone_ring::Backend;
use sandstone_storage::{RecoveryReport, STALLED_AFTER, Store, StoreOptions};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

/// Name of the thread that owns the open store.
const STORE_THREAD: &str = "store";

/// Threads of the control side (accepting, handshakes, admin). None of them is on the data path.
const CONTROL_THREADS: usize = 2;

/// Longest wait for admin requests under way at a stop. A deletion that waits for clients is the
/// slowest of them.
const ADMIN_STOP_SECS_MAX: u64 = 12;
/// Longest wait for the last answers to leave.
const ADMIN_CLOSE_TIME_MAX: Duration = Duration::from_millis(500);

/// Runs the server until it is told to stop.
pub(crate) fn run(config: Config) -> Result<(), ServeError> {
    logging::start(&config.log).map_err(ServeError::Log)?;
    panic::end_process();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    limits::check(&config)?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(ServeError::Control)?;
    // Before anything that lasts: a signal during a long recovery is not lost.
    let signals = control.block_on(async { Signals::listen() }).map_err(ServeError::Control)?;
    prepare_data_dir(&config.data_dir)?;
    let token = Token::read_or_make(&config.token_path())?;

    let engine = engine(config.store.io);
    let store_thread = RuntimeThread::start(STORE_THREAD, engine, |_| {}, || ())
        .map_err(|error| ServeError::engine(config.store.io, error))?;
    if let Some(why) = store_thread.fallback() {
        tracing::warn!(why, "store.io = \"auto\" takes threads, which are slower");
    }
    let outcome = control.block_on(serve(&config, token, &store_thread, engine, signals));
    RuntimeThread::stop([store_thread]);
    outcome
}

/// Makes the data directory, or sees to it that an existing one can be relied on and written.
fn prepare_data_dir(path: &Path) -> Result<(), ServeError> {
    let failed = |error| ServeError::DataDir(path.to_owned(), error);
    make_data_dir(path).map_err(failed)?;
    trust::check_directory(path).map_err(|why| ServeError::ForeignDataDir(path.to_owned(), why))?;
    if let Err(why) = trust::check_mode(path) {
        // What it holds is looked at one by one, but may still be taken away.
        tracing::warn!(path = %path.display(), "the data directory {why}: chmod it to 700");
    }
    let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(path, writable).map_err(|error| failed(error.into()))
}

/// What the configuration calls it.
pub(crate) fn engine(io: IoEngine) -> Backend {
    match io {
        IoEngine::Auto => Backend::Auto,
        IoEngine::Uring => Backend::Uring,
        IoEngine::Threads => Backend::Threads,
    }
}

async fn serve(
    config: &Config,
    token: Token,
    store_thread: &RuntimeThread,
    engine: Backend,
    mut signals: Signals,
) -> Result<(), ServeError> {
    // Before the store opens: a taken address is told at once, and early callers wait instead of
    // being refused.
    let admin_listener = TcpListener::bind(config.admin.listen)
        .await
        .map_err(|error| ServeError::AdminListen(config.admin.listen, error))?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|error| ServeError::AdminListen(config.admin.listen, error))?;
    let admin_socket = bind_admin_socket(config).await?;
    let bound = nbd::bind(&config.nbd).await?;
    let (store, recovery) = tokio::select! {
        opened = open_store(config, store_thread) => opened?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before the store was open");
            return Ok(());
        }
    };
    let mounts = Mounts::new(config.data_dir.join(mounts::FILE_NAME), recovery.epoch);
    let registry = Registry::load(store.volumes(), store.all_snapshots(), mounts)?;
    registry.mounts.recover(|id| registry.mountable(id), recovery.staging).await?;
    let registry = Arc::new(registry);

    let endpoints = bound.endpoints.clone();
    let workers = Workers::start(&config.nbd, engine, &store)
        .map_err(|error| ServeError::engine(config.store.io, error))?;
    let workers = Arc::new(workers);
    let slots = ConnectionSlots::new(limits::connections(limits::open_descriptors()));
    let mut exported = prometheus_client::registry::Registry::default();
    workers.register(&mut exported);
    let (help, dropped) =
        ("Lines of the log that were dropped because they were not read", logging::dropped());
    exported.register("sandstone_log_lines_dropped", help, dropped);
    let help = "NBD clients that were refused because the limit of open files had no room for them";
    exported.register("sandstone_nbd_connections_refused", help, slots.refused());
    let mut threads = workers.heartbeats();
    threads.push(store_thread.heartbeat());
    let watchdog = Arc::new(Watchdog::new(
        store.clone(),
        threads,
        logging::waits,
        STALLED_AFTER,
        &mut exported,
    ));
    let metrics = Metrics::new(exported, store.clone(), Arc::clone(&registry), workers.loads());
    let admin = Arc::new(Admin {
        store: store.clone(),
        store_thread: store_thread.handle().clone(),
        registry: Arc::clone(&registry),
        token,
        endpoints: endpoints.clone(),
        volume_size_bytes: config.defaults.volume_size_bytes,
        metrics,
        watchdog: Arc::clone(&watchdog),
        reclaim: Reclaim::default(),
        stopping: AtomicBool::new(false),
        under_way: TaskTracker::new(),
    });
    let watching = tokio::spawn(async move { watchdog.watch().await });
    let accepting = bound.accept(Clients {
        registry: Arc::clone(&registry),
        workers: Arc::clone(&workers),
        slots,
    });
    let expiry = tokio::spawn({
        let (registry, grace) = (Arc::clone(&registry), config.attach.grace_secs);
        async move { registry.mounts.expire(Duration::from_secs(grace.into())).await }
    });
    startup::announce(&startup::Started {
        config,
        endpoints: &endpoints,
        admin: admin_address,
        admin_socket: admin_socket.as_ref().map(|(_, file)| file.path()),
        engine: store_thread.backend_name(),
        fallback: store_thread.fallback(),
        recovery: &recovery,
        usable_bytes: store.stats().usable_bytes,
        volumes: registry.volume_count(),
        snapshots: registry.snapshot_count(),
    });
    // After the announcement: a client that finds the server ready finds that told too.
    let (stop, stopped) = watch::channel(());
    let mut serving = JoinSet::new();
    serving.spawn(serve_admin(admin_listener, Arc::clone(&admin), stopped.clone()));
    let admin_socket = admin_socket.map(|(listener, file)| {
        serving.spawn(serve_admin(listener, Arc::clone(&admin), stopped));
        file
    });

    let signal = signals.stop().await;
    tracing::info!(signal, "stopping");
    tokio::spawn(async move {
        let signal = signals.stop().await;
        tracing::error!(signal, "told to stop a second time: ending at once");
        logging::finish();
        std::process::exit(1);
    });
    admin.begin_stopping();
    drop(accepting);
    // Who is only waiting for the next server keeps its mount.
    expiry.abort();
    watching.abort();
    workers.drain().await;
    drop(stop);
    end_admin(serving, &admin.under_way).await;
    drop(admin_socket);
    drop(admin);
    drop(registry);
    // The workers' rings may still be writing batches that the last checkpoint waits for.
    let closed = store_thread.handle().run(move || async move { store.close().await }).await;
    stop_workers(workers).await;
    closed.map_err(ServeError::Close)?;
    tracing::info!("stopped");
    Ok(())
}

async fn open_store(
    config: &Config,
    store_thread: &RuntimeThread,
) -> Result<(Store, RecoveryReport), ServeError> {
    let options = StoreOptions {
        path: config.store.path.clone(),
        size_bytes: config.store.size_bytes,
        staging_dir: staging_dir(config),
        cache_bytes: config.cache.memory_bytes,
        metadata_bytes: config.cache.metadata_bytes,
        reclaim_rate: config.store.reclaim_rate,
        scrub_rate: config.store.scrub_rate,
    };
    let handle = store_thread.handle();
    let opening = handle.run(move || async move { Store::open(options).await });
    opening.await.map_err(|error| ServeError::Open(config.store.path.clone(), error))
}

/// The configured directory; where there is none, as in containers without shared memory, the data
/// directory.
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
        // A handshake that was just ending holds them; its connection is refused by the ended
        // threads.
        Err(_still_held) => tracing::warn!("the workers are left to the end of the process"),
    }
}

async fn bind_admin_socket(
    config: &Config,
) -> Result<Option<(UnixListener, SocketFile)>, ServeError> {
    let Some(path) = &config.admin.unix else { return Ok(None) };
    let bound = socket_file::bind(path, config.admin.unix_mode).await;
    bound.map(Some).map_err(|error| ServeError::AdminSocket(path.clone(), error))
}

async fn serve_admin<L>(
    listener: L,
    admin: Arc<Admin>,
    mut stopped: watch::Receiver<()>,
) -> io::Result<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let until_stopped = async move {
        // The sender says nothing; that it is gone is the message.
        let _gone = stopped.changed().await;
    };
    axum::serve(listener, admin::router(admin)).with_graceful_shutdown(until_stopped).await
}

/// Waits for the requests under way, but not for a client that keeps one open for ever, nor for
/// connections without any: axum waits for one that has sent half a request.
async fn end_admin(mut serving: JoinSet<io::Result<()>>, under_way: &TaskTracker) {
    under_way.close();
    let answered =
        tokio::time::timeout(Duration::from_secs(ADMIN_STOP_SECS_MAX), under_way.wait()).await;
    if answered.is_err() {
        tracing::warn!("an admin request did not end in time and is cut off");
    }
    let ended = async {
        while let Some(ended) = serving.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "an admin listener failed"),
                Err(error) => tracing::error!(%error, "an admin listener died"),
            }
        }
    };
    // Dropping the set cuts the others off.
    drop(tokio::time::timeout(ADMIN_CLOSE_TIME_MAX, ended).await);
}
