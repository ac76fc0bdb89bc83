//! A lineage as text for people, and as nested JSON for programs.

use super::lineage::{Kind, Lineage, Node, Source};
use crate::{cli::base::output, show};
use comfy_table::{CellAlignment, Table};

/// Width of a terminal that does not tell it, or of no terminal at all: names are not cut for a
/// file.
const COLUMNS_UNTOLD: usize = 1000;

/// Columns that a name gets even where the terminal is too narrow for it.
const NAME_COLUMNS_MIN: usize = 16;

/// Levels that are drawn beside each other; the next level begins at the left edge again. At three
/// columns each, a third of the terminal at most.
const LEVELS_MAX: usize = 16;
const LEVELS_MIN: usize = 3;
const LEVEL_COLUMNS: usize = 3;

/// Columns of used and exclusive bytes with their headings and gaps: `  1023.9M      1023.9M`.
const SIZES_COLUMNS: usize = 21;
/// Columns of a time to the second, and to the day, with the gap before it.
const SECONDS_COLUMNS: usize = 22;
const DAYS_COLUMNS: usize = 12;

/// The width to draw for: of the terminal, if stdout is one.
pub(super) fn terminal_columns() -> usize {
    Table::new().width().map_or(COLUMNS_UNTOLD, usize::from)
}

/// One line a volume or snapshot, in a terminal of so many columns.
pub(super) fn text(lineage: &Lineage, columns: usize) -> String {
    if lineage.roots.is_empty() {
        let command = show::own_command();
        return format!("No volumes yet. Make one: {command} volume create --name disk --size 10G");
    }
    let time_columns = if columns < 80 { DAYS_COLUMNS } else { SECONDS_COLUMNS };
    let tree_columns = columns.saturating_sub(SIZES_COLUMNS + time_columns);
    let levels = (columns / 3 / LEVEL_COLUMNS).clamp(LEVELS_MIN, LEVELS_MAX);
    let mut table = output::plain();
    table.set_header(["LINEAGE", "USED", "EXCLUSIVE", "CREATED"]);
    let mut bars = Bars { below: Vec::new(), levels };
    let mut ahead: Vec<Ahead> = Ahead::of(&lineage.roots, 0);
    while let Some(Ahead { index, depth, place }) = ahead.pop() {
        let node = &lineage.nodes[index];
        let mut line = bars.before(depth, place);
        let room = tree_columns.saturating_sub(line.chars().count()).max(NAME_COLUMNS_MIN);
        line.push_str(&label(node, room));
        let mut created = output::seconds(node.created_at);
        if time_columns == DAYS_COLUMNS {
            created = created.split(' ').next().unwrap_or_default().to_owned();
        }
        let used = show::rounded(node.used_bytes);
        let exclusive = output::or_absent(node.exclusive_bytes.map(show::rounded));
        table.add_row([line, used, exclusive, created]);
        ahead.extend(Ahead::of(&node.children, depth + 1));
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::shown(table)
}

/// A node that is still to be drawn.
struct Ahead {
    index: usize,
    depth: usize,
    place: Place,
}

/// Whether siblings follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Last,
    Between,
}

impl Ahead {
    /// Siblings, the first of them at the end, where the next one is taken from.
    fn of(siblings: &[usize], depth: usize) -> Vec<Ahead> {
        let place = |i: usize| if i + 1 == siblings.len() { Place::Last } else { Place::Between };
        let ahead = |(i, index): (usize, &usize)| Ahead { index: *index, depth, place: place(i) };
        siblings.iter().enumerate().map(ahead).rev().collect()
    }
}

/// What stands before a name.
struct Bars {
    /// By depth, from 1 on: the place of the last node drawn at that depth. A bar goes down from
    /// those with siblings.
    below: Vec<Place>,
    /// Levels until the left edge again.
    levels: usize,
}

impl Bars {
    fn before(&mut self, depth: usize, place: Place) -> String {
        if depth == 0 {
            return String::new();
        }
        self.below.truncate(depth - 1);
        let left = depth / self.levels * self.levels;
        let mut line = if left == 0 { String::new() } else { format!("⋯{left} ") };
        for place in self.below.iter().skip(left.saturating_sub(1)) {
            line.push_str(match place {
                Place::Between => "│  ",
                Place::Last => "   ",
            });
        }
        line.push_str(match place {
            Place::Between => "├─ ",
            Place::Last => "└─ ",
        });
        self.below.push(place);
        line
    }
}

/// What a node is called, in at most `columns` columns.
fn label(node: &Node, columns: usize) -> String {
    let name = &node.name;
    let (before, after) = match node.kind {
        Kind::Volume(Source::Known) => ("", ""),
        Kind::Volume(Source::Deleted) => ("", " (source deleted)"),
        Kind::Snapshot => ("snapshot ", ""),
    };
    let room = columns.saturating_sub(before.len() + after.len()).max(NAME_COLUMNS_MIN / 2);
    if name.chars().count() <= room {
        return format!("{before}{name}{after}");
    }
    let cut: String = name.chars().take(room - 1).collect();
    format!("{before}{cut}…{after}")
}

/// The same as JSON: each volume as the API shows it, with `snapshots` and `forks`, each snapshot
/// with `forks`. A line for each volume that is below nothing.
pub(super) fn json(lineage: &Lineage) -> String {
    /// What is still to be written.
    enum Step {
        Text(&'static str),
        Node(usize),
    }
    fn list(steps: &mut Vec<Step>, indexes: &[usize], separator: &'static str) {
        for (i, index) in indexes.iter().enumerate().rev() {
            steps.push(Step::Node(*index));
            if i > 0 {
                steps.push(Step::Text(separator));
            }
        }
    }
    let mut out = String::from("[");
    let mut steps = vec![Step::Text("]")];
    list(&mut steps, &lineage.roots, ",\n");
    while let Some(step) = steps.pop() {
        let node = match step {
            Step::Text(text) => {
                out.push_str(text);
                continue;
            }
            Step::Node(index) => &lineage.nodes[index],
        };
        let fields = node.json.to_string();
        // Without its closing brace: it has an id, so that something stands before the comma.
        out.push_str(&fields[..fields.len() - 1]);
        let snapshots =
            node.children.iter().take_while(|child| lineage.nodes[**child].kind == Kind::Snapshot);
        let (snapshots, forks) = node.children.split_at(snapshots.count());
        steps.push(Step::Text("]}"));
        list(&mut steps, forks, ",");
        steps.push(Step::Text(",\"forks\":["));
        if node.kind != Kind::Snapshot {
            steps.push(Step::Text("]"));
            list(&mut steps, snapshots, ",");
            steps.push(Step::Text(",\"snapshots\":["));
        }
    }
    out
}
