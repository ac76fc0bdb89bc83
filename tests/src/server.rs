//! One server in a directory of its own.

use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin::{Admin, Answer};
use crate::binary::sandstone;
use crate::program::{Program, tail};
use crate::raw::{Connection, Handshake};

/// How long a start may take, recovery included. Far more than any test needs: it bounds a hang.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long a stop by SIGTERM may take: drain, flush, checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// A staging directory in shared memory must have at least this much room, or the staging file goes
/// beside the store.
const STAGING_ROOM_BYTES: u64 = 1 << 30;

/// What differs between one test's server and another's.
#[derive(Clone, Debug)]
pub struct Builder {
    store_size: String,
    cache: String,
    io: String,
    volume_size: String,
    reclaim_rate: String,
    grace_secs: u32,
    store: Option<PathBuf>,
    metadata: String,
    /// Further lines of `[nbd]`.
    nbd: String,
}

impl Builder {
    /// `[store] path`, which is in the server's own directory otherwise.
    pub fn store(mut self, path: &Path) -> Self {
        self.store = Some(path.to_owned());
        self
    }

    /// `[store] size`.
    pub fn store_size(mut self, size: &str) -> Self {
        self.store_size = size.to_owned();
        self
    }

    /// `[cache] memory`.
    pub fn cache(mut self, size: &str) -> Self {
        self.cache = size.to_owned();
        self
    }

    /// `[store] io`: `auto`, `uring` or `threads`.
    pub fn io(mut self, io: &str) -> Self {
        self.io = io.to_owned();
        self
    }

    /// `[store] reclaim_rate`.
    pub fn reclaim_rate(mut self, rate: &str) -> Self {
        self.reclaim_rate = rate.to_owned();
        self
    }

    /// `[cache] metadata`.
    pub fn metadata(mut self, size: &str) -> Self {
        self.metadata = size.to_owned();
        self
    }

    /// `[nbd] in_flight`.
    pub fn in_flight(mut self, size: &str) -> Self {
        self.nbd.push_str(&format!("in_flight = {size:?}\n"));
        self
    }

    /// `[nbd] stall`, seconds.
    pub fn stall(mut self, secs: u32) -> Self {
        self.nbd.push_str(&format!("stall = {secs}\n"));
        self
    }

    /// `[nbd] connections_max`.
    pub fn connections_max(mut self, connections: u32) -> Self {
        self.nbd.push_str(&format!("connections_max = {connections}\n"));
        self
    }

    /// `[attach] grace`, seconds.
    pub fn grace(mut self, secs: u32) -> Self {
        self.grace_secs = secs;
        self
    }

    /// Starts it and waits until it is ready; panics with all it said when it does not come up.
    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|e| panic!("the server did not start: {e}"))
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ended before it was ready.
    pub fn try_start(self) -> Result<Server, StartError> {
        let dir =
            tempfile::Builder::new().prefix("sandstone-").tempdir().expect("a temporary directory");
        let staging = staging_dir();
        let mut server =
            Server { dir, staging, builder: self, child: None, ports: None, generation_at: 0 };
        server.start_again()?;
        Ok(server)
    }
}

fn staging_dir() -> TempDir {
    let shared = Path::new("/dev/shm");
    let roomy =
        rustix::fs::statvfs(shared).is_ok_and(|s| s.f_bavail * s.f_frsize >= STAGING_ROOM_BYTES);
    let mut builder = tempfile::Builder::new();
    builder.prefix("sandstone-staging-");
    let made = if roomy { builder.tempdir_in(shared) } else { builder.tempdir() };
    made.expect("a staging directory can be made")
}

/// A server that ended before it was ready, with what it said.
#[derive(Debug)]
pub struct StartError {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said since this start.
    pub said: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n--- it said\n{}", self.status, tail(&self.said))
    }
}

/// A volume as the harness made it.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its id, which is also its export name.
    pub id: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A mount as the harness made it.
#[derive(Clone, Debug)]
pub struct MountedVolume {
    /// The volume's id.
    pub volume: String,
    /// The sandbox's.
    pub sandbox: String,
    /// Its secret.
    pub session: String,
    /// What an NBD client asks for.
    pub export_name: String,
}

/// The ports of one start.
#[derive(Clone, Copy, Debug)]
struct Ports {
    nbd: SocketAddr,
    admin: SocketAddr,
}

/// A server and everything it owns. Dropped, it is killed and its directories are removed; when the
/// test is failing, the end of its log is shown.
pub struct Server {
    dir: TempDir,
    staging: TempDir,
    builder: Builder,
    child: Option<Child>,
    ports: Option<Ports>,
    /// Where the log of the present start begins, bytes.
    generation_at: usize,
}

impl Server {
    /// A server to be, with modest sizes.
    pub fn builder() -> Builder {
        Builder {
            store_size: "8G".to_owned(),
            cache: "256M".to_owned(),
            io: "auto".to_owned(),
            volume_size: "1G".to_owned(),
            reclaim_rate: "256M".to_owned(),
            grace_secs: 60,
            store: None,
            metadata: "64M".to_owned(),
            nbd: String::new(),
        }
    }

    /// A server with modest sizes, ready.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Starts it again in the same directory, on new TCP ports and the same Unix socket.
    ///
    /// # Errors
    /// When it ended before it was ready.
    pub fn start_again(&mut self) -> Result<(), StartError> {
        // A port that was free a moment ago may be taken by another test: then others are tried.
        for _ in 0..5 {
            self.spawn();
            match self.wait_ready() {
                Err(e) if e.said.contains("in use") => {}
                result => return result,
            }
        }
        self.spawn();
        self.wait_ready()
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server is running");
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [nbd, admin] =
            listeners.map(|l| l.local_addr().expect("a bound listener has an address"));
        self.ports = Some(Ports { nbd, admin });
        fs::write(self.config_path(), self.config(self.dir.path(), "nbd.sock", nbd, admin))
            .expect("the configuration can be written");
        self.generation_at = self.whole_log().len();
        let log =
            OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log file");
        let child = Command::new(sandstone())
            .args(["serve", "--config"])
            .arg(self.config_path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be doubled"))
            .stderr(log)
            .spawn();
        self.child =
            Some(child.unwrap_or_else(|e| panic!("cannot run {}: {e}", sandstone().display())));
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// When the process ended before.
    pub fn wait_ready(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + START_LIMIT;
        let probe = Admin::new(self.admin_url(), None);
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return Err(StartError { status, said: self.log() });
            }
            if probe.get("/readyz").is_ok_and(|a| a.status == 200) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "not ready after {START_LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The configuration of a server on the same store with a data directory of its own, for tests
    /// of the lock.
    pub fn rival_config(&self) -> PathBuf {
        let data = self.dir.path().join("rival");
        fs::create_dir_all(&data).expect("a directory can be made");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let path = data.join("sandstone.toml");
        fs::write(&path, self.config(&data, "rival.sock", any, any))
            .expect("a file can be written");
        path
    }

    fn config(&self, data: &Path, socket: &str, nbd: SocketAddr, admin: SocketAddr) -> String {
        // Debug quoting of an ASCII path is a TOML basic string.
        format!(
            r#"data_dir = {data:?}

[store]
path = {store:?}
size = {size:?}
io = {io:?}
staging = {staging:?}
reclaim_rate = {reclaim_rate:?}

[nbd]
listen = ["{nbd}"]
unix = {unix:?}
{nbd_lines}
[attach]
grace = {grace_secs}

[admin]
listen = "{admin}"

[cache]
memory = {cache:?}
metadata = {metadata:?}

[defaults]
volume_size = {volume_size:?}

[log]
format = "text"
level = "info"
"#,
            store = self.store_path(),
            size = self.builder.store_size,
            io = self.builder.io,
            staging = self.staging.path(),
            unix = data.join(socket),
            cache = self.builder.cache,
            metadata = self.builder.metadata,
            nbd_lines = self.builder.nbd,
            volume_size = self.builder.volume_size,
            reclaim_rate = self.builder.reclaim_rate,
            grace_secs = self.builder.grace_secs,
        )
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let mut child = self.child.take().expect("the server is running");
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM, and waits for the end; panics when it takes longer than a minute.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Waits for an end that was asked for before.
    pub fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = self.exited() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {STOP_LIMIT:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until somebody else has killed it.
    pub fn wait_killed(&mut self) {
        let status = self.wait_end();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id is positive");
        kill_process(pid, signal).expect("the server can be signalled");
    }

    /// Takes away what a host's crash takes away: all of the staging directory. The server must be
    /// down.
    pub fn lose_staging(&self) {
        assert!(
            self.child.is_none(),
            "the staging is lost with the host, not under a running server"
        );
        for entry in
            fs::read_dir(self.staging.path()).expect("the staging directory is there").flatten()
        {
            fs::remove_file(entry.path()).expect("a staging file can be removed");
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be waited for")
    }

    /// The admin port, with the token the server wrote.
    pub fn admin(&self) -> Admin {
        let token = fs::read_to_string(self.token_path()).expect("the server writes its token");
        Admin::new(self.admin_url(), Some(token.trim().to_owned()))
    }

    /// `http://` and the admin address.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.ports().admin)
    }

    /// Makes a volume from the request fields of the admin API.
    pub fn create_volume(&self, fields: &Value) -> Volume {
        let answer =
            self.admin().post("/api/v1/sandboxvolumes", fields).expect("the admin port answers");
        let data = answer.data(201);
        let id = data["id"].as_str().expect("a volume has an id").to_owned();
        Volume { id, size_bytes: data["size_bytes"].as_u64().expect("a volume has a size") }
    }

    /// Makes a volume of this size with default settings.
    pub fn volume(&self, size: &str) -> Volume {
        self.create_volume(&json!({ "size": size }))
    }

    /// Makes a volume of this size with `writeback` set or not.
    pub fn volume_writeback(&self, size: &str, writeback: bool) -> Volume {
        self.create_volume(&json!({ "size": size, "writeback": writeback }))
    }

    /// Mounts a volume for a sandbox.
    pub fn mount(&self, volume: &Volume, sandbox: &str) -> MountedVolume {
        let answer = self.try_mount(volume, sandbox, &json!({})).data(200);
        let text = |field: &str| answer[field].as_str().expect("a mount has this field").to_owned();
        MountedVolume {
            volume: volume.id.clone(),
            sandbox: sandbox.to_owned(),
            session: text("mount_session_id"),
            export_name: text("export_name"),
        }
    }

    /// What the admin port says to a mount with these knobs.
    pub fn try_mount(&self, volume: &Volume, sandbox: &str, config: &Value) -> Answer {
        let body = json!({ "sandboxvolume_id": volume.id, "mount_point": "/work", "volume_config": config });
        let path = format!("/api/v1/sandboxes/{sandbox}/sandboxvolumes/mount");
        self.admin().post(&path, &body).expect("the admin port answers")
    }

    /// Ends a mount.
    pub fn unmount(&self, mount: &MountedVolume) {
        let body = json!({ "sandboxvolume_id": mount.volume, "mount_session_id": mount.session });
        let path = format!("/api/v1/sandboxes/{}/sandboxvolumes/unmount", mount.sandbox);
        let answer = self.admin().post(&path, &body).expect("the admin port answers").data(200);
        assert_eq!(answer, json!({ "unmounted": true }));
    }

    /// The state of a mount; empty when there is none.
    pub fn mount_state(&self, mount: &MountedVolume) -> String {
        let path = format!("/api/v1/sandboxes/{}/sandboxvolumes/status", mount.sandbox);
        let answer = self.admin().get(&path).expect("the admin port answers").data(200);
        let mounts = answer["mounts"].as_array().expect("a status has mounts");
        let found = mounts.iter().find(|m| m["mount_session_id"] == mount.session.as_str());
        found.and_then(|m| m["state"].as_str()).unwrap_or_default().to_owned()
    }

    /// What the admin port says of a volume now.
    pub fn describe(&self, volume: &Volume) -> Value {
        let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
        self.admin().get(&path).expect("the admin port answers").data(200)
    }

    /// The volume's address over the Unix socket.
    pub fn uri(&self, volume: &Volume) -> String {
        format!("nbd+unix:///{}?socket={}", volume.id, self.socket_path().display())
    }

    /// The address of a mount over the Unix socket.
    pub fn mount_uri(&self, mount: &MountedVolume) -> String {
        let name = mount.export_name.replace('/', "%2F");
        format!("nbd+unix:///{name}?socket={}", self.socket_path().display())
    }

    /// The volume's address over TCP.
    pub fn tcp_uri(&self, volume: &Volume) -> String {
        format!("nbd://{}/{}", self.nbd_address(), volume.id)
    }

    /// The address of all exports over the Unix socket.
    pub fn list_uri(&self) -> String {
        format!("nbd+unix://?socket={}", self.socket_path().display())
    }

    /// A raw connection past the greeting.
    pub fn handshake(&self) -> Handshake {
        Handshake::unix(&self.socket_path()).unwrap_or_else(|e| panic!("no greeting: {e}"))
    }

    /// A raw connection in transmission, with simple replies as the Linux kernel has them.
    pub fn connect(&self, volume: &Volume) -> Connection {
        self.handshake().go(&volume.id).unwrap_or_else(|e| panic!("no connection: {e}"))
    }

    /// A raw connection in transmission with structured replies and `base:allocation`.
    pub fn connect_structured(&self, volume: &Volume) -> Connection {
        let mut handshake = self.handshake();
        handshake.structured(&volume.id).unwrap_or_else(|e| panic!("no structured replies: {e}"));
        handshake.go(&volume.id).unwrap_or_else(|e| panic!("no connection: {e}"))
    }

    /// The command line of this server's own binary, with its configuration; the arguments come
    /// first.
    pub fn cli<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        Program::new(sandstone())
            .args(args)
            .arg("--config")
            .arg(self.config_path())
            .dir(self.dir.path())
    }

    /// What the present start said so far.
    pub fn log(&self) -> String {
        self.whole_log().split_off(self.generation_at)
    }

    fn whole_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory since the process began, bytes.
    pub fn resident_bytes_max(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with(field)).expect("a process has this field");
        let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
        kib.expect("it is a number of KiB") * 1024
    }

    /// A number of `/metrics`; `sample` is its name with its labels. 0 where it is not there.
    pub fn metric(&self, sample: &str) -> f64 {
        let text = self.admin().get("/metrics").expect("the admin port answers").text;
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a sample is a number"))
    }

    /// Makes an empty file in the server's directory for a test's own use.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        File::create(&path).expect("a file can be made");
        path
    }

    /// The server's directory, which is also its `data_dir`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    /// The NBD address over TCP.
    pub fn nbd_address(&self) -> SocketAddr {
        self.ports().nbd
    }

    fn ports(&self) -> Ports {
        self.ports.expect("a started server has ports")
    }

    /// `sandstone.toml`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("sandstone.toml")
    }

    /// The NBD Unix socket.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    /// The store file.
    pub fn store_path(&self) -> PathBuf {
        self.builder.store.clone().unwrap_or_else(|| self.dir.path().join("store"))
    }

    /// The admin token's file.
    pub fn token_path(&self) -> PathBuf {
        self.dir.path().join("admin.token")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have died by itself, which the log below shows.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            println!("--- the server's log\n{}", tail(&self.whole_log()));
        }
    }
}
