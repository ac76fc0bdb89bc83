//! Each I/O engine behind the same seam: a ring, or a thread pool where the kernel forbids rings.

use sandstone_tests::raw::command;
use sandstone_tests::{Random, Server};

#[test]
fn every_engine_serves_recovers_and_drains() {
    for engine in ["uring", "threads"] {
        let mut server = Server::builder().io(engine).start();
        assert!(
            server.log().contains(engine),
            "the start does not name the engine {engine}:\n{}",
            server.log()
        );
        let volume = server.volume("64M");
        let data = Random::new(1).bytes(8 << 20);
        let mut client = server.connect(&volume);
        client.write(12_345, &data).unwrap();
        client.trim(1 << 20, 1 << 20).unwrap();
        server.kill();

        server.start_again().unwrap();
        let mut expected = vec![0; 12_345];
        expected.extend_from_slice(&data);
        expected[1 << 20..2 << 20].fill(0);
        let mut client = server.connect(&volume);
        assert!(
            client.read(0, expected.len() as u32).unwrap() == expected,
            "{engine}: other bytes after recovery"
        );
        for number in 0..256 {
            client.send(0, command::READ, number * 4096, 65_536, &[]).unwrap();
        }
        server.signal(rustix::process::Signal::TERM);
        while client.in_flight() > 0 {
            let reply = client
                .receive()
                .unwrap_or_else(|e| panic!("{engine}: a read was never answered: {e}"));
            assert_eq!(reply.errno, 0, "{engine}");
        }
        assert!(server.wait_end().success(), "{engine}");
    }
}
