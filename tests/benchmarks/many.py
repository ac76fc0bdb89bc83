"""A hundred thousand forks of one volume: what a checkpoint writes, how long deletions, starts and lists take."""

import os
import signal
import subprocess
import time

from .harness import MAKERS, VOLUMES, Nbd, Sandstone, need_disk, say

FORKS = 100_000
# Enough for a steady figure; the others are deleted over several connections.
ONE_BY_ONE = 5_000
CHECKPOINTS = 5


def checkpoint_bytes(ours, volume):
    """Median of the bytes that a checkpoint writes after a 4 KiB write, by the server's own counter."""
    ours.wait_checkpoint()
    bytes_each = []
    for number in range(CHECKPOINTS):
        before = ours.metric("store_checkpoint_bytes")
        with Nbd(ours.sock, volume) as client:
            client.write(number * 4096, os.urandom(4096))
        ours.wait_checkpoint()
        bytes_each.append(ours.metric("store_checkpoint_bytes") - before)
    return sorted(bytes_each)[CHECKPOINTS // 2]


def many(options, directory, staging):
    """A hundred thousand forks."""
    need_disk(directory, 4096, "the part many")
    with Sandstone(options.binary, f"{directory}/many", staging) as ours:
        volume = ours.volume("1G")
        begun = time.monotonic()
        ours.post_many(f"{VOLUMES}/{volume}/fork", {}, FORKS)
        made = time.monotonic() - begun
        say(f"{FORKS:,} forks took {made:.1f} s")
        written = checkpoint_bytes(ours, volume)

        begun = time.monotonic()
        command = [options.binary, "volume", "list", "--config", f"{ours.directory}/sandstone.toml"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        list_seconds = time.monotonic() - begun
        forks = [one["id"] for one in ours.api.data("GET", VOLUMES) if one["id"] != volume]
        if len(forks) != FORKS or len(listed.splitlines()) < FORKS:
            raise SystemExit(f"bench: {len(forks)} forks, {len(listed.splitlines())} lines of a list")

        half = forks[::2]
        begun = time.monotonic()
        for fork in half[:ONE_BY_ONE]:
            ours.api.data("DELETE", f"{VOLUMES}/{fork}")
        delete_ms = (time.monotonic() - begun) * 1000 / ONE_BY_ONE
        begun = time.monotonic()
        ours.delete_many([f"{VOLUMES}/{fork}" for fork in half[ONE_BY_ONE:]])
        together_ms = (time.monotonic() - begun) * 1000 / len(half[ONE_BY_ONE:])

        ours.stop(signal.SIGKILL)
        replayed = ours.start()
        ours.stop()
        started = ours.start()
    print(f"\n**{FORKS:,} forks** of one volume, made in {made:.1f} s over {MAKERS} connections. A checkpoint after one "
          f"4 KiB write writes **{written / 1024:.0f} KiB** of maps and catalog. `sandstone volume list` takes "
          f"{list_seconds:.2f} s. Deleting takes {delete_ms:.2f} ms each, one after another, and {together_ms:.2f} ms "
          f"over {MAKERS} connections. After half of them were deleted and a kill -9 the server is ready in "
          f"{replayed:.2f} s, after a clean stop in {started:.2f} s.")
