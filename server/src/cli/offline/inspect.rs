//! `inspect`: show what lies in a stopped store, by the names of the format's description.

use super::stopped::stopped;
use crate::cli::base::{Audience, CliError, Context, output, print};
use clap::Args;
use sandstone_storage::{inspect::Field, inspect::Row, inspect::Section};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Rows of records that are held at a time.
const ROWS_HELD: usize = 10_000;

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Store to look into [default: the configuration's]
    store: Option<PathBuf>,
    /// Show the records of the log that the next start would replay
    #[arg(long)]
    records: bool,
    /// Show the records of this segment of the log
    #[arg(long, value_name = "NUMBER")]
    segment: Option<u64>,
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<(), CliError> {
    if args.records || args.segment.is_some() {
        return records(args, context).map_err(CliError::not_checked);
    }
    let store = args.store.as_deref();
    let (_, superblocks) =
        stopped(store, context, |store, _| async move { Ok(store.inspect_superblocks().await) })
            .map_err(CliError::not_checked)?;
    // What can be read is shown, whatever comes of the rest.
    let rest = stopped(store, context, |store, metadata_bytes| async move {
        store.inspect(metadata_bytes).await
    });
    let (rest, failed) = match rest {
        Ok((_, rest)) => (rest, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let sections: Vec<Section> = superblocks.into_iter().chain(rest).collect();
    context.answer(&as_json(&sections), || {
        sections.iter().map(told).collect::<Vec<_>>().join("\n\n")
    })?;
    failed.map_or(Ok(()), |error| Err(error.not_checked()))
}

/// A line a record: of a large log, more than memory would hold.
fn records(args: &InspectArgs, context: &Context) -> Result<(), CliError> {
    let mut held = Vec::new();
    let mut printed = Ok(());
    let audience = context.audience();
    stopped(args.store.as_deref(), context, |store, metadata_bytes| {
        let (held, printed) = (&mut held, &mut printed);
        async move {
            let each = |row: Row| {
                held.push(row);
                if held.len() < ROWS_HELD {
                    return;
                }
                match *printed {
                    Ok(()) => *printed = print_records(held, audience),
                    // The reader is gone.
                    Err(_) => held.clear(),
                }
            };
            store.inspect_records(args.segment, metadata_bytes, each).await
        }
    })?;
    printed.and_then(|()| print_records(&mut held, audience))
}

fn print_records(held: &mut Vec<Row>, audience: Audience) -> Result<(), CliError> {
    let rows = std::mem::take(held);
    if rows.is_empty() {
        return Ok(());
    }
    print(&match audience {
        Audience::People => table(&rows),
        Audience::Programs => rows
            .iter()
            .map(|row| Value::from(object(row)).to_string())
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

fn as_json(sections: &[Section]) -> Value {
    let rows = |section: &Section| {
        section.rows.iter().map(|row| Value::from(object(row))).collect::<Vec<_>>()
    };
    sections
        .iter()
        .map(|section| (section.name.clone(), json!(rows(section))))
        .collect::<Map<_, _>>()
        .into()
}

fn object(row: &Row) -> Map<String, Value> {
    let value = |field: &Field| match field {
        Field::Number(number) => json!(number),
        Field::Text(text) => json!(text),
        Field::Absent => Value::Null,
    };
    row.iter().map(|(name, field)| ((*name).to_owned(), value(field))).collect()
}

fn told(section: &Section) -> String {
    let body = match &section.rows[..] {
        [] => "none".to_owned(),
        // A line a field.
        [row] => {
            let mut lines = output::plain();
            for (name, field) in row {
                lines.add_row([(*name).to_owned(), shown(field)]);
            }
            output::shown(lines)
        }
        rows => table(rows),
    };
    let body: Vec<_> = body.lines().map(|line| format!("  {line}")).collect();
    format!("{}\n{}", section.name, body.join("\n"))
}

/// A line a row; a column has the name that its field has in the first.
fn table(rows: &[Row]) -> String {
    let mut table = output::plain();
    if let Some(first) = rows.first() {
        table.set_header(first.iter().map(|(name, _)| *name));
    }
    for row in rows {
        table.add_row(row.iter().map(|(_, field)| shown(field)));
    }
    output::shown(table)
}

fn shown(field: &Field) -> String {
    match field {
        Field::Number(number) => number.to_string(),
        Field::Text(text) => text.clone(),
        Field::Absent => "-".to_owned(),
    }
}
