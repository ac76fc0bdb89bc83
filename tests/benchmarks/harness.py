"""What all parts of the benchmark use: our server, its two kinds of clients, fio, processes and the machine."""

import concurrent.futures
import contextlib
import http.client
import json
import math
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time

# Connections that make volumes at once where only their number counts: they share the store's syncs.
MAKERS = 8
# Looks, a tenth of a second apart, at a store that does not change any more.
SETTLED_LOOKS = 10
VOLUMES = "/api/v1/sandboxvolumes"
RECLAIM = "/api/v1/admin/reclaim"


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def wait_for(what, test, seconds=60, every=0.005):
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not happen within {seconds} s")
        time.sleep(every)


def percentile(values, part):
    """The smallest value that at least this part of them does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * part) - 1)]


def need_disk(directory, mib, what):
    """Ends the benchmark before it fills the disk."""
    free = os.statvfs(directory)
    free_mib = free.f_bavail * free.f_frsize >> 20
    if free_mib < mib:
        raise SystemExit(f"bench: {what} takes about {mib:,} MiB in {directory}, and {free_mib:,} are free; "
                         f"give a smaller --size or another --dir")


class Served:
    """Something fio can be pointed at."""

    def __init__(self, name, kind, process, sock, export=""):
        self.name, self.kind, self.process, self.sock, self.export = name, kind, process, sock, export
        self.uri = f"nbd+unix:///{export}?socket={sock}"


class Api:
    """One connection to the admin port, kept alive."""

    def __init__(self, port, token=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"Content-Type": "application/json"}
        if token is not None:
            self.headers["Authorization"] = "Bearer " + token

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def call(self, method, path, body=None):
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def data(self, method, path, body=None):
        """The data of an answer that is a success."""
        status, text = self.call(method, path, body)
        if not 200 <= status < 300:
            raise SystemExit(f"bench: {method} {path}: {status} {text.decode(errors='replace')}")
        return json.loads(text)["data"]


class Sandstone:
    """One server of ours in a directory of its own. `settings` are further ones: section -> key -> value."""

    def __init__(self, binary, directory, staging, settings=None):
        self.binary, self.directory, self.process = binary, directory, None
        self.staging = f"{staging}/{os.path.basename(directory)}"
        self.settings = settings or {}
        os.makedirs(directory)
        os.makedirs(self.staging)
        self.sock = f"{directory}/nbd.sock"
        self.log = f"{directory}/server.log"
        self.store = f"{directory}/store"
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def start(self):
        """Starts it and gives the seconds until it was ready."""
        ports = []
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        self.admin = ports[1]
        sections = {
            "store": {"size": "64G", "staging": self.staging},
            "nbd": {"listen": [f"127.0.0.1:{ports[0]}"], "unix": self.sock},
            "admin": {"listen": f"127.0.0.1:{self.admin}"},
        }
        config = f"{self.directory}/sandstone.toml"
        with open(config, "w") as out:
            # Texts, numbers and lists of them look in TOML as they do in JSON.
            print(f"data_dir = {json.dumps(self.directory)}", file=out)
            for section in {**sections, **self.settings}:
                print(f"[{section}]", file=out)
                for key, value in {**sections.get(section, {}), **self.settings.get(section, {})}.items():
                    print(f"{key} = {json.dumps(value)}", file=out)
        begun = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_for("the server's start", self.ready)
        except BaseException:
            self.__exit__()
            raise
        took = time.monotonic() - begun
        self.api = self.connect()
        return took

    def ready(self):
        if self.process.poll() is not None:
            raise SystemExit(f"bench: the server ended:\n{self.said()}")
        with contextlib.suppress(OSError, http.client.HTTPException), Api(self.admin) as api:
            return api.call("GET", "/readyz")[0] == 200
        return False

    def said(self, words=""):
        """The lines of its output that hold these words."""
        with open(self.log) as log:
            return "\n".join(line.strip() for line in log if words in line)

    def connect(self):
        """A connection to its admin port."""
        with open(f"{self.directory}/admin.token") as token:
            return Api(self.admin, token.read().strip())

    def volume(self, size, writeback=False):
        return self.api.data("POST", VOLUMES, {"size": size, "writeback": writeback})["id"]

    def fork(self, volume):
        return self.api.data("POST", f"{VOLUMES}/{volume}/fork", {})["id"]

    def post_many(self, path, body, count):
        """That many requests, several at once."""
        self.request_many("POST", [path] * count, body)

    def delete_many(self, paths):
        """Deletes what has these paths, several at once."""
        self.request_many("DELETE", paths)

    def request_many(self, method, paths, body=None):
        def some(number):
            with self.connect() as api:
                for path in paths[number::MAKERS]:
                    api.data(method, path, body)

        with concurrent.futures.ThreadPoolExecutor(MAKERS) as pool:
            list(pool.map(some, range(MAKERS)))

    def served(self, volume):
        return Served("sandstone", "sandstone", self.process, self.sock, volume)

    def metric(self, name):
        for line in self.api.call("GET", "/metrics")[1].decode().splitlines():
            if line.startswith((f"sandstone_{name} ", f"sandstone_{name}_total ")):
                return int(float(line.split()[1]))
        raise SystemExit(f"bench: the server has no metric {name}")

    def wait_checkpoint(self):
        """Waits until a quiet server has written a checkpoint of everything."""
        before = self.metric("store_checkpoints")
        wait_for("a checkpoint", lambda: self.metric("store_checkpoints") > before, every=0.1)

    def reclaim(self):
        """Runs reclaim to its end and gives its last words."""
        # Where the log streamed a moment ago, the server takes blocks ahead for it, and would do so after it too.
        sizes = []
        while len(sizes) < SETTLED_LOOKS or len(set(sizes[-SETTLED_LOOKS:])) > 1:
            sizes.append(self.store_bytes())
            time.sleep(0.1)
        self.api.data("POST", RECLAIM)
        while (progress := self.api.data("GET", RECLAIM))["running"]:
            time.sleep(0.02)
        if progress.get("error"):
            raise SystemExit(f"bench: reclaim failed: {progress['error']}")
        return progress

    def reclaim_twice(self):
        """The second finds the segment that the server was getting ready for its log during the first."""
        self.reclaim()
        self.reclaim()

    def store_bytes(self):
        """What the store takes of the disk."""
        return os.stat(self.store).st_blocks * 512

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)


class Nbd:
    """A plain client of one export: simple replies, one request at a time."""

    MAGIC_OPTION, GO, ACK = b"IHAVEOPT", 7, 1
    MAGIC_REQUEST, READ, WRITE = 0x25609513, 0, 1

    def __init__(self, sock, export):
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            # A server without descriptors left lets clients wait.
            self.socket.settimeout(60)
            self.socket.connect(sock)
            self.receive(18)
            name = export.encode()
            go = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
            self.socket.sendall(struct.pack(">I8sII", 3, self.MAGIC_OPTION, self.GO, len(go)) + go)
            kind = None
            while kind != self.ACK:
                _, _, kind, length = struct.unpack(">QIII", self.receive(20))
                self.receive(length)
                if kind & 0x80000000:
                    raise SystemExit(f"bench: GO was refused with {kind:#x}")
            self.socket.settimeout(None)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def receive(self, count):
        parts = b""
        while len(parts) < count:
            part = self.socket.recv(count - len(parts))
            if not part:
                raise SystemExit("bench: the server hung up")
            parts += part
        return parts

    def request(self, command, offset, length, payload=b""):
        self.socket.sendall(struct.pack(">IHHQQI", self.MAGIC_REQUEST, 0, command, 1, offset, length) + payload)
        error = struct.unpack(">IIQ", self.receive(16))[1]
        if error:
            raise SystemExit(f"bench: NBD command {command} at {offset} failed with {error}")

    def read(self, offset, length):
        self.request(self.READ, offset, length)
        return self.receive(length)

    def write(self, offset, data):
        self.request(self.WRITE, offset, len(data), data)


def fio_command(served, size_mib, arguments):
    return ["fio", "--name=bench", "--ioengine=nbd", f"--uri={served.uri}", "--output-format=json",
            f"--size={size_mib}M", "--randrepeat=0", *arguments]


def fio_process(command, directory):
    """Runs fio and gives the one job of its report."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3600, cwd=directory)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]


def fio(served, size_mib, arguments, seconds=None, each_once=False):
    """fio against a server. Random places are met again, unless it shall do each once."""
    if not each_once:
        arguments = ["--norandommap", *arguments]
    if seconds is not None:
        arguments = [*arguments, "--time_based", f"--runtime={seconds}"]
    return fio_process(fio_command(served, size_mib, arguments), os.path.dirname(served.sock))


def fill(served, size_mib):
    """Writes it once, in sequence."""
    fio(served, size_mib, ["--rw=write", "--bs=256k", "--iodepth=16", "--end_fsync=1"])


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "?")
    versions = []
    for command in (["fio", "--version"], ["nbdkit", "--version"], ["qemu-nbd", "--version"], ["nbd-server", "-V"]):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.check_output(command, stderr=subprocess.STDOUT, text=True)
            versions.append(said.splitlines()[0].removeprefix("This is ").split(" (")[0])
    print(f"{os.cpu_count()} × {model}, Linux {platform.release()}; {', '.join(versions)}; "
          f"`tests/bench {' '.join(sys.argv[1:])}`\n".replace(" `\n", "`\n"))
