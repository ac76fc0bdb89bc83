//! Snapshots and forks of some volumes, made and deleted over HTTP for as long as the server lives,
//! and what was promised for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::random::Random;
use crate::raw::Handshake;
use crate::server::{Server, Volume};

/// Lines kept at once: enough that all of them can be read after each kill.
const LINES_MAX: usize = 6;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of one read.
const READ_BYTES: u32 = 1 << 20;

/// What is known of a snapshot or a fork.
#[derive(Clone, Debug)]
struct Line {
    /// Where the admin API has it.
    path: String,
    size_bytes: u64,
    /// Of its content; nobody writes to it, so it never changes. None until it was read once.
    checksum: Option<u64>,
    /// A deletion was asked for, and not answered.
    going: bool,
}

/// Which lines there are, by id.
#[derive(Debug, Default)]
struct Lines {
    alive: HashMap<String, Line>,
    /// Their deletion was acknowledged.
    gone: Vec<String>,
}

/// The snapshots and forks of some volumes.
#[derive(Debug)]
pub struct Family {
    /// All volumes that are not of its making.
    all: Vec<Volume>,
    volumes: Vec<Volume>,
    lines: Arc<Mutex<Lines>>,
}

/// Makes and deletes until the server is gone.
pub struct Churn(JoinHandle<u64>);

impl Churn {
    /// Waits for its end. Gives the number of requests that were acknowledged.
    pub fn join(self) -> u64 {
        self.0.join().expect("the churn does not panic")
    }
}

fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Family {
    /// Of `volumes`, which have none yet; `all` are all that there are.
    pub fn new(all: &[Volume], volumes: &[Volume]) -> Self {
        Self { all: all.to_vec(), volumes: volumes.to_vec(), lines: Arc::default() }
    }

    /// Starts to make and delete.
    pub fn churn(&self, server: &Server, mut random: Random) -> Churn {
        let (admin, socket) = (server.admin(), server.socket_path());
        let (volumes, lines) = (self.volumes.clone(), Arc::clone(&self.lines));
        Churn(thread::spawn(move || {
            let read =
                |id: &str, size_bytes| checksum(Handshake::unix(&socket).ok()?, id, size_bytes);
            let mut acknowledged = 0;
            loop {
                let full = locked(&lines).alive.len() >= LINES_MAX;
                let step = if full || random.below(4) == 0 {
                    delete_one(&admin, &lines, &mut random)
                } else {
                    let volume = &volumes[random.below(volumes.len() as u64) as usize];
                    make_one(&admin, &lines, volume, random.below(2) == 0, &read)
                };
                match step {
                    Some(()) => acknowledged += 1,
                    None => return acknowledged,
                }
                thread::sleep(PAUSE);
            }
        }))
    }

    /// Holds what there is after a restart against what was promised, and every line against what
    /// it was at its beginning.
    pub fn check(&self, server: &Server) {
        let there = self.there(server);
        let mut lines = locked(&self.lines);
        for id in &lines.gone {
            assert!(!there.contains_key(id), "{id} was deleted and is back");
        }
        lines.alive.retain(|id, line| {
            let survived = there.contains_key(id);
            assert!(survived || line.going, "{id} was made and is gone");
            line.going = false;
            survived
        });
        for (id, line) in there {
            // Made by a request that nobody got the answer of.
            let line = lines.alive.entry(id.clone()).or_insert(line);
            let now =
                checksum(server.handshake(), &id, line.size_bytes).expect("a line can be read");
            let then = *line.checksum.get_or_insert(now);
            assert!(now == then, "{id} is not what it was");
        }
    }

    /// All snapshots of the volumes, and all volumes but those.
    fn there(&self, server: &Server) -> HashMap<String, Line> {
        let list = |path: &str| server.admin().get(path).expect("the admin port answers").data(200);
        let base = "/api/v1/sandboxvolumes";
        let line = |entry: &Value, prefix: &str| {
            let id = entry["id"].as_str().expect("an id").to_owned();
            let size_bytes = entry["size_bytes"].as_u64().expect("a size");
            (
                id.clone(),
                Line { path: format!("{prefix}/{id}"), size_bytes, checksum: None, going: false },
            )
        };
        let entries = |path: &str| list(path).as_array().expect("a list").clone();
        let mut there: HashMap<_, _> =
            entries(base).iter().map(|entry| line(entry, base)).collect();
        for volume in &self.all {
            assert!(there.remove(&volume.id).is_some(), "volume {} is gone", volume.id);
        }
        for volume in &self.volumes {
            let snapshots = format!("{base}/{}/snapshots", volume.id);
            there.extend(entries(&snapshots).iter().map(|entry| line(entry, &snapshots)));
        }
        there
    }
}

/// Makes a snapshot or a fork and reads it. `None` when the server is gone.
fn make_one(
    admin: &Admin,
    lines: &Mutex<Lines>,
    volume: &Volume,
    fork: bool,
    read: &impl Fn(&str, u64) -> Option<u64>,
) -> Option<()> {
    let base = format!("/api/v1/sandboxvolumes/{}", volume.id);
    let answer = if fork {
        admin.post(&format!("{base}/fork"), &json!({})).ok()?
    } else {
        admin.post(&format!("{base}/snapshots"), &json!({ "name": "kept" })).ok()?
    };
    let made = answer.data(201);
    let id = made["id"].as_str().expect("an id").to_owned();
    let size_bytes = made["size_bytes"].as_u64().expect("a size");
    let path = if fork {
        format!("/api/v1/sandboxvolumes/{id}")
    } else {
        format!("{base}/snapshots/{id}")
    };
    let line = Line { path, size_bytes, checksum: None, going: false };
    locked(lines).alive.insert(id.clone(), line);
    let checksum = read(&id, size_bytes)?;
    locked(lines).alive.get_mut(&id).expect("nobody else deletes").checksum = Some(checksum);
    Some(())
}

/// Deletes one of them. `None` when the server is gone.
fn delete_one(admin: &Admin, lines: &Mutex<Lines>, random: &mut Random) -> Option<()> {
    let (id, path) = {
        let mut lines = locked(lines);
        let at = random.below(lines.alive.len().max(1) as u64) as usize;
        let Some((id, line)) = lines.alive.iter_mut().nth(at) else { return Some(()) };
        line.going = true;
        (id.clone(), line.path.clone())
    };
    admin.delete(&path).ok()?.data(200);
    let mut lines = locked(lines);
    lines.alive.remove(&id);
    lines.gone.push(id);
    Some(())
}

/// Of all that an export holds. `None` when the connection breaks.
fn checksum(handshake: Handshake, export: &str, size_bytes: u64) -> Option<u64> {
    let mut client = handshake.go(export).ok()?;
    // FNV-1a over words: it only has to be equal for what is equal.
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    for offset in (0..size_bytes).step_by(READ_BYTES as usize) {
        let len = u64::from(READ_BYTES).min(size_bytes - offset) as u32;
        for word in client.read(offset, len).ok()?.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            sum = (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Some(sum)
}
