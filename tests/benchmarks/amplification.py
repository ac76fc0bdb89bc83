"""What the store writes for each byte that clients write: log, map and catalog.

Counted are the bytes that the server's process gave to the disk, from /proc, from its start until a clean stop has written
the last checkpoint. In them are also the slots of the store that the server writes once before the log does, so that a
sync does not wait for the file system's journal: in a young store the log's bytes once more, and two slots ahead of it.
"""

import signal

from .harness import Sandstone, fill, need_disk, say, wait_for
from .patterns import Pattern, load
from .processes import written_bytes

VOLUME_GIB = 10
# Each part of --amplified MiB: a flush each is slow, and its ratio soon stands.
CASES = [("depth 1 with a flush each", Pattern(1, flush=True), 8, 2.1), ("depth 32", Pattern(32), 1, 1.15)]


def amplification(options, directory, staging):
    """Random 4 KiB writes over all of a volume that was written once."""
    need_disk(directory, (VOLUME_GIB << 10) + 3 * options.amplified + 2048, "the part amplification")
    with Sandstone(options.binary, f"{directory}/amplification", staging) as ours:
        volume = ours.volume(f"{VOLUME_GIB}G")
        say(f"writing {VOLUME_GIB} GiB once")
        fill(ours.served(volume), VOLUME_GIB << 10)
        # Nothing of that is written during the cases.
        ours.stop()
        ours.start()
        print(f"\n**Write amplification** of random 4 KiB writes over all of a {VOLUME_GIB} GiB volume that was written once.\n")
        print("| | written by the client, MiB | into the log, × | to the disk, × | checkpoints |")
        print("|---|---:|---:|---:|---:|")
        for name, pattern, share, most in CASES:
            mib = max(1, options.amplified // share)
            say(f"writing {mib} MiB: {name}")
            report = load(options.tools.load, pattern, [ours.served(volume)], VOLUME_GIB << 10, f"--mib={mib}")
            log, checkpoints = ours.metric("store_log_bytes"), ours.metric("store_checkpoints") + 1
            disk = written_at_stop(ours.process)
            log, disk = log / report["bytes"], disk / report["bytes"]
            print(f"| {name} | {mib:,} | {log:.3f} | **{disk:.3f}** | {checkpoints} |")
            options.goals.value(f"Write amplification, {name}", disk, most=most)
            options.goals.value(f"Write amplification, {name}: the log alone", log)
            ours.start()


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
