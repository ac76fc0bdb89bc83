//! A real file system through `qemu-img`: in, out, compared, and with its holes.

use std::time::Duration;

use sandstone_tests::{Image, Program, Server, Tree, needs};

const LIMIT: Duration = Duration::from_secs(300);

fn qemu_img<'a>(args: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new("qemu-img").args(args).limit(LIMIT)
}

#[test]
fn ext4_image_comes_back_identical_and_sparse() {
    if !needs(&["qemu-img", "mke2fs", "e2fsck"]) {
        return;
    }
    let server = Server::start();
    let tree = Tree::generate(6_000);
    let image = Image::ext4(&tree, 384);
    let source = image.path().to_str().expect("an ASCII path");
    let volume = server.volume("384M");
    let uri = server.uri(&volume);

    qemu_img(["convert", "-n", "-f", "raw", "-O", "raw", source, &uri]).ok();
    qemu_img(["compare", "-f", "raw", "-F", "raw", source, &uri]).ok();

    let map = qemu_img(["map", "--output=json", "-f", "raw", &uri]).ok().json();
    let extents = map.as_array().expect("a list of extents");
    let sum = |data: bool| -> u64 {
        extents.iter().filter(|e| e["data"] == data).filter_map(|e| e["length"].as_u64()).sum()
    };
    assert_eq!(sum(true) + sum(false), 384 << 20, "{map:#}");
    assert!(sum(false) > 64 << 20, "{} bytes of holes in a half empty file system", sum(false));
    assert!(sum(true) > 32 << 20, "{} bytes of data", sum(true));
    let used = server.describe(&volume)["used_bytes"].as_u64().expect("a volume has used bytes");
    assert!(used <= sum(true) + (8 << 20), "{used} bytes used for {} bytes of data", sum(true));

    let copy = server.scratch("copy.img");
    let copy = copy.to_str().expect("an ASCII path");
    qemu_img(["convert", "-f", "raw", "-O", "raw", &uri, copy]).ok();
    qemu_img(["compare", "-f", "raw", "-F", "raw", source, copy]).ok();
    let checked = Program::new("e2fsck").args(["-f", "-n", copy]).ok();
    assert!(checked.stdout.contains("files"), "{checked}");
}

#[test]
fn image_survives_a_restart() {
    if !needs(&["qemu-img", "mke2fs"]) {
        return;
    }
    let mut server = Server::start();
    let image = Image::ext4(&Tree::generate(500), 96);
    let source = image.path().to_str().expect("an ASCII path");
    let volume = server.volume("96M");
    qemu_img(["convert", "-n", "-f", "raw", "-O", "raw", source, &server.uri(&volume)]).ok();
    assert!(server.stop().success());
    server.start_again().unwrap();
    qemu_img(["compare", "-f", "raw", "-F", "raw", source, &server.uri(&volume)]).ok();
}

#[test]
fn qcow2_lives_inside_a_volume() {
    if !needs(&["qemu-img", "mke2fs"]) {
        return;
    }
    let server = Server::start();
    let image = Image::ext4(&Tree::generate(500), 96);
    let source = image.path().to_str().expect("an ASCII path");
    let uri = server.uri(&server.volume("128M"));
    qemu_img(["create", "-f", "qcow2", &uri, "96M"]).ok();
    qemu_img(["convert", "-n", "-f", "raw", "-O", "qcow2", source, &uri]).ok();
    qemu_img(["check", "-f", "qcow2", &uri]).ok();
    qemu_img(["compare", "-f", "raw", "-F", "qcow2", source, &uri]).ok();
}
