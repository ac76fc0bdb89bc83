"""The rows of the big table."""

import dataclasses
from collections.abc import Callable

from .patterns import Pattern
from .servers import SOCKET_FLOOR

# Of each volume that is read from a cache.
CACHED_MIB = 256
# Volumes that are written at once, and the size of each.
TOGETHER, TOGETHER_MIB = 64, 64
# Of each volume that is read after it was overwritten at random.
OVERWRITTEN_MIB = 1024

# In the order in which they are measured, all rounds of one before the next: random writes change how a log-structured
# volume lies on the disk, so reads of what was written once come before them.
CACHED, READ, MIXED, WRITE, TOGETHER_PHASE, OVERWRITTEN, RECLAIMED = PHASES = (
    "in cache", "written once", "mixed", "write", "together", "overwritten", "reclaimed")


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    phase: str
    pattern: Pattern
    client: str = "load"
    # What the disk does without a server: a function of it and the seconds.
    disk: Callable | None = None
    # Whether an acknowledgement means the same whoever gives it: reads from memory, and flushed writes.
    all_alike: bool = False
    # Of the servers that are not ours, only these: one of each kind tells enough.
    others: tuple | None = None


SOME = (SOCKET_FLOOR, "nbdkit file", "qemu-nbd raw, none")
# The page-cache peers read from memory here too, as in the rows of the cache.
COLD = ("nbdkit file", "qemu-nbd raw, none", "qemu-nbd qcow2, none")

CACHED_1 = Row("4 KiB random read in cache, depth 1", CACHED, Pattern(1, reads=100), all_alike=True)
CACHED_32 = Row("4 KiB random read in cache, depth 32", CACHED, Pattern(32, reads=100), all_alike=True)
CACHED_FIO = Row("4 KiB random read in cache, depth 32, by fio", CACHED, Pattern(32, reads=100), "fio", all_alike=True,
                 others=SOME)
READ_1 = Row("4 KiB random read, depth 1", READ, Pattern(1, reads=100), others=COLD,
             disk=lambda disk, seconds: disk.random_reads(1, seconds))
READ_32 = Row("4 KiB random read, depth 32", READ, Pattern(32, reads=100), others=COLD,
              disk=lambda disk, seconds: disk.random_reads(32, seconds))
READ_ON = Row("256 KiB sequential read, depth 16", READ, Pattern(16, 256, reads=100, sequential=True), "fio",
              disk=lambda disk, seconds: disk.streams(READ_ON.pattern, seconds))
MIXED_1 = Row("4 KiB random, 70 % reads, 1 connection of depth 32", MIXED, Pattern(32, reads=70), others=SOME)
MIXED_4 = Row("4 KiB random, 70 % reads, 4 connections of depth 8", MIXED,
              Pattern(8, reads=70, connections=4, threads=2), others=SOME)
WRITE_1 = Row("4 KiB random write, depth 1", WRITE, Pattern(1),
              disk=lambda disk, seconds: disk.sequential_writes(seconds))
WRITE_32 = Row("4 KiB random write, depth 32", WRITE, Pattern(32))
WRITE_ON = Row("256 KiB sequential write, depth 16", WRITE, Pattern(16, 256, sequential=True), "fio",
               disk=lambda disk, seconds: disk.streams(WRITE_ON.pattern, seconds))
FLUSH_1 = Row("4 KiB random write + flush, depth 1", WRITE, Pattern(1, flush=True), all_alike=True,
              disk=lambda disk, seconds: disk.synced_writes(seconds))
FLUSH_64 = Row(f"4 KiB random write + flush, {TOGETHER} volumes of depth 1", TOGETHER_PHASE,
               Pattern(1, flush=True, threads=2), all_alike=True)
OVERWRITTEN_ON = Row("256 KiB sequential read after random writes, depth 16", OVERWRITTEN, READ_ON.pattern, "fio")
RECLAIMED_ON = Row("256 KiB sequential read after random writes and reclaim, depth 16", RECLAIMED, READ_ON.pattern, "fio")

ROWS = (CACHED_1, CACHED_32, CACHED_FIO, READ_1, READ_32, READ_ON, MIXED_1, MIXED_4, WRITE_1, WRITE_32, WRITE_ON, FLUSH_1,
        FLUSH_64, OVERWRITTEN_ON, RECLAIMED_ON)
