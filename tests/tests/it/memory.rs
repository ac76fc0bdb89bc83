//! The sum of a server's memory (`server/OPERATING.md`), under clients that do what they can to
//! break it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use sandstone_tests::raw::{Connection, Handshake, REQUEST_MAGIC, Stream, command};
use sandstone_tests::{Random, Server, Volume};

const MIB: u64 = 1 << 20;
const LARGEST: u32 = 64 << 20;

/// The sum's parts as this server is configured: `cache.memory`, twice `cache.metadata`, staging,
/// the server itself, and `nbd.in_flight`; then as much for each connection.
const FIXED_BYTES: u64 = (16 + 2 * 16 + 48 + 64 + 128) * MIB;
const CONNECTION_BYTES: u64 = 100 << 10;

/// How long a flood is watched.
const FLOOD: Duration = Duration::from_secs(4);
/// How long a request beside a flood may take. Nothing of the server's own waits that long; this
/// machine may be busy.
const BESIDE_MAX: Duration = Duration::from_secs(20);
/// How long the store may still have to do after writes. While it does, the allocator gives back
/// what others have freed.
const QUIET: Duration = Duration::from_secs(25);
/// How long memory may take to go back after all have left.
const BACK_MAX: Duration = Duration::from_secs(20);

fn server() -> Server {
    // A client that stalls is not cut off here: what it holds is what counts.
    Server::builder().cache("16M").metadata("16M").in_flight("128M").stall(600).start()
}

/// Volumes with 64 MiB of data that lies in many places each.
fn volumes(server: &Server, count: usize) -> Vec<Volume> {
    let data = Random::new(1).bytes(LARGEST as usize);
    let volumes: Vec<_> = (0..count).map(|_| server.volume("64M")).collect();
    for volume in &volumes {
        let mut client = server.connect(volume);
        client.write(0, &data).expect("a write");
        // Every second block elsewhere.
        for block in (0..2048).step_by(2) {
            client
                .send(0, command::WRITE, block * 4096, 4096, &data[..4096])
                .expect("a write goes out");
            client.receive().expect("a write");
        }
        client.disconnect().expect("it ends");
    }
    volumes
}

/// Requests as bytes, with no payload.
fn requests(kind: u16, len: u32, count: usize) -> Vec<u8> {
    request_at(kind, 0, len).repeat(count)
}

fn request_at(kind: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut one = REQUEST_MAGIC.to_be_bytes().to_vec();
    one.extend_from_slice(&[0; 2]);
    one.extend_from_slice(&kind.to_be_bytes());
    one.extend_from_slice(&[0; 8]);
    one.extend_from_slice(&offset.to_be_bytes());
    one.extend_from_slice(&len.to_be_bytes());
    one
}

/// Says all that the socket takes, and nothing more.
fn say(connection: Connection, bytes: &[u8]) -> UnixStream {
    let Stream::Unix(mut stream) = connection.stream else {
        panic!("connected over the Unix socket")
    };
    stream.set_write_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
    // What does not fit is what the server does not take in.
    let _ = stream.write_all(bytes);
    stream
}

/// Has `count` connections say `bytes`, and insists that the sum holds and that another volume's
/// requests go on.
fn flood(count: usize, volume_count: usize, bytes: &[u8]) {
    let server = server();
    let volumes = volumes(&server, volume_count);
    let other = server.volume("64M");
    // Another peer: what one peer's clients take of their share they take from each other.
    let beside = Handshake::tcp(server.nbd_address()).and_then(|h| h.go(&other.id));
    let mut beside = beside.expect("a connection over TCP");
    let begun = Instant::now();
    let streams: Vec<_> =
        (0..count).map(|i| say(server.connect(&volumes[i % volumes.len()]), bytes)).collect();
    while begun.elapsed() < FLOOD {
        thread::sleep(Duration::from_millis(100));
    }
    let asked = Instant::now();
    let data = vec![7; 2 << 20];
    beside.write(0, &data).expect("a write of another volume");
    assert!(beside.read(0, data.len() as u32).expect("a read of another volume") == data);
    assert!(asked.elapsed() < BESIDE_MAX, "it took {:?}", asked.elapsed());
    let most = server.resident_bytes_max();
    let allowed = FIXED_BYTES + (count as u64 + 1) * CONNECTION_BYTES;
    println!("{count} connections: {} MiB at most, {} allowed", most / MIB, allowed / MIB);
    assert!(most <= allowed, "{} MiB, {} are allowed", most / MIB, allowed / MIB);
    drop(streams);
    gives_back(&server, allowed - 128 * MIB);
}

/// Insists that memory goes back.
fn gives_back(server: &Server, allowed: u64) {
    let begun = Instant::now();
    loop {
        let (held, in_flight) =
            (server.resident_bytes(), server.metric("sandstone_in_flight_bytes"));
        if held <= allowed && in_flight == 0.0 {
            return println!("{} MiB after {:?}", held / MIB, begun.elapsed());
        }
        let held = held / MIB;
        let allowed = allowed / MIB;
        assert!(
            begun.elapsed() < BACK_MAX,
            "{held} MiB are still held ({allowed} are allowed), {in_flight} in flight"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn large_reads_that_nobody_takes_stay_within_the_sum() {
    flood(500, 8, &requests(command::READ, LARGEST, 20));
}

#[test]
fn small_reads_that_nobody_takes_stay_within_the_sum() {
    flood(500, 8, &requests(command::READ, 4096, 2000));
}

#[test]
fn heads_of_large_writes_take_nothing() {
    let server = server();
    let volume = server.volume("64M");
    let head = requests(command::WRITE, LARGEST, 1);
    let _streams: Vec<_> = (0..500).map(|_| say(server.connect(&volume), &head)).collect();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(server.metric("sandstone_in_flight_bytes"), 0.0, "nothing came");
    let mut beside = server.connect(&volume);
    let begun = Instant::now();
    beside.write(0, &vec![7; LARGEST as usize]).expect("a write of the same volume");
    assert!(begun.elapsed() < BESIDE_MAX, "it took {:?}", begun.elapsed());
}

#[test]
fn half_of_large_writes_stay_within_the_sum() {
    let mut bytes = requests(command::WRITE, LARGEST, 1);
    bytes.resize(32 << 20, 0x5a);
    flood(100, 8, &bytes);
}

#[test]
fn cache_requests_stay_within_the_sum() {
    flood(100, 8, &requests(command::CACHE, LARGEST, 500));
}

#[test]
fn tools_that_read_the_most_at_a_time_stay_within_the_sum_and_get_all_of_it() {
    let server = server();
    let volumes = volumes(&server, 4);
    let expected = server.connect(&volumes[0]).read(0, LARGEST).expect("a read");
    thread::scope(|scope| {
        for volume in &volumes {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                let mut client = server.connect(volume);
                for _ in 0..4 {
                    client.send(0, command::READ, 0, LARGEST, &[]).expect("a read goes out");
                }
                for _ in 0..4 {
                    assert!(client.receive().expect("a reply").data == *expected);
                }
            });
        }
    });
    let most = server.resident_bytes_max();
    let allowed = FIXED_BYTES + 5 * CONNECTION_BYTES;
    assert!(most <= allowed, "{} MiB, {} are allowed", most / MIB, allowed / MIB);
    gives_back(&server, allowed - 128 * MIB);
}

/// All leave in the middle, and then no thread has anything to do.
#[test]
fn memory_goes_back_while_nobody_asks_for_anything() {
    let server = Server::builder().cache("16M").metadata("16M").in_flight("2G").start();
    let volumes = volumes(&server, 12);
    thread::sleep(QUIET);
    // All of a volume in small pieces, by two connections.
    let reads = |half: u64| -> Vec<u8> {
        (0..512).flat_map(|i| request_at(command::READ, (half * 512 + i) << 16, 64 << 10)).collect()
    };
    let streams: Vec<_> = volumes
        .iter()
        .flat_map(|volume| [0, 1].map(|half| say(server.connect(volume), &reads(half))))
        .collect();
    thread::sleep(FLOOD);
    let most = server.resident_bytes();
    assert!(most > 500 * MIB, "{} MiB show nothing", most / MIB);
    drop(streams);
    // Nothing is asked of the server meanwhile: what it does for an answer would have the allocator
    // tidy up.
    let begun = Instant::now();
    let allowed = FIXED_BYTES - 128 * MIB;
    while server.resident_bytes() > allowed {
        let held = server.resident_bytes() / MIB;
        assert!(
            begun.elapsed() < BACK_MAX,
            "{held} MiB are still held, {} are allowed",
            allowed / MIB
        );
        thread::sleep(Duration::from_millis(100));
    }
    println!("{} MiB of {} after {:?}", server.resident_bytes() / MIB, most / MIB, begun.elapsed());
}
