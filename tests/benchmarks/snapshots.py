"""Snapshots and forks of a volume that is being written.

One fio writes during a whole round. Its own log of operations says how much it got done in each window: before, while
snapshots are made, while forks are made, after. They are spread evenly over their windows.
"""

import contextlib
import mmap
import os
import statistics
import subprocess
import time

from .harness import VOLUMES, Sandstone, fill, fio_command, need_disk, percentile, say, wait_for

VOLUME_GIB = 10
COUNT = 100
LOG_MS = 50
# fio's first and last moments are no window.
MARGIN_SECONDS = 1
WINDOWS = ("before", "snapshots", "forks", "after")


@contextlib.contextmanager
def device_sync(directory):
    """A function that gives the ms of one device sync: fdatasync after a 4 KiB write past the page cache into a file
    that has its blocks."""
    block, path = mmap.mmap(-1, 4096), f"{directory}/sync"
    block.write(b"s" * 4096)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)

    def sync():
        os.pwrite(file, block, 0)
        begun = time.perf_counter()
        os.fdatasync(file)
        return (time.perf_counter() - begun) * 1000

    try:
        sync()
        yield sync
    finally:
        os.close(file)
        os.unlink(path)


@contextlib.contextmanager
def writer(served, size_mib, seconds, log):
    """fio, writing meanwhile. Its log is there when this ends."""
    command = fio_command(served, size_mib, [
        "--norandommap", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--time_based", f"--runtime={seconds}",
        f"--write_iops_log={log}", f"--log_avg_msec={LOG_MS}", "--log_unix_epoch=1", "--per_job_logs=0"])
    with open(f"{log}.out", "w") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   cwd=os.path.dirname(served.sock))
    try:
        yield process
        process.wait(seconds + 60)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"bench: {' '.join(command)}\n{open(f'{log}.out').read()}")


def spread(seconds, count, work):
    """Does it that many times, evenly over the time; gives the times in ms of each, and when all began and ended."""
    times, begun = [], time.time()
    for number in range(count):
        time.sleep(max(0, begun + seconds * number / count - time.time()))
        at = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - at) * 1000)
    time.sleep(max(0, begun + seconds - time.time()))
    return times, (begun, time.time())


def one_round(ours, served, size_mib, seconds, count, sync):
    """Times in ms of snapshots, forks, bare requests and device syncs, and the writer's rate in each window."""
    volume, log = served.export, f"{ours.directory}/writer"
    names = iter(range(count))
    makers = {
        "snapshots": lambda _: ours.api.data("POST", f"{VOLUMES}/{volume}/snapshots", {"name": str(next(names))}),
        "forks": lambda _: ours.fork(volume),
    }
    times, windows = {"idle": [sync() for _ in range(count)], "busy": []}, {}
    log_bytes = ours.metric("store_log_bytes")
    with writer(served, size_mib, len(WINDOWS) * seconds + 3 * MARGIN_SECONDS, log) as process:
        wait_for("the writer's first write",
                 lambda: ours.metric("store_log_bytes") > log_bytes or process.poll() is not None)
        time.sleep(MARGIN_SECONDS)
        for window in WINDOWS:
            work = makers.get(window, lambda _: ours.api.call("GET", "/healthz"))
            made, windows[window] = spread(seconds, count, work)
            times.setdefault(window if window in makers else "bare", []).extend(made)
        # After the windows, so that it is in nobody's way: as near to each other as both can be measured.
        times["busy"].extend(sync() for _ in range(count))
    with open(f"{log}_iops.log") as lines:
        samples = [(int(ms) / 1000, int(value)) for ms, value, *_ in (line.split(",") for line in lines)]
    os.unlink(f"{log}_iops.log")
    rates = {}
    for window, (begun, ended) in windows.items():
        # A sample stands for the time before it.
        inside = [value for at, value in samples if begun + LOG_MS / 1000 <= at <= ended]
        if not inside:
            raise SystemExit("bench: fio's log has nothing of a window; is --seconds at least 1?")
        rates[window] = statistics.fmean(inside)
    return times, rates


def snapshots(options, directory, staging):
    """Snapshots and forks of a volume that is being written."""
    rounds, seconds = options.rounds, options.seconds
    size_mib = min(options.size, VOLUME_GIB << 10)
    # Nearly all that is written is kept by the snapshots: 100,000 writes a second are as many as were seen.
    need_disk(directory, size_mib + rounds * (len(WINDOWS) * seconds + 3) * 400, "the part snapshots")
    with Sandstone(options.binary, f"{directory}/snapshots", staging) as ours, device_sync(directory) as sync:
        served = ours.served(ours.volume(f"{VOLUME_GIB}G"))
        say(f"writing {size_mib} MiB once")
        fill(served, size_mib)
        times, falls, rates = {}, {"snapshots": [], "forks": []}, {window: [] for window in WINDOWS}
        for number in range(rounds):
            count = COUNT // rounds + (number < COUNT % rounds)
            made, of_round = one_round(ours, served, size_mib, seconds, count, sync)
            for what, values in made.items():
                times.setdefault(what, []).extend(values)
            for window, rate in of_round.items():
                rates[window].append(rate)
            without = (of_round["before"] + of_round["after"]) / 2
            for what, values in falls.items():
                values.append((1 - of_round[what] / without) * 100)
            say(f"round {number + 1}/{rounds}  " + "  ".join(f"{w} {r:,.0f} IOPS" for w, r in of_round.items()),
                "".join(f"  {what} p50 {statistics.median(values):.2f} ms" for what, values in made.items()))
    print(f"\n**Snapshots and forks** over one HTTP connection of a {VOLUME_GIB} GiB volume with {size_mib:,} MiB of data "
          f"that fio writes meanwhile (4 KiB at random, depth 32): {COUNT} of each in {rounds} rounds, evenly over "
          f"{seconds} s in each.\n")
    print("| | p50 ms | p99 ms | most ms | writer IOPS | its fall |\n|---|---:|---:|---:|---:|---:|")

    def line(name, values, rate="", fall=""):
        print(f"| {name} | {statistics.median(values):.2f} | {percentile(values, 0.99):.2f} | {max(values):.2f} | "
              f"{rate} | {fall} |")

    def iops(*windows):
        return f"{statistics.median(sum((rates[w] for w in windows), [])):,.0f}"

    for what in ("snapshots", "forks"):
        line(f"**{what[:-1]}**", times[what], iops(what), f"{statistics.median(falls[what]):.1f} %")
    line("a request that does nothing (`GET /healthz`), before and after", times["bare"], iops("before", "after"))
    line("a device sync (4 KiB O_DIRECT write, fdatasync), nothing else running", times["idle"])
    line("a device sync beside the writer", times["busy"])
