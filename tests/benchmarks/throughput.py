"""The big table: reads and writes beside the peers."""

import contextlib
import itertools
import os
import shutil
import statistics
import subprocess

from .harness import Sandstone, Served, cpu_seconds, fill, fio, say, wait_for

CACHED_MIB = 256

# In the order in which they are measured, all rounds of one before the next: of volumes written once and in sequence,
# of the cache, of writes, and of volumes after those writes.
PHASES = ("read", "cached", "write", "overwritten")
# name, fio's arguments, unit, phase
ROWS = [
    ("4 KiB random read, depth 1", ["--rw=randread", "--bs=4k", "--iodepth=1"], "IOPS", "read"),
    ("4 KiB random read, depth 32", ["--rw=randread", "--bs=4k", "--iodepth=32"], "IOPS", "read"),
    ("256 KiB sequential read, depth 16", ["--rw=read", "--bs=256k", "--iodepth=16"], "MiB/s", "read"),
    ("4 KiB random write, depth 1", ["--rw=randwrite", "--bs=4k", "--iodepth=1"], "IOPS", "write"),
    ("4 KiB random write, depth 32", ["--rw=randwrite", "--bs=4k", "--iodepth=32"], "IOPS", "write"),
    ("256 KiB sequential write, depth 16", ["--rw=write", "--bs=256k", "--iodepth=16"], "MiB/s", "write"),
    ("4 KiB random write + flush, depth 1", ["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"], "IOPS", "write"),
    ("4 KiB random read in cache, depth 1", ["--rw=randread", "--bs=4k", "--iodepth=1"], "IOPS", "cached"),
    ("4 KiB random read in cache, depth 32", ["--rw=randread", "--bs=4k", "--iodepth=32"], "IOPS", "cached"),
    ("256 KiB sequential read after random writes, depth 16", ["--rw=read", "--bs=256k", "--iodepth=16"], "MiB/s",
     "overwritten"),
]


def measure(served, row, size_mib, seconds):
    """One cell: rate, p50 and p99 in microseconds, CPU microseconds a request."""
    _, arguments, unit, phase = row
    if phase == "cached":
        size_mib = min(size_mib, CACHED_MIB)
        fio(served, size_mib, ["--rw=read", "--bs=64k", "--iodepth=16", "--loops=2"])
    before = cpu_seconds(served.process.pid)
    job = fio(served, size_mib, arguments, seconds)
    cpu = cpu_seconds(served.process.pid) - before
    way = job["write" if "write" in arguments[0] else "read"]
    rate = way["iops"] if unit == "IOPS" else way["bw_bytes"] / (1 << 20)
    # With a flush each, what the caller waits for is the write and then the flush.
    parts = [way["clat_ns"], job["sync"]["lat_ns"]] if "--fsync=1" in arguments else [way["clat_ns"]]
    p50, p99 = (sum(part["percentile"][key] for part in parts) / 1000 for key in ("50.000000", "99.000000"))
    return rate, p50, p99, cpu * 1e6 / max(1, way["total_ios"])


def peers(stack, directory, size_mib):
    """Starts every peer that is installed."""

    def run(name, kind, command, sock):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_for(f"the start of {name}", lambda: os.path.exists(sock) or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"bench: {' '.join(command)} ended by itself")
        return Served(name, kind, process, sock)

    found = []
    if shutil.which("nbdkit"):
        disk, sock = f"{directory}/nbdkit.raw", f"{directory}/nbdkit.sock"
        with open(disk, "w") as out:
            out.truncate(size_mib << 20)
        found.append(run("nbdkit file", "page cache", ["nbdkit", "-f", "-U", sock, "file", disk], sock))
        sock = f"{directory}/memory.sock"
        command = ["nbdkit", "-f", "-U", sock, "memory", f"{min(CACHED_MIB, size_mib)}M"]
        found.append(run("nbdkit memory", "memory", command, sock))
    else:
        say("left out, not installed: nbdkit")
    if shutil.which("qemu-nbd") and shutil.which("qemu-img"):
        for form in ("raw", "qcow2"):
            disk, sock = f"{directory}/qemu.{form}", f"{directory}/qemu-{form}.sock"
            subprocess.run(["qemu-img", "create", "-q", "-f", form, disk, f"{size_mib}M"], check=True)
            command = ["qemu-nbd", "-t", "-e", "16", "-k", sock, "-f", form, "--cache=none", "--aio=io_uring", disk]
            found.append(run(f"qemu-nbd {form}", "direct", command, sock))
    else:
        say("left out, not installed: qemu-nbd")
    return found


def table(cells, units):
    """The Markdown of all rows. `cells` is row -> server -> list of measurements."""
    lines = [
        "| | server | rate | p50 µs | p99 µs | CPU µs/request | × best peer of its kind | × best peer |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row, by_server in cells.items():
        medians = {served: [statistics.median(column) for column in zip(*rounds)]
                   for served, rounds in by_server.items()}
        everyone = ("direct", "page cache", "memory")
        # Reads from a warm cache are reads from memory whoever serves them.
        of_kind = {"sandstone": everyone if "in cache" in row else ("direct",), "writeback": everyone}

        def ratio(served, kinds):
            rates = [m[0] for s, m in medians.items() if s.kind in kinds]
            return f"{medians[served][0] / max(rates):.2f}" if rates and max(rates) else ""

        for served, (rate, p50, p99, cpu) in medians.items():
            ours = served.kind in of_kind
            kind = ratio(served, of_kind[served.kind]) if ours else ""
            all_peers = ratio(served, everyone) if ours else ""
            name = f"**{served.name}**" if ours else served.name
            lines.append(f"| {row} | {name} | {rate:,.0f} {units[row]} | {p50:,.0f} | {p99:,.0f} | {cpu:.1f} "
                         f"| {kind} | {all_peers} |")
    return "\n".join(lines)


def throughput(options, directory, staging):
    """The big table."""
    rows = [row for row in ROWS if any(word in row[0] for word in options.words or [""])]
    with contextlib.ExitStack() as stack:
        servers = peers(stack, directory, options.size)
        if options.binary:
            ours = stack.enter_context(Sandstone(options.binary, f"{directory}/sandstone", staging))
            volumes = [("sandstone", "sandstone", False), ("sandstone, writeback", "writeback", True)]
            servers[:0] = [
                Served(name, kind, ours.process, ours.sock, ours.volume(f"{options.size}M", writeback))
                for name, kind, writeback in volumes
            ]
        for served in servers:
            say(f"writing once: {served.name}")
            size = min(options.size, CACHED_MIB) if served.kind == "memory" else options.size
            fill(served, size)
        cells = {row[0]: {s: [] for s in servers if s.takes(row[3])} for row in rows}
        for phase, number in itertools.product(PHASES, range(options.rounds)):
            for row in (row for row in rows if row[3] == phase):
                for served, measured in cells[row[0]].items():
                    cell = measure(served, row, options.size, options.seconds)
                    measured.append(cell)
                    say(f"round {number + 1}/{options.rounds}  {row[0]:54} {served.name:22} "
                        f"{cell[0]:10,.0f} {row[2]:5}  p99 {cell[2]:8,.0f} µs  CPU {cell[3]:6.1f} µs")
    print(table(cells, {row[0]: row[2] for row in rows}))
