//! A run: operations on the start's store, and the moments of the last one.

use super::lines::{Floors, Lines, Timeline, volume_id, volume_of};
use super::operation::Operation;
use super::start::{GARBAGE, SHAPE, Start};
use super::verdict::Content;
use crate::world::World;
use sandstone_ring::{Runtime, sim::SimDisk};
use std::sync::{Arc, Mutex};

/// What there was when most was at stake.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) disk: SimDisk,
    pub(crate) staging: Arc<Content>,
    pub(crate) floors: Floors,
}

/// The moments of a run's last operation, and all states that its log went through.
pub(crate) struct Run {
    pub(crate) moments: Vec<Moment>,
    pub(crate) states: Vec<Lines>,
    /// Of all that the disk did.
    pub(crate) fingerprint: u64,
    pub(crate) content_hash: u64,
}

/// Goes through a sequence.
///
/// # Errors
/// Where the store does not do what it is asked.
pub(crate) fn run(start: &Start, sequence: &[Operation], seed: u64) -> Result<Run, String> {
    let world = World::on(start.disk.kill(seed), SHAPE, None);
    let timeline = Arc::new(Mutex::new(Timeline::new(start.lines.clone())));
    let moments = Arc::new(Mutex::new(Vec::new()));
    Runtime::simulated(seed).block_on(async {
        let (store, _) =
            world.open().await.map_err(|error| format!("the start does not open: {error}"))?;
        let staging = world.staging().expect("an open store has it");
        let garbage = volume_id(GARBAGE);
        timeline.lock().expect("nobody panics with it").step(garbage, |lines| {
            lines.0.retain(|line, _| volume_of(*line) != garbage);
        });
        let deleted = store.delete_volume(garbage).await;
        deleted.map_err(|error| format!("the garbage: {error}"))?;
        {
            let mut timeline = timeline.lock().expect("nobody panics with it");
            let begun = timeline.floors.begun;
            timeline.synced(begun);
        }
        let look = {
            let (timeline, moments) = (Arc::clone(&timeline), Arc::clone(&moments));
            move |disk: &SimDisk| {
                let floors = timeline.lock().expect("nobody panics with it").floors;
                let moment =
                    Moment { disk: disk.copy(), staging: Arc::new(Content::of(&staging)), floors };
                moments.lock().expect("nobody panics with it").push(moment);
            }
        };
        for (nth, operation) in sequence.iter().enumerate() {
            if nth + 1 == sequence.len() {
                world.disk.watch_syncs(look.clone());
            }
            let done = operation.perform(&store, &timeline, nth as u64).await;
            done.map_err(|why| format!("{operation:?}: {why}"))?;
        }
        look(&world.disk);
        Ok::<(), String>(())
    })?;
    let states = timeline.lock().expect("nobody panics with it").states.clone();
    let moments = std::mem::take(&mut *moments.lock().expect("nobody panics with it"));
    let (fingerprint, content_hash) = (world.disk.fingerprint(), world.disk.content_hash());
    Ok(Run { moments, states, fingerprint, content_hash })
}
