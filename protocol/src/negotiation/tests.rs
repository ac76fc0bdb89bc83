use super::*;
use crate::export::{Access, BlockSizes};
use crate::flaw::Flaw;
use crate::limits::SELECTED_CONTEXTS_MAX;
use crate::lookup::Purpose;
use crate::meta_context::MetaContext;
use uuid::Uuid;

const SNAPSHOT: Uuid = Uuid::from_u128(7);

fn text(s: &str) -> Text {
    Text::new(s).unwrap()
}

fn export() -> ExportInfo {
    ExportInfo {
        name: text("canonical"),
        description: text("a disk"),
        size_bytes: 1 << 30,
        flags: TransmissionFlags::for_export(Access::ReadWrite),
        block_sizes: BlockSizes::BYTE_ALIGNED,
        snapshots: vec![SNAPSHOT, Uuid::from_u128(6)],
    }
}

fn begin() -> Negotiation {
    Negotiation::begin(ClientFlags::NAMED).unwrap()
}

fn structured() -> Negotiation {
    let mut negotiation = begin();
    let step = handle(&mut negotiation, OptionRequest::StructuredReply);
    assert_eq!(bodies(&step), [ReplyBody::Ack]);
    negotiation
}

fn handle(negotiation: &mut Negotiation, request: OptionRequest) -> Step {
    negotiation.handle(ReceivedOption::Request(request))
}

/// Handles an option that looks an export up, and finds it.
fn find(negotiation: &mut Negotiation, request: OptionRequest) -> Step {
    let code = request.code();
    match handle(negotiation, request) {
        Step { send, next: Next::LookUp(lookup) } => {
            assert_eq!((send.len(), lookup.option()), (0, code));
            negotiation.export_found(lookup, &export())
        }
        other => panic!("no look-up: {other:?}"),
    }
}

fn request(name: &str, facts: &[InfoType]) -> InfoRequest {
    InfoRequest { name: text(name), facts: facts.to_vec() }
}

fn go(name: &str) -> OptionRequest {
    OptionRequest::Go(request(name, &[]))
}

fn query(name: &str, queries: &[&str]) -> MetaQuery {
    MetaQuery { name: text(name), queries: queries.iter().map(|q| text(q)).collect() }
}

fn set(name: &str, queries: &[&str]) -> OptionRequest {
    OptionRequest::SetMetaContext(query(name, queries))
}

fn bodies(step: &Step) -> Vec<ReplyBody> {
    let body = |reply: &HandshakeReply| match reply {
        HandshakeReply::Option(reply) => reply.body.clone(),
        HandshakeReply::ExportName(reply) => panic!("not an option reply: {reply:?}"),
    };
    step.send.iter().map(body).collect()
}

fn negotiated(step: Step) -> Negotiated {
    match step.next {
        Next::Transmission(negotiated) => negotiated,
        other => panic!("no transmission: {other:?}"),
    }
}

#[track_caller]
fn assert_error(step: &Step, expected: OptionError) {
    match &bodies(step)[..] {
        [ReplyBody::Error { error, text }] => {
            assert_eq!(*error, expected);
            assert!(!text.is_empty());
        }
        other => panic!("not one error: {other:?}"),
    }
    assert_eq!(step.next, Next::Option);
}

fn context(id: u32) -> ReplyBody {
    ReplyBody::MetaContext { id, name: text("base:allocation") }
}

fn changed_since(id: u32, snapshot: Uuid) -> ReplyBody {
    ReplyBody::MetaContext { id, name: MetaContext::ChangedSince(snapshot).name() }
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let begun = Negotiation::begin(ClientFlags::from_bits(4 | 1));
    assert_eq!(begun.unwrap_err(), CloseReason::UnknownClientFlags(4));
}

#[test]
fn a_client_without_fixed_newstyle_may_use_export_name() {
    let mut negotiation = Negotiation::begin(ClientFlags::EMPTY).unwrap();
    let step = find(&mut negotiation, OptionRequest::ExportName(text("x")));
    let Terms { size_bytes, flags, .. } = negotiated(step).terms;
    assert_eq!((size_bytes, flags.contains(TransmissionFlags::HAS_FLAGS)), (1 << 30, true));
}

#[test]
fn export_name_sends_the_zeroes_unless_the_client_declined_them() {
    for (flags, zeroes) in
        [(ClientFlags::FIXED_NEWSTYLE, Zeroes::Sent), (ClientFlags::NAMED, Zeroes::Omitted)]
    {
        let mut negotiation = Negotiation::begin(flags).unwrap();
        let step = find(&mut negotiation, OptionRequest::ExportName(text("x")));
        match &step.send[..] {
            [HandshakeReply::ExportName(reply)] => assert_eq!(reply.zeroes, zeroes),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn export_name_that_is_refused_malformed_or_too_big_ends_the_connection_without_a_reply() {
    let mut negotiation = begin();
    let Next::LookUp(lookup) = handle(&mut negotiation, OptionRequest::ExportName(text("x"))).next
    else {
        panic!("no look-up")
    };
    let refusal = Refusal::unknown_export(&text("x"));
    let step = negotiation.export_refused(lookup, refusal.clone());
    assert_eq!(step, close(CloseReason::ExportNameRefused(refusal)));

    let code = OptionCode::ExportName;
    let step = begin().handle(ReceivedOption::Malformed { code, flaw: Flaw::Truncated });
    assert_eq!(step, close(CloseReason::ExportNameMalformed(Flaw::Truncated)));
    let step = begin().handle(ReceivedOption::TooBig { code, len: 70_000 });
    assert_eq!(step.send, []);
    assert!(matches!(step.next, Next::Close(CloseReason::ExportNameRefused(_))));
}

#[test]
fn abort_is_acknowledged_and_closes_with_or_without_data() {
    let mut shut_down = begin();
    shut_down.shut_down();
    for (mut negotiation, received) in [
        (begin(), ReceivedOption::Request(OptionRequest::Abort)),
        (begin(), ReceivedOption::TooBig { code: OptionCode::Abort, len: 70_000 }),
        (shut_down, ReceivedOption::Request(OptionRequest::Abort)),
    ] {
        let step = negotiation.handle(received);
        assert_eq!(bodies(&step), [ReplyBody::Ack]);
        assert_eq!(step.next, Next::Close(CloseReason::Aborted));
    }
}

#[test]
fn list_sends_each_export_and_an_ack() {
    let mut negotiation = begin();
    let step = handle(&mut negotiation, OptionRequest::List);
    assert_eq!((step.send.len(), step.next), (0, Next::List));
    let listed = |name| ListedExport { name: text(name), description: text("") };
    let step = negotiation.list_found(vec![listed("a"), listed("b")]);
    let server = |name| ReplyBody::Server { name: text(name), description: text("") };
    assert_eq!(bodies(&step), [server("a"), server("b"), ReplyBody::Ack]);
    assert_eq!(bodies(&negotiation.list_found(vec![])), [ReplyBody::Ack]);
}

#[test]
fn a_list_may_be_refused_by_policy_or_for_its_length() {
    let mut negotiation = begin();
    assert_error(
        &negotiation.list_refused(Refusal::new(OptionError::Policy, "not here")),
        OptionError::Policy,
    );
    let many = vec![ListedExport { name: text("a"), description: text("") }; LIST_EXPORTS_MAX + 1];
    assert_error(&negotiation.list_found(many), OptionError::TooBig);
}

#[test]
fn go_without_information_requests_tells_size_and_block_sizes() {
    let mut negotiation = begin();
    let step = find(&mut negotiation, go("x"));
    let flags = export().flags.without(TransmissionFlags::SEND_DF);
    assert_eq!(
        bodies(&step),
        [
            ReplyBody::Info(Info::Export { size_bytes: 1 << 30, flags }),
            ReplyBody::Info(Info::BlockSize(BlockSizes::BYTE_ALIGNED)),
            ReplyBody::Ack,
        ]
    );
    let negotiated = negotiated(step);
    assert_eq!(negotiated.name, text("x"));
    assert_eq!(negotiated.reply_mode, ReplyMode::Simple);
    assert_eq!(negotiated.contexts, []);
    assert_eq!(
        negotiated.terms,
        Terms { size_bytes: 1 << 30, flags, payload_bytes_max: 64 << 20, block_status: false }
    );
}

#[test]
fn what_is_asked_for_twice_is_told_once_and_what_is_unknown_is_ignored() {
    let facts = [
        InfoType::Name,
        InfoType::Description,
        InfoType::Unknown(99),
        InfoType::Name,
        InfoType::Export,
    ];
    let step = find(&mut begin(), OptionRequest::Go(request("x", &facts)));
    let types: Vec<_> = bodies(&step)
        .iter()
        .filter_map(|body| match body {
            ReplyBody::Info(info) => Some(info.info_type()),
            _ => None,
        })
        .collect();
    assert_eq!(
        types,
        [InfoType::Export, InfoType::BlockSize, InfoType::Name, InfoType::Description]
    );
}

#[test]
fn an_empty_description_is_not_told() {
    let mut negotiation = begin();
    let option = OptionRequest::Info(request("x", &[InfoType::Description]));
    let Next::LookUp(lookup) = handle(&mut negotiation, option).next else { panic!("no look-up") };
    let step = negotiation.export_found(lookup, &ExportInfo { description: text(""), ..export() });
    assert_eq!(step.send.len(), 3, "{step:?}");
}

#[test]
fn info_answers_what_go_answers_and_the_handshake_goes_on() {
    for facts in [vec![], vec![InfoType::Name], vec![InfoType::BlockSize, InfoType::Description]] {
        for mut negotiation in [begin(), structured()] {
            let info = find(&mut negotiation, OptionRequest::Info(request("x", &facts)));
            assert_eq!(info.next, Next::Option);
            let go = find(&mut negotiation, OptionRequest::Go(request("x", &facts)));
            assert_eq!(bodies(&info), bodies(&go));
        }
    }
}

#[test]
fn only_go_and_export_name_attach() {
    let cases = [
        (go("x"), Purpose::Attach),
        (OptionRequest::ExportName(text("x")), Purpose::Attach),
        (OptionRequest::Info(request("x", &[])), Purpose::Inspect),
        (OptionRequest::ListMetaContext(query("x", &[])), Purpose::Inspect),
        (set("x", &[]), Purpose::Inspect),
    ];
    for (option, purpose) in cases {
        let Next::LookUp(lookup) = handle(&mut structured(), option).next else {
            panic!("no look-up")
        };
        assert_eq!((lookup.purpose(), lookup.name()), (purpose, &text("x")));
    }
}

#[test]
fn a_refused_export_gets_the_servers_error_and_another_may_be_tried() {
    let mut negotiation = begin();
    for refusal in [
        Refusal::unknown_export(&text("x")),
        Refusal::new(OptionError::Policy, "held by 10.0.0.1"),
        Refusal::new(OptionError::Shutdown, "stopping"),
    ] {
        let Next::LookUp(lookup) = handle(&mut negotiation, go("x")).next else {
            panic!("no look-up")
        };
        let error = refusal.error;
        assert_error(&negotiation.export_refused(lookup, refusal), error);
    }
    negotiated(find(&mut negotiation, go("y")));
}

#[test]
fn error_texts_escape_the_clients_words() {
    let refusal = Refusal::unknown_export(&text("\x1b[2J\"\n"));
    assert_eq!(refusal.text.as_str(), "there is no export \"\\u{1b}[2J\\\"\\n\"");
    let long = Refusal::unknown_export(&text(&"\x01".repeat(4096)));
    assert!(long.text.len() < 400);
}

#[test]
fn structured_replies_take_df_along_and_may_be_asked_for_twice() {
    let mut negotiation = structured();
    assert_eq!(bodies(&handle(&mut negotiation, OptionRequest::StructuredReply)), [ReplyBody::Ack]);
    let negotiated = negotiated(find(&mut negotiation, go("x")));
    assert_eq!(negotiated.reply_mode, ReplyMode::Structured);
    assert!(negotiated.terms.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn meta_contexts_before_structured_replies_are_invalid() {
    assert_error(&handle(&mut begin(), set("x", &["base:allocation"])), OptionError::Invalid);
    assert_error(
        &handle(&mut begin(), OptionRequest::ListMetaContext(query("x", &[]))),
        OptionError::Invalid,
    );
}

#[test]
fn list_meta_context_lists_by_wildcard_with_id_zero() {
    let changes = [changed_since(0, SNAPSHOT), changed_since(0, Uuid::from_u128(6))];
    let all = [&[context(0)], &changes[..]].concat();
    for (queries, found) in [
        (&[][..], &all[..]),
        (&["base:"], &[context(0)]),
        (&["base:allocation"], &[context(0)]),
        (&["x-sandstone:"], &changes),
        (&["x-a:", "qemu:"], &[]),
    ] {
        let option = OptionRequest::ListMetaContext(query("x", queries));
        let step = find(&mut structured(), option);
        assert_eq!(bodies(&step), [found, &[ReplyBody::Ack]].concat(), "{queries:?}");
    }
}

#[test]
fn set_meta_context_selects_for_the_export_that_is_then_used() {
    let mut negotiation = structured();
    let step =
        find(&mut negotiation, set("x", &["x-other:y", "base:allocation", "base:allocation"]));
    assert_eq!(bodies(&step), [context(1), ReplyBody::Ack]);
    let negotiated = negotiated(find(&mut negotiation, go("x")));
    assert_eq!(
        negotiated.contexts,
        [SelectedContext { id: 1, context: MetaContext::BaseAllocation }]
    );
    assert!(negotiated.terms.block_status);
}

#[test]
fn set_meta_context_selects_what_changed_since_a_snapshot_beside_the_allocation() {
    let mut negotiation = structured();
    let since = MetaContext::ChangedSince(SNAPSHOT);
    let unknown = MetaContext::ChangedSince(Uuid::from_u128(99)).name();
    let queries = [&*since.name(), &*unknown, "x-sandstone:", "base:allocation"];
    let step = find(&mut negotiation, set("x", &queries));
    assert_eq!(bodies(&step), [changed_since(1, SNAPSHOT), context(2), ReplyBody::Ack]);
    // A snapshot that is gone by then, or not looked for, stays selected.
    let Next::LookUp(lookup) = handle(&mut negotiation, go("x")).next else { panic!("no look-up") };
    let step = negotiation.export_found(lookup, &ExportInfo { snapshots: vec![], ..export() });
    let allocation = SelectedContext { id: 2, context: MetaContext::BaseAllocation };
    assert_eq!(negotiated(step).contexts, [SelectedContext { id: 1, context: since }, allocation]);
}

#[test]
fn set_meta_context_tells_which_ones_of_too_many_it_selects() {
    let mut negotiation = structured();
    let snapshots: Vec<Uuid> =
        (0..1 + SELECTED_CONTEXTS_MAX as u128).map(Uuid::from_u128).collect();
    let queries =
        snapshots.iter().map(|&snapshot| MetaContext::ChangedSince(snapshot).name()).collect();
    let option = OptionRequest::SetMetaContext(MetaQuery { name: text("x"), queries });
    let Next::LookUp(lookup) = handle(&mut negotiation, option).next else { panic!("no look-up") };
    let step = negotiation.export_found(lookup, &ExportInfo { snapshots, ..export() });
    assert_eq!(bodies(&step).len(), SELECTED_CONTEXTS_MAX + 1);
    assert_eq!(negotiated(find(&mut negotiation, go("x"))).contexts.len(), SELECTED_CONTEXTS_MAX);
}

#[test]
fn set_meta_context_also_counts_for_export_name() {
    let mut negotiation = structured();
    let _ = find(&mut negotiation, set("x", &["base:allocation"]));
    let step = find(&mut negotiation, OptionRequest::ExportName(text("x")));
    assert!(negotiated(step).terms.block_status);
}

#[test]
fn set_meta_context_for_another_export_selects_nothing() {
    let mut negotiation = structured();
    let _ = find(&mut negotiation, set("x", &["base:allocation"]));
    let negotiated = negotiated(find(&mut negotiation, go("y")));
    assert_eq!((negotiated.contexts.len(), negotiated.terms.block_status), (0, false));
}

#[test]
fn each_further_set_meta_context_replaces_the_selection_even_when_it_fails() {
    let malformed =
        ReceivedOption::Malformed { code: OptionCode::SetMetaContext, flaw: Flaw::Truncated };
    let too_big = ReceivedOption::TooBig { code: OptionCode::SetMetaContext, len: 70_000 };
    let no_colon = ReceivedOption::Request(set("x", &["allocation"]));
    let nothing = ReceivedOption::Request(set("x", &[]));
    let wildcard = ReceivedOption::Request(set("x", &["base:"]));
    for replacement in [malformed, too_big, no_colon, nothing, wildcard] {
        let mut negotiation = structured();
        let _ = find(&mut negotiation, set("x", &["base:allocation"]));
        if let Next::LookUp(lookup) = negotiation.handle(replacement.clone()).next {
            assert_eq!(bodies(&negotiation.export_found(lookup, &export())), [ReplyBody::Ack]);
        }
        let negotiated = negotiated(find(&mut negotiation, go("x")));
        assert_eq!(negotiated.contexts, [], "{replacement:?}");
    }
}

#[test]
fn set_meta_context_for_an_unknown_export_is_refused_and_forgets_the_selection() {
    let mut negotiation = structured();
    let _ = find(&mut negotiation, set("x", &["base:allocation"]));
    let Next::LookUp(lookup) = handle(&mut negotiation, set("gone", &["base:allocation"])).next
    else {
        panic!("no look-up")
    };
    let step = negotiation.export_refused(lookup, Refusal::unknown_export(&text("gone")));
    assert_error(&step, OptionError::UnknownExport);
    assert_eq!(negotiated(find(&mut negotiation, go("x"))).contexts, []);
}

#[test]
fn a_refused_go_keeps_the_selection() {
    let mut negotiation = structured();
    let _ = find(&mut negotiation, set("x", &["base:allocation"]));
    let Next::LookUp(lookup) = handle(&mut negotiation, go("x")).next else { panic!("no look-up") };
    let _ = negotiation.export_refused(lookup, Refusal::new(OptionError::Policy, "busy"));
    assert!(negotiated(find(&mut negotiation, go("x"))).terms.block_status);
}

#[test]
fn queries_without_a_namespace_are_invalid() {
    for bad in ["allocation", "", ":allocation"] {
        assert_error(
            &handle(&mut structured(), set("x", &["base:allocation", bad])),
            OptionError::Invalid,
        );
    }
}

#[test]
fn what_is_not_served_is_unsupported_and_the_handshake_goes_on() {
    let mut negotiation = begin();
    let unknown = |code| OptionRequest::Unknown { code, data: bytes::Bytes::from_static(b"?") };
    for option in
        [OptionRequest::StartTls, OptionRequest::ExtendedHeaders, unknown(4), unknown(u32::MAX)]
    {
        assert_error(&handle(&mut negotiation, option), OptionError::Unsup);
    }
    negotiated(find(&mut negotiation, go("x")));
}

#[test]
fn malformed_and_oversized_options_get_an_error_and_the_handshake_goes_on() {
    let mut negotiation = begin();
    for code in
        [OptionCode::List, OptionCode::Go, OptionCode::StructuredReply, OptionCode::StartTls]
    {
        let flaw = Flaw::DataNotAllowed;
        assert_error(
            &negotiation.handle(ReceivedOption::Malformed { code, flaw }),
            OptionError::Invalid,
        );
    }
    for code in [OptionCode::Info, OptionCode::SetMetaContext, OptionCode::Unknown(77)] {
        let too_big = ReceivedOption::TooBig { code, len: 70_000 };
        assert_error(&negotiation.handle(too_big), OptionError::TooBig);
    }
    negotiated(find(&mut negotiation, go("x")));
}

#[test]
fn structured_reply_with_data_is_not_granted() {
    let mut negotiation = begin();
    let (code, flaw) = (OptionCode::StructuredReply, Flaw::DataNotAllowed);
    let _ = negotiation.handle(ReceivedOption::Malformed { code, flaw });
    assert_eq!(negotiated(find(&mut negotiation, go("x"))).reply_mode, ReplyMode::Simple);
}

#[test]
fn too_many_options_end_the_connection() {
    let mut negotiation = begin();
    for _ in 0..HANDSHAKE_OPTIONS_MAX {
        assert_eq!(handle(&mut negotiation, OptionRequest::StructuredReply).next, Next::Option);
    }
    let step = handle(&mut negotiation, OptionRequest::StructuredReply);
    assert_eq!(step, close(CloseReason::TooManyOptions(HANDSHAKE_OPTIONS_MAX)));
}

#[test]
fn a_client_may_ask_for_each_export_of_a_list() {
    let mut negotiation = structured();
    let listed = ListedExport { name: text("x"), description: text("") };
    let _ = negotiation.list_found(vec![listed; 1000]);
    for _ in 0..1000 {
        let _ = find(&mut negotiation, OptionRequest::Info(request("x", &[])));
        let _ = find(&mut negotiation, OptionRequest::ListMetaContext(query("x", &[])));
    }
    negotiated(find(&mut negotiation, go("x")));
}

#[test]
fn a_server_that_shuts_down_says_so_to_every_option() {
    let mut negotiation = structured();
    negotiation.shut_down();
    for option in [OptionRequest::List, go("x"), OptionRequest::StructuredReply, set("x", &[])] {
        assert_error(&handle(&mut negotiation, option), OptionError::Shutdown);
    }
    let step = handle(&mut negotiation, OptionRequest::ExportName(text("x")));
    assert!(matches!(step.next, Next::Close(CloseReason::ExportNameRefused(_))));
}
