//! Rates as lines for people: the store above, then a table of the volumes.

use super::sample::{Rates, StoreRates, VolumeRates};
use crate::{api::ReclaimPhase, cli::base::output, show};
use clap::ValueEnum;
use comfy_table::CellAlignment;
use std::cmp::Ordering;

/// By which column the volumes are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    Bytes,
    Iops,
    P99,
    Queue,
    Name,
}

/// Which end comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The most; of names the first.
    Down,
    Up,
}

impl Sort {
    /// The one that the next key press gives.
    pub(super) fn next(self) -> Sort {
        match self {
            Sort::Bytes => Sort::Iops,
            Sort::Iops => Sort::P99,
            Sort::P99 => Sort::Queue,
            Sort::Queue => Sort::Name,
            Sort::Name => Sort::Bytes,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Bytes => "bytes",
            Sort::Iops => "iops",
            Sort::P99 => "p99",
            Sort::Queue => "queue",
            Sort::Name => "name",
        }
    }

    /// Those that come first are less.
    fn compare(self, a: &VolumeRates, b: &VolumeRates) -> Ordering {
        let down = |value: fn(&VolumeRates) -> f64| value(b).total_cmp(&value(a));
        match self {
            Sort::Bytes => down(|v| v.read.bytes + v.write.bytes),
            Sort::Iops => down(|v| v.read.iops + v.write.iops),
            Sort::P99 => down(|v| v.p99_us.unwrap_or(0.0)),
            Sort::Queue => b.queue_depth.cmp(&a.queue_depth),
            Sort::Name => a.name.cmp(&b.name),
        }
    }
}

impl Order {
    pub(super) fn turned(self) -> Order {
        match self {
            Order::Down => Order::Up,
            Order::Up => Order::Down,
        }
    }
}

/// What stands in a cell.
type Cell = fn(&VolumeRates) -> String;

/// The columns; but for the first, numbers that end in line.
const COLUMNS: [(&str, Cell); 11] = [
    ("NAME", |v| if v.name.is_empty() { v.id.to_string() } else { v.name.clone() }),
    ("CLIENTS", |v| v.attachments.to_string()),
    ("READ/s", |v| number(v.read.iops)),
    ("READ MiB/s", |v| mib(v.read.bytes)),
    ("WRITE/s", |v| number(v.write.iops)),
    ("WRITE MiB/s", |v| mib(v.write.bytes)),
    ("P50", |v| time(v.p50_us)),
    ("P99", |v| time(v.p99_us)),
    ("QUEUE", |v| v.queue_depth.to_string()),
    ("CACHED", |v| {
        v.cache_hit_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}%"))
    }),
    ("BUFFERED", |v| show::rounded(v.buffered_bytes)),
];

/// All of it; the third line is the table's head.
pub(super) fn lines(rates: &Rates, sort: Sort, order: Order) -> Vec<String> {
    let mut volumes: Vec<&VolumeRates> = rates.volumes.iter().collect();
    volumes.sort_by(|a, b| {
        let compared = sort.compare(a, b);
        let turned = match order {
            Order::Down => compared,
            Order::Up => compared.reverse(),
        };
        // So that idle volumes keep their places.
        turned.then_with(|| (&a.name, a.id).cmp(&(&b.name, b.id)))
    });
    let mut table = output::plain();
    table.set_header(COLUMNS.iter().map(|(heading, _)| *heading));
    for volume in volumes {
        table.add_row(COLUMNS.iter().map(|(_, cell)| cell(volume)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let count = rates.volumes.len();
    let above = [
        store(&rates.store),
        format!("volumes  {count} with clients since the start, by {}", sort.name()),
    ];
    above.into_iter().chain(output::shown(table).lines().map(str::to_owned)).collect()
}

fn store(store: &StoreRates) -> String {
    let health = match &store.trouble {
        None => "ready".to_owned(),
        Some(why) => format!("TAKES NO WRITES ({why})"),
    };
    let callers = store.callers_per_sync.map(|callers| format!(" for {callers:.1} callers each"));
    let mut parts = vec![
        format!("store    {health}"),
        format!(
            "{} of {} free",
            show::rounded(store.free_bytes),
            show::rounded(store.capacity_bytes)
        ),
        format!("log {} MiB/s in {} writes/s", mib(store.log_bytes), number(store.log_batches)),
        format!("{} syncs/s{}", number(store.syncs), callers.unwrap_or_default()),
    ];
    if store.checkpoints > 0.0 {
        parts.push("checkpoint".to_owned());
    }
    if store.reclaim != ReclaimPhase::Idle {
        parts.push(format!("reclaim {}", <&str>::from(store.reclaim)));
    }
    if store.scrub_running {
        parts.push("scrub".to_owned());
    }
    parts.join(", ")
}

/// A count a second: whole, but for slow ones.
fn number(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / f64::from(1 << 20))
}

/// Three digits or so.
fn time(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1e3 => format!("{us:.0}µs"),
        Some(us) if us < 1e5 => format!("{:.1}ms", us / 1e3),
        Some(us) if us < 1e6 => format!("{:.0}ms", us / 1e3),
        Some(us) => format!("{:.1}s", us / 1e6),
    }
}
