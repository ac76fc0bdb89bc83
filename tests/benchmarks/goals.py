"""What is to be reached, and what was: computed, never typed."""

from . import rows
from .servers import BUFFERED, DISK_FLOOR, SOCKET_FLOOR

OURS, BUFFERING, ONE_WORKER = "sandstone", "sandstone, writeback", "sandstone, 1 worker"
NBDKIT = "nbdkit file"


class Goals:
    """A list that the parts of the benchmark add to. What was not measured is not in it."""

    def __init__(self):
        self.lines = []

    def ratio(self, what, above, below, least=None, most=None):
        """Where `above` divided by `below` is to be at least or at most something, or is only told."""
        if above is not None and below:
            self.value(what, above / below, least, most)

    def value(self, what, value, least=None, most=None):
        to_reach, met = "", ""
        if least is not None:
            to_reach, met = f"≥ {least:g}", "yes" if value >= least else "**no**"
        elif most is not None:
            to_reach, met = f"≤ {most:g}", "yes" if value <= most else "**no**"
        self.lines.append(f"| {what} | {to_reach} | {value:.2f} | {met} |")

    def table(self):
        return "\n".join(["| | to reach | reached | met |", "|---|---:|---:|---|", *self.lines])


def throughput(goals, figures):
    """The goals of the big table."""
    rates(goals, figures)
    processor_time(goals, figures)


def rates(goals, figures):
    get, best, ratio = figures.get, figures.best, goals.ratio
    direct = ("direct",)

    for row, least in ((rows.CACHED_1, 0.8), (rows.CACHED_32, 0.85)):
        ratio(f"{row.name}: × {SOCKET_FLOOR}", get(row, OURS), get(row, SOCKET_FLOOR), least)
    row = rows.CACHED_1
    ratio(f"{row.name}: × best disk peer", get(row, OURS), best(row, direct), 2)

    row = rows.READ_1
    ratio(f"{row.name}: × fio on a file", get(row, OURS), get(row, DISK_FLOOR))
    row = rows.READ_32
    ratio(f"{row.name}: × fio on a file", get(row, OURS), get(row, DISK_FLOOR), 0.9)

    row = rows.WRITE_1
    ratio(f"{row.name}: × fio, 8 KiB in sequence", get(row, OURS), get(row, DISK_FLOOR), 0.8)
    row = rows.WRITE_32
    ratio(f"{row.name}: × best disk peer", get(row, OURS), best(row, direct), 2)
    ratio(f"{row.name}: × {NBDKIT}", get(row, OURS), get(row, NBDKIT), 1)
    for row in (rows.WRITE_1, rows.WRITE_32):
        ratio(f"{row.name}, writeback: × {SOCKET_FLOOR}", get(row, BUFFERING), get(row, SOCKET_FLOOR), 0.7)
        ratio(f"{row.name}, writeback: × {NBDKIT}", get(row, BUFFERING), get(row, NBDKIT), 1)
        ratio(f"{row.name}, writeback: × {BUFFERED}", get(row, BUFFERING), get(row, BUFFERED))

    row = rows.FLUSH_1
    ratio(f"{row.name}: × fio, 4 KiB in sequence with fdatasync", get(row, OURS), get(row, DISK_FLOOR), 0.85)
    # What a client that waits for each answer can have at most: the socket's floor and then the disk's.
    for row in (rows.WRITE_1, rows.FLUSH_1):
        socket, disk = get(row, SOCKET_FLOOR), get(row, DISK_FLOOR)
        if socket and disk:
            both = 1 / (1 / socket + 1 / disk)
            ratio(f"{row.name}: × the two floors one after the other", get(row, OURS), both)
            ratio(f"{row.name}: the two floors, × fio", both, disk)
    row = rows.FLUSH_64
    ratio(f"{row.name}: × as many qemu-nbd qcow2", get(row, OURS), best(row), 5)
    ratio(f"{row.name}: × one volume alone", get(row, OURS), get(rows.FLUSH_1, OURS))

    for row in (rows.READ_ON, rows.WRITE_ON):
        ratio(f"{row.name}: × fio on a file", get(row, OURS), get(row, DISK_FLOOR))
    for row in (rows.READ_ON, rows.WRITE_ON, rows.OVERWRITTEN_ON):
        ratio(f"{row.name}: × best peer", get(row, OURS), best(row), 1)
        ratio(f"{row.name}: × best disk peer", get(row, OURS), best(row, direct), 1)
    ratio(f"{rows.WRITE_ON.name}, writeback: × best peer", get(rows.WRITE_ON, BUFFERING), best(rows.WRITE_ON), 1)
    # Reclaim is ours alone: the peers are measured once, before it.
    for what, kinds in (("best peer", None), ("best disk peer", direct)):
        peer = best(rows.OVERWRITTEN_ON, kinds) if kinds else best(rows.OVERWRITTEN_ON)
        ratio(f"{rows.RECLAIMED_ON.name}: × {what}", get(rows.RECLAIMED_ON, OURS), peer, 1)

    four, one = rows.MIXED_4, rows.MIXED_1
    ratio(f"{four.name}: × 1 connection of depth 32", get(four, OURS), get(one, OURS), 1)
    ratio(f"{four.name}: × the same with 1 worker", get(four, OURS), get(four, ONE_WORKER))


def processor_time(goals, figures):
    for row, name, most in ((rows.CACHED_1, OURS, 1.6), (rows.CACHED_32, OURS, 1.6), (rows.WRITE_32, OURS, 2.2),
                            (rows.WRITE_32, BUFFERING, 2.2)):
        goals.ratio(f"CPU, {row.name}, {name}: × {SOCKET_FLOOR}", figures.get(row, name, "cpu"),
                    figures.get(row, SOCKET_FLOOR, "cpu"), most=most)
    for row in figures.rows:
        goals.ratio(f"CPU, {row.name}: × best disk peer", figures.get(row, OURS, "cpu"),
                    figures.best(row, ("direct",), "cpu", min), most=1)
