//! `scrub`: have the server read and compare everything, and say what is not what was written.

use super::poll::run_to_end;
use crate::{
    api::{CorruptRange, CorruptWhat, Scrub},
    cli::base::{CliError, Context},
    show,
};

pub(crate) fn run(context: &Context) -> Result<(), CliError> {
    let pass: Scrub = run_to_end("/admin/scrub", context, |pass: &Scrub| {
        pass.running.then(|| ("reading", so_far(pass)))
    })?;
    context.answer(&pass, || outcome(&pass))?;
    if pass.corrupt_bytes > 0 { Err(CliError::Corrupt(pass.corrupt_bytes)) } else { Ok(()) }
}

fn so_far(pass: &Scrub) -> String {
    let lost = match pass.corrupt_bytes {
        0 => String::new(),
        bytes => format!(", {} of it lost", show::rounded(bytes)),
    };
    format!(
        "{} of {} volumes and snapshots, {} so far{lost}",
        pass.volumes_done,
        pass.volumes,
        show::rounded(pass.checked_bytes)
    )
}

fn outcome(pass: &Scrub) -> String {
    let mut lines = vec![format!(
        "Read {} of {} volumes and snapshots; {}.",
        show::rounded(pass.checked_bytes),
        pass.volumes,
        match pass.corrupt_bytes {
            0 => "all of it is what was written".to_owned(),
            bytes => format!("{} of it is lost", show::rounded(bytes)),
        }
    )];
    lines.extend(pass.corrupt.iter().map(line));
    lines.join("\n")
}

fn line(CorruptRange { id, offset, length, what }: &CorruptRange) -> String {
    match what {
        CorruptWhat::Data => format!("  {id}: {length} bytes at {offset} cannot be read"),
        CorruptWhat::Map => format!("  {id}: the map of {length} bytes at {offset} cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pass(corrupt: serde_json::Value, corrupt_bytes: u64) -> Scrub {
        serde_json::from_value(json!({
            "running": false, "passes": 1, "volumes": 3, "volumes_done": 3, "checked_bytes": 5 << 20,
            "corrupt_bytes": corrupt_bytes, "corrupt": corrupt, "rotten_bytes": corrupt_bytes, "rots": [],
        }))
        .unwrap()
    }

    #[test]
    fn the_servers_words_are_understood_and_told() {
        let sound = outcome(&pass(json!([]), 0));
        assert!(
            sound.contains("Read 5M of 3 volumes") && sound.contains("what was written"),
            "{sound}"
        );
        let id = "0b54ae6c-4b3c-4a4f-8a6c-1f9bb4f0b2de";
        let ranges = json!([
            { "id": id, "offset": 8192, "length": 4096, "what": "data" },
            { "id": id, "offset": 0, "length": 1 << 20, "what": "map" },
        ]);
        let corrupt = outcome(&pass(ranges, 8192));
        for part in
            ["8K of it is lost", "4096 bytes at 8192 cannot", "the map of 1048576 bytes at 0"]
        {
            assert!(corrupt.contains(part), "{part} is not in {corrupt}");
        }
    }
}
