//! Sizes at the edge: requests of 4 GiB, volumes of 16 TiB, bytes that fit no block.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{Connection, flag, state};
use sandstone_tests::{Random, Server};

/// The longest TRIM and WRITE_ZEROES that Linux sends.
const HUGE: u32 = u32::MAX - 511;
/// Far above what dropping a few extents takes, far below what writing 4 GiB takes.
const SOON: Duration = Duration::from_secs(3);
const GIB: u64 = 1 << 30;

fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    assert!(begun.elapsed() < SOON, "{what} took {:?}", begun.elapsed());
    done
}

/// The state bits at one place.
fn state_at(client: &mut Connection, offset: u64) -> u32 {
    client
        .block_status(flag::REQ_ONE, offset, 512)
        .unwrap_or_else(|e| panic!("no status at {offset}: {e}"))[0]
        .1
}

#[test]
fn huge_trims_and_zeroes_cost_what_the_extents_cost() {
    let server = Server::start();
    let volume = server.volume("16T");
    let mut client = server.connect_structured(&volume);
    assert_eq!(client.size_bytes, 16 << 40);
    let data = Random::new(8).bytes(1 << 20);
    let places = [0, 3 * GIB + 12345, (15 << 40) + GIB, (16 << 40) - (1 << 20)];
    for place in places {
        client.write(place, &data).unwrap();
    }
    let allocated = server.store_path().metadata().unwrap().blocks() * 512;

    soon("a trim", || client.trim(1 << 20, HUGE).unwrap());
    assert_eq!(state_at(&mut client, 3 * GIB + (16 << 10)), state::HOLE | state::ZERO);
    assert_eq!(client.read(3 * GIB + 12345, 4096).unwrap(), [0; 4096]);
    assert!(client.read(0, 1 << 20).unwrap() == data, "a trim took its neighbour");

    let far = 15 << 40;
    soon("zeroes without a hole", || client.write_zeroes(flag::NO_HOLE, far + 512, HUGE).unwrap());
    assert_eq!(state_at(&mut client, far + (1 << 20)), state::ZERO);
    assert_eq!(client.read(far + GIB, 1 << 20).unwrap(), vec![0; 1 << 20]);
    soon("zeroes with a hole", || client.write_zeroes(0, far + GIB, HUGE).unwrap());
    let status = soon("block status", || client.block_status(0, far + GIB, HUGE).unwrap());
    assert!(status.iter().all(|(_, bits)| bits & state::ZERO != 0), "{status:?}");

    // The same again with many in flight, as mkfs does it to a whole disk.
    soon("a hundred trims", || {
        for number in 0..100 {
            client
                .send(0, sandstone_tests::raw::command::TRIM, number * 4 * GIB, HUGE, &[])
                .unwrap();
        }
        while client.in_flight() > 0 {
            assert_eq!(client.receive().unwrap().errno, 0);
        }
    });
    assert!(
        client.read(16 * (1 << 40) - (1 << 20), 1 << 20).unwrap() == data,
        "the last MiB changed"
    );
    let grown = (server.store_path().metadata().unwrap().blocks() * 512).saturating_sub(allocated);
    assert!(grown < GIB, "the store grew by {grown} bytes for zeroes");
}

#[test]
fn huge_zeroes_are_there_after_kill() {
    let mut server = Server::start();
    let volume = server.volume("16G");
    let data = Random::new(8).bytes(1 << 20);
    let mut client = server.connect(&volume);
    client.write(2 * GIB, &data).unwrap();
    client.write(9 * GIB, &data).unwrap();
    client.write_zeroes(flag::NO_HOLE, 0, HUGE).unwrap();
    client.trim(8 * GIB, HUGE).unwrap();
    client.flush().unwrap();
    server.kill();
    server.lose_staging();
    server.start_again().unwrap();
    let mut client = server.connect_structured(&volume);
    assert_eq!(client.read(2 * GIB, 1 << 20).unwrap(), vec![0; 1 << 20]);
    assert_eq!(client.read(9 * GIB, 1 << 20).unwrap(), vec![0; 1 << 20]);
    assert_eq!(state_at(&mut client, 2 * GIB), state::ZERO);
    assert_eq!(state_at(&mut client, 9 * GIB), state::ZERO | state::HOLE);
}

#[test]
fn largest_payload_is_taken_and_a_larger_one_is_not() {
    let server = Server::start();
    let volume = server.volume("256M");
    let mut client = server.connect(&volume);
    let data = Random::new(4).bytes(64 << 20);
    client.write(1, &data).unwrap();
    assert!(client.read(1, 64 << 20).unwrap() == data, "64 MiB came back different");
    assert!(client.read(0, (64 << 20) + 1).is_err(), "a read longer than the advertised maximum");
}

#[test]
fn volume_of_odd_size_ends_where_it_says() {
    let server = Server::start();
    let volume = server.volume("1000001");
    let mut client = server.connect_structured(&volume);
    assert_eq!(client.size_bytes, 1_000_001);
    client.write(999_990, b"eleven more").unwrap();
    assert_eq!(client.read(999_989, 12).unwrap(), b"\0eleven more");
    assert!(client.write(999_991, b"eleven more").is_err());
    let status = client.block_status(0, 0, 1_000_001).unwrap();
    assert_eq!(status.iter().map(|(len, _)| u64::from(*len)).sum::<u64>(), 1_000_001, "{status:?}");
}

#[test]
fn sparse_read_comes_as_data_and_holes() {
    let server = Server::start();
    let volume = server.volume("64M");
    let mut client = server.connect_structured(&volume);
    let data = Random::new(2).bytes(64 << 10);
    client.write(1 << 20, &data).unwrap();
    let sparse = client.one(0, sandstone_tests::raw::command::READ, 0, 4 << 20, &[]).unwrap();
    assert!(sparse.had_hole, "four MiB with 64 KiB of data came without a hole");
    assert!(sparse.data[1 << 20..][..64 << 10] == data, "the data is not in its place");
    assert!(sparse.data[2 << 20..].iter().all(|b| *b == 0));
}

#[test]
fn growing_volume_keeps_its_data_and_adds_zeroes() {
    let server = Server::start();
    let volume = server.volume("1000001");
    server.connect(&volume).write(0, &[0xab; 1_000_001]).unwrap();
    let path = format!("/api/v1/sandboxvolumes/{}", volume.id);
    let grown =
        server.admin().patch(&path, &serde_json::json!({ "size": "2M" })).unwrap().data(200);
    assert_eq!(grown["size_bytes"], 2 << 20);
    let mut client = server.connect(&volume);
    assert_eq!(client.size_bytes, 2 << 20);
    assert_eq!(client.read(1_000_000, 5).unwrap(), [0xab, 0, 0, 0, 0]);
    let shrunk = server.admin().patch(&path, &serde_json::json!({ "size": "1M" })).unwrap();
    shrunk.error(400, "bad_request");
}
