use super::*;
use crate::export::Access;
use crate::request::Cookie;

const SIZE: u64 = 1 << 30;
const MAX: u32 = 64 << 20;

fn terms() -> Terms {
    Terms {
        size_bytes: SIZE,
        flags: TransmissionFlags::for_export(Access::ReadWrite),
        payload_bytes_max: MAX,
        block_status: true,
    }
}

fn read_only() -> Terms {
    Terms { flags: TransmissionFlags::for_export(Access::ReadOnly), ..terms() }
}

fn request(command: Command, flags: CommandFlags, offset: u64, len: u32) -> Request {
    Request { flags, command, cookie: Cookie(7), offset, len }
}

fn plain(command: Command, offset: u64, len: u32) -> Request {
    request(command, CommandFlags::EMPTY, offset, len)
}

fn check(request: Request, expected: Checked) {
    assert_eq!(request.check(&terms()), Ok(expected), "{request:?}");
}

#[track_caller]
fn check_refused(request: Request, terms: &Terms, error: WireError) -> Reject {
    let reject = request.check(terms).unwrap_err();
    assert_eq!(reject.error, error, "{request:?}");
    reject
}

const RANGED: [Command; 6] = [
    Command::Read,
    Command::Write,
    Command::Trim,
    Command::Cache,
    Command::WriteZeroes,
    Command::BlockStatus,
];

#[test]
fn each_command_becomes_what_it_asks_for() {
    use CommandFlags as F;
    let (offset, len) = (4097, 511);
    check(plain(Command::Read, offset, len), Checked::Read { offset, len, df: false });
    check(request(Command::Read, F::DF, offset, len), Checked::Read { offset, len, df: true });
    check(plain(Command::Write, offset, len), Checked::Write { offset, len, fua: false });
    check(request(Command::Write, F::FUA, offset, len), Checked::Write { offset, len, fua: true });
    check(plain(Command::Flush, 0, 0), Checked::Flush);
    check(request(Command::Trim, F::FUA, offset, len), Checked::Trim { offset, len, fua: true });
    check(plain(Command::Cache, offset, len), Checked::Cache { offset, len });
    check(
        request(Command::WriteZeroes, F::NO_HOLE, offset, len),
        Checked::WriteZeroes { offset, len, no_hole: true, fast_zero: false, fua: false },
    );
    check(
        request(Command::WriteZeroes, F::FAST_ZERO.with(F::FUA), offset, len),
        Checked::WriteZeroes { offset, len, no_hole: false, fast_zero: true, fua: true },
    );
    check(
        request(Command::BlockStatus, F::REQ_ONE, offset, len),
        Checked::BlockStatus { offset, len, req_one: true },
    );
    check(plain(Command::Disconnect, 0, 0), Checked::Disconnect);
}

#[test]
fn the_last_byte_is_in_range_and_the_next_is_not() {
    for command in RANGED {
        assert!(plain(command, SIZE - 1, 1).check(&terms()).is_ok(), "{command:?}");
        assert!(plain(command, SIZE - 1, 2).check(&terms()).is_err(), "{command:?}");
        assert!(plain(command, SIZE, 1).check(&terms()).is_err(), "{command:?}");
    }
}

#[test]
fn beyond_the_end_is_enospc_for_writes_and_einval_for_the_rest() {
    for command in RANGED {
        let expected = match command {
            Command::Write | Command::WriteZeroes => WireError::Enospc,
            _ => WireError::Einval,
        };
        check_refused(plain(command, SIZE, 512), &terms(), expected);
        check_refused(plain(command, u64::MAX, 512), &terms(), expected);
        check_refused(plain(command, u64::MAX - 511, 512), &terms(), expected);
    }
}

#[test]
fn a_length_of_zero_succeeds_within_the_export_except_for_block_status() {
    for command in RANGED {
        let inside = plain(command, SIZE, 0).check(&terms());
        assert_eq!(inside.is_ok(), command != Command::BlockStatus, "{command:?}");
        assert!(plain(command, SIZE + 1, 0).check(&terms()).is_err(), "{command:?}");
    }
    check_refused(plain(Command::BlockStatus, 0, 0), &terms(), WireError::Einval);
}

#[test]
fn commands_without_payload_take_any_length() {
    let terms = Terms { size_bytes: 16 << 40, ..terms() };
    let len = u32::MAX - 511; // what Linux sends for a big discard
    for command in [Command::Trim, Command::WriteZeroes, Command::Cache, Command::BlockStatus] {
        assert!(plain(command, 1 << 40, len).check(&terms).is_ok(), "{command:?}");
    }
}

#[test]
fn payloads_up_to_the_maximum_are_taken() {
    check(plain(Command::Read, 0, MAX), Checked::Read { offset: 0, len: MAX, df: false });
    check(plain(Command::Write, 0, MAX), Checked::Write { offset: 0, len: MAX, fua: false });
}

#[test]
fn a_read_beyond_the_maximum_is_einval_and_with_df_eoverflow_and_the_connection_goes_on() {
    let reject = check_refused(plain(Command::Read, 0, MAX + 1), &terms(), WireError::Einval);
    assert!(!reject.fatal);
    check_refused(
        request(Command::Read, CommandFlags::DF, 0, u32::MAX),
        &terms(),
        WireError::Eoverflow,
    );
}

#[test]
fn a_refused_write_is_drained() {
    let reject = check_refused(plain(Command::Write, SIZE - 1, 4096), &terms(), WireError::Enospc);
    assert_eq!((reject.drain, reject.fatal), (4096, false));
    let reject = check_refused(plain(Command::Write, 0, MAX), &read_only(), WireError::Eperm);
    assert_eq!((reject.drain, reject.fatal), (MAX.into(), false));
    let bad_flag = request(Command::Write, CommandFlags::DF, 0, 512);
    assert_eq!(check_refused(bad_flag, &terms(), WireError::Einval).drain, 512);
}

#[test]
fn a_write_beyond_the_maximum_ends_the_connection_whatever_else_is_wrong() {
    for terms in [terms(), read_only()] {
        let reject = plain(Command::Write, SIZE, u32::MAX).check(&terms).unwrap_err();
        assert_eq!((reject.drain, reject.fatal), (0, true));
    }
}

#[test]
fn a_refusal_without_payload_drains_nothing() {
    for command in [Command::Read, Command::Trim, Command::WriteZeroes, Command::Unknown(99)] {
        let reject = plain(command, u64::MAX, 512).check(&terms()).unwrap_err();
        assert_eq!((reject.drain, reject.fatal), (0, false), "{command:?}");
    }
}

#[test]
fn an_unknown_command_gets_einval() {
    check_refused(plain(Command::Unknown(8), 0, 0), &terms(), WireError::Einval);
    check_refused(plain(Command::Unknown(0xffff), 0, u32::MAX), &terms(), WireError::Einval);
}

#[test]
fn flags_that_a_command_does_not_know_get_einval() {
    use CommandFlags as F;
    let known = |command| match command {
        Command::Read => F::DF,
        Command::WriteZeroes => F::NO_HOLE.with(F::FAST_ZERO),
        Command::BlockStatus => F::REQ_ONE,
        _ => F::EMPTY,
    };
    for command in RANGED.into_iter().chain([Command::Flush]) {
        let len = if command == Command::Flush { 0 } else { 1 };
        for bit in 0..16 {
            let flag = F::from_bits(1 << bit);
            let accepted = known(command).with(F::FUA).contains(flag);
            let result = request(command, flag, 0, len).check(&terms());
            assert_eq!(result.is_ok(), accepted, "{command:?} {flag:?}");
            assert!(accepted || result.unwrap_err().error == WireError::Einval);
        }
    }
}

#[test]
fn fua_is_accepted_on_every_command_once_offered_and_on_none_before() {
    let without = Terms { flags: terms().flags.without(TransmissionFlags::SEND_FUA), ..terms() };
    for command in RANGED {
        assert!(request(command, CommandFlags::FUA, 0, 1).check(&terms()).is_ok(), "{command:?}");
        check_refused(request(command, CommandFlags::FUA, 0, 1), &without, WireError::Einval);
    }
}

#[test]
fn df_needs_structured_replies() {
    let simple = Terms { flags: terms().flags.without(TransmissionFlags::SEND_DF), ..terms() };
    check_refused(request(Command::Read, CommandFlags::DF, 0, 1), &simple, WireError::Einval);
}

#[test]
fn commands_that_were_not_offered_get_einval_except_cache() {
    let nothing = Terms { flags: TransmissionFlags::HAS_FLAGS, ..terms() };
    check_refused(plain(Command::Flush, 0, 0), &nothing, WireError::Einval);
    check_refused(plain(Command::Trim, 0, 1), &nothing, WireError::Einval);
    check_refused(plain(Command::WriteZeroes, 0, 1), &nothing, WireError::Einval);
    assert!(plain(Command::Cache, 0, 1).check(&nothing).is_ok());
    let slow = Terms { flags: terms().flags.without(TransmissionFlags::SEND_FAST_ZERO), ..terms() };
    check_refused(
        request(Command::WriteZeroes, CommandFlags::FAST_ZERO, 0, 1),
        &slow,
        WireError::Einval,
    );
}

#[test]
fn writes_to_a_read_only_export_get_eperm() {
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        check_refused(plain(command, 0, 1), &read_only(), WireError::Eperm);
    }
    for command in [Command::Read, Command::Cache, Command::BlockStatus] {
        assert!(plain(command, 0, 1).check(&read_only()).is_ok(), "{command:?}");
    }
    assert!(plain(Command::Flush, 0, 0).check(&read_only()).is_ok());
}

#[test]
fn block_status_without_a_context_gets_einval() {
    let none = Terms { block_status: false, ..terms() };
    check_refused(plain(Command::BlockStatus, 0, 1), &none, WireError::Einval);
}

#[test]
fn a_flush_has_no_range() {
    check_refused(plain(Command::Flush, 1, 0), &terms(), WireError::Einval);
    check_refused(plain(Command::Flush, 0, 1), &terms(), WireError::Einval);
}

#[test]
fn a_disconnect_is_always_obeyed() {
    check(request(Command::Disconnect, CommandFlags::from_bits(0xffff), 1, 1), Checked::Disconnect);
}

#[test]
fn an_export_that_has_grown_serves_its_new_end() {
    let grown = Terms { size_bytes: 2 * SIZE, ..terms() };
    assert!(plain(Command::Read, SIZE, 1).check(&grown).is_ok());
}
