//! A server without sockets.

use crate::{
    admin::{Admin, Metrics, Reclaim, router},
    attachments::{AttachedGuard, Connection, ConnectionHandle, Holder, Refused},
    mounts::Mounts,
    net::Endpoints,
    record::now,
    registry::{Entry, Export, Registry},
    runtime_thread::RuntimeThread,
    token::Token,
    watchdog::{Heartbeat, Watchdog},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use sandstone_ring::Backend;
use sandstone_storage::{Durability, Piece, STALLED_AFTER, Store, StoreOptions};
use serde_json::Value;
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(super) const VOLUMES: &str = "/api/v1/sandboxvolumes";

/// Default size of volumes, unlike the configuration's, so that a test can tell it apart.
pub(super) const DEFAULT_SIZE_BYTES: u64 = 96 << 20;

pub(super) struct Server {
    pub(super) admin: Arc<Admin>,
    router: Router,
    store_thread: Option<RuntimeThread>,
    /// The number of the store's start.
    pub(super) epoch: u32,
    directory: tempfile::TempDir,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Server {
    pub(super) async fn start() -> Server {
        Self::start_watching(Vec::new(), STALLED_AFTER).await
    }

    /// One that waits so long for those threads.
    pub(super) async fn start_watching(threads: Vec<Arc<Heartbeat>>, patience: Duration) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let store_thread = RuntimeThread::start("store", Backend::Threads, |_| {}, || ()).unwrap();
        let options = StoreOptions {
            path: directory.path().join("store"),
            size_bytes: 1 << 30,
            staging_dir: directory.path().to_path_buf(),
            cache_bytes: 16 << 20,
            metadata_bytes: 16 << 20,
            reclaim_rate: 256 << 20,
            scrub_rate: 0,
        };
        let handle = store_thread.handle();
        let (store, report) =
            handle.run(move || async move { Store::open(options).await }).await.unwrap();
        let mounts = Mounts::new(directory.path().join("mounts.json"), report.epoch);
        let registry =
            Arc::new(Registry::load(store.volumes(), store.all_snapshots(), mounts).unwrap());
        let mut exported = prometheus_client::registry::Registry::default();
        let watchdog = Watchdog::new(store.clone(), threads, || None, patience, &mut exported);
        let admin = Arc::new(Admin {
            metrics: Metrics::new(exported, store.clone(), Arc::clone(&registry), Vec::new()),
            watchdog: Arc::new(watchdog),
            store,
            store_thread: store_thread.handle().clone(),
            registry,
            token: Token::given(TOKEN.into()),
            endpoints: Endpoints {
                tcp: vec!["127.0.0.1:10809".parse().unwrap()],
                unix: Some("/srv/data/nbd.sock".into()),
            },
            volume_size_bytes: DEFAULT_SIZE_BYTES,
            reclaim: Reclaim::default(),
            stopping: AtomicBool::new(false),
            under_way: TaskTracker::new(),
        });
        let router = router(Arc::clone(&admin));
        Server { router, admin, store_thread: Some(store_thread), epoch: report.epoch, directory }
    }

    /// Where the mounts are kept.
    pub(super) fn mounts_path(&self) -> PathBuf {
        self.directory.path().join("mounts.json")
    }

    /// Any request.
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    /// A request with the token.
    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Body::from(body.to_owned()))
            .unwrap();
        self.send(request).await
    }

    pub(super) async fn create(&self, body: Value) -> Value {
        self.call("POST", VOLUMES, &body.to_string()).await.data(201)
    }

    pub(super) async fn snapshot(&self, volume: &Value, name: &str) -> Value {
        let body = serde_json::json!({ "name": name }).to_string();
        self.call("POST", &format!("{}/snapshots", path(volume)), &body).await.data(201)
    }

    /// Fills blocks of a volume with a byte.
    pub(super) async fn fill(&self, volume: &Value, blocks: std::ops::Range<u64>, byte: u8) {
        const BLOCK: usize = sandstone_storage::BLOCK_BYTES;
        let volume = self.volume(volume["id"].as_str().unwrap()).unwrap().volume.clone();
        let data = vec![byte; (blocks.end - blocks.start) as usize * BLOCK].into();
        let write = move || async move {
            volume.write(blocks.start * BLOCK as u64, data, Durability::Volatile).await
        };
        self.admin.store_thread.run(write).await.unwrap();
    }

    /// The first byte of a block of a volume or snapshot.
    pub(super) async fn byte(&self, of: &Value, block: u64) -> u8 {
        let export = self.admin.registry.resolve(of["id"].as_str().unwrap()).unwrap();
        let blocks = export.blocks().clone();
        let offset = block * sandstone_storage::BLOCK_BYTES as u64;
        let read = move || async move { blocks.read(offset, 1).await };
        match &self.admin.store_thread.run(read).await.unwrap()[..] {
            [Piece::Data(bytes)] => bytes[0],
            [Piece::Zero { .. }] => 0,
            pieces => panic!("{pieces:?}"),
        }
    }

    /// The volume of that id or name.
    pub(super) fn volume(&self, export_name: &str) -> Option<Arc<Entry>> {
        match self.admin.registry.resolve(export_name).ok()? {
            Export::Volume(entry) => Some(entry),
            Export::Snapshot(_) => None,
        }
    }

    /// Attaches a client to a volume or snapshot, as process 7.
    pub(super) async fn attach(
        &self,
        to: &Value,
        handle: Arc<dyn ConnectionHandle>,
    ) -> AttachedGuard {
        self.attach_as("process 7", to, handle).await.unwrap()
    }

    /// Attaches a client of that name.
    pub(super) async fn attach_as(
        &self,
        holder: &str,
        to: &Value,
        handle: Arc<dyn ConnectionHandle>,
    ) -> Result<AttachedGuard, Refused> {
        let export_name = to["export_name"].as_str().unwrap();
        let (export, holder) = match self.admin.registry.resolve_mount(export_name) {
            Some((export, session)) => (export, Holder::Mount(session)),
            None => {
                (self.admin.registry.resolve(export_name).unwrap(), Holder::Peer(holder.into()))
            }
        };
        let connection =
            Connection { holder, export_name: export_name.into(), since: now(), handle };
        export.attachments().attach(connection).await
    }

    /// Attaches a client that goes a little after it was told to, as a connection does.
    pub(super) async fn attach_obedient(&self, to: &Value) {
        let handle = Arc::new(Obedient::default());
        let guard = self.attach(to, Arc::clone(&handle) as Arc<dyn ConnectionHandle>).await;
        *handle.0.lock().unwrap() = Some(guard);
    }
}

/// A line of a client that stays whatever it is told, and counts how often it was.
#[derive(Default)]
pub(super) struct Deaf(pub(super) AtomicUsize);

impl ConnectionHandle for Deaf {
    fn disconnect(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn is_closing(&self) -> bool {
        false
    }
}

/// A line of a client that holds its place until it is told to go.
#[derive(Default)]
struct Obedient(Mutex<Option<AttachedGuard>>);

impl ConnectionHandle for Obedient {
    fn disconnect(&self) {
        let guard = self.0.lock().unwrap().take();
        std::thread::spawn(move || drop(guard));
    }

    fn is_closing(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

/// The route of a volume or snapshot.
pub(super) fn path(of: &Value) -> String {
    let id = of["id"].as_str().unwrap();
    match of["volume_id"].as_str() {
        Some(volume) => format!("{VOLUMES}/{volume}/snapshots/{id}"),
        None => format!("{VOLUMES}/{id}"),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The store's thread is waited for, so that the directory goes after the store.
        RuntimeThread::stop(self.store_thread.take());
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// The data of a success with that status.
    #[track_caller]
    pub(super) fn data(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let mut envelope = self.json();
        assert_eq!(envelope["success"], true);
        envelope["data"].take()
    }

    /// The error of a refusal with that status and code; its envelope holds nothing else.
    #[track_caller]
    pub(super) fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let mut envelope = self.json();
        let keys: Vec<&String> = envelope.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["error", "success"]);
        assert_eq!(envelope["success"], false);
        let error = envelope["error"].take();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(self.headers.contains_key("x-request-id"));
        error
    }
}
