//! Where a store's staging file is: in shared memory, or beside the store where that had no room.
//!
//! Every user may write to the directory, so a file there is used only if no other user can open it
//! (`private.rs`). Anything else with its name is left alone and logged, and the other directory is
//! used.
//!
//! I1  A staging file is locked for as long as a server uses it.
//! I2  It is removed when its store is closed, because then it holds nothing that the store does
//!     not have.
//! I3  After a server's death its file is kept for the next start. Only when the store itself was
//!     removed may another server remove the file: see `orphan.rs`.

use super::orphan::{self, Home};
use super::private::{self, Access, own_user};
use crate::log::{STAGING_HEADER_BYTES, check_header};
use sandstone_ring::SharedMemory;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

/// Tries to lock a staging file: the last server releases the store's lock first, and the file's a
/// little later. A guess.
const LOCK_TRIES: u32 = 500;
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// The directories that a staging file may be in, the preferred one first.
#[derive(Clone, Debug)]
pub(crate) struct StagingFiles {
    directories: [PathBuf; 2],
    /// The store.
    path: PathBuf,
}

/// A staging file in use.
#[derive(Debug)]
pub(crate) struct StagingFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    pub(crate) memory: Arc<SharedMemory>,
    /// Whether an earlier server of this boot left it.
    pub(crate) existed: bool,
}

impl StagingFile {
    /// Writes the place of the store at `path` into it, after its header was stamped, which clears
    /// the place.
    pub(crate) fn stamp_home(&self, path: &Path) {
        Home::of(path).write(&self.memory);
    }

    /// Removes it: its content is in the store, or it is empty.
    pub(crate) fn remove(self) {
        if private::is_at(&self.file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the staging file stays");
        }
    }
}

impl StagingFiles {
    /// The directories for the store at `path`: `first`, or the store's own one.
    pub(crate) fn beside(path: &Path, first: &Path) -> Self {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directories = [first.to_owned(), parent.unwrap_or(Path::new(".")).to_owned()];
        Self { directories, path: path.to_owned() }
    }

    fn paths(&self, store: &[u8; 16]) -> [PathBuf; 2] {
        let name = orphan::name_of(store);
        self.directories.clone().map(|directory| directory.join(&name))
    }

    /// Users that may have made a staging file of this store: this process's user, and the store's
    /// owner, who could corrupt the store itself.
    fn owners(&self) -> Vec<u32> {
        let of_store =
            fs::metadata(&self.path).ok().filter(fs::Metadata::is_file).map(|found| found.uid());
        [Some(own_user()), of_store].into_iter().flatten().collect()
    }

    /// Finds the file that the start of that epoch, in this boot, left.
    fn left(
        &self,
        access: Access,
        store: &[u8; 16],
        boot: &[u8; 16],
        epoch: u32,
        bytes: usize,
    ) -> Option<(PathBuf, File)> {
        let owners = self.owners();
        self.paths(store).into_iter().find_map(|path| {
            let file = match private::open(&path, access, &owners) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(),
                        "what has the name of the staging file is not this server's, \
                         and not used: remove it");
                    return None;
                }
            };
            let mut header = [0; STAGING_HEADER_BYTES];
            let is_left = file.metadata().is_ok_and(|metadata| metadata.len() == bytes as u64)
                && file.read_exact_at(&mut header, 0).is_ok()
                && check_header(&header, store, boot, epoch).is_ok();
            is_left.then_some((path, file))
        })
    }

    /// Maps the file that the start of that epoch, in this boot, left, in either directory;
    /// otherwise a new one in the first directory that has room. Before that it removes orphans,
    /// which may take up the room.
    ///
    /// # Errors
    /// The errors of the file system, above all "no space left" in both directories.
    pub(crate) fn open(
        &self,
        store: &[u8; 16],
        boot: &[u8; 16],
        epoch: u32,
        bytes: usize,
    ) -> io::Result<StagingFile> {
        orphan::remove_all(&self.directories, store);
        if let Some((path, file)) = self.left(Access::ReadWrite, store, boot, epoch, bytes) {
            lock(&file)?;
            let memory = Arc::new(SharedMemory::of_file(&file, bytes)?);
            return Ok(StagingFile { path, file, memory, existed: true });
        }
        let [first, instead] = self.paths(store);
        make(first.clone(), bytes).or_else(|error| {
            tracing::warn!(%error, path = %first.display(), instead = %instead.display(),
                "the staging buffer cannot be there");
            make(instead, bytes)
        })
    }

    /// A copy of the file that the start of that epoch, in this boot, left, if there is one; the
    /// file stays unchanged.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub(crate) fn read(
        &self,
        store: &[u8; 16],
        boot: &[u8; 16],
        epoch: u32,
        bytes: usize,
    ) -> io::Result<Option<Arc<SharedMemory>>> {
        let Some((_, file)) = self.left(Access::Read, store, boot, epoch, bytes) else {
            return Ok(None);
        };
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, 0)?;
        Ok(Some(Arc::new(SharedMemory::holding(&content)?)))
    }
}

/// Creates a new staging file, in place of one that cannot be used.
fn make(path: PathBuf, bytes: usize) -> io::Result<StagingFile> {
    match private::open(&path, Access::ReadWrite, &[own_user()]) {
        Ok(file) => {
            lock(&file)?;
            fs::remove_file(&path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = private::create(&path)?;
    let mapped = lock(&file).and_then(|()| SharedMemory::of_file(&file, bytes));
    match mapped {
        Ok(memory) => Ok(StagingFile { path, file, memory: Arc::new(memory), existed: false }),
        Err(error) => {
            // The first error is reported.
            let _removed = fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Keeps I1.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        if private::try_lock(file)? {
            return Ok(());
        }
        thread::sleep(LOCK_INTERVAL);
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has the staging file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Secret,
        format::{Geometry, Identity},
        log::Staging,
    };
    use std::os::unix::fs::{PermissionsExt, symlink};

    const STORE: [u8; 16] = [7; 16];
    const GEOMETRY: Geometry = Geometry { segment_blocks: 64, window_blocks: 16, slots: 4 };

    const IDENTITY: Identity = Identity { store: STORE, secret: Secret([0; 16]) };

    fn bytes() -> usize {
        Staging::file_bytes(&GEOMETRY)
    }

    fn stamped(files: &StagingFiles, boot: [u8; 16], epoch: u32) -> StagingFile {
        let file = files.open(&STORE, &boot, epoch - 1, bytes()).unwrap();
        Staging::new(Arc::clone(&file.memory), GEOMETRY, &IDENTITY, &boot, epoch);
        file
    }

    /// The first directory had no room when the last server started, and has some now.
    #[test]
    fn what_the_last_server_left_is_found_where_it_found_room() {
        let home = tempfile::tempdir().unwrap();
        let (first, beside) = (home.path().join("shm"), home.path().join("store"));
        let files = StagingFiles::beside(&beside, &first);
        let file = stamped(&files, [1; 16], 4);
        file.memory.copy_in(5000, b"acknowledged");
        drop(file);
        fs::create_dir(&first).unwrap();

        let mut left = [0; 12];
        let copy = files.read(&STORE, &[1; 16], 4, bytes()).unwrap().expect("it is there");
        copy.copy_out(5000, &mut left);
        assert_eq!(&left, b"acknowledged");
        let file = files.open(&STORE, &[1; 16], 4, bytes()).unwrap();
        file.memory.copy_out(5000, &mut left);
        assert!(file.existed && &left == b"acknowledged");
        drop(file);

        // After another boot the preferred directory has it.
        assert!(files.read(&STORE, &[2; 16], 4, bytes()).unwrap().is_none());
        let file = files.open(&STORE, &[2; 16], 4, bytes()).unwrap();
        assert!(!file.existed && file.path.starts_with(&first));
    }

    #[test]
    fn what_is_not_the_servers_own_is_neither_used_nor_changed() {
        let home = tempfile::tempdir().unwrap();
        let (first, beside) = (home.path().join("shm"), home.path().join("store"));
        fs::create_dir(&first).unwrap();
        let files = StagingFiles::beside(&beside, &first);
        let [there, _] = files.paths(&STORE);
        let mine = home.path().join("mine");
        let content = vec![9; bytes()];

        let check = |what: &str| {
            let file = files.open(&STORE, &[1; 16], 4, bytes()).unwrap();
            assert!(file.path.starts_with(home.path()) && !file.path.starts_with(&first), "{what}");
            file.remove();
        };
        fs::write(&mine, &content).unwrap();
        symlink(&mine, &there).unwrap();
        check("a link");
        assert_eq!(fs::read(&mine).unwrap(), content);
        fs::remove_file(&there).unwrap();

        fs::write(&there, &content).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o666)).unwrap();
        check("a file that others may open");
        assert_eq!(fs::read(&there).unwrap(), content);
        fs::remove_file(&there).unwrap();

        let (cwd, mode) = (rustix::fs::CWD, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(cwd, &there, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        check("a pipe");
    }

    #[test]
    fn one_of_another_length_is_not_what_a_server_left() {
        let home = tempfile::tempdir().unwrap();
        let files = StagingFiles::beside(&home.path().join("store"), home.path());
        let [there, _] = files.paths(&STORE);
        for len in [0, 4096, 1 << 36] {
            drop(stamped(&files, [1; 16], 4));
            File::options().write(true).open(&there).unwrap().set_len(len).unwrap();
            assert!(files.read(&STORE, &[1; 16], 4, bytes()).unwrap().is_none());
            let file = files.open(&STORE, &[1; 16], 4, bytes()).unwrap();
            assert!(!file.existed);
            assert_eq!(fs::metadata(&there).unwrap().len(), bytes() as u64);
            file.remove();
            assert!(!there.exists());
        }
    }

    #[test]
    fn a_directory_without_room_keeps_nothing_of_the_attempt() {
        let home = tempfile::tempdir().unwrap();
        // More bytes than any file may have.
        let error = make(home.path().join("staging"), 1 << 62).unwrap_err();
        assert!(!home.path().join("staging").exists(), "{error}");
    }

    /// The directory is changed, and changed back, and the server crashes each time: what the start
    /// before the last left is not what the last one left, although it is of this boot.
    #[test]
    fn what_an_older_start_left_elsewhere_is_not_taken_for_what_the_last_one_left() {
        let home = tempfile::tempdir().unwrap();
        let (shm, other) = (home.path().join("shm"), home.path().join("other"));
        [&shm, &other].into_iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
        let store = home.path().join("store");
        let in_shm = StagingFiles::beside(&store, &shm);
        let in_other = StagingFiles::beside(&store, &other);
        stamped(&in_shm, [1; 16], 4);
        stamped(&in_other, [1; 16], 5).memory.copy_in(5000, b"acknowledged");

        assert!(in_shm.read(&STORE, &[1; 16], 5, bytes()).unwrap().is_none());
        assert!(in_other.read(&STORE, &[1; 16], 5, bytes()).unwrap().is_some());
        let stale = in_shm.open(&STORE, &[1; 16], 5, bytes()).unwrap();
        assert!(!stale.existed, "the file is there, and no server's");
        drop(stale);
        // The last start's file is found beside the store too, behind an older one in the preferred
        // directory.
        let back = StagingFiles::beside(&other.join("store"), &shm);
        let mut left = [0; 12];
        back.read(&STORE, &[1; 16], 5, bytes())
            .unwrap()
            .expect("the last one's")
            .copy_out(5000, &mut left);
        assert_eq!(&left, b"acknowledged");
    }
}
