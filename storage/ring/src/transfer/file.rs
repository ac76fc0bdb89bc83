//! Whole transfers of a file: a short transfer is continued, from a sector's beginning where the
//! file is open for direct I/O.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;

use super::operation::{Operation, start};
use crate::io::{File, Op, WriteMode};
use crate::memory::WriteBuf;
use crate::runtime;

/// Where a short transfer may be continued: at the smallest sector that direct I/O knows.
const SECTOR_BYTES: usize = 512;
/// Interval at which a lock that another process holds is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A read that was started. Dropping it leaves the buffer to the read.
pub struct BegunRead {
    file: File,
    operation: Operation,
    offset: u64,
    len: usize,
    /// Bytes that the buffer had before.
    len_before: usize,
}

impl BegunRead {
    /// Waits for all of it.
    ///
    /// # Errors
    /// As [`File::read`].
    pub async fn finish(self) -> io::Result<BytesMut> {
        let Self { file, mut operation, offset, len, len_before } = self;
        let mut done = 0;
        loop {
            let (result, op) = operation.await;
            let Op::Read { mut buf, .. } = op else { unreachable!("a read comes back as one") };
            let advanced = file.continue_at(done, retried(result)?, len);
            if let Some(0) = advanced {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += advanced.unwrap_or(0);
            buf.truncate(len_before + done); // a sector read in part is read again
            if done == len {
                return Ok(buf);
            }
            let offset = offset + done as u64;
            operation = start(Op::Read { file: file.clone(), offset, len: len - done, buf });
        }
    }
}

impl File {
    /// Takes the exclusive lock on this file description, trying for as long as `deadline`;
    /// `on_wait` is called once if another process has it. It is released when the last clone is
    /// dropped and the last operation in flight has ended.
    ///
    /// # Errors
    /// `WouldBlock` when the deadline has passed. Dropping the future is safe.
    pub async fn lock(&self, deadline: Duration, on_wait: impl FnOnce()) -> io::Result<()> {
        let give_up_at = runtime::now() + deadline;
        let mut on_wait = Some(on_wait);
        loop {
            match self.try_lock() {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            if runtime::now() >= give_up_at {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another process has the store open",
                ));
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            runtime::sleep(LOCK_INTERVAL).await;
        }
    }

    /// Appends exactly `len` bytes from `offset` to `buf`, which must have the room.
    ///
    /// With direct I/O, `offset`, `len` and the address of the spare capacity are multiples of
    /// 4,096 (see [`aligned`](crate::aligned)). Dropping the future leaves the buffer to the read.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end, else the device's.
    ///
    /// # Panics
    /// Without room, and outside a runtime (as all of these).
    pub async fn read(&self, offset: u64, buf: BytesMut, len: usize) -> io::Result<BytesMut> {
        if len == 0 {
            return Ok(buf);
        }
        self.begin_read(offset, buf, len).finish().await
    }

    /// Starts a read as [`read`](File::read) does it, for a caller that starts several before it
    /// waits for the first: all that is started in one turn is submitted together.
    ///
    /// # Panics
    /// As [`read`](File::read), and for an empty range.
    pub fn begin_read(&self, offset: u64, buf: BytesMut, len: usize) -> BegunRead {
        let len_before = buf.len();
        assert!(len > 0 && buf.capacity() - len_before >= len, "no room for {len} bytes");
        let operation = start(Op::Read { file: self.clone(), offset, len, buf });
        BegunRead { file: self.clone(), operation, offset, len, len_before }
    }

    /// Writes all of `data` to `offset`. The data belongs to the write until its completion, also
    /// when the future is dropped, which does not stop it.
    ///
    /// The data is on the device when this returns, but safe from a power loss only after a
    /// [`sync`](File::sync), and from a crash of the host where [`placement`](File::placement) says
    /// so.
    ///
    /// # Errors
    /// The device's errors. Then any part of the range may have been written.
    pub async fn write(&self, offset: u64, data: WriteBuf) -> io::Result<()> {
        self.try_write(offset, data, WriteMode::Plain).await.map_err(|(error, _)| error)
    }

    /// Writes in either mode, for a caller that may try again: the data comes back with the error.
    pub async fn try_write(
        &self,
        offset: u64,
        mut data: WriteBuf,
        mode: WriteMode,
    ) -> Result<(), (io::Error, WriteBuf)> {
        let len = data.len_bytes();
        let mut done = 0;
        while done < len {
            let op = Op::Write {
                file: self.clone(),
                offset: offset + done as u64,
                data,
                skip: done,
                mode,
            };
            let (result, op) = start(op).await;
            let Op::Write { data: returned, .. } = op else {
                unreachable!("a write comes back as one")
            };
            data = returned;
            let advanced = match retried(result) {
                Ok(count) => self.continue_at(done, count, len),
                Err(error) => return Err((error, data)),
            };
            if let Some(0) = advanced {
                return Err((io::ErrorKind::WriteZero.into(), data));
            }
            done += advanced.unwrap_or(0);
        }
        Ok(())
    }

    /// Makes durable every write that completed before this was called (fdatasync).
    ///
    /// # Errors
    /// The device's errors. Afterwards the state of those writes is unknown, and a second sync that
    /// succeeds proves nothing.
    pub async fn sync(&self) -> io::Result<()> {
        self.simple(|file| Op::Sync { file }).await
    }

    /// Reserves the space of a range, which reads as before; a file grows where the range ends past
    /// its end.
    ///
    /// # Errors
    /// "No space left" (`StorageFull`), or `Unsupported` where the file system or device does not
    /// offer it. The content is as before.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Allocate { file, offset, len }).await
    }

    /// Makes the device fill a range with zeroes, in blocks that count as written from then on.
    ///
    /// # Errors
    /// "No space left" (`StorageFull`), or `Unsupported` where the kernel (before Linux 6.17), the
    /// file system or the device does not offer it.
    pub async fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Zero { file, offset, len }).await
    }

    /// Punches a range: its space goes back to the file system, and it reads as zeroes.
    ///
    /// # Errors
    /// `Unsupported` where the file system or device does not offer it.
    pub async fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.simple(|file| Op::Punch { file, offset, len }).await
    }

    async fn simple(&self, op: impl Fn(File) -> Op) -> io::Result<()> {
        while retried(start(op(self.clone())).await.0)?.is_none() {}
        Ok(())
    }

    /// How far a transfer of `len` bytes may count itself done after `count` more: to a sector's
    /// beginning, unless it is complete. `Some(0)` is the end of the file; `None` an interruption.
    fn continue_at(&self, done: usize, count: Option<usize>, len: usize) -> Option<usize> {
        let count = count?;
        if done + count == len || !self.is_direct() {
            Some(count)
        } else {
            Some(count - count % SECTOR_BYTES)
        }
    }
}

/// `None` for an operation that a signal interrupted before it did anything.
fn retried(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}
