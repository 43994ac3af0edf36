"""Results to report, hand-written and realistic ones, and what their page says."""

from __future__ import annotations

import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from gradsieve.training.history import LayerRecord, Record, Result, Work
from gradsieve.training.reports.report import write_report

LOSSES = ["Loss against steps", "Loss against backward MACs", "Loss against engine cycles"]
ROWS = ["Rows kept by gate", "Rows kept by layer"]
MAPS = ["Rows kept by time step, l0", "Rows kept by time step, l1"]
NUMBERS = ["Threshold tau", "Saturations so far"]
VOID = {"meta", "link", "br", "img", "hr", "input"}
SETTINGS: dict[str, Any] = {
    "text": {"file": "/data/wiki.train.txt", "valid": None, "level": "word", "vocabulary": 10000},
    "model": {"hidden": 256, "embedding": 128, "layers": 2, "dropout": 0.25},
    "training": {"batch": 32, "window": 35, "steps": 3000, "seed": 7, "schedule": ["warm-up", "dense tail"]},
    "sieve": {"method": "row", "target": 0.2},
    "backend": {"kind": "golden", "config": {"R": 16, "C": 4}},
}


class Page(HTMLParser):
    """What a page says, by element; fails where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tiles: dict[str, list[str]] = {}
        self.tables: list[list[list[str]]] = []
        self.plots: list[str] = []
        self.legends: list[str] = []
        self.pre = ""
        self._tile = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "dd":
            self.tiles[self._tile].append("")
        elif tag == "dt":
            self._tile = ""
        elif dict(attrs).get("role") == "img":
            self.plots.append(dict(attrs)["aria-label"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "dt":
            self.tiles[self._tile] = []

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        data = data.replace("\u00a0", " ")
        self.text.append(data)
        if "dt" in self.open:
            self._tile += data
        elif "dd" in self.open:
            self.tiles[self._tile][-1] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data
        elif "pre" in self.open:
            self.pre += data
        elif "li" in self.open and data.strip():
            self.legends.append(data.strip())

    @property
    def words(self) -> str:
        """All of the text, blanks made one."""
        return " ".join(" ".join(self.text).split())


def layer(name: str, rows: tuple[float, float, float, float] = (0.1, 0.2, 0.3, 0.4), **changes: Any) -> LayerRecord:
    given: dict[str, Any] = {
        "layer": name,
        "tau": 0.00123456,
        "scale": 4096.0,
        "rows_by_gate": rows,
        "rows_by_time": (0.1, 0.2, 0.3),
        "elements": 0.0525,
        "blocks": 1.0,
        "columns": 0.5,
    }
    return LayerRecord(**(given | changes))


def record(step: int, **changes: Any) -> Record:
    given: dict[str, Any] = {
        "step": step,
        "train_loss": 5.0 - step / 1000,
        "valid_loss": 4.9 - step / 1000,
        "seconds": step / 2,
        "backward_seconds": step / 8,
        "rows": 0.25,
        "elements": 0.05,
        "work": Work(
            forward=step * 10_000,
            dense_forward=step * 10_000,
            backward=step * 5_000,
            elements=step * 2_000,
            dense_backward=step * 20_000,
            cycles=step * 400,
            dense_cycles=step * 1_000,
        ),
        "saturations": {"gate": step, "sieve": 0, "error": 3 * step},
        "layers": (layer("l0"), layer("l1", (0.0, 0.004, 1.0, 0.5), tau=None, scale=None, blocks=0.33)),
    }
    return Record(**(given | changes))


def result(*records: Record, **changes: Any) -> Result:
    given: dict[str, Any] = {
        "name": "row sieve, 20 %",
        "settings": SETTINGS,
        "records": records,
        "measured": False,
        "parameters": 1_234_567,
    }
    return Result(**(given | changes))


def synthetic(name: str, target: float, layers: tuple[str, ...] = ("l0", "l1"), seed: int = 0, T: int = 35) -> Result:
    """A run such as real ones are: a dense warm-up, then a sieve that finds its target, and a few saturations."""
    draw = random.Random(seed)
    records, work, saturations = [], dict.fromkeys(Work.model_fields, 0), dict.fromkeys(("gate", "error", "dy"), 0)
    for k in range(1, 61):
        step, sieved = 50 * k, k > 5 and target < 1
        states, mean = [], 0.0
        for n, label in enumerate(layers):
            found = [target * (1 + (0.8 - 0.2 * n) * math.exp(-(k - 5) / 8) + draw.gauss(0, 0.03)) for _ in range(4)]
            gates = [
                share * weight if sieved else 1.0 for share, weight in zip(found, (1.1, 0.6, 1.5, 0.8), strict=True)
            ]
            rows = sum(gates) / 4
            times = [min(1.0, rows * (0.6 + 0.9 * t / T + draw.gauss(0, 0.04))) if sieved else 1.0 for t in range(T)]
            states.append(
                LayerRecord(
                    layer=label,
                    tau=1e-3 * (1 + n) * (2 - math.exp(-k / 9)) if sieved else 0.0,
                    scale=2.0 ** (12 - n),
                    rows_by_gate=(gates[0], gates[1], gates[2], gates[3]),
                    rows_by_time=tuple(times),
                    elements=rows * 0.4,
                    blocks=1.0,
                    columns=1.0,
                )
            )
            mean += rows / len(layers)
        for key, share in (("forward", 1), ("dense_forward", 1), ("dense_backward", 2), ("backward", 2 * mean)):
            work[key] += int(50 * 4.4e8 * share)
        work["elements"] += int(50 * 8.8e8 * mean * 0.4)
        work["dense_cycles"] += 50 * 7_400_000
        work["cycles"] += int(50 * 7_400_000 * (0.06 + 0.94 * mean))
        saturations["gate"] += draw.randrange(40)
        saturations["error"] += draw.randrange(4) if k > 20 else 0
        loss = 4.55 + 2.4 * math.exp(-step / 420) + (0.02 if target < 1 else 0)
        records.append(
            Record(
                step=step,
                train_loss=loss - 0.05 + draw.gauss(0, 0.04),
                valid_loss=loss if k % 3 == 0 else None,
                seconds=step * 0.31,
                backward_seconds=step * (0.04 + 0.15 * mean),
                rows=mean,
                elements=mean * 0.4,
                work=Work(**work),
                saturations=dict(saturations),
                layers=tuple(states),
            )
        )
    return Result(name=name, settings=SETTINGS, records=tuple(records), measured=False, parameters=4_215_808)


def page(tmp_path: Path, run: Result, dense: Result | None = None) -> Page:
    write_report(run, tmp_path / "report.html", dense)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = Page(html)
    # Nothing to fetch, and every reference inside the page leads to one element of it.
    text = re.sub(r'xmlns(:\w+)?="http://www\.w3\.org/[^"]*"|data:image/png;base64,[^"]*', "", html)
    assert "//" not in text
    targets = [value for _, name, value in found.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in targets)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for value in targets if value.startswith("#")} | set(re.findall(r"url\(#([^)]*)\)", html))
    assert references <= set(ids)
    assert not {"script", "iframe"} & {tag for tag, _, _ in found.attributes}
    return found
