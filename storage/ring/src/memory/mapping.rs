//! A mapping that begins where a huge page can.
//!
//! With its staging memory in huge pages the processor walks fewer page tables for each copy, the
//! kernel pins and the device gathers one piece of a write instead of one for each 4 KiB.
//! (Measured, server CPU for each operation: 256 KiB writes 163 → 133 µs, 4 KiB writes at depth 32
//! 8.6 → 8.0 µs.)
//!
//! Shared memory has small pages unless the system is set otherwise, so huge ones are asked for
//! explicitly. (A new file takes 12 ms that way, and 7 without; one that is already in small pages
//! 50, once.)

#![expect(unsafe_code, reason = "mappings at an address of our choice, which no safe call makes")]

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::{ffi::c_void, fs::File, io, ptr::null_mut};

/// Where a huge page can begin, and how long it is: x86-64, and ARM with pages of 4 KiB.
pub(super) const HUGE_BYTES: usize = 2 << 20;

/// Memory of the process, until it is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Address space, of which the front up to the first boundary is not used.
    reserved: *mut c_void,
    reserved_bytes: usize,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the addresses are the mapping's alone, and it is not bound to the thread that made it.
unsafe impl Send for Mapping {}
// SAFETY: it gives out an address and a length, which never change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of a file, shared with every process that maps it.
    pub(super) fn of_file(file: &File, bytes: usize) -> io::Result<Self> {
        let mapping = Self::anonymous(bytes)?;
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: it replaces memory that this mapping owns and no reference leads into.
        unsafe { mmap(mapping.start.cast(), bytes, protection, flags, file, 0)? };
        Ok(mapping)
    }

    /// Maps memory without a file, filled with zeroes.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Self> {
        let reserved_bytes = bytes.checked_add(HUGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: new memory at a place of the kernel's choice.
        let reserved = unsafe {
            mmap_anonymous(
                null_mut(),
                reserved_bytes,
                protection,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let start = reserved.cast::<u8>();
        // SAFETY: less than a huge page behind the start of what is longer by one.
        let start = unsafe { start.add(start.align_offset(HUGE_BYTES)) };
        Ok(Self { reserved, reserved_bytes, start, bytes })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Moves present pages into huge pages.
    ///
    /// # Errors
    /// Linux before 6.1, memory that is not shared memory, or no huge pages free: then all or a
    /// part of it stays in small pages.
    pub(super) fn collapse(&self) -> io::Result<()> {
        let bytes = self.bytes / HUGE_BYTES * HUGE_BYTES;
        // SAFETY: the range is this mapping's, and its content stays.
        match unsafe { libc::madvise(self.start.cast(), bytes, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: every user of the address holds the mapping for as long as it uses it.
        let unmapped = unsafe { munmap(self.reserved, self.reserved_bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_where_a_huge_page_can() {
        for bytes in [4096, HUGE_BYTES, 3 * HUGE_BYTES + 4096] {
            let mapping = Mapping::anonymous(bytes).unwrap();
            assert_eq!(mapping.start().addr() % HUGE_BYTES, 0);
            assert!(
                mapping.start().addr() - mapping.reserved.addr() + bytes <= mapping.reserved_bytes
            );
        }
    }
}
