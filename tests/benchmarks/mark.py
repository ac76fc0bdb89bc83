"""What the mark costs: the walk of all maps with which reclaim finds out what is alive."""

import re

from .harness import Sandstone, fio, need_disk, say

TIB_MIB = 1 << 20
ROUND = re.compile(r"a round of reclaim .*?\bnodes=(\d+) marking_us=(\d+)")
# No budget: what it costs, not what it is allowed.
SETTINGS = {"log": {"level": "debug"}, "store": {"reclaim_rate": "1T"}}


def marks(ours):
    """Nodes and seconds of every round so far."""
    return [(int(nodes), int(us) / 1e6) for nodes, us in ROUND.findall(ours.said("a round of reclaim"))]


def mark(options, directory, staging):
    """Marks with a warm and with a cold metadata cache."""
    need_disk(directory, 2 * options.size + 1024, "the part mark")
    with Sandstone(options.binary, f"{directory}/mark", staging, SETTINGS) as ours:
        served = ours.served(ours.volume(f"{options.size}M"))
        say(f"writing every block of {options.size} MiB once, at random")
        fio(served, options.size, ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--end_fsync=1"], each_once=True)
        ours.reclaim()
        before = len(marks(ours))
        ours.reclaim()
        rows = [("warm", marks(ours)[before])]
        ours.stop()
        ours.start()
        ours.reclaim()
        rows.append(("cold", marks(ours)[0]))
    print(f"\n**Mark** of {options.size:,} MiB of unique data, written in 4 KiB blocks at random, so that no two lie in a "
          f"row; without an I/O budget (by default 256 MiB of maps a second are read while no writer waits).\n")
    print("| map nodes in memory | nodes visited | ms | s a TiB | million nodes a TiB |\n|---|---:|---:|---:|---:|")
    for name, (nodes, seconds) in rows:
        a_tib = TIB_MIB / options.size
        print(f"| {name} | {nodes:,} | {seconds * 1000:,.1f} | {seconds * a_tib:,.1f} | {nodes * a_tib / 1e6:.2f} |")
