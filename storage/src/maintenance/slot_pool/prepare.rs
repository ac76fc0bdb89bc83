//! Slot preparation: the pool prepares free slots before the log needs them, so that no write waits
//! for the file system's journal.
//!
//! ```text
//!   take ─► look at it ─► zeroes where blocks were not written ─► sync ─► prepared
//!              └─ all blocks were written (by an earlier server process) ─┘
//! ```
//!
//! I1  A slot counts as prepared after a sync that began when all of its blocks were written
//!     (segments' I5).
//! I2  Returning all slots to the file system waits for at most one step of preparation.
//!
//! How many: [`READY_BYTES`] of them, and as many as the log has taken lately in a second, up to
//! [`READY_BYTES_MAX`] and an eighth of the store. None while nothing is logged: an idle store
//! takes no room. Where the log outruns preparation, it writes through.
//!
//! For a log that streams large batches, nearly as fast as the disk can, the pool writes no zeroes:
//! each byte would be written twice (a write amplification of 2) where writing through costs
//! little. Its slots get their blocks allocated instead, in long runs. It also uses slots that were
//! written before.

use super::pool::SlotPool;
use crate::{
    base::{Blindness, Error, Result, Slot, is_blind_to},
    disk::{PREPARED_KEPT, SlotPreparation},
    log::STREAM_BATCH_BYTES,
};
use futures_util::future::{Either, select};
use sandstone_ring::{Coverage, Placement, WriteBuf, aligned, runtime};
use std::{cell::Cell, io, ops::Range, pin::pin, sync::atomic::Ordering::*, time::Duration};

/// Bytes of prepared slots at least, while something is logged, and at least two slots: one is
/// filled while the next is prepared.
const READY_BYTES: u64 = 128 << 20;
/// Most bytes of prepared slots: a quarter of a second's worth at 2 GB/s.
const READY_BYTES_MAX: u64 = 512 << 20;
/// Bytes of slots kept allocated ahead of a log that streams, beside the slots that it takes
/// between two looks.
const ALLOCATED_BYTES: u64 = 256 << 20;
/// Time from the log's first request to the look, so that later requests join it.
const GATHER: Duration = Duration::from_millis(20);
/// Decay of the rate at which the log takes slots: by half in about a second.
const FADES: f64 = 0.5;
/// Slots that are examined before one is written: they may have been written before a restart.
const LOOKS_MAX: u32 = 64;
/// Where zeroes are written less than so many times as fast as the log, the log is better written
/// through.
const SPEED_LEAST: f64 = 3.0;
/// For a log that streams, a slot is completed if at most one part in this many is missing.
const GAPS_PART: u64 = 8;

/// An event that wakes the pool to prepare slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The log took slots that were prepared.
    Taken,
    ShutDown,
}

/// The log's demand for slots, kept from look to look.
struct LogDemand {
    looked: Duration,
    log_bytes: u64,
    batches: u64,
    next_segment: u64,
    /// Segments a second, decaying.
    taken: f64,
}

/// How much is written to prepare a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FillMode {
    /// All blocks that are missing.
    Whole,
    /// The missing blocks of slots that are nearly complete.
    Gaps,
}

impl FillMode {
    /// The mode that pays for a log that has taken `log_bytes` in `batches` in `seconds`, at this
    /// speed of writing zeroes.
    fn worth_it(log_bytes: u64, batches: u64, seconds: f64, zeroes_bytes_a_second: f64) -> Self {
        let is_fast = log_bytes as f64 * SPEED_LEAST > zeroes_bytes_a_second * seconds;
        let is_large = log_bytes >= batches * STREAM_BATCH_BYTES;
        if is_fast && is_large { Self::Gaps } else { Self::Whole }
    }
}

impl SlotPool {
    /// Prepares slots whenever the log takes some, until the store closes.
    pub(crate) async fn run(&self) {
        let next_segment = self.engine.disk.segments.next().0;
        let mut demand = LogDemand {
            looked: runtime::now(),
            log_bytes: 0,
            batches: 0,
            next_segment,
            taken: 0.0,
        };
        let zeroes =
            Zeroes { by: Cell::new(ZeroesBy::Device), bytes_a_second: Cell::new(f64::INFINITY) };
        loop {
            match self.next_event().await {
                Event::ShutDown => break,
                Event::Taken if self.engine.health.is_stopped() => {}
                Event::Taken => {
                    if let Err(error) = look(self, &mut demand, &zeroes).await {
                        // The log's own write will meet and report it.
                        tracing::debug!(%error, "a slot could not be prepared");
                    }
                }
            }
        }
    }

    async fn next_event(&self) -> Event {
        let taken = async {
            self.engine.log.slots_wanted.notified().await;
            runtime::sleep(GATHER).await;
        };
        match select(pin!(self.engine.shutdown.begun()), pin!(taken)).await {
            Either::Left(_) => Event::ShutDown,
            Either::Right(_) => Event::Taken,
        }
    }
}

async fn look(pool: &SlotPool, demand: &mut LogDemand, zeroes: &Zeroes) -> Result<()> {
    let engine = &pool.engine;
    let (segments, counters) = (&engine.disk.segments, &engine.log.counters);
    let (bytes, batches) = (counters.bytes.load(Relaxed), counters.batches.load(Relaxed));
    let (now, next) = (runtime::now(), segments.next().0);
    let elapsed = now.saturating_sub(demand.looked).as_secs_f64();
    let taken = next - demand.next_segment;
    demand.taken = demand.taken * FADES.powf(elapsed) + taken as f64;
    // Bytes logged before all slots were returned are no reason to prepare slots again. They may
    // have just been returned.
    let returned = pool.log_bytes_when_returned();
    let (new_bytes, new_batches) =
        (bytes.saturating_sub(demand.log_bytes.max(returned)), batches - demand.batches);
    *demand = LogDemand {
        looked: now,
        log_bytes: bytes,
        batches,
        next_segment: next,
        taken: demand.taken,
    };
    if new_bytes == 0 {
        return Ok(());
    }
    let fill_mode =
        FillMode::worth_it(new_bytes, new_batches, elapsed, zeroes.bytes_a_second.get());
    let _no_other = pool.work.lock().await;
    let slots =
        |bytes: u64| (bytes / segments.geometry.segment_bytes()).max(PREPARED_KEPT as u64) as usize;
    let ahead = (slots(READY_BYTES) + demand.taken as usize).min(slots(READY_BYTES_MAX));
    let ahead = ahead.min((segments.geometry.slots / 8).max(1) as usize);
    match (engine.disk.file.placement(), fill_mode) {
        (Placement::Device | Placement::Memory(_), _) => Ok(()),
        (Placement::InPlace(_), FillMode::Whole) => prepare(pool, ahead, fill_mode, zeroes).await,
        (Placement::InPlace(_), FillMode::Gaps) => {
            prepare(pool, ahead, fill_mode, zeroes).await?;
            allocate(pool, slots(ALLOCATED_BYTES) + taken as usize).await;
            Ok(())
        }
        (Placement::Moving(_) | Placement::Buffered(_), FillMode::Gaps) => {
            allocate(pool, slots(ALLOCATED_BYTES) + taken as usize).await;
            Ok(())
        }
        (Placement::Moving(_) | Placement::Buffered(_), FillMode::Whole) => Ok(()),
    }
}

/// Allocates the blocks of free slots, so that the log's writes need not.
async fn allocate(pool: &SlotPool, ahead: usize) {
    let disk = &pool.engine.disk;
    let geometry = disk.segments.geometry;
    while pool.goes_on()
        && let Some(slot) = disk.segments.take_to(SlotPreparation::Allocated, ahead)
    {
        let allocated =
            disk.file.allocate(geometry.offset(slot, 0), geometry.segment_bytes()).await;
        let preparation =
            if allocated.is_ok() { SlotPreparation::Allocated } else { SlotPreparation::Punched };
        disk.segments.give_back(slot, preparation);
        if allocated.is_err() {
            // Not offered, or no room: the log's own write will report it.
            return;
        }
    }
}

/// Prepares slots until `ahead` of them are prepared: first slots that need little, because they
/// were written before.
async fn prepare(
    pool: &SlotPool,
    ahead: usize,
    fill_mode: FillMode,
    zeroes: &Zeroes,
) -> Result<()> {
    let disk = &pool.engine.disk;
    let (segments, geometry) = (&disk.segments, disk.segments.geometry);
    let range =
        |slot| geometry.offset(slot, 0)..geometry.offset(slot, 0) + geometry.segment_bytes();
    for _ in 0..LOOKS_MAX {
        if !pool.goes_on() {
            break;
        }
        let Some(slot) = segments.take_written(ahead) else { break };
        let coverage = disk.file.coverage(range(slot));
        if coverage.missing_bytes() <= geometry.segment_bytes() / GAPS_PART {
            finish(pool, slot, coverage, zeroes).await?;
        } else {
            segments.give_back(
                slot,
                if coverage.is_hole { SlotPreparation::Punched } else { SlotPreparation::Partly },
            );
            runtime::yield_now().await;
        }
    }
    while fill_mode == FillMode::Whole
        && pool.goes_on()
        && let Some(slot) = segments.take_to(SlotPreparation::Prepared, ahead)
    {
        finish(pool, slot, disk.file.coverage(range(slot)), zeroes).await?;
    }
    Ok(())
}

/// Prepares a slot that was taken, and gives it back.
async fn finish(pool: &SlotPool, slot: Slot, coverage: Coverage, zeroes: &Zeroes) -> Result<()> {
    let disk = &pool.engine.disk;
    let start = disk.segments.geometry.offset(slot, 0);
    let filled =
        fill(pool, start..start + disk.segments.geometry.segment_bytes(), coverage, zeroes).await;
    let synced = match filled {
        Ok(()) if is_blind_to(Blindness::PreparedSync) => Ok(()),
        Ok(()) => pool.engine.log.sync_file().await, // keeps I1
        Err(error) => Err(Error::io("preparing a slot", error)),
    };
    disk.segments.give_back(
        slot,
        if synced.is_ok() { SlotPreparation::Prepared } else { SlotPreparation::Partly },
    );
    synced
}

/// How zeroes are made.
struct Zeroes {
    by: Cell<ZeroesBy>,
    /// How fast they were written beside other I/O; infinite as long as that is unknown.
    bytes_a_second: Cell<f64>,
}

/// Whether device or pool makes the zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ZeroesBy {
    /// The device is asked for them, which moves no data.
    Device,
    /// The pool writes them, because the device, the file system or the kernel does not offer that.
    Writing,
}

/// Writes the missing blocks of a slot.
async fn fill(
    pool: &SlotPool,
    range: Range<u64>,
    coverage: Coverage,
    zeroes: &Zeroes,
) -> io::Result<()> {
    // Each step changes metadata, for which the next sync waits: few and large ones make few syncs
    // wait. With pauses, because a flush may wait for a sync meanwhile: about 150 MiB a second.
    const STEP_BYTES: u64 = 2 << 20;
    const PAUSE: Duration = Duration::from_millis(12);
    let disk = &pool.engine.disk;
    let mut missing = coverage.missing;
    if zeroes.by.get() == ZeroesBy::Device {
        for part in &missing {
            match disk.file.write_zeroes(part.start, part.end - part.start).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
                Err(_) => {
                    zeroes.by.set(ZeroesBy::Writing);
                    break;
                }
            }
        }
        missing = disk.file.coverage(range).missing;
    }
    for part in missing {
        let mut at = part.start;
        while at < part.end {
            if !pool.goes_on() {
                return Err(io::ErrorKind::Interrupted.into()); // keeps I2
            }
            let step = STEP_BYTES.min(part.end - at);
            let mut data = aligned(step as usize);
            data.resize(step as usize, 0);
            let began = runtime::now();
            disk.file.write(at, WriteBuf::Owned(data)).await?;
            let speed = step as f64 / runtime::now().saturating_sub(began).as_secs_f64().max(1e-6);
            let before = zeroes.bytes_a_second.get();
            zeroes.bytes_a_second.set(if before.is_finite() {
                (7.0 * before + speed) / 8.0
            } else {
                speed
            });
            at += step;
            pool.add_prepared(step);
            match disk.segments.prepared() {
                // The log writes through, slowly, until this is done.
                0 => {}
                1 => runtime::sleep(PAUSE / 4).await,
                _ => runtime::sleep(PAUSE).await,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fast_stream_of_large_batches_goes_without_zeroes() {
        let check = |mib: u64, batches, zeroes: f64, expected| {
            assert_eq!(
                FillMode::worth_it(mib << 20, batches, 1.0, zeroes * 1e6),
                expected,
                "{mib} {batches} {zeroes}"
            );
        };
        check(800, 800, 1000.0, FillMode::Gaps);
        check(800, 20_000, 1000.0, FillMode::Whole); // 40 KiB each
        check(250, 1000, 1000.0, FillMode::Whole); // the disk can do both
        check(800, 800, f64::INFINITY, FillMode::Whole); // it is not known yet
    }
}
