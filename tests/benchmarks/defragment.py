"""Reads in sequence of a volume that was overwritten at random, one pass after the other."""

import time

from .harness import Sandstone, fill, fio, need_disk, say

# Small beside the volume, so that it is read from the disk.
CACHE = "64M"
PASSES = 8
PAUSE_SECONDS = 4
READ = ["--rw=read", "--bs=256k", "--iodepth=16"]


def defragment(options, directory, staging):
    """The rate of each pass, and what was logged again until then."""
    size = min(options.size, 1024)
    need_disk(directory, 4 * size, "the part defragment")
    with Sandstone(options.binary, f"{directory}/defragment", staging, {"cache": {"memory": CACHE}}) as ours:
        served = ours.served(ours.volume(f"{size}M"))

        def read():
            rate = fio(served, size, READ, each_once=True)["read"]["bw_bytes"] / (1 << 20)
            say(f"{rate:8,.0f} MiB/s")
            return rate, ours.metric("store_defragmented_bytes") >> 20

        fill(served, size)
        rows = [("written in sequence", *read())]
        fio(served, size, ["--rw=randwrite", "--bs=4k", "--iodepth=32"], each_once=True)
        for number in range(PASSES):
            rows.append((f"overwritten at random, pass {number + 1}", *read()))
            time.sleep(PAUSE_SECONDS)
    print(f"\n**Reads in sequence after random overwrites** (`--only defragment --size {size}`): 256 KiB, depth 16, of "
          f"{size:,} MiB with a cache of {CACHE}iB, {PAUSE_SECONDS} s between the passes.\n")
    print("| | MiB/s | logged again by its end, MiB |\n|---|---:|---:|")
    for name, rate, logged in rows:
        print(f"| {name} | {rate:,.0f} | {logged:,} |")
