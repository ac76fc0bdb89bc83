//! `reclaim`: give the space of what was deleted back to the host, now rather than when the store
//! needs it.

use super::poll::run_to_end;
use crate::{
    api::{Reclaim, ReclaimPhase},
    cli::base::{CliError, Context},
    show,
};

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let run: Reclaim = run_to_end("/admin/reclaim", context, |run: &Reclaim| {
        run.running.then(|| (phase(run.phase), so_far(run)))
    })?;
    if let Some(error) = run.error {
        return Err(CliError::Reclaim(error));
    }
    context.answer(&run, || outcome(&run))
}

fn phase(phase: ReclaimPhase) -> &'static str {
    match phase {
        ReclaimPhase::Idle => "waiting",
        ReclaimPhase::Marking => "marking what is in use",
        ReclaimPhase::Forwarding => "moving what is in the way",
        ReclaimPhase::Checkpointing => "writing a checkpoint",
        ReclaimPhase::Punching => "giving space back",
    }
}

fn so_far(run: &Reclaim) -> String {
    format!(
        "{} nodes marked, {} freed, {} moved, {} given back",
        run.marked_nodes,
        show::rounded(run.freed_bytes),
        show::rounded(run.forwarded_bytes),
        show::rounded(run.punched_bytes)
    )
}

fn outcome(run: &Reclaim) -> String {
    format!(
        "{} went back to the host in {} round{}, {} moved for it; the store now takes {} of its disk.",
        show::rounded(run.punched_bytes),
        run.rounds,
        if run.rounds == 1 { "" } else { "s" },
        show::rounded(run.forwarded_bytes),
        show::rounded(run.store_allocated_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_servers_words_are_understood_and_told() {
        let run: Reclaim = serde_json::from_value(json!({
            "running": false, "phase": "punching", "rounds": 2, "marked_nodes": 7, "freed_bytes": 3 << 20,
            "forwarded_bytes": 4096, "punched_bytes": 2 << 20, "store_allocated_bytes": 5 << 20, "error": null,
        }))
        .unwrap();
        assert_eq!(run.phase, ReclaimPhase::Punching);
        let outcome = outcome(&run);
        for part in ["2M went back", "2 rounds", "4K moved", "takes 5M"] {
            assert!(outcome.contains(part), "{part} is not in {outcome}");
        }
    }
}
