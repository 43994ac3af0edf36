"""What a training run came to: its JSON, and a page to look at."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError

from gradsieve.hw.config import GATES
from gradsieve.hw.validation import problems
from gradsieve.rtl_gen.files import write_text
from gradsieve.training.history import LayerRecord, Record, Result, Work
from gradsieve.training.reports import report_plots as plots
from gradsieve.training.reports.report_plots import Panel, count, number, percent, superscript
from gradsieve.training.text import source_name

TEMPLATE = "report.html.jinja"
NONE = "–"


def write_result(result: Result, path: Path) -> None:
    """Write the result as JSON, whole or not at all.  Raises OSError.

    JSON has no NaN and no infinity: they are written as the texts `NaN`, `Infinity` and `-Infinity`, which
    `read_result` takes for numbers where a result has numbers.  In the settings they stay texts, as paths do.
    """
    write_text(path, json.dumps(_finite(result.model_dump()), default=str, allow_nan=False, indent=1) + "\n")


def read_result(path: Path) -> Result:
    """The result that `write_result` wrote.

    Raises ValueError, naming the path, for a file that cannot be read, is not JSON or is not a result.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not JSON: no UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        return Result.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"{path} is not JSON: {first['ctx']['error']}") from None
        problem = next(problems(error, Result, "field"))
        raise ValueError(f"{path} is not a result of a training: {problem}") from None


def write_report(result: Result, path: Path, dense: Result | None = None) -> None:
    """Write one HTML page that needs no other file and no network, whole or not at all.  Raises OSError.

    With `dense`, the run without sieve and masks on the same text, its losses and costs are shown beside the result's.
    """
    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    if dense is not None and not dense.records:
        dense = None
    page = environment.get_template(TEMPLATE).render(
        result=result,
        dense=dense,
        summary=_summary(result),
        stopped=_stopped(result),
        tiles=_tiles(result, dense) if result.records else [],
        sections=_sections(result, dense) if result.records else [],
        cost=_cost(result, dense) if result.records else [],
        layers=[_layer_row(layer) for layer in result.last.layers] if result.records else [],
        gates=GATES,
        settings=as_toml(result.settings),
    )
    write_text(path, page)


@dataclass(frozen=True)
class Tile:
    """A headline figure, with lines below it."""

    label: str
    value: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Plots under a heading; `text` explains them, or says why there are none."""

    title: str
    text: str
    panels: tuple[Panel, ...] = ()


def as_toml(settings: Mapping[str, Any]) -> str:
    """Nested settings as TOML, tables after values; what TOML cannot say, an unset value, is a comment."""
    return "\n".join(_toml_lines(settings, ())).strip()


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(map(_toml_key, path))}]"] if path else []
    for key, value in table.items():
        if value is None:
            lines.append(f"# {_toml_key(key)} is not set")
        elif not isinstance(value, Mapping):
            lines.append(f"{_toml_key(key)} = {_toml_value(value)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(v) for v in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    """The same with texts for the floats that JSON has not."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _summary(result: Result) -> str:
    """What was trained, in one sentence of what the settings say."""
    text, model, training = (_section(result, name) for name in ("text", "model", "training"))
    hidden, layers, kind = model.get("hidden"), model.get("layers"), _section(result, "backend").get("kind")
    sizes = {
        "H": hidden,
        "I": hidden if model.get("embedding") is None else model["embedding"],
        "B": training.get("batch"),
        "T": training.get("window"),
    }
    what = "An LSTM" if layers is None else f"An LSTM of {layers} layer{'s' * (layers != 1)}"
    what += f" with {count(result.parameters)} parameters"
    if known := ", ".join(f"{name} = {size}" for name, size in sizes.items() if size is not None):
        what += f" ({known})"
    parts = []
    level = {"char": "the characters", "word": "the words"}.get(str(text.get("level")))
    if level or "file" in text:
        file = text.get("file")
        # As for reading, a file that is not set is the default text.
        source = None if "file" not in text else source_name(None) if file is None else Path(str(file)).name
        parts.append("on " + " of ".join(filter(None, (level, source))))
    if "steps" in training:
        parts.append(f"for {count(training['steps'])} steps")
    if kind is not None:
        parts.append(f"on the {kind} backend")
    if "seed" in training:
        parts.append(f"with seed {training['seed']}")
    return f"{what}, trained {' '.join(parts)}." if parts else f"{what}."


def _section(result: Result, name: str) -> Mapping[str, Any]:
    section = result.settings.get(name)
    return section if isinstance(section, Mapping) else {}


def _stopped(result: Result) -> str:
    """Why the page shows less than a whole training; empty if it does not."""
    if not result.records:
        return "The run recorded nothing, so there is nothing to show."
    if result.finished:
        return ""
    steps = _section(result, "training").get("steps")
    of = "" if steps is None else f" of {count(steps)}"
    return f"The run was stopped after step {count(result.last.step)}{of}: what follows is its state then."


def _tiles(result: Result, dense: Result | None) -> list[Tile]:
    last, work = result.last, result.last.work
    return [
        *_loss_tiles(result, dense),
        _share_tile("rows kept", result, lambda r: r.rows, "gate rows"),
        _share_tile("elements kept", result, lambda r: r.elements, "gate gradients"),
        _macs_tile("MACs skipped", work, work.skipped, "by whole rows and masks"),
        _macs_tile("MACs redundant", work, work.redundant, "by single elements"),
        _cycles_tile(result),
        _saturations_tile(last),
    ]


def _loss_tiles(result: Result, dense: Result | None) -> list[Tile]:
    valid = _valid(result)
    if valid is None:
        return [Tile(name, NONE, ("not evaluated",)) for name in ("validation loss", "perplexity")]
    record, loss = valid
    at = [] if record is result.last else [f"after step {count(record.step)}, the last evaluated"]
    notes, perplexities = ["nats a token", *at], [*at]
    if dense is not None and (reference := _valid(dense)):
        change = (loss - reference[1]) / reference[1] if reference[1] else math.nan
        notes.append(f"dense: {_loss(reference[1])} ({_signed(change)})")
        perplexities.append(f"dense: {_perplexity(reference[1])}")
    return [
        Tile("validation loss", _loss(loss), tuple(notes)),
        Tile("perplexity", _perplexity(loss), tuple(perplexities)),
    ]


def _macs_tile(label: str, work: Work, share: float, by: str) -> Tile:
    if not (work.dense_forward or work.dense_backward):
        return Tile(label, NONE, ("no work was counted",))
    return Tile(label, percent(share), ("of the whole training", by))


def _share_tile(label: str, result: Result, share: Callable[[Record], float], what: str) -> Tile:
    """A share of the whole training: the records' shares weighted by the steps that each covers."""
    weighted, steps, before = 0.0, 0, 0
    for record in result.records:
        weighted += share(record) * (record.step - before)
        steps += record.step - before
        before = record.step
    if not steps:
        return Tile(label, NONE, ("no step was made",))
    end = f"{percent(share(result.last))} at the end"
    return Tile(label, percent(weighted / steps), (f"of all {what}", end))


def _cycles_tile(result: Result) -> Tile:
    work, by = result.last.work, _counted_by(result)
    if not (work.cycles and work.dense_cycles):
        return Tile("fewer engine cycles", NONE, ("no cycles were counted",))
    cycles = f"{count(work.cycles)}, dense {count(work.dense_cycles)}"
    return Tile("fewer engine cycles", _ratio(work.dense_cycles / work.cycles), (cycles, f"counted by {by}"))


def _counted_by(result: Result) -> str:
    return "the engine's RTL" if result.measured else "the cycle model"


def _saturations_tile(last: Record) -> Tile:
    if not last.saturations:
        return Tile("saturations", "none", ("floats have no format to leave",))
    return Tile("saturations", count(sum(last.saturations.values())), ("values that left their format",))


def _sections(result: Result, dense: Result | None) -> list[Section]:
    sections = [_losses(result, dense), _rows(result), _numbers(result)]
    if len(result.records) > 1:
        return sections
    # With one record every plot would be empty; what the texts say holds.
    only = "There is one record only, and so no course of the training to plot."
    sections[0] = replace(sections[0], text=f"{only} {sections[0].text}".strip())
    return [replace(section, panels=()) for section in sections]


def _losses(result: Result, dense: Result | None) -> Section:
    runs = [result] if dense is None else [result, dense]
    cycles = plots.loss("Loss against engine cycles", "engine cycles", lambda r: r.work.cycles, runs)
    if dense is not None and dense.measured != result.measured:
        by = f"This run's cycles are counted by {_counted_by(result)}, the dense run's by {_counted_by(dense)}."
        cycles = replace(cycles, note=f"{cycles.note} {by}".strip())
    text = f"Cycles of the backward pass, counted by {_counted_by(result)}." if result.last.work.cycles else ""
    return Section(
        "Loss",
        text,
        (
            plots.loss("Loss against steps", "steps", lambda r: r.step, runs),
            plots.loss("Loss against backward MACs", "backward MACs", lambda r: r.work.backward, runs),
            cycles,
        ),
    )


def _rows(result: Result) -> Section:
    records = result.records
    title = "Kept rows"
    if all(r.rows > 1 - 1e-6 for r in records):
        return Section(title, "Every gate row was kept at every step.")
    if all(r.rows <= 0 for r in records):
        return Section(title, "No gate row was kept at any step.")
    if len(records) == 1:
        return Section(title, "Their share is among the figures above.")
    if not any(r.layers for r in records):
        return Section(title, "No layer was recorded.")
    text = "Share of gate rows that the sieve let through, over the steps between two records."
    return Section(title, text, (plots.by_gate(records), plots.by_layer(records), *plots.heat_maps(records)))


def _numbers(result: Result) -> Section:
    counts = result.last.saturations
    text, panels = [], []
    if any(layer.tau is not None for r in result.records for layer in r.layers):
        panels.append(plots.thresholds(result.records))
    else:
        text.append("This method has no threshold.")
    if any(counts.values()):
        panels.append(plots.saturations(result.records))
        kinds = sorted((kind for kind, n in counts.items() if n), key=lambda kind: -counts[kind])
        listed = "; ".join(f"{kind} {count(counts[kind])}" for kind in kinds)
        text.append(f"Values that left their number format, by kind: {listed}.")
    elif counts:
        text.append("No value left its number format.")
    else:
        text.append("Saturations: none, as floats have no number format of the engine's to leave.")
    return Section("Threshold and saturations", " ".join(text), tuple(panels))


def _cost(result: Result, dense: Result | None) -> list[tuple[str, str, str, str]]:
    """Rows of the table of costs: what, this run, the same steps without sieve and masks, the dense run."""
    last = result.last
    other = dense.last if dense else None

    def row(name: str, value: Callable[[Record], str], unsieved: str = NONE) -> tuple[str, str, str, str]:
        return name, value(last), unsieved, value(other) if other else NONE

    work = last.work
    return [
        row("steps", lambda r: count(r.step), count(last.step)),
        row("forward MACs", lambda r: _counted(r.work.forward), _counted(work.dense_forward)),
        row("backward MACs", lambda r: _counted(r.work.backward), _counted(work.dense_backward)),
        row("engine cycles", lambda r: _counted(r.work.cycles), _counted(work.dense_cycles)),
        row("time of training", lambda r: _duration(r.seconds)),
        row("time of LSTM backward", lambda r: _duration(r.backward_seconds)),
    ]


def _layer_row(layer: LayerRecord) -> list[str]:
    shares = (*layer.rows_by_gate, layer.elements)
    tau = NONE if layer.tau is None else number(layer.tau)
    scale = NONE if layer.scale is None else _power(layer.scale)
    return [layer.layer, *map(percent, shares), tau, scale, percent(layer.blocks), percent(layer.columns)]


def _valid(result: Result) -> tuple[Record, float] | None:
    """The last record with a validation loss, and the loss."""
    evaluated = ((r, r.valid_loss) for r in reversed(result.records) if r.valid_loss is not None)
    return next(evaluated, None)


def _counted(value: int) -> str:
    return count(value) if value else NONE


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if math.isfinite(loss) else "not finite"


def _perplexity(loss: float) -> str:
    value = math.exp(loss) if loss < 700 else math.nan
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}" if value < 1000 else count(round(value))


def _signed(change: float) -> str:
    return f"{'+' if change >= 0 else ''}{percent(change)}".replace("-", "−")


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{count(ratio)}×"


def _power(scale: float) -> str:
    mantissa, exponent = math.frexp(scale)
    return f"2{superscript(exponent - 1)}" if mantissa == 0.5 else number(scale)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
