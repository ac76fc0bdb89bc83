//! libnbd's `nbdcopy`, four connections with 64 requests each, both ways.

use std::fs;

use sandstone_tests::{Image, Program, Random, Server, Tree, needs};

#[test]
fn file_goes_in_and_comes_out() {
    if !needs(&["nbdcopy", "mke2fs"]) {
        return;
    }
    let server = Server::start();
    let image = Image::ext4(&Tree::generate(3_000), 256);
    let volume = server.volume("256M");
    for uri in [server.uri(&volume), server.tcp_uri(&volume)] {
        Program::new("nbdcopy")
            .args(["--flush", "--connections=4", "--requests=64"])
            .arg(image.path())
            .arg(&uri)
            .ok();
        let copy = server.scratch("copy.img");
        Program::new("nbdcopy")
            .args(["--connections=4", "--requests=64"])
            .arg(&uri)
            .arg(&copy)
            .ok();
        assert!(fs::read(image.path()).unwrap() == fs::read(&copy).unwrap(), "the copy differs");
    }
}

#[test]
fn volume_is_copied_to_volume() {
    if !needs(&["nbdcopy"]) {
        return;
    }
    let server = Server::start();
    let [from, to] = ["40M"; 2].map(|size| server.volume(size));
    let data = Random::new(5).bytes(9 << 20);
    let mut client = server.connect(&from);
    client.write(3 << 20, &data).unwrap();
    // Two writers there cannot be.
    drop(client);
    Program::new("nbdcopy").args([&server.uri(&from), &server.uri(&to)]).ok();
    let mut client = server.connect(&to);
    assert!(client.read(3 << 20, data.len() as u32).unwrap() == data, "the copy differs");
    let used = server.describe(&to)["used_bytes"].as_u64().unwrap();
    assert!(used < 10 << 20, "{used} bytes used by a copy of 9 MiB with holes around it");
}

#[test]
fn size_that_is_no_multiple_of_a_block_is_kept() {
    if !needs(&["nbdcopy"]) {
        return;
    }
    let server = Server::start();
    let data = Random::new(6).bytes((5 << 20) + 512);
    let source = server.scratch("odd.img");
    fs::write(&source, &data).unwrap();
    let volume = server.volume(&data.len().to_string());
    assert_eq!(volume.size_bytes, data.len() as u64);
    Program::new("nbdcopy").arg(&source).arg(server.uri(&volume)).ok();
    let copy = server.scratch("copy.img");
    Program::new("nbdcopy").arg(server.uri(&volume)).arg(&copy).ok();
    assert!(fs::read(&copy).unwrap() == data, "the copy differs");
}
