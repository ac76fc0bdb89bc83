//! Small images, one of each format, and what becomes of them when bytes are missing or wrong.

use super::{reference::*, *};
use crate::cli::image::format::Format;
use proptest::{collection::vec, prelude::*};

const CLUSTER: usize = 512;

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// qcow2, version 3: header, refcount table, L1, one L2, one cluster of data.
fn qcow2() -> Vec<u8> {
    let mut image = vec![0; 5 * CLUSTER];
    put(&mut image, 0, b"QFI\xfb");
    put(&mut image, 4, &3_u32.to_be_bytes());
    put(&mut image, 20, &9_u32.to_be_bytes()); // cluster bits
    put(&mut image, 24, &(64 * CLUSTER as u64).to_be_bytes());
    put(&mut image, 36, &1_u32.to_be_bytes()); // L1 entries
    put(&mut image, 40, &(2 * CLUSTER as u64).to_be_bytes());
    put(&mut image, 48, &(CLUSTER as u64).to_be_bytes()); // refcount table
    put(&mut image, 56, &1_u32.to_be_bytes());
    put(&mut image, 100, &104_u32.to_be_bytes()); // header length
    put(&mut image, 2 * CLUSTER, &((3 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
    put(&mut image, 3 * CLUSTER, &((4 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
    image
}

/// The same with a backing file of that name, and of that format where one is said.
fn backed_by(name: &str, format: Option<&str>) -> Vec<u8> {
    let mut image = qcow2();
    let mut at = 104;
    if let Some(format) = format {
        put(&mut image, at, &0xe279_2aca_u32.to_be_bytes());
        put(&mut image, at + 4, &(format.len() as u32).to_be_bytes());
        put(&mut image, at + 8, format.as_bytes());
        at += 8 + format.len().next_multiple_of(8);
    }
    at += 8; // the end of the extensions
    put(&mut image, 8, &(at as u64).to_be_bytes());
    put(&mut image, 16, &(name.len() as u32).to_be_bytes());
    put(&mut image, at, name.as_bytes());
    image
}

/// qcow2 whose data are in another file.
fn with_data_file(name: &str) -> Vec<u8> {
    let mut image = qcow2();
    put(&mut image, 72, &4_u64.to_be_bytes());
    put(&mut image, 104, &0x4441_5441_u32.to_be_bytes());
    put(&mut image, 108, &(name.len() as u32).to_be_bytes());
    put(&mut image, 112, name.as_bytes());
    image
}

/// A sparse VMDK: header, descriptor, directory, one grain table, one grain.
fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut image = vec![0; 32 * 512];
    put(&mut image, 0, b"KDMV");
    put(&mut image, 4, &1_u32.to_le_bytes());
    put(&mut image, 12, &8_u64.to_le_bytes()); // capacity, in sectors
    put(&mut image, 20, &8_u64.to_le_bytes()); // sectors of a grain
    put(&mut image, 28, &1_u64.to_le_bytes()); // descriptor
    put(&mut image, 36, &20_u64.to_le_bytes());
    put(&mut image, 44, &512_u32.to_le_bytes());
    put(&mut image, 56, &21_u64.to_le_bytes()); // directory
    put(&mut image, 512, descriptor.as_bytes());
    put(&mut image, 21 * 512, &22_u32.to_le_bytes());
    put(&mut image, 22 * 512, &31_u32.to_le_bytes());
    image
}

fn vhd_footer(kind: u32) -> Vec<u8> {
    let mut footer = vec![0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 16, &512_u64.to_be_bytes()); // the second header
    put(&mut footer, 48, &4096_u64.to_be_bytes());
    put(&mut footer, 60, &kind.to_be_bytes());
    footer
}

/// A dynamic VHD: footer, second header, table, one block, footer.
fn vhd() -> Vec<u8> {
    let mut image = vhd_footer(3);
    image.resize(2048 + 512 + 4096, 0);
    put(&mut image, 512, b"cxsparse");
    put(&mut image, 512 + 16, &1536_u64.to_be_bytes());
    put(&mut image, 512 + 28, &1_u32.to_be_bytes());
    put(&mut image, 512 + 32, &4096_u32.to_be_bytes());
    put(&mut image, 1536, &4_u32.to_be_bytes());
    image.extend(vhd_footer(3));
    image
}

fn fixed_vhd() -> Vec<u8> {
    let mut image = vec![7; 4096];
    image.extend(vhd_footer(2));
    image
}

fn vdi() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    put(&mut image, 0x40, &[0x7f, 0x10, 0xda, 0xbe]);
    put(&mut image, 0x4c, &1_u32.to_le_bytes());
    put(&mut image, 0x154, &512_u32.to_le_bytes());
    put(&mut image, 0x158, &1024_u32.to_le_bytes());
    put(&mut image, 0x178, &4096_u32.to_le_bytes());
    put(&mut image, 0x180, &1_u32.to_le_bytes());
    image
}

fn vhdx() -> Vec<u8> {
    const REGIONS: usize = 192 << 10;
    const METADATA: usize = 256 << 10;
    const BLOCKS: usize = 512 << 10;
    let guid = |text: &str| {
        let mut bytes = uuid::Uuid::parse_str(text).unwrap().to_bytes_le().to_vec();
        bytes.resize(16, 0);
        bytes
    };
    let mut image = vec![0; 2 << 20];
    put(&mut image, 0, b"vhdxfile");
    put(&mut image, REGIONS, b"regi");
    put(&mut image, REGIONS + 8, &2_u32.to_le_bytes());
    let regions = [
        ("2dc27766-f623-4200-9d64-115e9bfd4a08", BLOCKS, 8),
        ("8b7ca206-4790-4b9a-b8fe-575f050f886e", METADATA, 65536),
    ];
    for (i, (id, offset, len)) in regions.into_iter().enumerate() {
        let at = REGIONS + 16 + i * 32;
        put(&mut image, at, &guid(id));
        put(&mut image, at + 16, &(offset as u64).to_le_bytes());
        put(&mut image, at + 24, &(len as u32).to_le_bytes());
    }
    put(&mut image, METADATA, b"metadata");
    put(&mut image, METADATA + 10, &1_u16.to_le_bytes());
    put(&mut image, METADATA + 32, &guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b"));
    put(&mut image, METADATA + 48, &1024_u32.to_le_bytes());
    put(&mut image, METADATA + 1024, &(1_u32 << 20).to_le_bytes());
    put(&mut image, BLOCKS, &((1_u64 << 20) | 6).to_le_bytes());
    image
}

fn all() -> [(Format, Vec<u8>); 6] {
    [
        (Format::Qcow2, qcow2()),
        (Format::Vmdk, vmdk("version=1")),
        (Format::Vhd, vhd()),
        (Format::Vhd, fixed_vhd()),
        (Format::Vdi, vdi()),
        (Format::Vhdx, vhdx()),
    ]
}

fn look(format: Format, image: &[u8]) -> Result<References, HeaderError> {
    references(&image, format)
}

#[test]
fn whole_images_refer_to_nothing() {
    for (format, image) in all() {
        assert_eq!(look(format, &image).unwrap(), References::default(), "{format}");
    }
}

/// A qcow2 may end within its last cluster, and a sparse VMDK within its last grain: both are
/// written so.
#[test]
fn images_that_were_cut_off_are_refused() {
    for (format, image) in all() {
        let last = match format {
            Format::Qcow2 | Format::Vmdk => CLUSTER,
            // A footer may lack its last byte.
            Format::Vhd => 2,
            Format::Raw | Format::Vhdx | Format::Vdi => 1,
        };
        for len in [1, 10, image.len() / 3, image.len() / 2, image.len() - last] {
            look(format, &image[..len]).expect_err(&format!("{format} of {len} bytes"));
        }
    }
}

#[test]
fn qcow2_tells_its_backing_file_and_its_data_file() {
    let backing = |image: Vec<u8>| look(Format::Qcow2, &image).unwrap().backing.unwrap();
    let expected = |format: Option<&str>| Reference {
        name: "/etc/shadow".into(),
        format: format.map(str::to_owned),
    };
    assert_eq!(backing(backed_by("/etc/shadow", None)), expected(None));
    assert_eq!(backing(backed_by("/etc/shadow", Some("raw"))), expected(Some("raw")));
    assert_eq!(look(Format::Qcow2, &with_data_file("x")).unwrap().data_file.as_deref(), Some("x"));
    // Version 2 has extensions, too, and no features.
    let mut old = backed_by("base", None);
    put(&mut old, 4, &2_u32.to_be_bytes());
    assert_eq!(backing(old).name, "base");
}

#[test]
fn qcow2_that_cannot_be_converted_says_why() {
    let with = |at: usize, field: &[u8]| {
        let mut image = qcow2();
        put(&mut image, at, field);
        look(Format::Qcow2, &image).unwrap_err().to_string()
    };
    for (at, field, word) in [
        (4, &1_u32.to_be_bytes()[..], "qcow, the format before"),
        (4, &9_u32.to_be_bytes(), "later version"),
        (32, &2_u32.to_be_bytes(), "encrypted"),
        (72, &2_u64.to_be_bytes(), "corrupt"),
        (72, &4_u64.to_be_bytes(), "another file"),
        (20, &8_u32.to_be_bytes(), "512 bytes"),
        (20, &200_u32.to_be_bytes(), "512 bytes"),
        (36, &u32::MAX.to_be_bytes(), "L1 table"),
        (40, &u64::MAX.to_be_bytes(), "beyond any file"),
        (60, &u32::MAX.to_be_bytes(), "snapshots"),
        (100, &4096_u32.to_be_bytes(), "length"),
    ] {
        let said = with(at, field);
        assert!(said.contains(word), "{at}: {said}");
    }
}

/// Two names for one table are harmless; a million keep a reader that follows them busy.
#[test]
fn tables_that_are_named_again_and_again_are_refused() {
    let mut image = qcow2();
    put(&mut image, 36, &64_u32.to_be_bytes());
    for entry in 0..64 {
        put(&mut image, 2 * CLUSTER + entry * 8, &(3 * CLUSTER as u64).to_be_bytes());
    }
    let said = look(Format::Qcow2, &image).unwrap_err().to_string();
    assert!(said.contains("more L2 tables"), "{said}");
}

#[test]
fn vmdk_tells_its_parent_and_its_extents() {
    let inside = look(Format::Vmdk, &vmdk("parentFileNameHint=\"/etc/shadow\"\n")).unwrap();
    let parent = Reference { name: "/etc/shadow".into(), format: Some("vmdk".into()) };
    assert_eq!(inside.backing, Some(parent));
    let descriptor = b"# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"nbd://host/x\" 0\n";
    let extents = look(Format::Vmdk, descriptor).unwrap().extents;
    assert_eq!(extents[0].name, "nbd://host/x");
    look(Format::Vmdk, b"# Disk DescriptorFile\nversion=1\n").unwrap_err();
}

/// qemu opens the extents of the descriptor behind such a header.
#[test]
fn sparse_vmdk_without_a_size_is_refused() {
    let mut image = vmdk("RW 8 FLAT \"/etc/shadow\" 0\n");
    assert!(
        look(Format::Vmdk, &image).unwrap().is_empty(),
        "a sparse file has its grains, whatever its text says"
    );
    put(&mut image, 12, &0_u64.to_le_bytes());
    look(Format::Vmdk, &image).unwrap_err();
    check_sparse_extent(&&image[..]).unwrap_err();
}

#[test]
fn vmdk_stream_without_its_footer_is_cut_off() {
    let mut image = vmdk("version=1");
    let mut footer = vec![0; 3 * 512];
    put(&mut footer, 12, &3_u32.to_le_bytes());
    footer[512..1024].copy_from_slice(&image[..512]);
    put(&mut image, 56, &u64::MAX.to_le_bytes());
    assert!(look(Format::Vmdk, &image).unwrap_err().to_string().contains("cut off"));
    // The footer's copy of the header is what counts, with its own descriptor.
    put(&mut footer, 512 + 28, &27_u64.to_le_bytes());
    put(&mut image, 27 * 512, b"parentFileNameHint=\"x\"\n");
    image.extend(footer);
    assert_eq!(look(Format::Vmdk, &image).unwrap().backing.unwrap().name, "x");
}

#[test]
fn disks_that_need_a_parent_which_qemu_forgets_are_refused() {
    let mut differencing = vhd();
    put(&mut differencing, 60, &4_u32.to_be_bytes());
    let mut undo = vdi();
    put(&mut undo, 0x4c, &4_u32.to_le_bytes());
    let mut child = vhdx();
    put(&mut child, (256 << 10) + 1028, &2_u32.to_le_bytes());
    for (format, image) in [(Format::Vhd, differencing), (Format::Vdi, undo), (Format::Vhdx, child)]
    {
        let said = look(format, &image).unwrap_err().to_string();
        assert!(said.contains("parent"), "{format}: {said}");
    }
}

fn mutated() -> impl Strategy<Value = (Format, Vec<u8>)> {
    let images = all().into_iter().chain([
        (Format::Qcow2, backed_by("/etc/shadow", Some("raw"))),
        (Format::Qcow2, with_data_file("data")),
        (
            Format::Vmdk,
            b"# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"x\" 0\nparentFileNameHint=\"y\"\n"
                .to_vec(),
        ),
    ]);
    let images: Vec<_> = images.collect();
    // Headers are at the beginning, or of VHDX at 192 and 256 KiB: elsewhere a changed byte says
    // nothing.
    let place =
        prop_oneof![0..600_usize, 196_608..196_800_usize, 262_144..262_300_usize, 0..usize::MAX];
    let change = (place, prop_oneof![Just(0_u8), Just(1), Just(0x7f), Just(0xff), any::<u8>()]);
    (0..images.len(), vec(change, 1..12), any::<proptest::sample::Index>(), any::<bool>()).prop_map(
        move |(which, changes, end, cut)| {
            let (format, mut image) = images[which].clone();
            for (at, byte) in changes {
                let at = at % image.len();
                image[at] = byte;
            }
            if cut {
                image.truncate(end.index(image.len()));
            }
            (format, image)
        },
    )
}

proptest! {
    /// Keeps I1: whatever the bytes are, there is an answer, soon.
    #[test]
    fn damaged_headers_are_answered((format, image) in mutated()) {
        let _any = look(format, &image);
        let _any = check_sparse_extent(&&image[..]);
    }

    #[test]
    fn foreign_bytes_are_answered(image in vec(any::<u8>(), 0..2000), which in 0..6_usize) {
        let mut image = image;
        let (format, whole) = &all()[which];
        let head = 72.min(image.len());
        image[..head].copy_from_slice(&whole[..head]);
        let _any = look(*format, &image);
    }
}
