//! `store`: what there is room for.

use crate::{
    cli::base::{CliError, Context},
    show,
};
use serde::Deserialize;

/// What the server says, in bytes.
#[derive(Debug, Deserialize)]
struct Store {
    size: u64,
    usable: u64,
    used: u64,
    free: u64,
    garbage: u64,
    held_back: u64,
    state: String,
    reasons: Vec<String>,
}

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let answer = client.get("/store")?;
    let store: Store = serde_json::from_value(answer.clone()).map_err(|error| client.foreign(error))?;
    context.answer(&answer, || store.told())
}

impl Store {
    fn told(&self) -> String {
        let lines = [
            ("size", self.size, "of the store"),
            ("usable", self.usable, "for volumes and snapshots, shared blocks once"),
            ("used", self.used, "by them now"),
            ("free", self.free, "for new data; overwrites need none"),
            ("garbage", self.garbage, "that reclaim gives back"),
            ("held back", self.held_back, "for the log, maps, checkpoints and reclaim"),
        ];
        let mut text: String = lines
            .iter()
            .map(|(name, bytes, what)| format!("{name:<10} {:>8}  {what}\n", show::rounded(*bytes)))
            .collect();
        text.push_str(&format!("{:<10} {:>8}", "state", self.state.replace('_', " ")));
        self.reasons.iter().for_each(|reason| text.push_str(&format!("  {reason}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_room_for_is_told_in_lines() {
        let store: Store = serde_json::from_value(serde_json::json!({
            "size": 4_u64 << 30, "usable": 3_u64 << 30, "used": 1_u64 << 30, "free": 2_u64 << 30, "garbage": 5 << 20,
            "held_back": 1_u64 << 30, "state": "nearly_full", "reasons": ["why"],
        }))
        .unwrap();
        let told = store.told();
        for part in ["size             4G", "free             2G", "garbage          5M", "nearly full  why"]
        {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
    }
}
