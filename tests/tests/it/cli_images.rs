//! Disk images through `import` and `export`: what people publish comes in whole, what a guest
//! writes comes back as it was, and nothing that an image refers to is read unless that is allowed.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sandstone_tests::{Finished, Program, Random, Server, needs};
use serde_json::json;

const DISK_BYTES: u64 = 12 << 20;

/// What no import may read unless it is told to.
const SECRET: &[u8] = b"root:$6$not for guests";

/// A server, and files beside it.
struct Place(Server);

impl Place {
    fn new() -> Place {
        let place = Place(Server::start());
        let disk = fs::File::create(place.path("disk.raw"))
            .expect("the files of the test can be made and read");
        disk.set_len(DISK_BYTES).expect("the files of the test can be made and read");
        disk.write_all_at(&Random::new(5).bytes(3 << 20), 1 << 20)
            .expect("the files of the test can be made and read");
        // To the end, so that whatever is cut off is missed.
        disk.write_all_at(&Random::new(6).bytes(2 << 20), DISK_BYTES - (2 << 20))
            .expect("the files of the test can be made and read");
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.dir().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("the files of the test can be made and read");
    }

    fn import(&self, args: &[&str]) -> Finished {
        self.0.cli(["import"].iter().chain(args).copied()).run()
    }

    fn qemu_img(&self, args: &[&str]) {
        Program::new("qemu-img").args(args).dir(self.0.dir()).ok();
    }

    fn shell(&self, line: &str) {
        Program::new("sh").args(["-c", line]).dir(self.0.dir()).ok();
    }

    fn volumes(&self) -> usize {
        self.0.cli(["volume", "list", "--json"]).ok().json().as_array().expect("a list").len()
    }

    /// What a volume holds, as an export has it.
    fn content(&self, volume: &str) -> Vec<u8> {
        self.0.cli(["export", volume, "content.raw"]).ok();
        fs::read(self.path("content.raw")).expect("the files of the test can be made and read")
    }

    /// Insists on a refusal that says all of `words`, before there was a volume.
    fn is_refused(&self, args: &[&str], words: &[&str]) {
        let before = self.volumes();
        let finished = self.import(args);
        let said = finished.failed_with_a_sentence();
        for word in words {
            assert!(said.contains(word), "{word} is not in: {finished}");
        }
        assert_eq!(self.volumes(), before, "{finished}");
    }

    fn is_imported(&self, args: &[&str]) -> Finished {
        let finished = self.import(args);
        assert!(finished.status.success(), "{finished}");
        finished
    }
}

fn disk_with(begin: &[u8], len: usize) -> Vec<u8> {
    let mut disk = begin.to_vec();
    disk.resize(len.max(begin.len()), 0);
    let end = disk.len() - 4096;
    disk[end..].copy_from_slice(&Random::new(7).bytes(4096));
    disk
}

#[test]
fn every_disk_comes_back_bit_for_bit_whatever_its_guest_wrote() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    place.write("secret", SECRET);
    let secret = place.path("secret");
    let secret = secret.to_str().unwrap();
    place.qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        secret,
        "-F",
        "raw",
        "guest.qcow2",
        "1M",
    ]);
    let header = fs::read(place.path("guest.qcow2")).unwrap();
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"{secret}\" 0\n"
    );
    let mut gpt = vec![0; 512];
    gpt.extend(b"EFI PART");
    let plain: [&[u8]; 3] = [b"LUKS\xba\xbe\x00\x01aes", &gpt, &Random::new(8).bytes(512)];
    let suspect: [&[u8]; 5] =
        [&header, descriptor.as_bytes(), b"conectix", &[0x1f, 0x8b, 8], b"sandincr"];
    let guests =
        plain.iter().map(|begin| (begin, true)).chain(suspect.iter().map(|begin| (begin, false)));
    for (i, (begin, is_plain)) in guests.enumerate() {
        let disk = disk_with(begin, 1 << 20);
        let [origin, copy] = ["origin", "copy"].map(|name| format!("{name}-{i}"));
        place.write("in.raw", &disk);
        place.is_imported(&["in.raw", &origin, "--format", "raw"]);
        place.0.cli(["export", &origin, "full.raw"]).ok();
        assert!(
            fs::read(place.path("full.raw")).unwrap() == disk,
            "disk {i} is exported otherwise"
        );
        if is_plain {
            place.is_imported(&["full.raw", &copy]);
        } else {
            place.is_refused(&["full.raw", &copy], &["looks like", "--format raw"]);
            place.is_imported(&["full.raw", &copy, "--format", "raw"]);
        }
        assert!(place.content(&copy) == disk, "disk {i} came back otherwise");
    }
}

/// Each reference in turn, in an image whose name says its format.
#[test]
fn what_an_image_refers_to_is_read_only_when_that_is_allowed() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    let disk = fs::read(place.path("disk.raw")).unwrap();
    let convert = |args: &[&str]| place.qemu_img(&[&["convert", "-f", "raw"], args].concat());
    place.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "backed.qcow2"]);
    place.qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "backed.qcow2",
        "-F",
        "qcow2",
        "twice.qcow2",
    ]);
    convert(&["-O", "qcow2", "-o", "data_file=data.bin", "disk.raw", "split.qcow2"]);
    convert(&["-O", "vmdk", "-o", "subformat=monolithicFlat", "disk.raw", "flat.vmdk"]);
    convert(&["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "disk.raw", "parts.vmdk"]);
    let cases = [
        ("backed.qcow2", "disk.raw"),
        ("twice.qcow2", "backed.qcow2"),
        ("split.qcow2", "data.bin"),
        ("flat.vmdk", "flat-flat.vmdk"),
        ("parts.vmdk", "parts-s001.vmdk"),
    ];
    for (image, other) in cases {
        place.is_refused(&[image, image], &[other, "--allow-backing"]);
        let finished = place.is_imported(&[image, image, "--allow-backing"]);
        assert!(finished.stderr.contains(other), "{other} is not told: {finished}");
        assert!(place.content(image) == disk, "{image} is another disk");
    }
    // A reference is looked for where the image is, and a chain is followed to its end.
    let chain = place.0.cli(["import", "twice.qcow2", "chain", "--allow-backing"]).ok().stderr;
    assert!(chain.contains("backed.qcow2") && chain.contains("disk.raw"), "{chain}");
}

#[test]
fn what_is_no_file_of_this_host_is_never_read() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    let other = place.0.volume("8M");
    let export = place.0.uri(&other);
    let json = format!(
        "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"nbd\",\"export\":\"{}\"}}}}",
        other.id
    );
    for name in [&export, &json, "ssh://host/x", "fat:rw:.", "file:disk.raw"] {
        let create =
            ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, "remote.qcow2", "8M"];
        place.qemu_img(&create);
        place.is_refused(&["remote.qcow2", "x"], &["--allow-backing"]);
        place.is_refused(&["remote.qcow2", "x", "--allow-backing"], &["no plain path"]);
        let descriptor = format!(
            "# Disk DescriptorFile\nversion=1\ncreateType=\"vmfs\"\nRW 8 FLAT \"{}\" 0\n",
            name.replace('"', "")
        );
        place.write("remote.vmdk", descriptor.as_bytes());
        place.is_refused(&["remote.vmdk", "x", "--allow-backing"], &["no plain path"]);
    }
    for (name, why) in
        [("/dev/zero", "neither a file"), ("/", "neither a file"), ("none", "No such file")]
    {
        let create =
            ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, "device.qcow2", "8M"];
        place.qemu_img(&create);
        place.is_refused(&["device.qcow2", "x", "--allow-backing"], &[why]);
    }
    // Without a format qemu would guess, by what a guest has written there.
    place.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "guess.qcow2"]);
    let mut image = fs::read(place.path("guess.qcow2")).unwrap();
    let says_the_format = 0xe279_2aca_u32.to_be_bytes();
    let at = image.windows(4).position(|bytes| bytes == says_the_format).unwrap();
    image[at..at + 4].copy_from_slice(b"none");
    place.write("guess.qcow2", &image);
    place.is_refused(&["guess.qcow2", "x", "--allow-backing"], &["format of its backing file"]);
}

#[test]
fn images_that_back_each_other_are_refused() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    for (image, backing) in
        [("a.qcow2", "b.qcow2"), ("b.qcow2", "a.qcow2"), ("self.qcow2", "self.qcow2")]
    {
        place.qemu_img(&["create", "-q", "-f", "qcow2", image, "8M"]);
        place.qemu_img(&["rebase", "-u", "-F", "qcow2", "-b", backing, image]);
    }
    for image in ["a.qcow2", "self.qcow2"] {
        place.is_refused(&[image, "x"], &["--allow-backing"]);
        place.is_refused(&[image, "x", "--allow-backing"], &["lead back"]);
    }
    place.qemu_img(&["create", "-q", "-f", "qcow2", "0.qcow2", "8M"]);
    for i in 1..=65 {
        let [image, backing] = [i, i - 1].map(|i| format!("{i}.qcow2"));
        place.qemu_img(&[
            "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &backing, &image, "8M",
        ]);
    }
    place.is_refused(&["65.qcow2", "x", "--allow-backing"], &["more than 64"]);
}

#[test]
fn images_as_people_publish_them_come_in_whole_and_cut_off_ones_do_not() {
    if !needs(&["qemu-img", "gzip", "xz", "zstd", "bzip2"]) {
        return;
    }
    let place = Place::new();
    let disk = fs::read(place.path("disk.raw")).unwrap();
    let convert =
        |args: &[&str]| place.qemu_img(&[&["convert", "-f", "raw", "disk.raw"], args].concat());
    convert(&["-O", "qcow2", "plain.qcow2"]);
    convert(&["-O", "qcow2", "-c", "packed.qcow2"]);
    convert(&["-O", "qcow2", "-c", "-o", "compression_type=zstd,extended_l2=on", "late.qcow2"]);
    convert(&["-O", "qcow2", "-o", "compat=0.10", "old.qcow2"]);
    convert(&["-O", "vmdk", "sparse.vmdk"]);
    convert(&["-O", "vmdk", "-o", "subformat=streamOptimized", "stream.vmdk"]);
    convert(&["-O", "vpc", "-o", "force_size=on", "dynamic.vhd"]);
    convert(&["-O", "vpc", "-o", "force_size=on,subformat=fixed", "fixed.vhd"]);
    convert(&["-O", "vhdx", "disk.vhdx"]);
    convert(&["-O", "vdi", "disk.vdi"]);
    for (program, end) in [("gzip", "gz"), ("xz -1", "xz"), ("zstd -q", "zst"), ("bzip2", "bz2")] {
        place.shell(&format!(
            "{program} -c <disk.raw >disk.raw.{end}; {program} -c <plain.qcow2 >plain.qcow2.{end}"
        ));
    }
    let images = [
        "plain.qcow2",
        "packed.qcow2",
        "late.qcow2",
        "old.qcow2",
        "sparse.vmdk",
        "stream.vmdk",
        "dynamic.vhd",
        "fixed.vhd",
        "disk.vhdx",
        "disk.vdi",
        "disk.raw.gz",
        "disk.raw.xz",
        "disk.raw.zst",
        "disk.raw.bz2",
        "plain.qcow2.gz",
        "plain.qcow2.xz",
        "plain.qcow2.zst",
        "plain.qcow2.bz2",
    ];
    for image in images {
        place.is_imported(&[image, image]);
        assert!(place.content(image) == disk, "{image} is another disk");
        let whole = fs::read(place.path(image)).unwrap();
        for len in [whole.len() / 3, whole.len() * 9 / 10] {
            let cut = format!("cut.{}", image.split_once('.').unwrap().1);
            place.write(&cut, &whole[..len]);
            place.is_refused(&[&cut, "cut"], &[]);
        }
    }
    // Into a volume that holds something already, zeroes are written as well.
    place.0.cli(["volume", "create", "--name", "used", "--size", "12M"]).ok();
    place.write("ones.raw", &vec![1; DISK_BYTES as usize]);
    place.is_imported(&["ones.raw", "used"]);
    place.is_imported(&["disk.raw.zst", "used"]);
    assert!(place.content("used") == disk);
}

#[test]
fn empty_images_archives_and_bombs_are_refused() {
    if !needs(&["qemu-img", "tar", "zip", "gzip"]) {
        return;
    }
    let place = Place::new();
    for name in ["empty.raw", "empty.qcow2", "empty.img"] {
        place.write(name, b"");
        place.is_refused(&[name, "x"], &["is empty"]);
        place.is_refused(&[name, "x", "--format", "raw"], &["is empty"]);
    }
    place.qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "disk.raw", "box-disk1.vmdk"]);
    place.write("box.ovf", b"<Envelope/>");
    place.shell("tar -cf box.ova box.ovf box-disk1.vmdk; zip -q box.zip box-disk1.vmdk; tar -czf box.tar.gz box-disk1.vmdk");
    place.is_refused(&["box.ova", "x"], &["tar -xf box.ova box-disk1.vmdk"]);
    place.is_refused(&["box.zip", "x"], &["unzip box.zip"]);
    place.is_refused(&["box.tar.gz", "x"], &["tar -xf box.tar.gz"]);
    // What it unpacks to has no room in the volume that it is for.
    place.shell("truncate -s 300M zeroes; gzip zeroes");
    place.0.cli(["volume", "create", "--name", "small", "--size", "8M"]).ok();
    place.is_refused(&["zeroes.gz", "small"], &["more than the 8M of the volume"]);
    place.is_imported(&["zeroes.gz", "zeroes"]);
    let volume = place.0.cli(["volume", "get", "zeroes", "--json"]).ok().json();
    assert_eq!((&volume["size_bytes"], &volume["used_bytes"]), (&json!(300 << 20), &json!(0)));
}

#[test]
fn damaged_tables_are_found_before_the_copy() {
    if !needs(&["qemu-img"]) {
        return;
    }
    let place = Place::new();
    place.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "damaged.qcow2"]);
    let image =
        fs::OpenOptions::new().read(true).write(true).open(place.path("damaged.qcow2")).unwrap();
    let mut l1 = [0; 8];
    image.read_exact_at(&mut l1, 40).unwrap();
    let mut l2 = [0; 8];
    image.read_exact_at(&mut l2, u64::from_be_bytes(l1)).unwrap();
    let l2 = u64::from_be_bytes(l2) & 0x00ff_ffff_ffff_fe00;
    // Two clusters of the disk are one.
    let mut entry = [0; 8];
    image.read_exact_at(&mut entry, l2 + 16 * 8).unwrap();
    image.write_all_at(&entry, l2 + 17 * 8).unwrap();
    place.is_refused(&["damaged.qcow2", "x"], &["qemu-img check"]);
}

#[test]
fn an_export_says_that_it_packs_nothing() {
    let place = Place::new();
    place.0.cli(["volume", "create", "--name", "disk", "--size", "1M"]).ok();
    let finished = place.0.cli(["export", "disk", "out.raw.gz"]).run();
    assert!(finished.failed_with_a_sentence().contains("gzip out.raw"), "{finished}");
    assert!(!Path::new(&place.path("out.raw.gz")).exists());
}
