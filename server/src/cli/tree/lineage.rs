//! Volumes and snapshots by what came from what.

use serde_json::Value;
use std::collections::HashMap;

/// All volumes and snapshots, as the API shows them, with what lies below each.
pub(super) struct Lineage {
    pub(super) nodes: Vec<Node>,
    /// Volumes that are below nothing, oldest first.
    pub(super) roots: Vec<usize>,
}

pub(super) struct Node {
    pub(super) shown: Value,
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
    pub(super) fn new(volumes: Vec<(Value, Vec<Value>)>) -> Lineage {
        let mut lineage = Lineage { nodes: Vec::new(), roots: Vec::new() };
        let mut by_id: HashMap<String, usize> = HashMap::new();
        let mut volume_indexes = Vec::with_capacity(volumes.len());
        for (volume, snapshots) in volumes {
            let index = lineage.add(volume, Kind::Volume(Source::Known), &mut by_id);
            volume_indexes.push(index);
            for snapshot in snapshots {
                let child = lineage.add(snapshot, Kind::Snapshot, &mut by_id);
                lineage.nodes[index].children.push(child);
            }
        }
        let parents = lineage.parents(&volume_indexes, &by_id);
        for index in volume_indexes {
            match parents[index] {
                Some(parent) => lineage.nodes[parent].children.push(index),
                None => {
                    if source_id(&lineage.nodes[index].shown).is_some() {
                        lineage.nodes[index].kind = Kind::Volume(Source::Deleted);
                    }
                    lineage.roots.push(index);
                }
            }
        }
        lineage
    }

    fn add(&mut self, shown: Value, kind: Kind, by_id: &mut HashMap<String, usize>) -> usize {
        let index = self.nodes.len();
        by_id.extend(shown["id"].as_str().map(|id| (id.to_owned(), index)));
        self.nodes.push(Node { shown, kind, children: Vec::new() });
        index
    }

    /// What each volume is below, by its index. Never in a circle, which a source that was deleted and made anew under its
    /// old id, as a fork of its own fork, would close.
    fn parents(&self, volumes: &[usize], by_id: &HashMap<String, usize>) -> Vec<Option<usize>> {
        /// Whether the way from a node upwards was walked.
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Walked {
            Not,
            Now,
            ToItsRoot,
        }
        let mut parents: Vec<Option<usize>> = vec![None; self.nodes.len()];
        for index in volumes {
            let id_of = |field: &str| by_id.get(self.nodes[*index].shown[field].as_str()?).copied();
            parents[*index] = id_of("source_snapshot_id").or_else(|| id_of("source_volume_id"));
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

/// What a volume was forked from, whether it still exists or not.
pub(super) fn source_id(volume: &Value) -> Option<&str> {
    volume["source_snapshot_id"].as_str().or(volume["source_volume_id"].as_str())
}
