//! Where a store's staging file is: in shared memory, or beside the store where that had no room.

use crate::{
    io::SharedMemory,
    log::{STAGING_HEADER_BYTES, check_header},
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The directories that a staging file may be in, the preferred one first.
#[derive(Clone, Debug)]
pub(crate) struct StagingFiles([PathBuf; 2]);

impl StagingFiles {
    /// For the store at `path`: `first`, or the store's own directory.
    pub(crate) fn beside(path: &Path, first: &Path) -> Self {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self([first.to_owned(), parent.unwrap_or(Path::new(".")).to_owned()])
    }

    fn paths(&self, store: &[u8; 16]) -> [PathBuf; 2] {
        let name = format!("sandstone-{}.staging", uuid::Uuid::from_bytes(*store));
        self.0.clone().map(|directory| directory.join(&name))
    }

    /// The file that the start of that epoch, in this boot, left.
    fn left(&self, store: &[u8; 16], boot: &[u8; 16], epoch: u32) -> Option<PathBuf> {
        self.paths(store).into_iter().find(|path| {
            let mut header = [0; STAGING_HEADER_BYTES];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
            read.is_ok() && check_header(&header, store, boot, epoch).is_ok()
        })
    }

    /// Maps the file that the start of that epoch, in this boot, left, wherever that found room; else one in the first
    /// directory that has room. The flag says whether it had content.
    ///
    /// # Errors
    /// Those of the file system, above all "no space left" in both directories.
    pub(crate) fn open(
        &self,
        store: &[u8; 16],
        boot: &[u8; 16],
        epoch: u32,
        bytes: usize,
    ) -> io::Result<(Arc<SharedMemory>, bool)> {
        let [first, instead] = self.paths(store);
        let opened = match self.left(store, boot, epoch) {
            Some(left) => SharedMemory::open(&left, bytes),
            None => SharedMemory::open(&first, bytes).or_else(|error| {
                tracing::warn!(%error, path = %first.display(), instead = %instead.display(),
                    "no room for the staging buffer there");
                SharedMemory::open(&instead, bytes)
            }),
        };
        opened.map(|(memory, existed)| (Arc::new(memory), existed))
    }

    /// A copy of what the start of that epoch, in this boot, left, if there is something; the file stays as it is.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(
        &self,
        store: &[u8; 16],
        boot: &[u8; 16],
        epoch: u32,
    ) -> io::Result<Option<Arc<SharedMemory>>> {
        let Some(path) = self.left(store, boot, epoch) else { return Ok(None) };
        let bytes = std::fs::read(path)?;
        Ok(Some(Arc::new(SharedMemory::holding(&bytes)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checksum::Secret,
        format::{Geometry, Identity},
        log::{Leftover, Staging},
    };

    const STORE: [u8; 16] = [7; 16];
    const GEOMETRY: Geometry = Geometry { segment_blocks: 64, window_blocks: 16, slots: 4 };

    const IDENTITY: Identity = Identity { store: STORE, secret: Secret([0; 16]) };

    fn stamped(files: &StagingFiles, boot: [u8; 16], epoch: u32) -> Arc<SharedMemory> {
        let (memory, _) = files.open(&STORE, &boot, epoch - 1, Staging::file_bytes(&GEOMETRY)).unwrap();
        Staging::new(Arc::clone(&memory), GEOMETRY, &IDENTITY, &boot, epoch);
        memory
    }

    /// The first directory had no room when the last server started, and has some now.
    #[test]
    fn what_the_last_server_left_is_found_where_it_found_room() {
        let home = tempfile::tempdir().unwrap();
        let (first, beside) = (home.path().join("shm"), home.path().join("store"));
        let files = StagingFiles::beside(&beside, &first);
        let memory = stamped(&files, [1; 16], 4);
        memory.copy_in(5000, b"acknowledged");
        drop(memory);
        std::fs::create_dir(&first).unwrap();

        let mut left = [0; 12];
        files.read(&STORE, &[1; 16], 4).unwrap().expect("it is there").copy_out(5000, &mut left);
        assert_eq!(&left, b"acknowledged");
        let (memory, existed) = files.open(&STORE, &[1; 16], 4, 8192).unwrap();
        memory.copy_out(5000, &mut left);
        assert!(existed && &left == b"acknowledged");

        // After another boot the preferred directory has it.
        assert!(files.read(&STORE, &[2; 16], 4).unwrap().is_none());
        let (_, existed) = files.open(&STORE, &[2; 16], 4, 8192).unwrap();
        assert!(!existed);
    }

    /// The directory is changed, and changed back, and the server crashes each time: what the start before the last left is
    /// not what the last one left, although it is of this boot.
    #[test]
    fn what_an_older_start_left_elsewhere_is_not_taken_for_what_the_last_one_left() {
        let home = tempfile::tempdir().unwrap();
        let (shm, other) = (home.path().join("shm"), home.path().join("other"));
        [&shm, &other].into_iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
        let store = home.path().join("store");
        let in_shm = StagingFiles::beside(&store, &shm);
        let in_other = StagingFiles::beside(&store, &other);
        stamped(&in_shm, [1; 16], 4);
        stamped(&in_other, [1; 16], 5).copy_in(5000, b"acknowledged");

        assert!(in_shm.read(&STORE, &[1; 16], 5).unwrap().is_none());
        assert!(in_other.read(&STORE, &[1; 16], 5).unwrap().is_some());
        let bytes = Staging::file_bytes(&GEOMETRY);
        let (stale, existed) = in_shm.open(&STORE, &[1; 16], 5, bytes).unwrap();
        assert!(existed, "the file is there");
        assert!(Leftover::open(stale, GEOMETRY, &IDENTITY, &[1; 16], 5).is_err(), "and nobody's");
        // What the last one left is found beside the store too, behind an older one in the preferred directory.
        let back = StagingFiles::beside(&other.join("store"), &shm);
        let mut left = [0; 12];
        back.read(&STORE, &[1; 16], 5).unwrap().expect("the last one's").copy_out(5000, &mut left);
        assert_eq!(&left, b"acknowledged");
    }
}
