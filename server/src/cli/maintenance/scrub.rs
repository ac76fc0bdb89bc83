//! `scrub`: have the server read and compare everything, and say what is not what was written.

use crate::{
    cli::base::{Activity, Audience, CliError, Context},
    show,
};
use serde::Deserialize;
use serde_json::json;
use std::{thread, time::Duration};
use uuid::Uuid;

const PATH: &str = "/admin/scrub";

/// Time between two looks. A guess: a person sees it move.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// How far the server is, in its own words.
#[derive(Debug, Deserialize)]
struct Status {
    running: bool,
    volumes: u64,
    volumes_done: u64,
    checked_bytes: u64,
    rotten_bytes: u64,
    rots: Vec<Place>,
}

/// A place that is lost.
#[derive(Debug, Deserialize)]
struct Place {
    id: Uuid,
    offset: u64,
    length: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Data,
    Map,
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
            Audience::People => activity.say("reading", &status.so_far()),
            Audience::Programs => {}
        }
        thread::sleep(LOOK_TIME);
    };
    drop(activity);
    context.answer(&answer, || status.outcome())?;
    if status.rotten_bytes > 0 { Err(CliError::Corrupt(status.rotten_bytes)) } else { Ok(()) }
}

impl Status {
    fn so_far(&self) -> String {
        let rotten = match self.rotten_bytes {
            0 => String::new(),
            bytes => format!(", {} of it lost", show::rounded(bytes)),
        };
        format!(
            "{} of {} volumes and snapshots, {} so far{rotten}",
            self.volumes_done,
            self.volumes,
            show::rounded(self.checked_bytes)
        )
    }

    fn outcome(&self) -> String {
        let mut lines = vec![format!(
            "Read {} of {} volumes and snapshots; {}.",
            show::rounded(self.checked_bytes),
            self.volumes,
            match self.rotten_bytes {
                0 => "all of it is what was written".to_owned(),
                bytes => format!("{} of it is lost", show::rounded(bytes)),
            }
        )];
        lines.extend(self.rots.iter().map(Place::told));
        lines.join("\n")
    }
}

impl Place {
    fn told(&self) -> String {
        let Place { id, offset, length, what } = self;
        match what {
            What::Data => format!("  {id}: {length} bytes at {offset} cannot be read"),
            What::Map => format!("  {id}: the map of {length} bytes at {offset} cannot be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rots: serde_json::Value, rotten_bytes: u64) -> Status {
        serde_json::from_value(json!({
            "running": false, "passes": 1, "volumes": 3, "volumes_done": 3, "checked_bytes": 5 << 20,
            "rotten_bytes": rotten_bytes, "rots": rots,
        }))
        .unwrap()
    }

    #[test]
    fn the_servers_words_are_understood_and_told() {
        let sound = status(json!([]), 0).outcome();
        assert!(sound.contains("Read 5M of 3 volumes") && sound.contains("what was written"), "{sound}");
        let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        let places = json!([
            { "id": id, "offset": 8192, "length": 4096, "what": "data" },
            { "id": id, "offset": 0, "length": 1 << 20, "what": "map" },
        ]);
        let rotten = status(places, 8192).outcome();
        for part in ["8K of it is lost", "4096 bytes at 8192 cannot", "the map of 1048576 bytes at 0"] {
            assert!(rotten.contains(part), "{part} is not in {rotten}");
        }
    }
}
