"""What the runs of a study come to against their baselines: figures by seed, their mean and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gradsieve.training.history import Record, Result
from gradsieve.training.studies.cluster import Outcome
from gradsieve.training.studies.study import Study

NOT_REACHED = math.inf
"""The cost of a loss that a training never came to."""

Unit = Literal["loss", "change", "share", "ratio"]
"""Nats a token; a relative difference with its sign; 0 to 1; a quotient."""


@dataclass(frozen=True)
class Figure:
    """One column: `value` of a run's result and its baseline's of the same seed, None where it is not known.

    Without the baseline's result only figures with `alone` are known.
    """

    key: str
    heading: str
    unit: Unit
    note: str
    value: Callable[[Result, Result], float | None]
    alone: bool = False


@dataclass(frozen=True)
class Cell:
    """A figure of a run: its values by seed; infinite ones say that the loss was not reached."""

    values: Mapping[int, float]

    @property
    def known(self) -> list[float]:
        """The finite values."""
        return [value for value in self.values.values() if math.isfinite(value)]

    @property
    def mean(self) -> float | None:
        """Of the finite values; None if there is none."""
        return statistics.fmean(self.known) if self.known else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation of the finite values; None for fewer than two."""
        return statistics.stdev(self.known) if len(self.known) > 1 else None

    @property
    def not_reached(self) -> list[int]:
        """Seeds whose training did not reach the loss."""
        return [seed for seed, value in self.values.items() if value == NOT_REACHED]

    def as_json(self) -> dict[str, Any]:
        """Mean, spread, and the value of each seed: null for what is not reached or no number."""
        values = {str(seed): value if math.isfinite(value) else None for seed, value in self.values.items()}
        return {"mean": self.mean, "spread": self.spread, "values": values, "not_reached": self.not_reached}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """The cell whose `as_json` this is."""
        values = {int(seed): math.nan if value is None else value for seed, value in data["values"].items()}
        return cls(values | dict.fromkeys(data["not_reached"], NOT_REACHED))


@dataclass(frozen=True)
class Row:
    """A run: the seeds that are finished, those that are not, and a cell for each figure by its key.

    `results` are those of the finished seeds; a row that was read from JSON has none.
    """

    name: str
    baseline: str
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    cells: Mapping[str, Cell]
    results: Mapping[int, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The rows in the order of the study, and the trainings that failed."""

    source: str
    rows: tuple[Row, ...]
    failures: tuple[Outcome, ...]


def compare(study: Study, outcomes: Sequence[Outcome]) -> Comparison:
    """The comparison of what there is: each training with its run's baseline of the same seed."""
    results: dict[str, dict[int, Result]] = {run.name: {} for run in study.runs}
    for outcome in outcomes:
        if outcome.result is not None:
            results[outcome.task.run][outcome.task.seed] = outcome.result
    rows = []
    for run in study.runs:
        own, base = results[run.name], results[run.baseline]
        seeds = [task.seed for task in run.tasks]
        done = {seed: own[seed] for seed in seeds if seed in own}
        failed = tuple(seed for seed in seeds if seed not in own)
        cells = {figure.key: _cell(figure, done, base) for figure in FIGURES}
        rows.append(Row(run.name, run.baseline, tuple(done), failed, cells, done))
    return Comparison(study.source, tuple(rows), tuple(o for o in outcomes if o.result is None))


def _cell(figure: Figure, own: Mapping[int, Result], base: Mapping[int, Result]) -> Cell:
    values = {}
    for seed, result in own.items():
        against = result if figure.alone else base.get(seed)
        if against is None or not (result.records and against.records):
            continue
        value = figure.value(result, against)
        if value is not None:
            values[seed] = value
    return Cell(values)


def final_loss(result: Result) -> float | None:
    """The last validation loss, nats a token; None if there is none, NaN if it is no finite number."""
    loss = next((r.valid_loss for r in reversed(result.records) if r.valid_loss is not None), None)
    return loss if loss is None or math.isfinite(loss) else math.nan


def over_training(result: Result, share: Callable[[Record], float]) -> float | None:
    """A share of the whole training: each record's holds for the steps since the one before it."""
    weighted, before = 0.0, 0
    for record in result.records:
        weighted += share(record) * (record.step - before)
        before = record.step
    return weighted / before if before else None


def cost_to_reach(result: Result, loss: float, cost: Callable[[Record], float]) -> float:
    """What a training had cost when its validation loss first was `loss` or less.

    `cost` is a quantity that grows from record to record.  Between two evaluations it is interpolated, linear in the
    loss; a loss that the first evaluation already undercuts cost at most what is returned.  NOT_REACHED if there is no
    such evaluation.
    """
    before: tuple[float, float] | None = None
    for record in result.records:
        if record.valid_loss is None:
            continue
        here = (record.valid_loss, float(cost(record)))
        if here[0] <= loss:
            if before is None or not math.isfinite(before[0]):
                return here[1]
            part = (before[0] - loss) / (before[0] - here[0])
            return before[1] + part * (here[1] - before[1])
        before = here
    return NOT_REACHED


def _loss_change(own: Result, base: Result) -> float | None:
    a, b = final_loss(own), final_loss(base)
    return None if a is None or not b else a / b - 1


def _ratio(cost: Callable[[Record], float]) -> Callable[[Result, Result], float | None]:
    """The baseline's whole cost over this run's."""

    def value(own: Result, base: Result) -> float | None:
        a, b = cost(own.last), cost(base.last)
        return b / a if a and b else None

    return value


def _iso_loss(cost: Callable[[Record], float]) -> Callable[[Result, Result], float | None]:
    """The cost of reaching the baseline's final loss, over the whole cost of the baseline."""

    def value(own: Result, base: Result) -> float | None:
        loss, whole = final_loss(base), cost(base.last)
        if loss is None or not math.isfinite(loss) or not whole or not cost(own.last):
            return None
        return cost_to_reach(own, loss, cost) / whole

    return value


def _backward_macs(record: Record) -> float:
    return record.work.backward


def _cycles(record: Record) -> float:
    return record.work.cycles


def _steps(record: Record) -> float:
    return record.step


RESULTS = (
    Figure(
        "loss",
        "validation loss",
        "loss",
        "the last one, in nats a token",
        lambda own, _: final_loss(own),
        alone=True,
    ),
    Figure("loss_change", "loss against baseline", "change", "relative, of the same seed", _loss_change),
    Figure(
        "rows",
        "rows kept",
        "share",
        "gate rows that the sieve let through, over the whole training",
        lambda own, _: over_training(own, lambda r: r.rows),
        alone=True,
    ),
    Figure(
        "elements",
        "elements kept",
        "share",
        "gate gradients that are not zero, over the whole training",
        lambda own, _: over_training(own, lambda r: r.elements),
        alone=True,
    ),
    Figure(
        "skipped",
        "MACs skipped",
        "share",
        "of all multiply-accumulates of the LSTM's training, forward and backward, by whole rows and masks",
        lambda own, _: own.last.work.skipped,
        alone=True,
    ),
    Figure(
        "redundant",
        "MACs redundant",
        "share",
        "the same at the grain of single elements",
        lambda own, _: own.last.work.redundant,
        alone=True,
    ),
)
"""What the training came to."""

COSTS = (
    Figure(
        "macs_ratio",
        "training MACs",
        "ratio",
        "the baseline's multiply-accumulates of the whole training, forward and backward, over this run's",
        _ratio(lambda r: r.work.forward + r.work.backward),
    ),
    Figure(
        "cycles_ratio",
        "engine cycles",
        "ratio",
        "the baseline's cycles of the backward passes of the whole training over this run's",
        _ratio(_cycles),
    ),
    Figure(
        "backward_ratio",
        "backward time",
        "ratio",
        "the baseline's wall clock of a step's LSTM backward over this run's; the runs shared the machine, so it is "
        "only indicative",
        _ratio(lambda r: r.backward_seconds / r.step if r.step else 0.0),
    ),
    Figure(
        "iso_macs",
        "backward MACs to the baseline's loss",
        "ratio",
        "until the validation loss first was the baseline's last one of the same seed (interpolated between "
        "evaluations), over all of the baseline's: below 1 is cheaper",
        _iso_loss(_backward_macs),
    ),
    Figure("iso_cycles", "engine cycles to it", "ratio", "the same in engine cycles", _iso_loss(_cycles)),
    Figure("iso_steps", "steps to it", "ratio", "the same in steps", _iso_loss(_steps)),
)
"""What it cost, in the baseline's terms."""

FIGURES = RESULTS + COSTS
