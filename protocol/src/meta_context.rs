//! Metadata contexts: which ones there are, and which ones a client's queries mean.
//!
//! Source: "Metadata querying", "The `base:` metadata namespace", `NBD_OPT_LIST_META_CONTEXT` and
//! `NBD_OPT_SET_META_CONTEXT` under "Option types". Own contexts will begin with `x-sandstone:`, as the
//! specification reserves `x-*` for local use; a new variant here is all that the handshake needs.

use crate::text::Text;

/// A metadata context that the server can report on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetaContext {
    /// `base:allocation`: holes and zeroes.
    BaseAllocation,
}

impl MetaContext {
    /// All contexts, in the order in which they are listed.
    pub const ALL: [MetaContext; 1] = [MetaContext::BaseAllocation];

    /// Namespace, colon, leaf name.
    pub const fn name(self) -> &'static str {
        match self {
            MetaContext::BaseAllocation => "base:allocation",
        }
    }

    /// The id that stands for it in block status replies; the same on every connection, which the
    /// specification allows and no client may rely on. Never zero, which is what LIST_META_CONTEXT sends for
    /// every context.
    pub const fn id(self) -> u32 {
        match self {
            MetaContext::BaseAllocation => 1,
        }
    }

    /// Its namespace with the colon: the wildcard of a LIST query.
    fn wildcard(self) -> &'static str {
        let name = self.name();
        name.split_inclusive(':').next().unwrap_or(name)
    }
}

/// Whether a query is a namespace, a colon, and anything. Unknown namespaces are well-formed: they "MUST be
/// ignored".
pub(crate) fn is_well_formed(query: &str) -> bool {
    let Some((namespace, _leaf)) = query.split_once(':') else { return false };
    !namespace.is_empty() && !namespace.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// What LIST_META_CONTEXT answers: everything without queries, else what matches by name or by an empty leaf
/// name.
pub(crate) fn listed(queries: &[Text]) -> Vec<MetaContext> {
    let asked = |context: &MetaContext| {
        queries.is_empty() || queries.iter().any(|q| **q == *context.name() || **q == *context.wildcard())
    };
    MetaContext::ALL.into_iter().filter(asked).collect()
}

/// What SET_META_CONTEXT selects: what is called by name. "The server MUST ignore" `base:` here, and no query
/// selects nothing.
pub(crate) fn selected(queries: &[Text]) -> Vec<MetaContext> {
    let asked = |context: &MetaContext| queries.iter().any(|q| **q == *context.name());
    MetaContext::ALL.into_iter().filter(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(queries: &[&str]) -> Vec<Text> {
        queries.iter().map(|q| Text::new(*q).unwrap()).collect()
    }

    #[test]
    fn a_list_takes_wildcards_and_a_selection_does_not() {
        let all = MetaContext::ALL.to_vec();
        let cases: &[(&[&str], bool, bool)] = &[
            (&[], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["base:allocation", "base:allocation", "base:"], true, true),
            (&["base:allocations"], false, false),
            (&["base:alloc"], false, false),
            (&["qemu:allocation-depth"], false, false),
            (&["x-sandstone:"], false, false),
            (&["BASE:allocation"], false, false),
        ];
        for (queries, lists, selects) in cases {
            let expected = |yes: bool| if yes { all.clone() } else { vec![] };
            assert_eq!(listed(&texts(queries)), expected(*lists), "{queries:?}");
            assert_eq!(selected(&texts(queries)), expected(*selects), "{queries:?}");
        }
    }

    #[test]
    fn a_query_needs_a_namespace_and_a_colon() {
        for (query, expected) in [
            ("base:", true),
            ("x-a:b:c", true),
            ("", false),
            ("base", false),
            (":allocation", false),
            ("a b:c", false),
        ] {
            assert_eq!(is_well_formed(query), expected, "{query:?}");
        }
    }

    #[test]
    fn ids_are_unique_and_not_zero() {
        for (index, context) in MetaContext::ALL.iter().enumerate() {
            assert_ne!(context.id(), 0);
            assert!(MetaContext::ALL[..index].iter().all(|other| other.id() != context.id()));
        }
    }
}
