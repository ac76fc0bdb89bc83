//! Volumes and snapshots by what came from what.

use crate::{
    api::{Snapshot, Volume},
    cli::base::json,
};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use uuid::Uuid;

/// All volumes and snapshots, as the API shows them, with what lies below each.
pub(super) struct Lineage {
    pub(super) nodes: Vec<Node>,
    /// Volumes that are below nothing, oldest first.
    pub(super) roots: Vec<usize>,
}

pub(super) struct Node {
    id: Uuid,
    /// Of a volume: what it was forked from, the volume first.
    sources: [Option<Uuid>; 2],
    /// Its name, or its id.
    pub(super) name: String,
    pub(super) used_bytes: u64,
    pub(super) exclusive_bytes: Option<u64>,
    pub(super) created_at: Timestamp,
    /// As the API shows it.
    pub(super) json: Value,
    pub(super) kind: Kind,
    /// Snapshots first; of each kind oldest first. Indexes of `nodes`.
    pub(super) children: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Volume(Source),
    Snapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It is below what it was forked from, or was not forked.
    Known,
    /// Its source was deleted.
    Deleted,
}

impl Lineage {
    /// The lineage of volumes with their snapshots, both oldest first.
    pub(super) fn new(volumes: Vec<(Volume, Vec<Snapshot>)>) -> Lineage {
        let mut lineage = Lineage { nodes: Vec::new(), roots: Vec::new() };
        let mut by_id: HashMap<Uuid, usize> = HashMap::new();
        let mut volume_indexes = Vec::with_capacity(volumes.len());
        for (volume, snapshots) in volumes {
            let index = lineage.add(Node::of_volume(volume), &mut by_id);
            volume_indexes.push(index);
            for snapshot in snapshots {
                let child = lineage.add(Node::of_snapshot(snapshot), &mut by_id);
                lineage.nodes[index].children.push(child);
            }
        }
        let parents = lineage.parents(&volume_indexes, &by_id);
        for index in volume_indexes {
            match parents[index] {
                Some(parent) => lineage.nodes[parent].children.push(index),
                None => {
                    if lineage.nodes[index].sources != [None; 2] {
                        lineage.nodes[index].kind = Kind::Volume(Source::Deleted);
                    }
                    lineage.roots.push(index);
                }
            }
        }
        lineage
    }

    fn add(&mut self, node: Node, by_id: &mut HashMap<Uuid, usize>) -> usize {
        let index = self.nodes.len();
        by_id.insert(node.id, index);
        self.nodes.push(node);
        index
    }

    /// What each volume is below, by its index. Never in a circle, which a source that was deleted
    /// and made anew under its old id, as a fork of its own fork, would close.
    fn parents(&self, volumes: &[usize], by_id: &HashMap<Uuid, usize>) -> Vec<Option<usize>> {
        /// Whether the way from a node upwards was walked.
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Walked {
            Not,
            Now,
            ToItsRoot,
        }
        let mut parents: Vec<Option<usize>> = vec![None; self.nodes.len()];
        for index in volumes {
            let [volume, snapshot] = self.nodes[*index].sources.map(|id| by_id.get(&id?).copied());
            parents[*index] = snapshot.or(volume);
            for child in &self.nodes[*index].children {
                parents[*child] = Some(*index);
            }
        }
        let mut walked = vec![Walked::Not; self.nodes.len()];
        for start in volumes {
            let mut way = Vec::new();
            let mut next = Some(*start);
            while let Some(node) = next {
                match walked[node] {
                    Walked::ToItsRoot => break,
                    // The oldest volume on the circle is the one that was met first.
                    Walked::Now => {
                        parents[*start] = None;
                        break;
                    }
                    Walked::Not => {
                        walked[node] = Walked::Now;
                        way.push(node);
                        next = parents[node];
                    }
                }
            }
            way.into_iter().for_each(|node| walked[node] = Walked::ToItsRoot);
        }
        parents
    }
}

impl Node {
    fn of_volume(volume: Volume) -> Node {
        Node {
            id: volume.id,
            sources: [volume.source_volume_id, volume.source_snapshot_id],
            json: json(&volume),
            name: volume.name.unwrap_or_else(|| volume.id.to_string()),
            used_bytes: volume.used_bytes,
            exclusive_bytes: volume.exclusive_bytes,
            created_at: volume.created_at,
            kind: Kind::Volume(Source::Known),
            children: Vec::new(),
        }
    }

    fn of_snapshot(snapshot: Snapshot) -> Node {
        Node {
            id: snapshot.id,
            sources: [None; 2],
            json: json(&snapshot),
            name: snapshot.name,
            used_bytes: snapshot.used_bytes,
            exclusive_bytes: snapshot.exclusive_bytes,
            created_at: snapshot.created_at,
            kind: Kind::Snapshot,
            children: Vec::new(),
        }
    }
}
