//! Rot: a bit of a block that flips while nobody looks.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::ledger::BLOCK_BYTES;
use crate::server::Server;

/// Flips a bit in the middle of whatever the file has of this block.
pub fn rot(server: &Server, block: &[u8]) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(server.store_path())
        .expect("the store's file");
    let (mut found, mut at) = (0, 0);
    let mut here = vec![0; 1 << 20];
    loop {
        let len = file.read_at(&mut here, at).expect("the store's file can be read");
        if len == 0 {
            break;
        }
        for (i, there) in
            here[..len].chunks_exact(BLOCK_BYTES).enumerate().filter(|(_, there)| *there == block)
        {
            file.write_at(&[there[2000] ^ 4], at + (i * BLOCK_BYTES) as u64 + 2000)
                .expect("a byte can be written");
            found += 1;
        }
        at += len as u64;
    }
    file.sync_all().expect("the file can be synced");
    assert!(found > 0, "the block is not in the file");
}
