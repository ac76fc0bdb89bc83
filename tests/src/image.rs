//! Real file systems to put into volumes.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::program::Program;
use crate::random::Random;

/// A source tree made from a seed: some thousand files of the sizes that source trees have.
pub struct Tree {
    dir: TempDir,
}

impl Tree {
    /// Makes a tree of `files` files.
    pub fn generate(files: usize) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let mut random = Random::new(files as u64);
        for number in 0..files {
            let folder = dir.path().join(format!("part{}/module{}", number % 7, number % 61));
            fs::create_dir_all(&folder).expect("a directory can be made");
            // Mostly small, now and then large, some empty.
            let len = match random.below(100) {
                0..5 => 0,
                5..90 => random.below(16 << 10),
                90..99 => random.below(256 << 10),
                _ => random.below(2 << 20),
            };
            let mut bytes = random.bytes(len as usize);
            if number % 3 == 0 {
                // Text compresses and has zero pages; random bytes have neither.
                bytes.iter_mut().for_each(|b| *b = if *b < 8 { b'\n' } else { b'a' + *b % 26 });
            } else if number % 11 == 0 {
                bytes.fill(0);
            }
            fs::write(folder.join(format!("file{number}.rs")), bytes)
                .expect("a file can be written");
        }
        Self { dir }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// An ext4 file system in a raw file.
pub struct Image {
    _dir: TempDir,
    path: PathBuf,
}

impl Image {
    /// Makes one of `mebibytes` with `tree` in it. Needs `mke2fs`.
    pub fn ext4(tree: &Tree, mebibytes: u64) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let path = dir.path().join("ext4.img");
        Program::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"])
            .arg(tree.path())
            .arg(&path)
            .arg(format!("{mebibytes}M"))
            .ok();
        Self { _dir: dir, path }
    }

    /// The raw file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
