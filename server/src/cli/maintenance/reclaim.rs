//! `reclaim`: give the space of what was deleted back to the host, now rather than when the store needs it.

use crate::{
    cli::base::{Activity, Audience, CliError, Context},
    show,
};
use serde::Deserialize;
use serde_json::json;
use std::{fmt, thread, time::Duration};

const PATH: &str = "/admin/reclaim";

/// Time between two looks. A guess: a person sees it move.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// How far the server is, in its own words.
#[derive(Debug, Deserialize)]
struct Status {
    running: bool,
    phase: Phase,
    rounds: u64,
    marked_nodes: u64,
    freed_bytes: u64,
    forwarded_bytes: u64,
    punched_bytes: u64,
    store_allocated_bytes: u64,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Idle,
    Marking,
    Forwarding,
    Checkpointing,
    Punching,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Idle => "waiting",
            Phase::Marking => "marking what is in use",
            Phase::Forwarding => "moving what is in the way",
            Phase::Checkpointing => "writing a checkpoint",
            Phase::Punching => "giving space back",
        })
    }
}

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    client.post(PATH, &json!({}))?;
    let activity = Activity::new(context.audience());
    let (answer, status) = loop {
        let answer = client.get(PATH)?;
        let status: Status = serde_json::from_value(answer.clone()).map_err(|error| client.foreign(error))?;
        if !status.running {
            break (answer, status);
        }
        match context.audience() {
            Audience::People => activity.say(&status.phase.to_string(), &status.so_far()),
            Audience::Programs => {}
        }
        thread::sleep(LOOK_TIME);
    };
    drop(activity);
    if let Some(error) = status.error {
        return Err(CliError::Reclaim(error));
    }
    context.answer(&answer, || status.outcome())
}

impl Status {
    fn so_far(&self) -> String {
        format!(
            "{} nodes marked, {} freed, {} moved, {} given back",
            self.marked_nodes,
            show::rounded(self.freed_bytes),
            show::rounded(self.forwarded_bytes),
            show::rounded(self.punched_bytes)
        )
    }

    fn outcome(&self) -> String {
        format!(
            "{} went back to the host in {} round{}, {} moved for it; the store now takes {} of its disk.",
            show::rounded(self.punched_bytes),
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            show::rounded(self.forwarded_bytes),
            show::rounded(self.store_allocated_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_understood_and_told() {
        let status: Status = serde_json::from_value(json!({
            "running": false, "phase": "punching", "rounds": 2, "marked_nodes": 7, "freed_bytes": 3 << 20,
            "forwarded_bytes": 4096, "punched_bytes": 2 << 20, "store_allocated_bytes": 5 << 20, "error": null,
        }))
        .unwrap();
        assert_eq!(status.phase, Phase::Punching);
        let outcome = status.outcome();
        for part in ["2M went back", "2 rounds", "4K moved", "takes 5M"] {
            assert!(outcome.contains(part), "{part} is not in {outcome}");
        }
    }
}
