//! `check`: read all that a stopped store holds, and say what is wrong with it.

use super::stopped::stopped;
use crate::{
    cli::base::{CliError, Context, Progress},
    show,
};
use clap::Args;
use sandstone_storage::{
    check::CheckOptions, check::CheckReport, check::Finding, check::FindingKind,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Store to check [default: the configuration's]
    store: Option<PathBuf>,
    /// Read every block of data too, not the maps alone
    #[arg(long)]
    data: bool,
}

pub(crate) fn run(args: &CheckArgs, context: &Context) -> Result<(), CliError> {
    let progress = Progress::new(0, context.audience());
    let (path, report) =
        stopped(args.store.as_deref(), context, |store, metadata_bytes| async move {
            let options = CheckOptions { data: args.data, metadata_bytes };
            store.check(options, |at| progress.reach(at.done_bytes, at.total_bytes)).await
        })
        .map_err(CliError::not_checked)?;
    context.answer(&as_json(&path, args.data, &report), || told(&path, args.data, &report))?;
    if report.is_clean() { Ok(()) } else { Err(CliError::Findings(report.findings_count)) }
}

fn kind(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Superblock => "superblock",
        FindingKind::Catalog => "catalog",
        FindingKind::Segments => "segments",
        FindingKind::Log => "log",
        FindingKind::Map => "map",
        FindingKind::Address => "address",
        FindingKind::Count => "count",
        FindingKind::Data => "data",
    }
}

fn as_json(path: &Path, data: bool, report: &CheckReport) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "kind": kind(finding.kind),
            "what": finding.what,
            "id": finding.place.map(|place| place.line),
            "offset": finding.place.map(|place| place.offset),
            "length": finding.place.map(|place| place.len),
        })
    };
    json!({
        "store": path,
        "clean": report.is_clean(),
        "data": data,
        "findings_count": report.findings_count,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "notes": report.notes,
        "volumes": report.volumes,
        "snapshots": report.snapshots,
        "nodes": report.nodes,
        "mapped_bytes": report.mapped_bytes,
        "unique_bytes": report.unique_bytes,
        "checked_bytes": report.checked_bytes,
        "log_records": report.log_records,
        "log_bytes": report.log_bytes,
        "staged_records": report.staged_records,
        "slots": report.slots,
        "free_slots": report.free_slots,
    })
}

fn told(path: &Path, data: bool, report: &CheckReport) -> String {
    let read = if data {
        format!("{} of it read and compared", show::rounded(report.checked_bytes))
    } else {
        "not read (--data does)".to_owned()
    };
    let mut lines = vec![
        format!(
            "{}: {} volume(s), {} snapshot(s)",
            path.display(),
            report.volumes,
            report.snapshots
        ),
        format!(
            "  data      {}, {} of it distinct, {read}",
            show::rounded(report.mapped_bytes),
            show::rounded(report.unique_bytes)
        ),
        format!("  maps      {} nodes", report.nodes),
        format!("  segments  {} of {} slots are free", report.free_slots, report.slots),
        format!(
            "  log       {} record(s) to replay from {}, {} of them from staging",
            report.log_records,
            show::rounded(report.log_bytes),
            report.staged_records
        ),
    ];
    lines.extend(report.notes.iter().map(|note| format!("  note      {note}")));
    lines.extend(report.findings.iter().map(line));
    let kept = report.findings.len() as u64;
    if report.findings_count > kept {
        lines.push(format!("  and {} more", report.findings_count - kept));
    }
    if report.is_clean() {
        lines.push("Nothing is wrong.".to_owned());
    }
    lines.join("\n")
}

fn line(finding: &Finding) -> String {
    let place = finding
        .place
        .map(|place| format!("{}, {} bytes at {}: ", place.line, place.len, place.offset));
    format!("WRONG       {}: {}{}", kind(finding.kind), place.unwrap_or_default(), finding.what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstone_storage::check::Place;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let place = Place { line: uuid::Uuid::from_u128(7), offset: 8192, len: 4096 };
        let finding =
            Finding { kind: FindingKind::Data, what: "gone".to_owned(), place: Some(place) };
        let report =
            CheckReport { findings: vec![finding], findings_count: 3, ..CheckReport::default() };
        let text = told(Path::new("/store"), true, &report);
        for part in
            ["data: 00000000-0000-0000-0000-000000000007, 4096 bytes at 8192: gone", "and 2 more"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let value = as_json(Path::new("/store"), true, &report);
        assert_eq!(
            (&value["clean"], &value["findings"][0]["offset"]),
            (&json!(false), &json!(8192))
        );
        assert!(
            told(Path::new("/store"), false, &CheckReport::default()).contains("Nothing is wrong")
        );
    }
}
