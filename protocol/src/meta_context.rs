//! Metadata contexts: which ones there are, and which ones a client's queries mean.
//!
//! | context | offered | a descriptor says |
//! |---|---|---|
//! | `base:allocation` | by every export | [`AllocationFlags`](crate::AllocationFlags) |
//! | `x-sandstone:changed-since:<snapshot id>` | for each snapshot of the export | [`ChangeFlags`](crate::ChangeFlags) |
//!
//! The second is a family, for incremental backups: bit 0 is set where the export may differ from
//! the snapshot, and all other bits are clear. The id is the snapshot's UUID, in lower case with
//! hyphens; no other spelling is a name. Which snapshots there are is the server's knowledge: it
//! comes with each look-up, in [`ExportInfo::snapshots`](crate::ExportInfo::snapshots).
//!
//! | query | LIST_META_CONTEXT | SET_META_CONTEXT |
//! |---|---|---|
//! | none at all | everything | nothing |
//! | a context's name | that context, if it is offered | that context, if it is offered |
//! | `base:` | `base:allocation` | nothing |
//! | `x-sandstone:`, `x-sandstone:changed-since:` | all of the family | nothing |
//! | another one | nothing | nothing |
//!
//! I1  Only what the export offers is listed or selected.
//! I2  In a selection each context is there once, under an id of its own that is not zero.
//! I3  A list and a selection are bounded, whatever is offered and asked for.
//! I4  Their cost grows with what is offered plus what is asked for, not with the product.
//!
//! Source: "Metadata querying", "The `base:` metadata namespace", `NBD_OPT_LIST_META_CONTEXT` and
//! `NBD_OPT_SET_META_CONTEXT` under "Option types". Own contexts begin with `x-sandstone:`, as the
//! specification reserves `x-*` for local use.

use std::collections::HashSet;
use std::fmt;

use uuid::Uuid;

use crate::limits::{LIST_SNAPSHOTS_MAX, SELECTED_CONTEXTS_MAX};
use crate::text::Text;

#[cfg(test)]
mod tests;

const ALLOCATION: &str = "base:allocation";
const BASE: &str = "base:";
const OWN: &str = "x-sandstone:";
const CHANGED_SINCE: &str = "x-sandstone:changed-since:";

/// A metadata context that the server can report on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaContext {
    /// `base:allocation`: holes and zeroes.
    BaseAllocation,
    /// `x-sandstone:changed-since:<snapshot id>`: what may differ from this snapshot of the export.
    ChangedSince(Uuid),
}

/// A context that a client has selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SelectedContext {
    /// Stands for it in block status replies. Never zero, which is what LIST_META_CONTEXT sends for
    /// every context. It is good for this selection only: "the metadata context ID is transient and
    /// may vary".
    pub id: u32,
    /// What it is.
    pub context: MetaContext,
}

impl MetaContext {
    /// Namespace, colon, leaf name.
    pub fn name(self) -> Text {
        Text::message(&self.to_string())
    }
}

impl fmt::Display for MetaContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetaContext::BaseAllocation => f.write_str(ALLOCATION),
            MetaContext::ChangedSince(snapshot) => {
                write!(f, "{CHANGED_SINCE}{}", snapshot.hyphenated())
            }
        }
    }
}

/// What a well-formed query means.
enum Query {
    /// One context, offered or not.
    Named(MetaContext),
    /// The wildcard of `base:`.
    EachOfBase,
    /// Either wildcard of `x-sandstone:`, whose only family it is.
    EachChangedSince,
    /// Something of another namespace, or nothing that these know.
    Other,
}

impl Query {
    fn parse(query: &str) -> Query {
        match query {
            ALLOCATION => Query::Named(MetaContext::BaseAllocation),
            BASE => Query::EachOfBase,
            OWN | CHANGED_SINCE => Query::EachChangedSince,
            _ => match query.strip_prefix(CHANGED_SINCE).and_then(snapshot) {
                Some(snapshot) => Query::Named(MetaContext::ChangedSince(snapshot)),
                None => Query::Other,
            },
        }
    }
}

/// The snapshot with this id, to the letter: a client looks in the reply for the name that it sent.
fn snapshot(id: &str) -> Option<Uuid> {
    let snapshot = Uuid::try_parse(id).ok()?;
    let spelt = *snapshot.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *id;
    spelt.then_some(snapshot)
}

/// Whether a query is a namespace, a colon, and anything. Unknown namespaces are well-formed: they
/// "MUST be ignored".
pub(crate) fn is_well_formed(query: &str) -> bool {
    let Some((namespace, _leaf)) = query.split_once(':') else { return false };
    !namespace.is_empty() && !namespace.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// The names that LIST_META_CONTEXT answers with: everything without queries, else what matches by
/// name or by wildcard.
///
/// When more than [`LIST_SNAPSHOTS_MAX`] match, the first of `snapshots` are listed and the
/// family's bare name stands for the rest: "the server MAY, instead of exhaustively listing every
/// matching context [...], send sufficient context records back to allow a client with knowledge of
/// the namespace to select any context", for instance "the namespace with no leaf-name".
pub(crate) fn listed(queries: &[Text], snapshots: &[Uuid]) -> Vec<Text> {
    let (mut allocation, mut each) = (queries.is_empty(), queries.is_empty());
    let mut named = HashSet::new(); // keeps I4
    for query in queries {
        match Query::parse(query) {
            Query::Named(MetaContext::BaseAllocation) | Query::EachOfBase => allocation = true,
            Query::Named(MetaContext::ChangedSince(snapshot)) => {
                named.insert(snapshot);
            }
            Query::EachChangedSince => each = true,
            Query::Other => {}
        }
    }
    let mut matching = snapshots.iter().filter(|snapshot| each || named.contains(*snapshot));
    let mut names = Vec::new();
    if allocation {
        names.push(MetaContext::BaseAllocation.name());
    }
    let shown = matching.by_ref().take(LIST_SNAPSHOTS_MAX); // keeps I3
    names.extend(shown.map(|&snapshot| MetaContext::ChangedSince(snapshot).name()));
    if matching.next().is_some() {
        names.push(Text::message(CHANGED_SINCE));
    }
    names
}

/// What SET_META_CONTEXT selects, in the order of the queries: what is called by name. Wildcards
/// "SHOULD NOT select any contexts", and no query selects nothing.
///
/// Of more than [`SELECTED_CONTEXTS_MAX`] the first ones are selected, and the client sees in the
/// reply which: `ERR_TOO_BIG`, a MAY, would take those from it as well.
pub(crate) fn selected(queries: &[Text], snapshots: &[Uuid]) -> Vec<SelectedContext> {
    let offered: HashSet<&Uuid> = snapshots.iter().collect(); // keeps I4
    let mut selected: Vec<SelectedContext> = Vec::new();
    for query in queries {
        let context = match Query::parse(query) {
            Query::Named(context @ MetaContext::BaseAllocation) => context,
            Query::Named(context @ MetaContext::ChangedSince(snapshot)) if offered.contains(&snapshot) => context,
            Query::Named(MetaContext::ChangedSince(_)) // keeps I1
            | Query::EachOfBase
            | Query::EachChangedSince
            | Query::Other => continue,
        };
        if selected.len() == SELECTED_CONTEXTS_MAX {
            break; // keeps I3
        }
        if selected.iter().all(|earlier| earlier.context != context) {
            selected.push(SelectedContext { id: selected.len() as u32 + 1, context }); // keeps I2
        }
    }
    selected
}
