//! A server without sockets.

use crate::{
    admin::{Admin, Metrics, Reclaim, router},
    attachments::{AttachedGuard, Connection},
    endpoints::Endpoints,
    keeper::Keeper,
    record::now,
    registry::{Entry, Export, Registry},
    token::Token,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use sandstone_storage::{Durability, Engine, Piece, Store, StoreOptions};
use serde_json::Value;
use std::sync::{Arc, Mutex, atomic::AtomicBool};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(super) const VOLUMES: &str = "/api/v1/sandboxvolumes";

/// Default size of volumes, unlike the configuration's, so that a test can tell it apart.
pub(super) const DEFAULT_SIZE_BYTES: u64 = 96 << 20;

pub(super) struct Server {
    pub(super) admin: Arc<Admin>,
    router: Router,
    keeper: Option<Keeper>,
    _directory: tempfile::TempDir,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Server {
    pub(super) async fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(Engine::Threads).unwrap();
        let options = StoreOptions {
            path: directory.path().join("store"),
            size_bytes: 1 << 30,
            staging_dir: directory.path().to_path_buf(),
            cache_bytes: 16 << 20,
            metadata_bytes: 16 << 20,
            reclaim_rate: 256 << 20,
            scrub_rate: 0,
        };
        let handle = keeper.handle();
        let (store, _report) = handle.run(move || async move { Store::open(options).await }).await.unwrap();
        let registry = Arc::new(Registry::load(store.volumes(), store.all_snapshots()).unwrap());
        let exported = prometheus_client::registry::Registry::default();
        let admin = Arc::new(Admin {
            metrics: Metrics::new(exported, store.clone(), Arc::clone(&registry), Vec::new()),
            store,
            keeper: keeper.handle(),
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
        Server { router: router(Arc::clone(&admin)), admin, keeper: Some(keeper), _directory: directory }
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
        self.admin.keeper.run(write).await.unwrap();
    }

    /// The first byte of a block of a volume or snapshot.
    pub(super) async fn byte(&self, of: &Value, block: u64) -> u8 {
        let export = self.admin.registry.resolve(of["id"].as_str().unwrap()).unwrap();
        let blocks = export.blocks().clone();
        let offset = block * sandstone_storage::BLOCK_BYTES as u64;
        let read = move || async move { blocks.read(offset, 1).await };
        match &self.admin.keeper.run(read).await.unwrap()[..] {
            [Piece::Data(bytes)] => bytes[0],
            [Piece::Zero { .. }] => 0,
            pieces => panic!("{pieces:?}"),
        }
    }

    /// The volume of that id or name.
    pub(super) fn volume(&self, export_name: &str) -> Option<Arc<Entry>> {
        match self.admin.registry.resolve(export_name)? {
            Export::Volume(entry) => Some(entry),
            Export::Snapshot(_) => None,
        }
    }

    /// Attaches a client to a volume or snapshot; `on_cut_off` is called when it is to go.
    pub(super) fn attach(&self, to: &Value, on_cut_off: Arc<dyn Fn() + Send + Sync>) -> AttachedGuard {
        let export_name = to["export_name"].as_str().unwrap();
        let export = self.admin.registry.resolve(export_name).unwrap();
        let connection = Connection {
            holder: "process 7".into(),
            export_name: export_name.into(),
            access: export.access(),
            since: now(),
            cut_off: on_cut_off,
        };
        export.attachments().attach(connection).unwrap()
    }

    /// Attaches a client that goes a little after it was told to, as a connection does.
    pub(super) fn attach_obedient(&self, to: &Value) {
        let inside = Arc::new(Mutex::new(None));
        let leave = Arc::clone(&inside);
        let cut_off = move || {
            let guard = leave.lock().unwrap().take();
            std::thread::spawn(move || drop(guard));
        };
        *inside.lock().unwrap() = Some(self.attach(to, Arc::new(cut_off)));
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
        // The keeper's thread is waited for, so that the directory goes after the store.
        if let Some(keeper) = self.keeper.take() {
            keeper.stop();
        }
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
