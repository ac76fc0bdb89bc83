//! Going through sequences, their moments, and the crash states of these.

use super::fates::{Tears, fates};
use super::operation::Operation;
use super::run::{Moment, Run, run};
use super::start::Start;
use super::verdict::{CrashState, hash};
use crate::world::Random;
use sandstone_ring::sim::Kept;
use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Of how many crash states one is crashed again while it is opened.
const RECOVERY_EVERY: u64 = 24;
/// Of how many crash states one dies once more after it has gone on.
const AGAIN_EVERY: u64 = 4;

/// What was gone through. `Debug` shows it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(dead_code, reason = "most of it is only shown")]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    pub(crate) moments: u64,
    /// Ways in which a moment may end.
    pub(crate) fates: u64,
    /// Crash states that were judged: no two of them have the same content, of disk and staging.
    pub(crate) states: u64,
    /// Of them, those of a crash in a recovery.
    pub(crate) recoveries: u64,
}

/// What several threads look for together.
#[derive(Default)]
pub(crate) struct Search {
    /// Contents that were met.
    contents: Mutex<HashSet<u64>>,
    /// Contents that were judged, each with what was right.
    questions: Mutex<HashSet<u64>>,
    runs: AtomicU64,
    moments: AtomicU64,
    fates: AtomicU64,
    states: AtomicU64,
    recoveries: AtomicU64,
}

/// All sequences of so many of these operations.
pub(crate) fn sequences(
    all: &[Operation],
    length: u32,
) -> impl Iterator<Item = Vec<Operation>> + '_ {
    (0..all.len().pow(length)).map(move |number| {
        (0..length).rev().map(|place| all[number / all.len().pow(place) % all.len()]).collect()
    })
}

impl Search {
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            runs: self.runs.load(Relaxed),
            moments: self.moments.load(Relaxed),
            fates: self.fates.load(Relaxed),
            states: self.states.load(Relaxed),
            recoveries: self.recoveries.load(Relaxed),
        }
    }

    /// Judges the crash states of a sequence's last operation.
    ///
    /// # Errors
    /// The first that is not as it should be.
    pub(crate) fn go_through(
        &self,
        start: &Start,
        sequence: &[Operation],
        seed: u64,
    ) -> Result<(), String> {
        let context = |why: String| format!("{sequence:?} with seed {seed}: {why}");
        let mut random = Random::new(seed);
        let Run { moments, states, .. } = run(start, sequence, seed).map_err(context)?;
        self.runs.fetch_add(1, Relaxed);
        let tears = if sequence.len() <= 2 { Tears::All } else { Tears::One };
        let hashes: Vec<u64> = states.iter().map(hash).collect();
        for (number, moment) in moments.iter().enumerate() {
            self.moments.fetch_add(1, Relaxed);
            let context = |why: String| context(format!("moment {number}: {why}"));
            let Moment { disk, staging, floors } = moment;
            let changes = disk.unsynced();
            for fate in fates(&changes, tears, &mut random) {
                // Where all that completed is there, it may as well have been the end of the host
                // alone.
                let completed = changes.iter().zip(&fate).filter(|(change, _)| !change.in_flight);
                let written = completed.clone().all(|(_, kept)| *kept == Kept::Whole);
                let floor =
                    if written { floors.written.max(floors.durable) } else { floors.durable };
                let right = &states[floor..=floors.begun];
                let (disk, question) =
                    (disk.crash_keeping(&fate), hash(&hashes[floor..=floors.begun]));
                let state =
                    CrashState { disk, staging: None, right, question, right_without_power: right };
                let context = |why| context(format!("power, {fate:?}: {why}"));
                self.judge(state, &mut random).map_err(context)?;
            }
            // The host dies, and the journal has nothing of what waits for it, or half. All of it
            // is as if the power had failed and nothing that was completed been lost.
            let in_flight = changes.iter().filter(|change| change.in_flight).count();
            for kept in [Kept::Nothing, Kept::Whole] {
                let unjournaled =
                    disk.unjournaled() + if kept == Kept::Whole { in_flight } else { 0 };
                for journaled in [0, unjournaled / 2].into_iter().take(unjournaled.min(2)) {
                    let floor = floors.written.max(floors.durable);
                    let (right, question) =
                        (&states[floor..=floors.begun], hash(&hashes[floor..=floors.begun]));
                    let disk = disk.kill_host_keeping(&vec![kept; in_flight], journaled);
                    let right_without_power = &states[floors.durable..=floors.begun];
                    let state =
                        CrashState { disk, staging: None, right, question, right_without_power };
                    let context = |why| {
                        context(format!("host, {kept:?}, {journaled} of {unjournaled}: {why}"))
                    };
                    self.judge(state, &mut random).map_err(context)?;
                }
            }
            let in_flight: Vec<_> =
                changes.iter().filter(|change| change.in_flight).copied().collect();
            for fate in fates(&in_flight, tears, &mut random) {
                let right = &states[floors.acknowledged..=floors.begun];
                let right_without_power = &states[floors.durable..=floors.begun];
                let (disk, staging) = (disk.kill_keeping(&fate), Some(staging.clone()));
                let question = hash(&hashes[floors.acknowledged..=floors.begun]);
                let state = CrashState { disk, staging, right, question, right_without_power };
                self.judge(state, &mut random)
                    .map_err(|why| context(format!("process, {fate:?}: {why}")))?;
            }
        }
        Ok(())
    }

    fn judge(&self, state: CrashState<'_>, random: &mut Random) -> Result<(), String> {
        self.fates.fetch_add(1, Relaxed);
        let Some(content) = self.is_new(&state) else { return Ok(()) };
        let (disk, lines) = state.judge(content)?;
        if content.is_multiple_of(AGAIN_EVERY) {
            // All that was not synced is gone.
            let kept = vec![Kept::Nothing; disk.unsynced().len()];
            let right = std::slice::from_ref(&lines);
            let disk = disk.crash_keeping(&kept);
            let question = hash(&lines);
            let again =
                CrashState { disk, staging: None, right, question, right_without_power: right };
            self.is_new(&again);
            again.judge(content).map_err(|why| format!("after it went on: {why}"))?;
        }
        if (content >> 8).is_multiple_of(RECOVERY_EVERY) {
            for crashed in state.crashes_of_recovery(random)? {
                if let Some(content) = self.is_new(&crashed) {
                    self.recoveries.fetch_add(1, Relaxed);
                    crashed
                        .judge(content)
                        .map_err(|why| format!("a crash in its recovery: {why}"))?;
                }
            }
        }
        Ok(())
    }

    /// The content of a state that was not judged yet by what is right. Counts it if no other had
    /// the content.
    fn is_new(&self, state: &CrashState<'_>) -> Option<u64> {
        let content = state.content();
        if self.contents.lock().expect("nobody panics with it").insert(content) {
            self.states.fetch_add(1, Relaxed);
        }
        let question = hash(&(content, state.question));
        self.questions.lock().expect("nobody panics with it").insert(question).then_some(content)
    }
}
