"""Many forks of one base that all read it at once, against as many overlays of qcow2 on the page cache."""

import contextlib
import os
import statistics
import subprocess

from .harness import Sandstone, fill, fio, need_disk, say
from .patterns import Pattern, load
from .processes import read_bytes
from .servers import Starter, qemu_installed

FORKS = 64
BASE_MIB = 256
PATTERN = Pattern(depth=4, block_kib=128, reads=100, sequential=True, threads=1)
TIMES = ("first", "second")


def passes(tools, targets, forget):
    """Each of the passes as MiB/s of all together, and times the base that came from the disk."""
    forget()
    pids = {target.process.pid for target in targets}
    for _ in TIMES:
        before = read_bytes(pids)
        report = load(tools.load, PATTERN, targets, BASE_MIB, f"--mib={BASE_MIB}")
        yield report["bytes"] / report["seconds"] / (1 << 20), (read_bytes(pids) - before) / (BASE_MIB << 20)


def forget_pages():
    """Drops the page cache."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("3")


def overlays(starter):
    """A qemu-nbd for each overlay of one raw base."""
    base = starter.path("fleet.raw")
    with open(base, "wb") as out:
        for _ in range(BASE_MIB):
            out.write(os.urandom(1 << 20))
    found = []
    for number in range(FORKS):
        disk, sock = starter.path(f"fleet-{number}.qcow2"), starter.path(f"fleet-{number}.sock")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", disk], check=True)
        command = ["qemu-nbd", "-t", "-k", sock, "-f", "qcow2", "--cache=writeback", "--aio=threads", disk]
        found.append(starter.run("qemu-nbd", "page cache", command, sock))
    return found


def fleet(options, directory, staging):
    """All forks read the whole base, twice."""
    need_disk(directory, 4 * BASE_MIB, "the part fleet")
    root = os.geteuid() == 0
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Sandstone(options.binary, f"{directory}/fleet", staging))
        peers = []
        if root and qemu_installed():
            peers = overlays(Starter(stack, directory))
        else:
            say("left out, for root with qemu-nbd alone: overlays of qcow2")
        rows = {}
        for number in range(options.rounds):
            # Each round has a base of its own: nothing of it is in the cache.
            for order in ("in sequence", "at random"):
                base = ours.volume(f"{BASE_MIB}M")
                fill(ours.served(base), BASE_MIB)
                if order == "at random":
                    fio(ours.served(base), BASE_MIB, ["--rw=randwrite", "--bs=4k", "--iodepth=32"], each_once=True)
                forks = [ours.served(ours.fork(base)) for _ in range(FORKS)]
                ours.stop()
                ours.start()
                for fork in forks:
                    fork.process = ours.process
                name = f"sandstone, base written {order}"
                rows.setdefault(name, []).append(list(passes(options.tools, forks, lambda: None)))
            if peers:
                rows.setdefault(f"{FORKS} × qemu-nbd overlay (page cache)", []).append(
                    list(passes(options.tools, peers, forget_pages)))
            say(f"round {number + 1}/{options.rounds}", {name: rounds[-1] for name, rounds in rows.items()})
    print(f"\n**A fleet**: {FORKS} forks read their base of {BASE_MIB} MiB all at once, 128 KiB in sequence, depth 4 each "
          f"(`--only fleet --rounds {options.rounds}`); the disk's part in times the base.\n")
    print("| | first, MiB/s | from the disk | second, MiB/s | from the disk |\n|---|---:|---:|---:|---:|")
    for name, rounds in rows.items():
        cells = [statistics.median(column) for time in zip(*rounds) for column in zip(*time)]
        print(f"| {name} | {cells[0]:,.0f} | {cells[1]:.2f} | {cells[2]:,.0f} | {cells[3]:.2f} |")
