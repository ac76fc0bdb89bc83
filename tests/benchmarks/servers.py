"""Everything that the big table measures: our peers, the floors, and how each of them is started.

Kinds say what an acknowledged write has reached, and where reads come from: "direct" (past the page cache), "page cache",
"memory". Beside them stand our own "sandstone" and "writeback", the socket's "floor", and the "disk" without a server.
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess

from .harness import Sandstone, Served, fio_process, say, wait_for
from .patterns import Pattern, fio_cell

PEERS = ("direct", "page cache", "memory")
SOCKET_FLOOR, DISK_FLOOR = "floor: socket", "floor: disk"
BUFFERED = "qemu-nbd raw, writeback"


class Starter:
    """Starts servers that end with a stack of contexts."""

    def __init__(self, stack, directory):
        self.stack, self.directory = stack, directory

    def run(self, name, kind, command, sock, export=""):
        """A server that stays in the foreground."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        wait_for(f"the start of {name}", lambda: os.path.exists(sock) or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"bench: {' '.join(command)} ended by itself")
        return Served(name, kind, process, sock, export)

    def path(self, name):
        return f"{self.directory}/{name}"

    def image(self, name, size_mib):
        """A sparse raw file."""
        with open(self.path(name), "w") as out:
            out.truncate(size_mib << 20)
        return self.path(name)


class Daemon:
    """A server that put itself into the background and left its process id in a file."""

    def __init__(self, pid_file):
        with open(pid_file) as file:
            self.pid = int(file.read())

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 15)
        wait_for("the end of a server", lambda: not os.path.exists(f"/proc/{self.pid}"))


def floor(starter, tools, size_mib):
    """What the socket and the protocol alone cost."""
    sock = starter.path("floor.sock")
    return starter.run(SOCKET_FLOOR, "floor", [tools.floor, sock, str(size_mib)], sock)


def nbdkit(starter, size_mib, memory_mib):
    disk, sock, memory = starter.image("nbdkit.raw", size_mib), starter.path("nbdkit.sock"), starter.path("memory.sock")
    yield starter.run("nbdkit file", "page cache", ["nbdkit", "-f", "-U", sock, "file", disk], sock)
    yield starter.run("nbdkit memory", "memory", ["nbdkit", "-f", "-U", memory, "memory", f"{memory_mib}M"], memory)


def nbd_server(starter, size_mib):
    """Debian's nbd-server, on a Unix socket. In the foreground (-d) it would end with its first client."""
    disk, sock, config, pid = (starter.path(f"nbd-server.{end}") for end in ("raw", "sock", "conf", "pid"))
    starter.image("nbd-server.raw", size_mib)
    with open(config, "w") as out:
        print(f"[generic]\nunixsock = {sock}\n[disk]\nexportname = {disk}\nflush = true\nfua = true", file=out)
    subprocess.run(["nbd-server", "-C", config, "-p", pid], stdin=subprocess.DEVNULL, check=True)
    wait_for("the start of nbd-server", lambda: os.path.exists(pid) and os.stat(pid).st_size and os.path.exists(sock))
    daemon = Daemon(pid)
    starter.stack.callback(daemon.kill)
    yield Served("nbd-server", "page cache", daemon, sock, "disk")


def qemu_nbd(starter, name, kind, form, cache, file, size_mib):
    disk, sock = starter.path(f"{file}.{form}"), starter.path(f"{file}.sock")
    subprocess.run(["qemu-img", "create", "-q", "-f", form, disk, f"{size_mib}M"], check=True)
    command = ["qemu-nbd", "-t", "-e", "16", "-k", sock, "-f", form, f"--cache={cache}", "--aio=io_uring", disk]
    return starter.run(name, kind, command, sock)


def peers(starter, size_mib, memory_mib):
    """Starts every peer that is installed, and names the others."""
    found = []
    if shutil.which("nbdkit"):
        found.extend(nbdkit(starter, size_mib, memory_mib))
    else:
        say("left out, not installed: nbdkit")
    if shutil.which("nbd-server"):
        found.extend(nbd_server(starter, size_mib))
    else:
        say("left out, not installed: nbd-server")
    if qemu_installed():
        for name, kind, form, cache in [("qemu-nbd raw, none", "direct", "raw", "none"),
                                        (BUFFERED, "page cache", "raw", "writeback"),
                                        ("qemu-nbd qcow2, none", "direct", "qcow2", "none")]:
            found.append(qemu_nbd(starter, name, kind, form, cache, f"qemu-{form}-{cache}", size_mib))
    else:
        say("left out, not installed: qemu-nbd")
    return found


def qemu_installed():
    return shutil.which("qemu-nbd") and shutil.which("qemu-img")


def qemu_group(starter, count, size_mib):
    """Many volumes: a process for each."""
    return [qemu_nbd(starter, f"{count} × qemu-nbd qcow2, none", "direct", "qcow2", "none", f"many-{number}", size_mib)
            for number in range(count)]


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """What a row measures: one server or several at once. Each is only itself, however alike two may be."""

    name: str
    kind: str
    targets: list
    # Whose metrics tell how often it synced, where it is one of ours.
    ours: Sandstone | None = None

    @classmethod
    def peer(cls, served):
        return cls(served.name, served.kind, [served])


class Disk:
    """No server at all: fio straight on a file of the same file system, past the page cache."""

    name, kind = DISK_FLOOR, "disk"

    def __init__(self, directory, size_mib):
        self.directory, self.size_mib, self.file = directory, size_mib, f"{directory}/disk.raw"

    def prepare(self):
        """Writes the file once, so that it has its blocks."""
        self.fio(["--rw=write", "--bs=1m", "--ioengine=psync", "--end_fsync=1"])

    def fio(self, arguments):
        command = ["fio", "--name=disk", "--output-format=json", "--direct=1", "--randrepeat=0",
                   f"--filename={self.file}", f"--size={self.size_mib}M", *arguments]
        return fio_process(command, self.directory)

    def timed(self, pattern, arguments, seconds, flushes=False):
        return fio_cell(self.fio([*arguments, "--time_based", f"--runtime={seconds}"]), pattern, flushes)

    def random_reads(self, depth, seconds):
        """4 KiB at random, over as many bytes as a volume has. Not of our store itself: it has holes between segments,
        which read faster than any disk."""
        return self.timed(Pattern(depth, reads=100), [
            "--rw=randread", "--bs=4k", "--ioengine=io_uring", f"--iodepth={depth}", "--norandommap"], seconds)

    def sequential_writes(self, seconds):
        """8 KiB after 8 KiB, one at a time: a log's header and a block."""
        return self.timed(Pattern(1), ["--rw=write", "--bs=8k", "--ioengine=psync"], seconds)

    def streams(self, pattern, seconds):
        """The row's own requests: what the device itself gives of a stream, which a host may well limit."""
        return self.timed(pattern, [*pattern.for_fio(), "--ioengine=io_uring"], seconds)

    def synced_writes(self, seconds):
        """4 KiB after 4 KiB, each with an fdatasync."""
        return self.timed(Pattern(1, flush=True), ["--rw=write", "--bs=4k", "--ioengine=psync", "--fdatasync=1"], seconds,
                          flushes=True)
