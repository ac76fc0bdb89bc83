//! Why io_uring cannot be used on this host, in words an operator can act on.

use std::fs;
use std::io;

use rustix::io::Errno;

/// Turns a refused io_uring system call into an error that names what stands in the way.
pub(super) fn explain(error: io::Error) -> io::Error {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    io::Error::new(error.kind(), reason(&error, disabled.trim(), &status))
}

/// The error for a kernel that has io_uring, but not enough of it.
pub(super) fn too_old(lacking: &str) -> io::Error {
    let text = format!("this kernel's io_uring is too old, it lacks {lacking} (Linux 5.11 has it)");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// `disabled` is the sysctl's value, `status` the content of /proc/self/status.
fn reason(error: &io::Error, disabled: &str, status: &str) -> String {
    let filtered = status.lines().any(|line| {
        line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2") // SECCOMP_MODE_FILTER
    });
    match (Errno::from_io_error(error), disabled) {
        (Some(Errno::PERM), "2") => {
            "io_uring is switched off on this host (sysctl kernel.io_uring_disabled = 2)".to_owned()
        }
        (Some(Errno::PERM), "1") => {
            "io_uring is kept for some on this host (sysctl kernel.io_uring_disabled = 1): \
             it takes CAP_SYS_ADMIN or membership in the group of sysctl kernel.io_uring_group"
                .to_owned()
        }
        (Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS), _) if filtered => {
            "a seccomp filter forbids io_uring (container runtimes do so by default; \
             allow io_uring_setup, io_uring_enter and io_uring_register)"
                .to_owned()
        }
        (Some(Errno::NOSYS), _) => "this kernel has no io_uring".to_owned(),
        (Some(Errno::NOMEM), _) => {
            "there is not enough lockable memory for io_uring (raise the limit: ulimit -l)"
                .to_owned()
        }
        (Some(_) | None, _) => format!("io_uring cannot be set up: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_what_stands_in_the_way() {
        let filtered = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let check = |errno: Errno, disabled, status, expected: &str| {
            let text = reason(&errno.into(), disabled, status);
            assert!(text.contains(expected), "{text}");
        };
        check(Errno::PERM, "2", filtered, "kernel.io_uring_disabled = 2");
        check(Errno::PERM, "1", "", "kernel.io_uring_group");
        check(Errno::PERM, "0", filtered, "seccomp");
        check(Errno::NOSYS, "", filtered, "seccomp");
        check(Errno::NOSYS, "", "Seccomp:\t0\n", "no io_uring");
        check(Errno::NOMEM, "0", "", "ulimit -l");
        check(Errno::MFILE, "0", filtered, "cannot be set up");
    }
}
