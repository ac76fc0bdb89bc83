//! Rot in the store's file, found by the scrub of a running server before somebody reads it.

use sandstone_tests::raw::errno;
use sandstone_tests::{Random, Server, rot};

const BLOCK: usize = sandstone_tests::BLOCK_BYTES;
const BLOCKS: usize = 64;
/// The one that rots.
const VICTIM: usize = 37;

#[test]
fn rot_is_found_named_counted_and_mended_by_a_write() {
    let server = Server::builder().store_size("1G").start();
    let volume = server.volume("64M");
    let mut client = server.connect(&volume);
    let data = Random::new(7).bytes(BLOCKS * BLOCK);
    client.write(1 << 20, &data).unwrap();
    client.flush().unwrap();
    // The log leaves its segment: what it may still be writing is not looked at.
    server.cli(["reclaim"]).ok();
    let sound = server.cli(["scrub"]).ok();
    assert!(sound.stdout.contains("what was written"), "{sound}");

    let victim = &data[VICTIM * BLOCK..(VICTIM + 1) * BLOCK];
    rot(&server, victim);
    let rotten = server.cli(["scrub"]).run();
    let place = format!("{}: {BLOCK} bytes at {}", volume.id, (1 << 20) + VICTIM * BLOCK);
    assert!(rotten.stdout.contains(&place), "{place} is not named: {rotten}");
    assert!(rotten.failed_with_a_sentence().contains("backup"), "{rotten}");
    let metrics = server.admin().get("/metrics").unwrap().text;
    for name in ["corrupt", "rotten"] {
        let line = format!("sandstone_scrub_{name}_bytes_total 4096\n");
        assert!(metrics.contains(&line), "{metrics}");
    }

    server.cli(["scrub", "--json"]).run().failed_with_a_sentence();
    client.write(((1 << 20) + VICTIM * BLOCK) as u64, victim).unwrap();
    client.flush().unwrap();
    server.cli(["reclaim"]).ok();
    server.cli(["scrub"]).ok();
    assert!(client.read(1 << 20, data.len() as u32).unwrap() == data);
}

#[test]
fn rot_that_is_read_is_an_error_and_never_wrong_bytes() {
    let mut server = Server::builder().store_size("1G").start();
    let volume = server.volume("64M");
    let data = Random::new(8).bytes(BLOCKS * BLOCK);
    let mut client = server.connect(&volume);
    client.write(0, &data).unwrap();
    drop(client);
    assert!(server.stop().success());
    rot(&server, &data[VICTIM * BLOCK..(VICTIM + 1) * BLOCK]);
    server.start_again().unwrap();
    let mut client = server.connect(&volume);
    let refused = client.read((VICTIM * BLOCK) as u64, BLOCK as u32).expect_err("it is rotten");
    assert_eq!(refused.errno(), errno::EIO);
    assert!(client.read(0, (VICTIM * BLOCK) as u32).unwrap() == data[..VICTIM * BLOCK]);
    assert!(
        server
            .admin()
            .get("/metrics")
            .unwrap()
            .text
            .contains("sandstone_store_corrupt_blocks_total 1\n")
    );
}
