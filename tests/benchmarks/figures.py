"""What came of the big table's measurements: medians, and how servers compare."""

import dataclasses
import statistics

from .servers import DISK_FLOOR, PEERS, SOCKET_FLOOR


@dataclasses.dataclass(frozen=True)
class Figure:
    """The median of each column over the rounds, and the range of the rates."""

    kind: str
    rate: float
    low: float
    high: float
    p50: float
    p99: float
    cpu: float | None

    @classmethod
    def of(cls, kind, cells):
        rates = [cell.rate for cell in cells]
        cpus = [cell.cpu for cell in cells if cell.cpu is not None]
        return cls(kind, statistics.median(rates), min(rates), max(rates),
                   *(statistics.median(getattr(cell, name) for cell in cells) for name in ("p50", "p99")),
                   statistics.median(cpus) if cpus else None)


class Figures:
    """All of them. `cells` is row -> contender -> its measurements, one each round."""

    def __init__(self, cells):
        self.rows = {row: {who.name: Figure.of(who.kind, rounds) for who, rounds in contenders.items()}
                     for row, contenders in cells.items()}

    def get(self, row, name, column="rate"):
        """None where it was not measured."""
        figure = self.rows.get(row, {}).get(name)
        return figure and getattr(figure, column)

    def best(self, row, kinds=PEERS, column="rate", of=max):
        values = [getattr(figure, column) for figure in self.rows.get(row, {}).values() if figure.kind in kinds]
        return of(values, default=None)

    def floor(self, row, kind):
        """The limit of what a server of ours does in this row: the disk's where it goes there, or the socket's."""
        on_disk = self.get(row, DISK_FLOOR) if kind == "sandstone" or row.pattern.flush else None
        return on_disk or self.get(row, SOCKET_FLOOR)

    def peers_of_kind(self, row, kind):
        return PEERS if row.all_alike or kind == "writeback" else ("direct",)

    def table(self):
        """The Markdown of all rows."""
        lines = ["| | server | client | rate | lowest–highest | p50 µs | p99 µs | CPU µs/op | × floor | "
                 "× best peer of its kind | × best peer |",
                 "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
        for row, figures in self.rows.items():
            for name, figure in figures.items():
                ours = figure.kind in ("sandstone", "writeback")
                limits = (self.floor(row, figure.kind), self.best(row, self.peers_of_kind(row, figure.kind)),
                          self.best(row)) if ours else (None,) * 3
                ratios = " | ".join(f"{figure.rate / limit:.2f}" if limit else "" for limit in limits)
                shown = f"**{name}**" if ours else f"{name} ({figure.kind})" if figure.kind in PEERS else name
                cpu = "" if figure.cpu is None else f"{figure.cpu:.1f}"
                client = "fio" if figure.kind == "disk" else row.client
                lines.append(f"| {row.name} | {shown} | {client} | {figure.rate:,.0f} {row.pattern.unit} | "
                             f"{figure.low:,.0f}–{figure.high:,.0f} | {figure.p50:,.0f} | {figure.p99:,.0f} | {cpu} | "
                             f"{ratios} |")
        return "\n".join(lines)
