use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const FIRST: Uuid = Uuid::from_u128(0x1111_1111_2222_4333_8444_aaaa_bbbb_cccc);
const SECOND: Uuid = Uuid::from_u128(2);
const FIRST_NAME: &str = "x-sandstone:changed-since:11111111-2222-4333-8444-aaaabbbbcccc";
const SECOND_NAME: &str = "x-sandstone:changed-since:00000000-0000-0000-0000-000000000002";
const ABSENT_NAME: &str = "x-sandstone:changed-since:00000000-0000-0000-0000-000000000003";
const OFFERED: [Uuid; 2] = [FIRST, SECOND];

fn texts(queries: &[&str]) -> Vec<Text> {
    queries.iter().map(|q| Text::new(*q).unwrap()).collect()
}

fn contexts(selection: &[SelectedContext]) -> Vec<MetaContext> {
    selection.iter().map(|selected| selected.context).collect()
}

/// So many snapshots, and a query for each.
fn many(count: usize) -> (Vec<Uuid>, Vec<Text>) {
    let snapshots: Vec<Uuid> = (0..count as u128).map(Uuid::from_u128).collect();
    let queries =
        snapshots.iter().map(|&snapshot| MetaContext::ChangedSince(snapshot).name()).collect();
    (snapshots, queries)
}

#[test]
fn a_name_is_spelt_as_documented() {
    assert_eq!(MetaContext::BaseAllocation.name().as_str(), "base:allocation");
    assert_eq!(MetaContext::ChangedSince(FIRST).name().as_str(), FIRST_NAME);
}

#[test]
fn a_list_takes_wildcards_and_a_selection_does_not() {
    let base = "base:allocation";
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&[], &[base, FIRST_NAME, SECOND_NAME], &[]),
        (&["base:"], &[base], &[]),
        (&[base], &[base], &[base]),
        (&[base, base, "base:"], &[base], &[base]),
        (&["x-sandstone:"], &[FIRST_NAME, SECOND_NAME], &[]),
        (&["x-sandstone:changed-since:"], &[FIRST_NAME, SECOND_NAME], &[]),
        (
            &["x-sandstone:", base, "x-sandstone:changed-since:"],
            &[base, FIRST_NAME, SECOND_NAME],
            &[base],
        ),
        (&[SECOND_NAME], &[SECOND_NAME], &[SECOND_NAME]),
        (
            &[SECOND_NAME, base, FIRST_NAME],
            &[base, FIRST_NAME, SECOND_NAME],
            &[SECOND_NAME, base, FIRST_NAME],
        ),
        (&[FIRST_NAME, FIRST_NAME, "x-sandstone:"], &[FIRST_NAME, SECOND_NAME], &[FIRST_NAME]),
        (&[ABSENT_NAME], &[], &[]),
        (&[ABSENT_NAME, base], &[base], &[base]),
        (&["base:allocations"], &[], &[]),
        (&["base:alloc"], &[], &[]),
        (&["BASE:allocation"], &[], &[]),
        (&["qemu:allocation-depth", "qemu:"], &[], &[]),
        (&["x-sandstone:changed-since"], &[], &[]),
        (&["x-sandstone2:", "x-sandstone:other:"], &[], &[]),
    ];
    for (queries, lists, selects) in cases {
        let queries = texts(queries);
        assert_eq!(listed(&queries, &OFFERED), texts(lists), "{queries:?}");
        let names: Vec<Text> =
            selected(&queries, &OFFERED).iter().map(|selected| selected.context.name()).collect();
        assert_eq!(names, texts(selects), "{queries:?}");
    }
}

#[test]
fn another_spelling_of_a_snapshot_is_no_name() {
    for leaf in [
        "11111111-2222-4333-8444-AAAABBBBCCCC",
        "11111111222243338444aaaabbbbcccc",
        "{11111111-2222-4333-8444-aaaabbbbcccc}",
        "urn:uuid:11111111-2222-4333-8444-aaaabbbbcccc",
        " 11111111-2222-4333-8444-aaaabbbbcccc",
        "11111111-2222-4333-8444-aaaabbbbcccc ",
        "11111111-2222-4333-8444-aaaabbbbccc",
    ] {
        let query = texts(&[&format!("x-sandstone:changed-since:{leaf}")]);
        assert_eq!(listed(&query, &OFFERED), [], "{leaf}");
        assert_eq!(selected(&query, &OFFERED), [], "{leaf}");
    }
}

#[test]
fn an_export_without_snapshots_offers_the_allocation_only() {
    let base = texts(&["base:allocation"]);
    assert_eq!(listed(&[], &[]), base);
    assert_eq!(listed(&texts(&["x-sandstone:"]), &[]), []);
    let queries = texts(&[FIRST_NAME, "base:allocation"]);
    assert_eq!(contexts(&selected(&queries, &[])), [MetaContext::BaseAllocation]);
}

/// I3
#[test]
fn a_long_list_shows_the_newest_and_the_family_for_the_rest() {
    let (snapshots, names) = many(LIST_SNAPSHOTS_MAX + 1);
    let (last, shown) = names.split_last().unwrap();
    let family = texts(&["x-sandstone:changed-since:"]);
    let base = texts(&["base:allocation"]);
    assert_eq!(listed(&[], &snapshots), [&base, shown, &family].concat());
    assert_eq!(listed(&family, &snapshots), [shown, &family].concat());
    assert_eq!(listed(&family, &snapshots[1..]), names[1..], "all are shown");
    assert_eq!(listed(std::slice::from_ref(last), &snapshots), std::slice::from_ref(last));
}

/// I3
#[test]
fn a_selection_stops_at_its_limit_and_keeps_the_order_of_the_queries() {
    let (snapshots, mut queries) = many(SELECTED_CONTEXTS_MAX + 4);
    queries.reverse();
    queries.insert(1, queries[0].clone());
    let selection = selected(&queries, &snapshots);
    let expected = snapshots.iter().rev().take(SELECTED_CONTEXTS_MAX);
    let expected: Vec<_> = expected.map(|&snapshot| MetaContext::ChangedSince(snapshot)).collect();
    assert_eq!(contexts(&selection), expected);
}

#[test]
fn a_query_needs_a_namespace_and_a_colon() {
    for (query, expected) in [
        ("base:", true),
        ("x-a:b:c", true),
        (FIRST_NAME, true),
        ("", false),
        ("base", false),
        (":allocation", false),
        ("a b:c", false),
    ] {
        assert_eq!(is_well_formed(query), expected, "{query:?}");
    }
}

fn query() -> impl Strategy<Value = Text> {
    let known = [ALLOCATION, BASE, OWN, CHANGED_SINCE].map(str::to_owned).to_vec();
    let snapshot =
        (0..40u128).prop_map(|n| MetaContext::ChangedSince(Uuid::from_u128(n)).to_string());
    let near = ("(base|x-sandstone|x-sandstone:changed-since):", "[^\\x00]{0,40}")
        .prop_map(|(a, b)| a + &b);
    prop_oneof![
        2 => select(known),
        6 => snapshot,
        1 => near,
        1 => "[^\\x00]{0,40}",
    ]
    .prop_map(|query| Text::new(query).unwrap())
}

/// The names of all that is offered, as plain strings.
fn offered_names(snapshots: &[Uuid]) -> Vec<String> {
    let changed_since = |snapshot| format!("x-sandstone:changed-since:{snapshot}");
    ["base:allocation".to_owned()].into_iter().chain(snapshots.iter().map(changed_since)).collect()
}

proptest! {
    /// I1, I2, I3, against a comparison of strings.
    #[test]
    fn a_selection_is_what_is_named_and_offered(queries in vec(query(), 0..60), offered in 0..40u128) {
        let snapshots: Vec<Uuid> = (0..offered).map(Uuid::from_u128).collect();
        let names = offered_names(&snapshots);
        let mut expected: Vec<&str> = vec![];
        for query in &queries {
            if names.iter().any(|name| name == query.as_str()) && !expected.contains(&query.as_str()) {
                expected.push(query);
            }
        }
        expected.truncate(SELECTED_CONTEXTS_MAX);
        let selection = selected(&queries, &snapshots);
        let found: Vec<Text> = selection.iter().map(|selected| selected.context.name()).collect();
        prop_assert_eq!(found.iter().map(Text::as_str).collect::<Vec<_>>(), expected);
        let ids: HashSet<u32> = selection.iter().map(|selected| selected.id).collect();
        prop_assert!(ids.len() == selection.len() && !ids.contains(&0));
    }

    /// I1, against a comparison of strings; and what is listed can be selected by its name.
    #[test]
    fn a_list_is_what_is_meant_and_offered(queries in vec(query(), 0..8), offered in 0..40u128) {
        let snapshots: Vec<Uuid> = (0..offered).map(Uuid::from_u128).collect();
        let meant = |name: &String| {
            queries.is_empty()
                || queries.iter().any(|query| {
                    query.as_str() == name || query.ends_with(':') && name.starts_with(query.as_str())
                })
        };
        let expected: Vec<String> = offered_names(&snapshots).into_iter().filter(meant).collect();
        let list = listed(&queries, &snapshots);
        prop_assert_eq!(list.iter().map(Text::as_str).collect::<Vec<_>>(), expected);
        for name in list {
            let selection = selected(std::slice::from_ref(&name), &snapshots);
            prop_assert_eq!(contexts(&selection).into_iter().map(MetaContext::name).collect::<Vec<_>>(), [name]);
        }
    }
}
