"""What the store writes for each byte that clients write: log, map and catalog.

Its parts are the server's own counters. Beside them are the bytes that its process gave to the disk, from /proc, from its
start until its clean stop. Slots of the store are written once before the log of somebody who flushes comes to them, so that
his syncs do not wait for the file system's journal: in a young store the log's bytes once more. They have a column of their
own, because a slot that is used again has it behind it.
"""

import shutil
import signal

from .harness import Sandstone, fill, need_disk, say, wait_for
from .patterns import Pattern, load
from .processes import written_bytes

VOLUME_GIB = 10
PARTS = ["store_log_bytes", "store_checkpoint_bytes", "reclaim_forwarded_bytes", "store_prepared_bytes"]
# Each part of --amplified MiB: a flush each is slow, and its ratio soon stands.
CASES = [("depth 1 with a flush each", Pattern(1, flush=True), 8, 2.1), ("depth 32", Pattern(32), 1, 1.15)]


def amplification(options, directory, staging):
    """Random 4 KiB writes over all of a volume that was written once, each case in a store of its own."""
    need_disk(directory, (VOLUME_GIB << 10) + 3 * options.amplified + 2048, "the part amplification")
    print(f"\n**Write amplification** of random 4 KiB writes over all of a {VOLUME_GIB} GiB volume that was written "
          "once: for each byte of the client.\n")
    print("| | client, MiB | log | maps and catalog | moved by reclaim | together | slots written once | to the disk |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, pattern, share, most in CASES:
        home = f"{directory}/amplification"
        with Sandstone(options.binary, home, staging) as ours:
            case(options, ours, name, pattern, max(1, options.amplified // share), most)
        shutil.rmtree(home)
        shutil.rmtree(ours.staging)


def case(options, ours, name, pattern, mib, most):
    volume = ours.volume(f"{VOLUME_GIB}G")
    say(f"writing {VOLUME_GIB} GiB once")
    fill(ours.served(volume), VOLUME_GIB << 10)
    # Nothing of that is written during the case.
    ours.stop()
    ours.start()
    say(f"writing {mib} MiB: {name}")
    report = load(options.tools.load, pattern, [ours.served(volume)], VOLUME_GIB << 10, f"--mib={mib}")
    ours.wait_checkpoint()
    log, maps, moved, once = (ours.metric(part) / report["bytes"] for part in PARTS)
    disk = written_at_stop(ours.process) / report["bytes"]
    together = log + maps + moved
    print(f"| {name} | {mib:,} | {log:.3f} | {maps:.3f} | {moved:.3f} | **{together:.3f}** | {once:.3f} | {disk:.3f} |")
    options.goals.value(f"Write amplification, {name}: log, maps and reclaim", together, most=most)
    options.goals.value(f"Write amplification, {name}: with the slots that are written once", disk)


def written_at_stop(process):
    """Stops the server and gives what it has given to the disk. A process that nobody waited for yet can still be asked."""

    def ended():
        with open(f"/proc/{process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"

    process.send_signal(signal.SIGTERM)
    wait_for("a clean stop", ended)
    written = written_bytes(process.pid)
    process.wait()
    return written
