//! `store`: what there is room for.

use crate::{
    api::Store,
    cli::base::{CliError, Context},
    show,
};

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let store: Store = context.client()?.get("/store")?;
    context.answer(&store, || told(&store))
}

fn told(store: &Store) -> String {
    let lines = [
        ("size", store.size, "of the store"),
        ("usable", store.usable, "for volumes and snapshots, shared blocks once"),
        ("used", store.used, "by them now"),
        ("free", store.free, "for new data; overwrites need none"),
        ("garbage", store.garbage, "that reclaim gives back"),
        (
            "held back",
            store.held_back,
            "for log, maps, checkpoints and reclaim, and what the file system below cannot back",
        ),
    ];
    let mut text: String = lines
        .iter()
        .map(|(name, bytes, what)| format!("{name:<10} {:>8}  {what}\n", show::rounded(*bytes)))
        .collect();
    text.push_str(&format!("{:<10} {:>8}", "state", <&str>::from(store.state).replace('_', " ")));
    store.reasons.iter().for_each(|reason| text.push_str(&format!("  {reason}")));
    text
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
        let told = told(&store);
        for part in [
            "size             4G",
            "free             2G",
            "garbage          5M",
            "nearly full  why",
        ] {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
    }
}
