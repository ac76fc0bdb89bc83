"""What a row asks of a server, and the two clients that can do it: fio's nbd engine and our own lean one.

Latency is what the client waits: with a flush after each write, the write and its flush.
"""

import dataclasses
import json
import subprocess
import time

from .harness import fio
from .processes import cpu_seconds

# A server process that belongs to one connection is buried, and its time added to its parent's, soon after that.
BURIED_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Requests of one kind."""

    depth: int
    block_kib: int = 4
    # Percent that are reads; the rest are writes.
    reads: int = 0
    sequential: bool = False
    # A flush after each write.
    flush: bool = False
    # On each export.
    connections: int = 1
    # Of our client, over which all connections are spread.
    threads: int = 1

    @property
    def unit(self):
        return "MiB/s" if self.block_kib > 4 else "IOPS"

    def for_load(self):
        arguments = [f"--depth={self.depth}", f"--block={self.block_kib}", f"--reads={self.reads}",
                     f"--connections={self.connections}", f"--flush-every={int(self.flush)}",
                     f"--threads={self.threads}"]
        return [*arguments, "--sequential"] if self.sequential else arguments

    def for_fio(self):
        way = {0: "write", 100: "read"}[self.reads]
        arguments = [f"--rw={'' if self.sequential else 'rand'}{way}", f"--bs={self.block_kib}k",
                     f"--iodepth={self.depth}"]
        return [*arguments, "--fsync=1"] if self.flush else arguments


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement: a rate in the pattern's unit, and microseconds."""

    rate: float
    p50: float
    p99: float
    # Of the server, for each operation; None where there is no server.
    cpu: float | None = None
    operations: int = 0


def load_command(tool, pattern, targets, size_mib, *more):
    return [tool, *pattern.for_load(), f"--size={size_mib}", *more, *(target.uri for target in targets)]


def load(tool, pattern, targets, size_mib, *more):
    """Runs our client and gives its report."""
    command = load_command(tool, pattern, targets, size_mib, f"--seed={time.monotonic_ns()}", *more)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)[:1000]}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def fio_cell(job, pattern, flushes):
    """What fio's report of a job says."""
    way = job["read" if pattern.reads else "write"]
    rate = way["iops"] if pattern.unit == "IOPS" else way["bw_bytes"] / (1 << 20)
    parts = [way["clat_ns"], job["sync"]["lat_ns"]] if flushes else [way["clat_ns"]]
    p50, p99 = (sum(part["percentile"][key] for part in parts) / 1000 for key in ("50.000000", "99.000000"))
    return Cell(rate, p50, p99, operations=way["total_ios"])


def measure(tools, client, pattern, targets, size_mib, seconds):
    """One cell: the pattern on all targets at once."""
    pids = {target.process.pid for target in targets}
    before = cpu_seconds(pids)
    if client == "fio":
        [target] = targets
        cell = fio_cell(fio(target, size_mib, pattern.for_fio(), seconds), pattern, pattern.flush)
    else:
        report = load(tools.load, pattern, targets, size_mib, f"--seconds={seconds}")
        rate = report["operations_per_second"] * (1 if pattern.unit == "IOPS" else pattern.block_kib / 1024)
        cell = Cell(rate, report["p50_us"], report["p99_us"], operations=report["operations"])
    time.sleep(BURIED_SECONDS)
    return dataclasses.replace(cell, cpu=(cpu_seconds(pids) - before) * 1e6 / max(1, cell.operations))
