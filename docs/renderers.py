"""From what commands wrote with `--json` to the tables of README.md and docs/."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from docs import latencies as of_blocks
from docs.packet_tables import input_packets, output_packets
from gradsieve.training.studies.comparison import FIGURES
from gradsieve.training.studies.comparison_table import NONE, TABLES, markdown, rows_of, text

Result = dict[str, Any]
"""What a command wrote."""
Cell = Callable[[Any], str]
"""From what a row tells of to one of its cells."""


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    first = list(headings)
    rule = ["---"] + ["---:"] * (len(first) - 1)
    return "".join(f"| {' | '.join(line)} |\n" for line in (first, rule, *rows))


def columns(form: dict[str, Cell], lines: Iterable[Any]) -> str:
    """A table of a row for each of the `lines`; `form` says of each heading how its cell is made of a line."""
    return table(form, ([cell(line) for cell in form.values()] for line in lines))


def bench(result: Result) -> str:
    """The table of `gradsieve bench`."""
    form: dict[str, Cell] = {
        "rows kept": lambda level: f"{100 * level['kept']:.4g} %",
        "cycles": lambda level: f"{level['cycles']:,}",
        "indices": lambda level: f"{level['indices']:,}",
        "stream efficiency": lambda level: f"{level['stream_efficiency']:.3f}",
        "array utilisation": lambda level: f"{level['array_utilisation']:.3f}",
        "speedup": lambda level: f"{level['speedup']:.2f}×",
        "indices ratio": lambda level: f"{level['indices_ratio']:.2f}×",
        "speedup with transfers": lambda level: f"{level['speedup_with_transfers']:.2f}×",
        "mismatches": lambda level: f"{level['mismatches']:,}",
    }
    return columns(form, result["levels"])


def demo(result: Result) -> str:
    """The table of `gradsieve demo`."""
    form: dict[str, Cell] = {
        "mode": lambda mode: mode["mode"],
        "rows kept": lambda mode: f"{100 * mode['rows_kept_share']:.1f} %",
        "elements kept": lambda mode: f"{100 * mode['elements_kept_share']:.1f} %",
        "cycles": lambda mode: f"{mode['cycles']:,}",
        "speedup": lambda mode: f"{mode['speedup']:.2f}×",
        "mismatches": lambda mode: f"{mode['mismatches']:,}",
        "gradient error": lambda mode: f"{100 * mode['gradient_error']:.3g} %",
    }
    return columns(form, result["modes"])


def comparison(title: str, result: Result) -> str:
    """One of the two tables of `gradsieve compare`, as comparison.md has it."""
    ((headings, figures),) = ((headings, figures) for name, headings, figures in TABLES if name == title)
    return markdown(rows_of(result), headings, figures)


def methods(*results: Result) -> str:
    """The runs of several studies side by side: what each costs in loss, and what it saves."""
    figures = [f for key in ("loss_change", "cycles_ratio", "redundant") for f in FIGURES if f.key == key]
    studies = {Path(result["study"]).stem: {row.name: row for row in rows_of(result)} for result in results}
    names = dict.fromkeys(name for rows in studies.values() for name in rows)
    pairs = [(figure, study) for figure in figures for study in studies]

    def line(name: str) -> list[str]:
        return [name, *(text(studies[study][name], f) if name in studies[study] else NONE for f, study in pairs)]

    return table(["run", *(f"{figure.heading}, {study}" for figure, study in pairs)], map(line, names))


def size_of(size: Any) -> str:
    """The sizes of a layer that `gradsieve speed` measured."""
    return f"{size['H']}, {size['B']}"


def speed(result: Result) -> str:
    """The table of `gradsieve speed`: the backward pass at each share of rows kept."""
    shares = list(result["sizes"][0]["pairs"])

    def speedup(share: str) -> Cell:
        return lambda size: f"{size['pairs'][share]['speedup']:.2f}"

    form: dict[str, Cell] = {
        "H, B": size_of,
        "PyTorch, ms": lambda size: f"{1e3 * size['pairs'][shares[0]]['backward'][0]:.1f}",
        **{f"{100 * float(share):g} % kept": speedup(share) for share in shares},
        "break even": lambda size: "never" if size["break_even"] is None else f"{100 * size['break_even']:.0f} %",
    }
    return columns(form, result["sizes"])


def steps(result: Result) -> str:
    """The rest of what `gradsieve speed` says of each share of rows kept, below all of them."""

    def measured(share: str, what: str) -> Cell:
        def cell(size: Any) -> str:
            value = size["pairs"][share][what]
            if what != "gemm_share":
                return f"{value:.2f}"
            return NONE if value is None else f"{100 * value:.0f} %"

        return cell

    names = {"allowed": "allowed", "gemm_share": "in GEMMs", "forward_speedup": "forward", "total": "both"}
    form: dict[str, Cell] = {"H, B": size_of}
    for share in (s for s in result["sizes"][0]["pairs"] if float(s) < 1):
        form |= {f"{100 * float(share):g} %: {name}": measured(share, what) for what, name in names.items()}
    return columns(form, result["sizes"])


def dropout(result: Result) -> str:
    """The table of `gradsieve speed --dropout`: each pass beside standard dropout and PyTorch's layer."""

    def dropped(what: str) -> dict[str, Cell]:
        name = what.replace("_", " ")
        return {
            f"{name}: forward": lambda size: f"{size[what]['forward'][0] / size[what]['forward'][1]:.2f}",
            f"{name}: backward": lambda size: f"{size[what]['speedup']:.2f}",
            f"{name}: both": lambda size: f"{size[what]['total']:.2f}",
        }

    form: dict[str, Cell] = {"H, B": size_of, **dropped("x"), **dropped("x_and_h")}
    return columns(form, result["dropout"])


def builds(*results: Result) -> str:
    """A row for each `gradsieve build`."""

    def used(resource: str) -> Cell:
        def cell(build: Any) -> str:
            r = build["resources"][resource]
            return f"{r['used']:,} ({100 * r['used'] / r['available']:.0f} %)"

        return cell

    def engine(build: Any) -> str:
        c = build["config"]
        bits = c["formats"]["weight"].split(".")[0]
        return f"{c['name']}: {c['R']} × {c['C']}, {bits}-bit weights, H to {c['max_H']}"

    def fmax(build: Any) -> str:
        f = build["fmax_mhz"]
        return f"{span(f['minimum'], f['best'], '.1f')} MHz" if f else NONE

    def wire(build: Any) -> str:
        path = build["critical_path"]
        return f"{100 * path['routing_ns'] / (path['logic_ns'] + path['routing_ns']):.0f} %" if path else NONE

    def seconds(build: Any) -> str:
        each = [s for stage, s in build["seconds"].items() if stage.startswith("placing and routing")]
        return span(min(each), max(each), ",.0f") if each else NONE

    form: dict[str, Cell] = {
        "board": lambda build: build["board"],
        "engine": engine,
        "clock": lambda build: f"{build['clock_mhz']:g} MHz",
        "LUTs": used("luts"),
        "flip-flops": used("flip_flops"),
        "multipliers": used("multipliers"),
        "memory blocks": used("memory_blocks"),
        "seeds": lambda build: f"{len(build['seeds'])}",
        "routed Fmax": fmax,
        "wire of the critical path": wire,
        "place and route, seconds a seed": seconds,
    }
    return columns(form, results)


def span(low: float, high: float, form: str) -> str:
    """From the lowest to the highest figure; one figure if they are the same."""
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def check(result: Result) -> str:
    """The table of `gradsieve deploy --check`."""
    form: dict[str, Cell] = {
        "mode": lambda mode: mode["mode"],
        "compared": lambda mode: f"{mode['values']:,}",
        "mismatches": lambda mode: f"{mode['mismatches']:,}",
        "round trip": lambda mode: f"{mode['seconds']:.3f} s",
        "transfer": lambda mode: f"{mode['transfer_seconds']:.3f} s",
        "compute": lambda mode: f"{mode['compute_seconds']:.3f} s",
        "other": lambda mode: f"{mode['other_seconds']:.3f} s",
        "sent": lambda mode: f"{mode['bytes_sent']:,}",
        "received": lambda mode: f"{mode['bytes_received']:,}",
        "array busy": lambda mode: f"{mode['array_cycles']:,}",
    }
    return columns(form, result["check"]["modes"])


def loop(*results: Result) -> str:
    """A row for each `gradsieve train`: the engine's cycles, and the loss that it came to."""
    form: dict[str, Cell] = {
        "training": lambda run: run["name"],
        "backend": lambda run: run["settings"]["backend"]["kind"],
        "steps": lambda run: f"{run['records'][-1]['step']:,}",
        "engine cycles": lambda run: f"{run['records'][-1]['work']['cycles']:,}",
        "counted by": lambda run: "the RTL" if run["measured"] else "the cycle model",
        "validation loss": lambda run: f"{run['records'][-1]['valid_loss']:.6f}",
        "steps a second": lambda run: f"{run['records'][-1]['step'] / run['records'][-1]['seconds']:.1f}",
    }
    return columns(form, results)


def latencies() -> str:
    """The table of what takes how many cycles."""
    headings, *lines = of_blocks.rows()
    return table(headings, lines)


FROM_CODE: dict[str, Callable[[], str]] = {
    "latencies": latencies,
    "input_packets": input_packets,
    "output_packets": output_packets,
}
"""By the kind of table, those that are made of the code alone."""

RENDERERS: dict[str, Callable[..., str]] = {
    "bench": bench,
    "demo": demo,
    "results": partial(comparison, "results"),
    "costs": partial(comparison, "costs"),
    "methods": methods,
    "speed": speed,
    "steps": steps,
    "dropout": dropout,
    "builds": builds,
    "check": check,
    "loop": loop,
}
"""By the kind of table: from what its commands wrote, in the order of the mark, to the table.

Tables of packets are made of their declaration in hw/packets.py instead."""
