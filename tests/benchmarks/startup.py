"""Start-up after a server's death, with many volumes and a long log to replay.

A checkpoint is due with every GiB of log, so that no more than about that is replayed after a death. To see what more
would cost, the thread that writes checkpoints is held by ptrace(2) while the log is written. Where ptrace is not
allowed, the log is as long as it is; the server's own words say how long.
"""

import contextlib
import ctypes
import os
import signal
import statistics

from .harness import VOLUMES, Sandstone, fio, need_disk, say

VOLUMES_MADE = 10_000
STORE_THREAD = "store"
# Of <sys/ptrace.h> and <sys/wait.h>: a thread that is nobody's child is waited for with __WALL.
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


def seize(pid):
    """Holds the server's store thread for good; gives its id, or None where that is not possible."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for task in map(int, os.listdir(f"/proc/{pid}/task")):
        with open(f"/proc/{pid}/task/{task}/comm") as comm:
            if comm.read().strip() != STORE_THREAD:
                continue
        if libc.ptrace(PTRACE_SEIZE, task, None, None) == 0:
            libc.ptrace(PTRACE_INTERRUPT, task, None, None)
            os.waitpid(task, WALL)
            return task
        say(f"checkpoints go on meanwhile: ptrace: {os.strerror(ctypes.get_errno())}")
        return None
    say(f"checkpoints go on meanwhile: the server has no thread {STORE_THREAD}")
    return None


@contextlib.contextmanager
def without_checkpoints(process):
    """No checkpoint is written inside, if possible; the process is dead after it, because what is held cannot go on."""
    task = seize(process.pid)
    try:
        yield task is not None
    finally:
        process.send_signal(signal.SIGKILL)
        if task is not None:
            # Its tracer buries it, and only then the process is gone.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(task, WALL)
        process.wait()


def startup(options, directory, staging):
    """Time until ready."""
    need_disk(directory, 2 * options.size + 1024, "the part startup")
    with Sandstone(options.binary, f"{directory}/startup", staging) as ours:
        volume = ours.volume(f"{options.size}M")
        say(f"making {VOLUMES_MADE:,} volumes")
        ours.post_many(VOLUMES, {"size": "64G"}, VOLUMES_MADE - 1)
        ours.wait_checkpoint()
        with without_checkpoints(ours.process) as without:
            say(f"writing {options.size} MiB" + (" without a checkpoint" if without else ""))
            fio(ours.served(volume), options.size, ["--rw=randwrite", "--bs=16k", "--iodepth=32"])
        starts, said = [], ""
        for _ in range(options.rounds):
            starts.append(ours.start() * 1000)
            said = said or ours.said("recovered")
            # Nothing was checkpointed since: the next start has the same log to replay.
            ours.stop(signal.SIGKILL)
            say(f"ready after {starts[-1]:,.0f} ms")
        ours.start()
        ours.stop()
        clean = ours.start() * 1000
        since = "since the last checkpoint" if without else "with checkpoints meanwhile"
        print(f"\n**Start-up** after kill -9 with {VOLUMES_MADE:,} volumes and {options.size:,} MiB of 16 KiB random writes "
              f"{since}: ready **{statistics.median(starts):,.0f} ms** after the process was started (median of "
              f"{len(starts)}, most {max(starts):,.0f}); {clean:,.0f} ms after a clean stop. The server says, the first "
              f"time: `{said}`")
