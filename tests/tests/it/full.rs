//! A store with no room left: says so, goes on serving, and recovers.

use sandstone_tests::Server;
use sandstone_tests::filling::{CHUNK, chunk, fill, written_in_time};
use sandstone_tests::raw::{Connection, errno};

#[test]
fn full_store_serves_reads_trims_and_deletes_and_recovers() {
    let mut server = Server::builder().store_size("1G").start();
    let [filler, small] = ["4G", "256M"].map(|size| server.volume(size));
    let mut other = server.connect(&small);
    for number in 0..128 {
        other.write(number * CHUNK as u64, &chunk(1000 + number)).unwrap();
    }
    let mut client = server.connect(&filler);
    let filled = fill(&mut client);
    assert!(filled > 512, "a store of a GiB was full after {filled} MiB and 128 more");

    // Reads and flushes go on, of the other volume too, and what was acknowledged is right.
    for number in 0..filled {
        assert!(
            client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(number),
            "chunk {number}"
        );
    }
    client.flush().unwrap();
    assert!(other.read(0, CHUNK as u32).unwrap() == chunk(1000));

    // A trim needs no room and makes some.
    let half = filled / 2;
    client.trim(0, (half * CHUNK as u64) as u32).unwrap();
    for number in 0..half / 2 {
        written_in_time(&mut client, number * CHUNK as u64, &chunk(2000 + number));
    }

    // So does the deletion of a volume.
    fill_up_again(&mut client, filled);
    drop(other);
    let path = format!("/api/v1/sandboxvolumes/{}?force=true", small.id);
    server.admin().delete(&path).unwrap().data(200);
    written_in_time(&mut client, 3 << 30, &chunk(9));

    // And all of it is so after a kill without staging.
    client.flush().unwrap();
    server.kill();
    server.lose_staging();
    server.start_again().unwrap();
    let mut client = server.connect(&filler);
    assert!(client.read(3 << 30, CHUNK as u32).unwrap() == chunk(9));
    for number in half..filled {
        assert!(
            client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(number),
            "chunk {number}"
        );
    }
}

fn fill_up_again(client: &mut Connection, from: u64) {
    for number in from + 8.. {
        match client.write(number * CHUNK as u64, &chunk(number)) {
            Ok(()) => assert!(number < 3000, "a store of a GiB took three"),
            Err(refused) => {
                assert_eq!(refused.errno(), errno::ENOSPC);
                return;
            }
        }
    }
}

#[test]
fn overwriting_the_same_blocks_never_fills_the_store() {
    let server = Server::builder().store_size("1G").start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    // Three times the store's size through a twentieth of it.
    for round in 0..48 {
        for number in 0..64u64 {
            let data = chunk(round * 64 + number);
            written_in_time(&mut client, number * CHUNK as u64, &data);
        }
    }
    for number in 0..64u64 {
        assert!(
            client.read(number * CHUNK as u64, CHUNK as u32).unwrap() == chunk(47 * 64 + number)
        );
    }
}
