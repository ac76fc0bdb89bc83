//! A file system on top: nbdfuse makes the volume a file, a loop device makes the file a disk, ext4
//! does the rest.

use sandstone_tests::{Disk, Mount, Program, Server, Tree, needs_disks};

#[test]
fn ext4_with_a_source_tree_is_clean() {
    if !needs_disks(&["mkfs.ext4", "e2fsck", "diff"]) {
        return;
    }
    let mut server = Server::start();
    let tree = Tree::generate(2_000);
    let volume = server.volume("512M");
    let mount_point = server.dir().join("mnt");

    let disk = Disk::attach(&server, &volume);
    Program::new("mkfs.ext4").args(["-q", "-F", disk.device()]).ok();
    let mount = Mount::new(disk.device(), &mount_point);
    Program::new("cp").arg("-a").arg(tree.path()).arg(mount.path().join("tree")).ok();
    Program::new("sync").arg("-f").arg(mount.path()).ok();
    Program::new("diff").arg("-r").arg(tree.path()).arg(mount.path().join("tree")).ok();
    mount.unmount();
    Program::new("e2fsck").args(["-f", "-n", disk.device()]).ok();
    disk.detach();

    // The same file system after a restart.
    assert!(server.stop().success());
    server.start_again().unwrap();
    let disk = Disk::attach(&server, &volume);
    Program::new("e2fsck").args(["-f", "-n", disk.device()]).ok();
    let mount = Mount::new(disk.device(), &mount_point);
    Program::new("diff").arg("-r").arg(tree.path()).arg(mount.path().join("tree")).ok();
}
