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

    /// The file that an earlier server of this boot left.
    fn left(&self, store: &[u8; 16], boot: &[u8; 16]) -> Option<PathBuf> {
        self.paths(store).into_iter().find(|path| {
            let mut header = [0; STAGING_HEADER_BYTES];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
            read.is_ok() && check_header(&header, store, boot).is_ok()
        })
    }

    /// Maps the file that an earlier server of this boot left, wherever that found room; else one in the first directory
    /// that has room. The flag says whether it had content.
    ///
    /// # Errors
    /// Those of the file system, above all "no space left" in both directories.
    pub(crate) fn open(
        &self,
        store: &[u8; 16],
        boot: &[u8; 16],
        bytes: usize,
    ) -> io::Result<(Arc<SharedMemory>, bool)> {
        let [first, instead] = self.paths(store);
        let opened = match self.left(store, boot) {
            Some(left) => SharedMemory::open(&left, bytes),
            None => SharedMemory::open(&first, bytes).or_else(|error| {
                tracing::warn!(%error, path = %first.display(), instead = %instead.display(),
                    "no room for the staging buffer there");
                SharedMemory::open(&instead, bytes)
            }),
        };
        opened.map(|(memory, existed)| (Arc::new(memory), existed))
    }

    /// A copy of what an earlier server of this boot left, if there is something; the file stays as it is.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn read(&self, store: &[u8; 16], boot: &[u8; 16]) -> io::Result<Option<Arc<SharedMemory>>> {
        let Some(path) = self.left(store, boot) else { return Ok(None) };
        let bytes = std::fs::read(path)?;
        let memory = SharedMemory::anonymous(bytes.len())?;
        memory.copy_in(0, &bytes);
        Ok(Some(Arc::new(memory)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checksum::Secret,
        format::{Geometry, Identity},
        log::Staging,
    };

    const STORE: [u8; 16] = [7; 16];
    const GEOMETRY: Geometry = Geometry { segment_blocks: 64, window_blocks: 16, slots: 4 };

    fn stamped(files: &StagingFiles, boot: [u8; 16]) -> Arc<SharedMemory> {
        let identity = Identity { store: STORE, secret: Secret([0; 16]) };
        let (memory, _) = files.open(&STORE, &boot, Staging::file_bytes(&GEOMETRY)).unwrap();
        Staging::new(Arc::clone(&memory), GEOMETRY, &identity, &boot);
        memory
    }

    /// The first directory had no room when the last server started, and has some now.
    #[test]
    fn what_the_last_server_left_is_found_where_it_found_room() {
        let home = tempfile::tempdir().unwrap();
        let (first, beside) = (home.path().join("shm"), home.path().join("store"));
        let files = StagingFiles::beside(&beside, &first);
        let memory = stamped(&files, [1; 16]);
        memory.copy_in(5000, b"acknowledged");
        drop(memory);
        std::fs::create_dir(&first).unwrap();

        let mut left = [0; 12];
        files.read(&STORE, &[1; 16]).unwrap().expect("it is there").copy_out(5000, &mut left);
        assert_eq!(&left, b"acknowledged");
        let (memory, existed) = files.open(&STORE, &[1; 16], 8192).unwrap();
        memory.copy_out(5000, &mut left);
        assert!(existed && &left == b"acknowledged");

        // After another boot the preferred directory has it.
        assert!(files.read(&STORE, &[2; 16]).unwrap().is_none());
        let (_, existed) = files.open(&STORE, &[2; 16], 8192).unwrap();
        assert!(!existed);
    }
}
