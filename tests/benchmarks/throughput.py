"""The big table: reads and writes beside the peers and the floor."""

import contextlib
import itertools
import os
import time

from . import goals, rows, servers
from .figures import Figures
from .harness import Sandstone, fill, need_disk, say
from .patterns import Pattern, load, measure
from .servers import Contender

# So small beside a volume that nearly every read of it goes to the disk.
COLD_CACHE = "64M"


class Lineup:
    """Who takes part in which phase. Only what a phase of this run needs is started and filled."""

    def __init__(self, options, stack, directory, staging, phases):
        self.options, self.stack, self.directory, self.staging = options, stack, directory, staging
        self.phases = {phase: [] for phase in rows.PHASES if phase in phases}
        self.disk = None
        self.starter = servers.Starter(stack, directory)
        if options.binary:
            self.enter_ours()
        self.enter_others()

    def needs(self, *phases):
        return any(phase in self.phases for phase in phases)

    def enter(self, contender, *phases, mib=None):
        """Takes part in these phases, after its volume was written once."""
        say(f"writing once: {contender.name}")
        for target in contender.targets:
            fill(target, min(self.options.size, mib or self.options.size))
        for phase in self.phases.keys() & phases:
            self.phases[phase].append(contender)

    def start_ours(self, name, settings=None):
        return self.stack.enter_context(
            Sandstone(self.options.binary, f"{self.directory}/{name}", self.staging, settings))

    def enter_ours(self):
        size = f"{self.options.size}M"
        if self.needs(rows.CACHED, rows.MIXED, rows.WRITE):
            self.ours = self.start_ours("sandstone")
            target = self.ours.served(self.ours.volume(size))
            self.enter(Contender(goals.OURS, "sandstone", [target], self.ours), rows.CACHED, rows.MIXED, rows.WRITE)
        if self.needs(rows.WRITE):
            target = self.ours.served(self.ours.volume(size, writeback=True))
            self.enter(Contender(goals.BUFFERING, "writeback", [target], self.ours), rows.WRITE)
        if self.needs(rows.MIXED):
            ours = self.start_ours("one-worker", {"nbd": {"workers": 1}})
            target = ours.served(ours.volume(size))
            self.enter(Contender(goals.ONE_WORKER, "sandstone", [target], ours), rows.MIXED, mib=rows.CACHED_MIB)
        if self.needs(rows.READ, rows.OVERWRITTEN, rows.RECLAIMED):
            self.cold = self.start_ours("cold", {"cache": {"memory": COLD_CACHE}})
            target = self.cold.served(self.cold.volume(size))
            contender = Contender(goals.OURS, "sandstone", [target], self.cold)
            self.enter(contender, rows.READ, rows.OVERWRITTEN, rows.RECLAIMED)
        if self.needs(rows.TOGETHER_PHASE):
            ours = self.start_ours("together")
            targets = [ours.served(ours.volume(f"{rows.TOGETHER_MIB}M")) for _ in range(rows.TOGETHER)]
            self.phases[rows.TOGETHER_PHASE].append(Contender(goals.OURS, "sandstone", targets, ours))

    def enter_others(self):
        if self.needs(rows.CACHED, rows.MIXED, rows.WRITE):
            floor = Contender.peer(servers.floor(self.starter, self.options.tools, self.options.size))
            for phase in self.phases.keys() & {rows.CACHED, rows.MIXED, rows.WRITE}:
                self.phases[phase].append(floor)
        if self.needs(rows.READ, rows.WRITE):
            self.disk = servers.Disk(self.directory, self.options.size)
            self.disk.prepare()
        if self.needs(rows.CACHED, rows.READ, rows.MIXED, rows.WRITE, rows.OVERWRITTEN):
            for peer in servers.peers(self.starter, self.options.size, min(rows.CACHED_MIB, self.options.size)):
                if peer.kind == "memory":
                    self.enter(Contender.peer(peer), rows.CACHED, mib=rows.CACHED_MIB)
                else:
                    self.enter(Contender.peer(peer), rows.CACHED, rows.READ, rows.MIXED, rows.WRITE, rows.OVERWRITTEN)

    def prepare(self, phase):
        """What is done once before the first round of a phase."""
        load_tool = self.options.tools.load
        match phase:
            case rows.TOGETHER_PHASE:
                if servers.qemu_installed():
                    group = servers.qemu_group(self.starter, rows.TOGETHER, rows.TOGETHER_MIB)
                    self.phases[phase].append(Contender(f"{rows.TOGETHER} × qemu-nbd qcow2, none", "direct", group))
                for contender in self.phases[phase]:
                    say(f"writing once: {contender.name}, {rows.TOGETHER} volumes")
                    load(load_tool, Pattern(2, 256, sequential=True), contender.targets, rows.TOGETHER_MIB,
                         f"--mib={rows.TOGETHER_MIB}")
            case rows.OVERWRITTEN:
                for contender in self.phases[phase]:
                    say(f"overwriting at random: {contender.name}")
                    overwrite(load_tool, contender, self.region(phase))
            case rows.RECLAIMED:
                if not self.needs(rows.OVERWRITTEN):
                    for contender in self.phases[phase]:
                        overwrite(load_tool, contender, self.region(phase))
                if self.phases[phase]:
                    say("reclaiming")
                    self.cold.reclaim_twice()

    def region(self, phase):
        """MiB of each volume that a phase uses."""
        match phase:
            case rows.CACHED | rows.MIXED:
                return min(self.options.size, rows.CACHED_MIB)
            case rows.TOGETHER_PHASE:
                return rows.TOGETHER_MIB
            case rows.OVERWRITTEN | rows.RECLAIMED:
                return min(self.options.size, rows.OVERWRITTEN_MIB)
        return self.options.size

    def warm(self, phase, contender):
        """Reads into its cache what a phase reads from there."""
        if phase in (rows.CACHED, rows.MIXED) and contender.kind != "floor":
            region = self.region(phase)
            load(self.options.tools.load, Pattern(16, 64, reads=100, sequential=True), contender.targets, region,
                 f"--mib={2 * region}")


def overwrite(load_tool, contender, region_mib):
    load(load_tool, Pattern(32), contender.targets, region_mib, f"--mib={region_mib}")


class Syncs:
    """What our servers did for the operations of a row with flushes."""

    COUNTERS = {"device syncs": "store_syncs", "log batches": "store_log_batches"}

    def __init__(self):
        self.lines = {}

    @classmethod
    def look(cls, contender):
        return {name: contender.ours.metric(metric) for name, metric in cls.COUNTERS.items()}

    def count(self, row, contender, before, operations):
        after = self.look(contender)
        total, done = self.lines.setdefault((row, contender.name), (0, dict.fromkeys(before, 0)))
        done = {name: done[name] + after[name] - before[name] for name in before}
        self.lines[row, contender.name] = (total + operations, done)

    def text(self):
        return "\n".join(f"- {row.name}, {name}: " + ", ".join(f"{count / max(1, total):.3f} {what}" for what, count
                                                               in done.items()) + " for each write."
                         for (row, name), (total, done) in self.lines.items())


def throughput(options, directory, staging):
    """The big table, and its goals."""
    chosen = [row for row in rows.ROWS if any(word in row.name for word in options.words or [""])]
    need_disk(directory, 11 * options.size + (16 << 10), "the big table")
    syncs = Syncs()
    with contextlib.ExitStack() as stack:
        lineup = Lineup(options, stack, directory, staging, {row.phase for row in chosen})
        cells = {row: {} for row in chosen}
        for phase in lineup.phases:
            lineup.prepare(phase)
            of_phase = [row for row in chosen if row.phase == phase]
            for number, row in itertools.product(range(options.rounds), of_phase):
                one_round(options, lineup, row, cells[row], syncs, number)
    figures = Figures(cells)
    print(figures.table())
    if syncs.lines:
        print(f"\n{syncs.text()}")
    goals.throughput(options.goals, figures)


def one_round(options, lineup, row, cells, syncs, number):
    """One measurement of everyone who takes part in a row; each round begins with somebody else."""
    title = f"round {number + 1}/{options.rounds}"
    size_mib = lineup.region(row.phase)
    contenders = [contender for contender in lineup.phases[row.phase]
                  if contender.ours or row.others is None or contender.name in row.others]
    if row.disk:
        contenders.insert(min(1, len(contenders)), lineup.disk)
    first = number * len(contenders) // options.rounds
    for contender in contenders[first:] + contenders[:first]:
        if options.rest and row.pattern.reads < 100:
            # What others have left in the page cache, and what the disk was given before, is nobody's business here.
            os.sync()
            time.sleep(options.rest)
        if contender.kind == "disk":
            cell = row.disk(lineup.disk, options.seconds)
        else:
            lineup.warm(row.phase, contender)
            before = Syncs.look(contender) if row.pattern.flush and contender.ours else None
            cell = measure(options.tools, row.client, row.pattern, contender.targets, size_mib, options.seconds)
            if before:
                syncs.count(row, contender, before, cell.operations)
        cells.setdefault(contender, []).append(cell)
        cpu = "" if cell.cpu is None else f"  CPU {cell.cpu:6.1f} µs"
        say(f"{title}  {row.name:52} {contender.name:30} {cell.rate:10,.0f} {row.pattern.unit:5}  p99 {cell.p99:8,.0f} µs{cpu}")
