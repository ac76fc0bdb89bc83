"""Random reads at the end of a long chain of forks, against those at its beginning."""

import random
import statistics

from .harness import Nbd, Sandstone, fill, fio, need_disk, say

DEPTH = 1000
# Small beside the volume, so that nearly every read goes to the disk.
CACHE = "64M"
QUEUES = (1, 32)


def depth(options, directory, staging):
    """Reads of a volume at depth 1,000 and at depth 0."""
    need_disk(directory, options.size + 1024, "the part depth")
    with Sandstone(options.binary, f"{directory}/depth", staging, {"cache": {"memory": CACHE}}) as ours:
        base = ours.volume(f"{options.size}M")
        fill(ours.served(base), options.size)
        say(f"forking {DEPTH} times, with a block written in each")
        tip, places = base, random.Random(1)
        for _ in range(DEPTH):
            tip = ours.fork(tip)
            with Nbd(ours.sock, tip) as client:
                client.write(places.randrange(options.size << 8) << 12, places.randbytes(4096))
        ours.wait_checkpoint()
        ends = {"depth 0": ours.served(base), f"depth {DEPTH:,}": ours.served(tip)}
        rates = {(queue, name): [] for queue in QUEUES for name in ends}
        for number in range(options.rounds):
            for queue in QUEUES:
                # Each end is first as often as the other.
                for name in sorted(ends, reverse=bool(number % 2)):
                    arguments = ["--rw=randread", "--bs=4k", f"--iodepth={queue}"]
                    read = fio(ends[name], options.size, arguments, options.seconds)["read"]
                    p50, p99 = (read["clat_ns"]["percentile"][part] / 1000 for part in ("50.000000", "99.000000"))
                    rates[queue, name].append((read["iops"], p50, p99))
                    say(f"round {number + 1}/{options.rounds}  queue {queue:2}  {name:12} {read['iops']:10,.0f} IOPS")
    print(f"\n**Fork depth**: 4 KiB random reads of {options.size:,} MiB with a cache of {CACHE}iB, of the first volume "
          f"and of the last of a chain of {DEPTH:,} forks, each a fork of the one before and with one block of its own.\n")
    print("| | IOPS | p50 µs | p99 µs | × depth 0, median of the rounds |\n|---|---:|---:|---:|---:|")
    for (queue, name), rounds in rates.items():
        iops, p50, p99 = (statistics.median(column) for column in zip(*rounds))
        ratio = statistics.median(mine[0] / first[0] for mine, first in zip(rounds, rates[queue, "depth 0"]))
        print(f"| 4 KiB random read, queue {queue}, {name} | {iops:,.0f} | {p50:,.0f} | {p99:,.0f} | {ratio:.3f} |")
