"""What one volume's user feels of another's: a victim of depth 1, alone and beside an aggressor that writes."""

import contextlib
import json
import statistics
import subprocess
import time

from .harness import Sandstone, fill, need_disk, say
from .patterns import Pattern, load, load_command

AGGRESSOR = Pattern(64)
# The aggressor is at full speed when the victim begins, and until it has ended.
MARGIN_SECONDS = 0.5
VICTIMS = {
    "4 KiB random read": Pattern(1, reads=100),
    "4 KiB random read in cache": Pattern(1, reads=100),
    "4 KiB random write": Pattern(1),
    "4 KiB random write + flush": Pattern(1, flush=True),
}
CACHED_MIB = 64
# The victim's volume is larger, so that its other reads go to the disk.
CACHE = "256M"


@contextlib.contextmanager
def aggressor(options, served, rates):
    """Writes to its own volume meanwhile; adds what it reached."""
    seconds = options.seconds + 2 * MARGIN_SECONDS
    command = load_command(options.tools.load, AGGRESSOR, [served], options.size, f"--seconds={seconds}")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(MARGIN_SECONDS)
        yield
        report, _ = process.communicate(timeout=seconds + 60)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(command)} failed")
    rates.append(json.loads(report)["operations_per_second"])


def fairness(options, directory, staging):
    """A victim's latency alone and beside an aggressor."""
    need_disk(directory, 2 * options.size + options.rounds * len(VICTIMS) * (options.seconds + 1) * 600, "the part fairness")
    with Sandstone(options.binary, f"{directory}/fairness", staging, {"cache": {"memory": CACHE}}) as ours:
        victim, other = (ours.served(ours.volume(f"{options.size}M")) for _ in range(2))
        for served in (victim, other):
            fill(served, options.size)
        found, rates = {name: ([], []) for name in VICTIMS}, {name: [] for name in VICTIMS}
        for number in range(options.rounds):
            for name, pattern in VICTIMS.items():
                size = CACHED_MIB if "in cache" in name else options.size
                for beside, reports in enumerate(found[name]):
                    if size == CACHED_MIB:
                        load(options.tools.load, Pattern(16, 64, reads=100, sequential=True), [victim], size,
                             f"--mib={2 * size}")
                    with aggressor(options, other, rates[name]) if beside else contextlib.nullcontext():
                        report = load(options.tools.load, pattern, [victim], size, f"--seconds={options.seconds}")
                    reports.append(report)
                    say(f"round {number + 1}/{options.rounds}  {name:28} {'beside it' if beside else 'alone':10} "
                        f"p50 {report['p50_us']:8,.0f} µs  p99 {report['p99_us']:8,.0f} µs")
    print(f"\n**Fairness**: a victim of depth 1 on one volume, alone and beside an aggressor that writes 4 KiB at random at "
          f"depth {AGGRESSOR.depth} to another; medians of the rounds.\n")
    print("| victim | alone p50 µs | alone p99 µs | beside it p50 µs | beside it p99 µs | × p50 | × p99 | "
          "aggressor IOPS |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, both in found.items():
        alone, beside = ([statistics.median(report[part] for report in reports) for part in ("p50_us", "p99_us")]
                         for reports in both)
        times = " | ".join(f"{there / here:.2f}" for here, there in zip(alone, beside))
        print(f"| {name} | " + " | ".join(f"{us:,.0f}" for us in (*alone, *beside)) +
              f" | {times} | {statistics.median(rates[name]):,.0f} |")
        options.goals.ratio(f"Fairness, {name}: p99 beside an aggressor × alone", beside[1], alone[1])
