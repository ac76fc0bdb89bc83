"""CPU time and memory of processes, from /proc."""

import contextlib
import os

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def process_tree(pids):
    """The processes and their descendants."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/stat") as stat:
                parents[int(entry)] = int(stat.read().rpartition(")")[2].split()[1])
    tree = set(pids)
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def cpu_seconds(pids):
    """User and system time of the processes, of their descendants, and of those of them that have ended.

    The kernel scales both to the nanoseconds that the scheduler counted, dead threads included, and gives them in whole
    ticks. What schedstat says is finer, and forgets threads that ended with their connection.
    """
    ticks = 0
    for member in process_tree(pids):
        with contextlib.suppress(OSError):
            with open(f"/proc/{member}/stat") as stat:
                # utime, stime, cutime, cstime.
                ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
    return ticks / TICKS_PER_SECOND


def resident_bytes(pid):
    """Resident memory of a process, and how much of it is shared memory."""
    with open(f"/proc/{pid}/status") as status:
        rows = dict(line.split(":", 1) for line in status)
    return tuple(int(rows[key].split()[0]) * 1024 for key in ("VmRSS", "RssShmem"))


def written_bytes(pid):
    """What a process gave to disks. Shared memory is not counted."""
    with open(f"/proc/{pid}/io") as counts:
        return int(dict(line.split(":") for line in counts)["write_bytes"])


def read_bytes(pids):
    """What processes took from disks."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/io") as counts:
            total += int(dict(line.split(":") for line in counts)["read_bytes"])
    return total
