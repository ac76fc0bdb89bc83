"""Memory of a server that is used by many at once: what it may take, and what it takes."""

import subprocess
import time

from .harness import VOLUMES, Sandstone, say
from .patterns import Pattern, load, load_command
from .processes import resident_bytes

BUSY_VOLUMES = 1000
VOLUME_MIB = 64
PATTERN = Pattern(1, reads=50)
CACHES_MIB = {"memory": 64, "metadata": 32}
# Beside the caches: as much as the metadata again for what was changed since the last checkpoint, the staging buffer, and
# the program with its rings and its allocator's slack; and the buffers and the maps' upper nodes of each connection.
STAGING_MIB, PROGRAM_MIB, CONNECTION_KIB = 48, 64, 100
SECONDS_LEAST = 5


def memory_busy(options, directory, staging):
    """Resident memory with a connection to each of many volumes, all of which are read and written."""
    settings = {"cache": {name: f"{mib}M" for name, mib in CACHES_MIB.items()}}
    with Sandstone(options.binary, f"{directory}/busy", staging, settings) as ours:
        say(f"making {BUSY_VOLUMES:,} volumes")
        ours.post_many(VOLUMES, {"size": f"{VOLUME_MIB}M"}, BUSY_VOLUMES)
        targets = [ours.served(volume["id"]) for volume in ours.api.data("GET", VOLUMES)]
        empty = resident_bytes(ours.process.pid)[0] / (1 << 20)
        # Something to read in each.
        load(options.tools.load, Pattern(1, 64, sequential=True), targets, VOLUME_MIB, "--mib=4")
        command = load_command(options.tools.load, PATTERN, targets, VOLUME_MIB,
                               f"--seconds={max(options.seconds, SECONDS_LEAST)}")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        most = (0, 0)
        try:
            while process.poll() is None:
                most = max(most, resident_bytes(ours.process.pid))
                time.sleep(0.1)
        finally:
            process.kill()
            process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"bench: the load on {BUSY_VOLUMES:,} volumes failed")
        resident, shared = (number / (1 << 20) for number in most)
    connections = BUSY_VOLUMES * CONNECTION_KIB / 1024
    allowed = CACHES_MIB["memory"] + 2 * CACHES_MIB["metadata"] + STAGING_MIB + PROGRAM_MIB + connections
    print(f"\n**Resident memory of a busy server**: {BUSY_VOLUMES:,} volumes, each with a connection that reads and writes "
          f"4 KiB at random: at most {resident:,.0f} MiB ({shared:,.0f} MiB of it shared memory), and "
          f"{empty:,.0f} MiB when they were made. Allowed are "
          f"{allowed:,.0f} MiB: cache.memory {CACHES_MIB['memory']} MiB, twice cache.metadata {CACHES_MIB['metadata']} MiB, "
          f"staging {STAGING_MIB} MiB, the program {PROGRAM_MIB} MiB, and {CONNECTION_KIB} KiB for each connection.")
    options.goals.value("Resident memory of a busy server, of what is allowed", resident / allowed, most=1)
