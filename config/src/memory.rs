//! How much memory this process may use: what the host has, or less where a control group says so.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the unified hierarchy of control groups is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes, or `None` where the host does not tell.
pub(crate) fn usable_bytes() -> Option<u64> {
    let host = total_bytes(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group_of(&text));
    let limit = group.and_then(|group| limit_bytes(Path::new(CGROUPS), &group));
    Some(limit.map_or(host, |limit| limit.min(host)))
}

/// Source: proc_meminfo(5).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The process's place in the unified hierarchy. Source: cgroups(7), "/proc/[pid]/cgroup".
fn group_of(cgroup: &str) -> Option<PathBuf> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from)
}

/// The tightest limit of the group and of those above it.
fn limit_bytes(root: &Path, group: &Path) -> Option<u64> {
    let limit = |group: &Path| {
        let text = fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        text.trim().parse::<u64>().ok() // "max" is none
    };
    group.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_host_is_found() {
        assert_eq!(
            total_bytes("MemFree: 1 kB\nMemTotal:       24683456 kB\n"),
            Some(24_683_456 << 10)
        );
        assert_eq!(total_bytes("nothing"), None);
        assert!(usable_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = group_of("1:cpu:/x\n0::/a/b\n").unwrap();
        fs::create_dir_all(root.path().join(&group)).unwrap();
        let set = |group: &str, limit: &str| {
            fs::write(root.path().join(group).join("memory.max"), limit).unwrap();
        };
        assert_eq!(limit_bytes(root.path(), &group), None);
        set("a/b", "max\n");
        assert_eq!(limit_bytes(root.path(), &group), None);
        set("a", "1000\n");
        assert_eq!(limit_bytes(root.path(), &group), Some(1000));
        set("a/b", "2000\n");
        assert_eq!(limit_bytes(root.path(), &group), Some(1000));
    }
}
