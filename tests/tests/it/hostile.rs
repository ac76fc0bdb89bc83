//! Clients that mean no good. Each gets the specification's error or a closed connection; a
//! well-behaved client beside it never notices.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{
    Handshake, OPTION_MAGIC, REQUEST_MAGIC, Stream, command, errno, go_data, is_closed,
    meta_context_data, option, reply,
};
use sandstone_tests::{Random, Server, Volume, Witness};

/// Longer than the server waits for a silent client to finish its handshake (10 s), with room for a
/// slow machine.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(25);

/// Runs `attack` against a server that serves a well-behaved client at the same time, and
/// afterwards connects once more.
fn beside_a_witness(attack: impl FnOnce(&Server, &Volume)) {
    let server = Server::start();
    let volume = server.volume("64M");
    let witness = Witness::start(server.connect(&server.volume("8M")));
    attack(&server, &volume);
    witness.finish();
    let mut client = server.connect(&volume);
    client.write(0, b"still here").expect("a write is served");
    assert_eq!(client.read(0, 10).expect("a read is served"), b"still here");
    client.disconnect().expect("the server closes after DISC");
}

/// Insists that the server closes this connection within its time for handshakes.
fn closed(stream: &mut Stream) {
    let begun = Instant::now();
    let rest = stream.read_to_close();
    assert!(
        rest.is_ok() && begun.elapsed() < HANDSHAKE_LIMIT,
        "not closed after {:?}",
        begun.elapsed()
    );
}

/// Sends bytes that may meet a connection closed already.
fn send_anyway(stream: &mut Stream, bytes: &[u8]) {
    match stream.write_all(bytes) {
        Ok(()) => {}
        Err(e) => assert!(is_closed(&e), "{e}"),
    }
}

#[test]
fn wrong_option_magic_ends_the_connection() {
    beside_a_witness(|server, _| {
        let mut client = server.handshake();
        client.send_flags(3).unwrap();
        send_anyway(&mut client.stream, b"GET / HTTP/1.1\r\nHost: sandstone\r\n\r\n");
        closed(&mut client.stream);
    });
}

#[test]
fn unknown_client_flags_end_the_connection() {
    beside_a_witness(|server, _| {
        let mut client = server.handshake();
        client.send_flags(0x8000_0003).unwrap();
        // The server may close before or after it sees an option; it must not serve.
        if client.send_option(option::GO, &go_data("x")).is_ok() {
            closed(&mut client.stream);
        }
    });
}

#[test]
fn half_an_option_then_silence_times_out() {
    beside_a_witness(|server, _| {
        let mut client = server.handshake();
        client.send_option_head(option::GO, 100).unwrap();
        client.stream.write_all(&[0; 10]).unwrap();
        closed(&mut client.stream);
    });
}

#[test]
fn half_an_option_then_hang_up_is_forgotten() {
    beside_a_witness(|server, _| {
        for cut in 0..30 {
            let mut client = server.handshake();
            client.send_flags(3).unwrap();
            let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
            bytes.extend_from_slice(&option::GO.to_be_bytes());
            bytes.extend_from_slice(&14u32.to_be_bytes());
            bytes.extend_from_slice(&go_data("nothing!"));
            client.stream.write_all(&bytes[..cut]).unwrap();
        }
    });
}

#[test]
fn option_of_4_gib_is_refused_without_memory_for_it() {
    beside_a_witness(|server, _| {
        let before = server.resident_bytes();
        for kind in
            [option::GO, option::LIST, option::EXPORT_NAME, option::SET_META_CONTEXT, 0x7777_7777]
        {
            let mut client = server.handshake();
            client.send_option_head(kind, u32::MAX).unwrap();
            send_anyway(&mut client.stream, &[0; 1 << 16]);
            match client.read_reply() {
                Ok(refused) => assert!(refused.is_error(), "{refused:?}"),
                Err(e) => assert!(is_closed(&e), "neither refused nor closed: {e}"),
            }
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more memory");
    });
}

#[test]
fn ten_thousand_options_are_answered_or_cut_off() {
    beside_a_witness(|server, volume| {
        let mut client = server.handshake();
        client.send_flags(3).unwrap();
        let mut writer = client.stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let mut head = OPTION_MAGIC.to_be_bytes().to_vec();
            head.extend_from_slice(&0x5a5a_u32.to_be_bytes());
            head.extend_from_slice(&0u32.to_be_bytes());
            (0..10_000).all(|_| writer.write_all(&head).is_ok())
        });
        let mut answered = 0;
        let cut_off = loop {
            match client.read_reply() {
                Ok(answer) => {
                    assert!(answer.is_error() && answer.option == 0x5a5a, "{answer:?}");
                    answered += 1;
                }
                Err(e) => {
                    assert!(is_closed(&e), "after {answered} answers: {e}");
                    break true;
                }
            }
            if answered == 10_000 {
                break false;
            }
        };
        sender.join().unwrap();
        if !cut_off {
            client.go(&volume.id).unwrap();
        }
    });
}

#[test]
fn client_that_never_speaks_times_out() {
    beside_a_witness(|server, _| {
        let mut silent = [server.handshake(), Handshake::tcp(server.nbd_address()).unwrap()];
        let begun = Instant::now();
        for client in &mut silent {
            closed(&mut client.stream);
        }
        assert!(begun.elapsed() < HANDSHAKE_LIMIT);
    });
}

#[test]
fn client_that_speaks_a_byte_a_second_times_out() {
    beside_a_witness(|server, _| {
        let mut client = server.handshake();
        client.send_flags(3).unwrap();
        let begun = Instant::now();
        // A deadline for the whole handshake, not one that each byte renews.
        while client.stream.write_all(&OPTION_MAGIC.to_be_bytes()[..1]).is_ok() {
            assert!(begun.elapsed() < HANDSHAKE_LIMIT, "still open after {:?}", begun.elapsed());
            thread::sleep(Duration::from_secs(1));
        }
    });
}

#[test]
fn malformed_options_get_an_error_and_the_handshake_goes_on() {
    beside_a_witness(|server, volume| {
        let mut client = server.handshake();
        let mut name_too_long = 5_000u32.to_be_bytes().to_vec();
        name_too_long.extend_from_slice(&[b'x'; 5_002]);
        let mut not_text = 2u32.to_be_bytes().to_vec();
        not_text.extend_from_slice(&[0xff, 0xfe, 0, 0]);
        let cases: [(u32, &[u8]); 8] = [
            (option::LIST, b"data"),
            (option::STRUCTURED_REPLY, b"data"),
            (option::GO, b""),
            (option::GO, &[0xff, 0xff, 0xff, 0xff, 0, 0]),
            (option::INFO, &[0, 0, 0, 0, 0, 5]),
            (option::GO, &name_too_long),
            (option::INFO, &not_text),
            (option::SET_META_CONTEXT, &[0, 0, 0, 1]),
        ];
        for (kind, data) in cases {
            let replies =
                client.ask(kind, data).unwrap_or_else(|e| panic!("option {kind} {data:02x?}: {e}"));
            assert!(
                replies.last().is_some_and(|r| r.is_error()),
                "option {kind} {data:02x?}: {replies:?}"
            );
        }
        // Without structured replies there are no contexts to choose.
        let chosen = client
            .ask(option::SET_META_CONTEXT, &meta_context_data(&volume.id, &["base:"]))
            .unwrap();
        assert_eq!(chosen.last().map(|r| r.kind), Some(reply::ERR_INVALID), "{chosen:?}");
        let unsupported = client.ask(0xdead, b"whatever").unwrap();
        assert_eq!(unsupported.last().map(|r| r.kind), Some(reply::ERR_UNSUP), "{unsupported:?}");
        let unknown = client.ask(option::GO, &go_data("no such volume")).unwrap();
        assert_eq!(unknown.last().map(|r| r.kind), Some(reply::ERR_UNKNOWN), "{unknown:?}");
        client.go(&volume.id).unwrap();
    });
}

#[test]
fn error_text_is_short_utf8_with_the_clients_bytes_escaped() {
    beside_a_witness(|server, _| {
        let mut client = server.handshake();
        let replies = client.ask(option::GO, &go_data("evil\u{1b}[2J\n\u{7}")).unwrap();
        let refused = replies.last().unwrap();
        assert!(refused.is_error(), "{refused:?}");
        assert!(refused.data.len() <= 4096, "{} bytes of error text", refused.data.len());
        let text = String::from_utf8(refused.data.clone()).unwrap();
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    });
}

#[test]
fn write_beyond_the_end_is_refused_and_its_payload_drained() {
    beside_a_witness(|server, volume| {
        let mut client = server.connect(volume);
        let end = client.size_bytes;
        for (offset, len) in
            [(end, 1), (end - 1, 2), (end - 4096, 32 << 20), (u64::MAX - 100, 4096), (1 << 63, 10)]
        {
            let refused = client.write(offset, &vec![0x5a; len]).unwrap_err().errno();
            assert!(
                matches!(refused, errno::ENOSPC | errno::EINVAL),
                "{offset}+{len}: error {refused}"
            );
            assert_eq!(
                client.read(0, 4).unwrap(),
                [0; 4],
                "the stream is lost after {offset}+{len}"
            );
        }
        assert_eq!(
            client.read(end - 4096, 4096).unwrap(),
            [0; 4096],
            "part of a refused write is there"
        );
    });
}

#[test]
fn other_requests_beyond_the_end_are_refused() {
    beside_a_witness(|server, volume| {
        let mut client = server.connect_structured(volume);
        let end = client.size_bytes;
        let commands = [
            command::READ,
            command::TRIM,
            command::WRITE_ZEROES,
            command::CACHE,
            command::BLOCK_STATUS,
        ];
        for (cmd, (offset, len)) in commands
            .into_iter()
            .flat_map(|c| [(end, 512), (end - 1, 2), (u64::MAX, 1), (0, u32::MAX)].map(|r| (c, r)))
        {
            let refused = client.one(0, cmd, offset, len, &[]);
            let refused = refused
                .err()
                .unwrap_or_else(|| panic!("command {cmd} {offset}+{len}: success"))
                .errno();
            let known = matches!(refused, errno::EINVAL | errno::ENOSPC | errno::EOVERFLOW);
            assert!(known, "command {cmd} {offset}+{len}: error {refused}");
        }
        assert_eq!(client.read(0, 4).unwrap(), [0; 4]);
    });
}

#[test]
fn read_of_4_gib_is_refused() {
    beside_a_witness(|server, _| {
        let volume = server.volume("16G");
        let before = server.resident_bytes();
        let mut client = server.connect(&volume);
        let refused = client.read(0, u32::MAX).unwrap_err().errno();
        assert!(matches!(refused, errno::EINVAL | errno::EOVERFLOW), "error {refused}");
        assert_eq!(client.read(0, 4).unwrap(), [0; 4]);
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more memory");
    });
}

#[test]
fn write_of_4_gib_ends_the_connection() {
    beside_a_witness(|server, _| {
        let volume = server.volume("16G");
        let before = server.resident_bytes();
        let mut client = server.connect(&volume);
        client.send(0, command::WRITE, 0, u32::MAX, &[]).unwrap();
        send_anyway(&mut client.stream, &[0; 1 << 20]);
        closed(&mut client.stream);
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 128 << 20, "{grown} bytes more memory");
    });
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    beside_a_witness(|server, volume| {
        let mut client = server.connect(volume);
        for (flags, cmd) in
            [(0, 99), (0x8000, command::READ), (0x4000, command::FLUSH), (1 << 3, command::TRIM)]
        {
            let refused = client.one(flags, cmd, 0, 0, &[]).unwrap_err().errno();
            assert_eq!(refused, errno::EINVAL, "flags {flags:#x} command {cmd}");
        }
        // Block status without a context agreed on.
        assert_eq!(client.block_status(0, 0, 4096).unwrap_err().errno(), errno::EINVAL);
        assert_eq!(client.read(0, 4).unwrap(), [0; 4]);
    });
}

#[test]
fn garbage_after_go_ends_the_connection() {
    beside_a_witness(|server, volume| {
        let mut random = Random::from_env();
        for _ in 0..20 {
            let mut client = server.connect(volume);
            let mut garbage = random.bytes(10_000);
            garbage[0] = 0; // never the magic of a request
            send_anyway(&mut client.stream, &garbage);
            closed(&mut client.stream);
        }
    });
}

#[test]
fn garbage_after_good_requests_spoils_only_what_follows() {
    beside_a_witness(|server, volume| {
        let mut client = server.connect(volume);
        client.write(4096, b"good").unwrap();
        send_anyway(&mut client.stream, &[0xee; 28]);
        closed(&mut client.stream);
        assert_eq!(server.connect(volume).read(4096, 4).unwrap(), b"good");
    });
}

#[test]
fn hang_up_in_a_payload_writes_nothing_of_it() {
    beside_a_witness(|server, volume| {
        for _ in 0..20 {
            let mut client = server.connect(volume);
            // Promises a MiB and gives half of it.
            client.send(0, command::WRITE, 0, 1 << 20, &[0x77; 1 << 19]).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(server.connect(volume).read(0, 1 << 19).unwrap(), vec![0; 1 << 19]);
    });
}

#[test]
fn client_that_never_reads_its_replies_is_held_back() {
    beside_a_witness(|server, _| {
        let volume = server.volume("1G");
        let before = server.resident_bytes();
        let client = server.connect(&volume);
        let Stream::Unix(mut stream) = client.stream else {
            panic!("connected over the Unix socket")
        };
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend_from_slice(&[0; 2 + 2 + 8 + 8]);
        request.extend_from_slice(&(1u32 << 20).to_be_bytes());
        // 100,000 reads of a MiB, none of them received: at some point the server stops listening.
        let taken = (0..100_000).take_while(|_| stream.write_all(&request).is_ok()).count();
        assert!(taken < 100_000, "the server took every request");
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 512 << 20, "{grown} bytes more memory for a client that reads nothing");
        let mut some = [0; 16];
        stream.read_exact(&mut some).unwrap();
    });
}

#[test]
fn silent_clients_keep_no_memory_of_what_they_wrote() {
    beside_a_witness(|server, volume| {
        let before = server.resident_bytes();
        let payload = vec![0x5a; 64 << 20];
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let mut client = server.connect(volume);
                client.write(0, &payload).unwrap();
                client
            })
            .collect();
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(
            grown < 256 << 20,
            "{grown} bytes more memory for {} silent clients",
            clients.len()
        );
    });
}

#[test]
fn clients_that_announce_much_and_send_nothing_stop_only_themselves() {
    beside_a_witness(|server, volume| {
        // Eight of them fill a worker's budget, and there is a worker for each core.
        let clients = 10 * thread::available_parallelism().map_or(1, usize::from);
        let announce = |volume| {
            let mut client = server.connect(volume);
            client.send(0, command::WRITE, 0, 64 << 20, &[]).unwrap();
            client
        };
        let _silent: Vec<_> = (0..clients).map(|_| announce(volume)).collect();
        let other = server.volume("64M");
        let mut client = server.connect(&other);
        client.write(0, &vec![0x5a; 1 << 20]).unwrap();
        assert_eq!(client.read(4096, 2).unwrap(), [0x5a; 2]);
        let _waiting = announce(&other);
        delete_by_force(server, &other);
    });
}

/// Forced deletion must not wait for what a client asked for before it was cut off.
#[test]
fn client_that_has_much_cached_is_cut_off_at_once() {
    beside_a_witness(|server, _| {
        let volume = server.volume("256M");
        let mut client = server.connect(&volume);
        for quarter in 0..4 {
            client.write(quarter << 26, &vec![0x5a; 64 << 20]).unwrap();
        }
        // More than may be in flight, so that the server waits at its own bound, and fewer than
        // fill the socket too.
        for _ in 0..300 {
            client.send(0, command::CACHE, 0, 256 << 20, &[]).unwrap();
        }
        delete_by_force(server, &volume);
    });
}

fn delete_by_force(server: &Server, volume: &Volume) {
    let path = format!("/api/v1/sandboxvolumes/{}?force=true", volume.id);
    server.admin().delete(&path).expect("the admin port answers").data(200);
}

#[test]
fn hundred_connections_at_once_are_served() {
    beside_a_witness(|server, volume| {
        let mut clients: Vec<_> = (0..100).map(|_| server.connect(volume)).collect();
        for (number, client) in (0u64..).zip(&mut clients) {
            client.write(number * 100, &number.to_be_bytes()).unwrap();
        }
        for (number, client) in (0u64..).zip(clients.iter_mut().rev()) {
            assert_eq!(client.read((99 - number) * 100, 8).unwrap(), (99 - number).to_be_bytes());
        }
    });
}
