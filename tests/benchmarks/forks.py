"""What a fork costs, in time, on disk and in memory, beside the ways in which others branch an image."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import time

from .harness import VOLUMES, Sandstone, fill, need_disk, say
from .processes import resident_bytes

VOLUME_MIB = 1024
FORKS = 1000
MANY_FORKS = 10_000
PEER_SECONDS = 2
# Of <linux/fs.h>: _IOW(0x94, 9, int).
FICLONE = 0x40049409


def until(seconds, work):
    """Does it with 0, 1, 2, … for about that long; gives how often and the seconds it took."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        work(count)
        count += 1
    return count, time.monotonic() - begun


def private_bytes(ours):
    """Resident memory without the staging buffer, which is the log's however many forks there are."""
    whole, shared = resident_bytes(ours.process.pid)
    return whole - shared


def ours_row(options, directory, staging):
    with Sandstone(options.binary, f"{directory}/forks", staging) as ours:
        volume = ours.volume(f"{VOLUME_MIB}M")
        fill(ours.served(volume), VOLUME_MIB)
        ours.reclaim_twice()
        path, disk_before = f"{VOLUMES}/{volume}/fork", ours.store_bytes()
        begun = time.monotonic()
        for _ in range(FORKS):
            ours.fork(volume)
        took = time.monotonic() - begun
        say(f"{FORKS} forks took {took:.2f} s")
        # The first ones fill what the server's heap has free from before.
        ours.post_many(path, {}, MANY_FORKS - FORKS)
        resident_before = private_bytes(ours)
        ours.post_many(path, {}, MANY_FORKS)
        resident = private_bytes(ours) - resident_before
        ours.reclaim_twice()
        disk = ours.store_bytes() - disk_before
    print(f"\n**Forks** of a {VOLUME_MIB} MiB volume full of data: {FORKS:,} one after another over one HTTP connection "
          f"take **{took:.2f} s**. Memory is what {MANY_FORKS:,} forks that nobody touched, the second that many, add to "
          f"the resident memory without the staging buffer. Disk is what the store file takes of its file system "
          f"after a reclaim, more than it took after one before all of them. Others: as many as {PEER_SECONDS} s "
          f"allow, and what they take on disk after a sync.\n")
    return ("**sandstone, `POST …/fork`** (durable)", took * 1000 / FORKS, disk / (2 * MANY_FORKS),
            resident / MANY_FORKS)


def overlays(directory):
    """`qemu-img create -b`."""
    if not shutil.which("qemu-img"):
        say("left out, not installed: qemu-img")
        return
    base = f"{directory}/base.raw"
    with open(base, "w") as out:
        out.truncate(VOLUME_MIB << 20)
    os.mkdir(f"{directory}/overlays")
    place = f"{directory}/overlays/{{}}.qcow2"

    def create(number):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", place.format(number)],
                       check=True, stdin=subprocess.DEVNULL)

    count, took = until(PEER_SECONDS, create)
    os.sync()
    disk = sum(os.stat(place.format(number)).st_blocks * 512 for number in range(count))
    shutil.rmtree(f"{directory}/overlays")
    yield "`qemu-img create -f qcow2 -b`", took * 1000 / count, disk / count, None


@contextlib.contextmanager
def loop_file_system(directory, kind, make):
    """A file system of that kind in a file, mounted; None when this cannot be had."""
    if os.geteuid() != 0:
        say(f"left out, only root can mount it: {kind}")
        yield None
        return
    if not shutil.which(make[0]):
        say(f"left out, not installed: {make[0]}")
        yield None
        return
    image, mounted = f"{directory}/{kind}.img", f"{directory}/{kind}"
    with open(image, "w") as out:
        out.truncate((2 * VOLUME_MIB + 2048) << 20)
    os.mkdir(mounted)
    subprocess.run([*make, image], check=True, stdout=subprocess.DEVNULL)
    try:
        # The loop device goes with the mount.
        done = subprocess.run(["mount", "-t", kind, "-o", "loop", image, mounted], capture_output=True, text=True)
        if done.returncode:
            say(f"left out, it cannot be mounted: {kind}: {done.stderr.strip()}")
            yield None
        else:
            yield mounted
    finally:
        if os.path.ismount(mounted):
            subprocess.run(["umount", mounted], check=False)
        if os.path.ismount(mounted):
            subprocess.run(["umount", "--lazy", mounted], check=False)
        os.unlink(image)


def used_bytes(mounted):
    os.sync()
    state = os.statvfs(mounted)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def reflinks(directory, kind, make):
    """`cp --reflink=always`, and the call below it with an fsync, which is what makes it durable."""
    with loop_file_system(directory, kind, make) as mounted:
        if mounted is None:
            return
        base = f"{mounted}/base"
        with open(base, "wb") as out:
            for _ in range(VOLUME_MIB):
                out.write(os.urandom(1 << 20))
            os.fsync(out.fileno())

        def copy(number):
            subprocess.run(["cp", "--reflink=always", base, f"{mounted}/copy-{number}"], check=True)

        def clone(number):
            with open(base, "rb") as source, open(f"{mounted}/clone-{number}", "wb") as out:
                fcntl.ioctl(out, FICLONE, source.fileno())
                os.fsync(out.fileno())

        for name, work in ((f"`cp --reflink=always`, {kind}", copy),
                           (f"FICLONE and fsync in one process, {kind} (durable)", clone)):
            before = used_bytes(mounted)
            count, took = until(PEER_SECONDS, work)
            yield name, took * 1000 / count, (used_bytes(mounted) - before) / count, None


def forks(options, directory, staging):
    """Forks beside overlays and reflinks."""
    need_disk(directory, 3 * VOLUME_MIB, "the part forks")
    rows = [ours_row(options, directory, staging), *overlays(directory),
            *reflinks(directory, "xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
            *reflinks(directory, "btrfs", ["mkfs.btrfs", "-q"])]
    print("| | ms a fork | KiB of disk a fork | bytes of memory a fork |\n|---|---:|---:|---:|")
    for name, ms, disk, memory in rows:
        print(f"| {name} | {ms:.2f} | {disk / 1024:,.2f} | {'' if memory is None else f'{memory:,.0f}'} |")
