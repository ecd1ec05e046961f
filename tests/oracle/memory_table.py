"""Errors of predicted memory by architecture, and the table that is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracle.memory_accounts import Account

KINDS = ("cpu", "whole", "partial", "fit")
"""On the CPU; all layers on one GPU or two; some of them; as many as ``--fit`` chooses."""


@dataclass
class Loads:
    """What became of the loads of one kind."""

    count: int = 0
    exact: int = 0
    """Weights, cache and compute are right to the byte on every device."""
    layers: int = 0
    """Each GPU has the layers that llama.cpp gives it."""
    worst_shortfall: float = 0.0
    """The largest share of a device's total that was not predicted."""
    worst_excess: float = 0.0


@dataclass
class Errors:
    """All loads of one architecture, by kind."""

    loads: dict[str, Loads] = field(default_factory=lambda: {kind: Loads() for kind in KINDS})

    def add(self, kind: str, wanted: Account, found: Account) -> None:
        """Count one load."""
        loads = self.loads[kind]
        loads.count += 1
        same_layers = wanted.layers == found.layers
        loads.layers += same_layers
        loads.exact += same_layers and wanted.parts == found.parts
        if same_layers:
            for x, y in zip(wanted.parts, found.parts, strict=True):
                if x.total:
                    loads.worst_shortfall = max(loads.worst_shortfall, 1 - y.total / x.total)
                    loads.worst_excess = max(loads.worst_excess, y.total / x.total - 1)


ERRORS: dict[str, Errors] = {}
"""What the checks of this run found, by architecture."""


def _cell(loads: Loads) -> str:
    if loads.exact == loads.count:
        return f"{loads.count} exact"
    worst = f"-{100 * loads.worst_shortfall:.2f}, +{100 * loads.worst_excess:.2f} %"
    return f"{loads.exact} of {loads.count}; {worst}"


def _total(errors: dict[str, Errors], kind: str) -> Loads:
    every = [found.loads[kind] for found in errors.values()]
    return Loads(
        count=sum(loads.count for loads in every),
        exact=sum(loads.exact for loads in every),
        layers=sum(loads.layers for loads in every),
        worst_shortfall=max((loads.worst_shortfall for loads in every), default=0.0),
        worst_excess=max((loads.worst_excess for loads in every), default=0.0),
    )


def table(errors: dict[str, Errors]) -> str:
    """Markdown: one row an architecture, with loads that are exact and the worst errors."""
    lines = [
        "| architecture | CPU | all on GPUs | partly, -ngl given | --fit | layers as --fit |",
        "|---|---|---|---|---|---|",
    ]
    rows = [(name, errors[name].loads) for name in sorted(errors)]
    rows.append(("all", {kind: _total(errors, kind) for kind in KINDS}))
    for name, loads in rows:
        cells = [_cell(loads[kind]) for kind in KINDS]
        fit = loads["fit"]
        lines.append(f"| {name} | {' | '.join(cells)} | {fit.layers} of {fit.count} |")
    return "\n".join(lines)
