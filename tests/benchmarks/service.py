"""What a server costs that is not under load: its start, a new connection, idle memory, a look at its metrics."""

import contextlib
import signal
import statistics
import time

from .harness import VOLUMES, Nbd, Sandstone, fio, say
from .processes import resident_bytes

CONNECTS = 200
IDLE_VOLUMES = 1000
RECOVERY_MIB = 1024
METRIC_VOLUMES = 10_000
SCRAPES = 5


def recovery(options, directory, staging):
    """Time from the start after kill -9 until ready, with a gigabyte in the log."""
    with Sandstone(options.binary, f"{directory}/recovery", staging) as ours:
        served = ours.served(ours.volume(f"{RECOVERY_MIB}M"))
        fio(served, RECOVERY_MIB, ["--rw=randwrite", "--bs=16k", "--iodepth=32"])
        ours.stop(signal.SIGKILL)
        seconds = ours.start()
        said = ours.said("recovered")
        print(f"\n**Recovery** after kill -9 with {RECOVERY_MIB} MiB of log: ready {seconds * 1000:,.0f} ms after the "
              f"process was started." + (f" The server says: `{said}`" if said else ""))


def first_byte(sock, export):
    """Seconds from connect to the last byte of a first 4 KiB read."""
    begun = time.perf_counter()
    with Nbd(sock, export) as client:
        client.read(0, 4096)
        return time.perf_counter() - begun


def connect(options, directory, staging):
    """Connect to first byte."""
    with Sandstone(options.binary, f"{directory}/connect", staging) as ours:
        volume = ours.volume("64M")
        times = sorted(first_byte(ours.sock, volume) * 1e6 for _ in range(CONNECTS))
        print(f"\n**Connect to first byte** over the Unix socket (connect, handshake with GO, a 4 KiB read; "
              f"{CONNECTS} times): median {statistics.median(times):,.0f} µs, p99 {times[CONNECTS * 99 // 100]:,.0f} µs.")


def memory(options, directory, staging):
    """Resident memory of a server that has many volumes and nothing to do."""
    with Sandstone(options.binary, f"{directory}/memory", staging) as ours:
        begun = time.monotonic()
        for _ in range(IDLE_VOLUMES):
            ours.volume("64G")
        took = time.monotonic() - begun
        resident, shared = (number / (1 << 20) for number in resident_bytes(ours.process.pid))
        print(f"\n**Resident memory** of an idle server with {IDLE_VOLUMES:,} empty volumes: {resident:,.0f} MiB "
              f"({shared:,.0f} MiB of it shared memory). They were made in {took:.1f} s, one after the other.")


def scrape(options, directory, staging):
    """Time that /metrics takes when each of many volumes has had a client, and half of them have one."""
    with Sandstone(options.binary, f"{directory}/scrape", staging) as ours, contextlib.ExitStack() as clients:
        say(f"making {METRIC_VOLUMES:,} volumes")
        ours.post_many(VOLUMES, {"size": "64M"}, METRIC_VOLUMES)
        for number, volume in enumerate(ours.api.data("GET", VOLUMES)):
            client = Nbd(ours.sock, volume["id"])
            client.read(0, 4096)
            # Each takes two descriptors of the server, and one here.
            clients.enter_context(client) if number % 2 else client.socket.close()
        times = []
        for _ in range(SCRAPES):
            begun = time.perf_counter()
            status, text = ours.api.call("GET", "/metrics")
            times.append((time.perf_counter() - begun) * 1000)
            if status != 200:
                raise SystemExit(f"bench: /metrics answers {status}")
        named = text.count(b"sandstone_volume_info{")
        if named != METRIC_VOLUMES:
            raise SystemExit(f"bench: /metrics tells of {named:,} volumes")
        resident = resident_bytes(ours.process.pid)[0] / (1 << 20)
        print(f"\n**/metrics** of {METRIC_VOLUMES:,} volumes that have had a client, half of which have one: median "
              f"{statistics.median(times):,.0f} ms of {SCRAPES} times, {len(text) / (1 << 20):,.1f} MiB of text, "
              f"{text.count(bytes([10])):,} lines; the server takes {resident:,.0f} MiB then.")
