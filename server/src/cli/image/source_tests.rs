use super::*;
use std::{fs, io::Write};

fn file(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn look(path: &Path, said: Option<Format>) -> Result<&'static str, String> {
    match Looked::at(path, said, Following::Refused) {
        Ok(Looked::Raw(_)) => Ok("raw"),
        Ok(Looked::Converted(_)) => Ok("converted"),
        Ok(Looked::Packed(..)) => Ok("packed"),
        Err(error) => Err(error.to_string()),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The beginnings of what a guest may write into its disk.
fn beginnings() -> Vec<(&'static str, Vec<u8>)> {
    let mut vdi = vec![0; 64];
    vdi.extend([0x7f, 0x10, 0xda, 0xbe]);
    let mut tar = vec![0; 257];
    tar.extend(b"ustar");
    let mut all = vec![
        ("qcow2", b"QFI\xfb and then something".to_vec()),
        ("vmdk", b"KDMV".to_vec()),
        ("vmdk", b"# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"/etc/shadow\" 0\n".to_vec()),
        ("vhdx", b"vhdxfile".to_vec()),
        ("vhd", b"conectix".to_vec()),
        ("vdi", vdi),
        ("gzip", gzip(b"x")),
        ("zstd", vec![0x28, 0xb5, 0x2f, 0xfd]),
        ("archive", tar),
        ("archive", b"PK\x03\x04".to_vec()),
        ("qed", b"QED\0".to_vec()),
        ("increment", b"sandincr".to_vec()),
    ];
    all.iter_mut().for_each(|(_, bytes)| bytes.resize(1024, 0));
    all
}

#[test]
fn what_a_guest_may_have_written_is_never_taken_for_an_image() {
    let directory = tempfile::tempdir().unwrap();
    for (looks_like, bytes) in beginnings() {
        for name in ["disk.raw", "disk.img", "disk"] {
            let path = file(directory.path(), name, &bytes);
            let said = look(&path, None).unwrap_err();
            assert!(said.contains(looks_like) && said.contains("--format raw"), "{said}");
            assert_eq!(look(&path, Some(Format::Raw)), Ok("raw"));
        }
    }
}

#[test]
fn luks_and_other_disks_are_raw() {
    let directory = tempfile::tempdir().unwrap();
    for bytes in [&b"LUKS\xba\xbe\x00\x01 and a header"[..], b"\xeb\x63\x90", &[0; 512], b"x"] {
        assert_eq!(look(&file(directory.path(), "disk.raw", bytes), None), Ok("raw"));
    }
}

#[test]
fn a_name_that_its_bytes_contradict_asks_for_the_format() {
    let directory = tempfile::tempdir().unwrap();
    let raw = file(directory.path(), "disk.qcow2", &[1; 4096]);
    assert!(look(&raw, None).unwrap_err().contains("--format raw"));
    assert_eq!(look(&raw, Some(Format::Raw)), Ok("raw"));
    let vmdk = file(directory.path(), "disk.vhdx", b"KDMV and more");
    assert!(look(&vmdk, None).unwrap_err().contains("--format vmdk"));
    let said = look(&file(directory.path(), "disk", &[1; 4096]), Some(Format::Qcow2)).unwrap_err();
    assert!(said.contains("is no qcow2"), "{said}");
}

#[test]
fn empty_images_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for said in [None, Some(Format::Raw), Some(Format::Qcow2)] {
        assert!(
            look(&file(directory.path(), "disk.raw", b""), said).unwrap_err().contains("is empty")
        );
    }
    let packed = file(directory.path(), "disk.raw.gz", &gzip(b""));
    assert!(look(&packed, None).unwrap_err().contains("is empty"));
}

#[test]
fn what_is_packed_is_looked_into() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str, inside: &[u8]| file(directory.path(), name, &gzip(inside));
    assert_eq!(look(&at("a.raw.gz", &[1; 600]), None), Ok("packed"));
    assert_eq!(look(&at("a.gz", b"LUKS\xba\xbe"), None), Ok("packed"));
    assert_eq!(look(&at("a.qcow2.gz", b"QFI\xfb"), None), Ok("packed"));
    assert_eq!(look(&at("a.img.gz", b"QFI\xfb"), Some(Format::Qcow2)), Ok("packed"));
    let guests = at("full.raw.gz", b"QFI\xfb");
    assert!(look(&guests, None).unwrap_err().contains("--format raw"));
    assert_eq!(look(&guests, Some(Format::Raw)), Ok("packed"));
    let mut tar = vec![0; 257];
    tar.extend(b"ustar");
    let said = look(&at("disk.tar.gz", &tar), None).unwrap_err();
    assert!(said.contains("tar -xf") && said.contains("disk.tar.gz"), "{said}");
    let said = look(&file(directory.path(), "a.xz", b"no xz"), None).unwrap_err();
    assert!(said.contains("not packed with xz"), "{said}");
}

#[test]
fn an_archive_says_which_command_takes_its_image_out() {
    let directory = tempfile::tempdir().unwrap();
    let member = |name: &str, bytes: &[u8]| {
        let mut member = vec![0; 512];
        member[..name.len()].copy_from_slice(name.as_bytes());
        member[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        member[257..262].copy_from_slice(b"ustar");
        member.extend(bytes);
        member.resize(member.len().next_multiple_of(512), 0);
        member
    };
    let ova = [member("box.ovf", &[b'<'; 700]), member("box-disk1.vmdk", b"KDMV")].concat();
    let said = look(&file(directory.path(), "box.ova", &ova), None).unwrap_err();
    assert!(said.contains("box.ova box-disk1.vmdk` and import box-disk1.vmdk"), "{said}");
    // A name is a stranger's text: an option of tar, or worse.
    for name in ["--to-command=x.img", "a\nb.img"] {
        let said = look(&file(directory.path(), "box.ova", &member(name, b"")), None).unwrap_err();
        assert!(said.contains("box.ova` and import"), "{said}");
    }
    // A size that leads nowhere.
    let mut endless = member("a", b"");
    endless[124..136].copy_from_slice(b"777777777777");
    look(&file(directory.path(), "box.ova", &endless), None).unwrap_err();
}

#[test]
fn a_missing_image_and_what_is_no_file_are_told() {
    let directory = tempfile::tempdir().unwrap();
    assert!(look(&directory.path().join("none"), None).unwrap_err().contains("No such file"));
    assert!(look(directory.path(), None).unwrap_err().contains("neither a file"));
}
