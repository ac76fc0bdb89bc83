//! The allocator, and how memory that it keeps goes back to the system.

#![expect(unsafe_code, reason = "the allocator's own function has no safe wrapper")]

/// A worker allocates and frees a few kilobytes for each request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives what this thread has freed back to the system. It takes some milliseconds where there is
/// much; without it the memory stays the process's until the thread allocates again.
pub(crate) fn give_back() {
    // SAFETY: it may be called at any time on any thread that this allocator serves, and touches
    // free memory only.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
