"""The report's plots show what was recorded, where it belongs."""

from __future__ import annotations

import base64
import io
import math
import re
from pathlib import Path

import pytest
from matplotlib import colormaps
from PIL import Image

from gradsieve.training.history import Record
from gradsieve.training.reports import report_plots
from tests.training.reports.report_page import LOSSES, MAPS, NUMBERS, ROWS, layer, page, record, result


def test_plots_show_the_records(tmp_path: Path) -> None:
    run, dense = result(record(100), record(200), record(500)), result(record(100), record(400), name="dense")
    found = page(tmp_path, run, dense)
    assert found.plots == LOSSES + ROWS + MAPS + NUMBERS
    both = ["row sieve, 20 %: validation", "row sieve, 20 %: training", "dense: validation", "dense: training"]
    assert found.legends[:12] == 3 * both
    panel = report_plots.loss("Loss", "backward MACs", lambda r: r.work.backward, [run, dense])
    assert [list(line.x) for line in panel.legend] == 2 * [[5e5, 1e6, 2.5e6]] + 2 * [[5e5, 2e6]]
    assert [y for line in panel.legend[::2] for y in line.y] == pytest.approx([4.8, 4.7, 4.4, 4.8, 4.5])
    assert [y for line in panel.legend[1::2] for y in line.y] == pytest.approx([4.9, 4.8, 4.5, 4.9, 4.6])
    gates = report_plots.by_gate(run.records).legend
    assert [line.y[2] for line in gates] == pytest.approx([0.05, 0.102, 0.65, 0.45])  # means of both layers
    assert [line.label for line in gates] == ["gate i", "gate f", "gate g", "gate o"]
    layers = report_plots.by_layer(run.records).legend
    assert [line.y[0] for line in layers] == pytest.approx([0.25, 0.376]) and layers[1].label == "l1"
    tau = report_plots.thresholds(run.records).legend
    assert [(line.label, *line.y) for line in tau] == [("l0", *3 * [0.00123456])]
    saturated = report_plots.saturations(run.records).legend
    assert [(line.label, *line.y) for line in saturated] == [("error", 300, 600, 1500), ("gate", 100, 200, 500)]
    assert "by kind: error 1,500; gate 500." in found.words


def test_lines_are_drawn_where_their_points_are() -> None:
    run = result(*(record(step, valid_loss=loss) for step, loss in ((1000, 6.0), (2000, 4.0), (5000, 5.0))))
    svg = report_plots.loss("Loss", "steps", lambda r: r.step, [run]).svg or ""
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*fill: none; stroke: var\(--s1\); stroke-width: 1.8', svg)
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4) and x0 < x1
    assert (y2 - y1) / (y0 - y1) == pytest.approx(1 / 2) and y0 < y1  # down the page is more
    # Text stays text, and every colour is the page's.
    assert re.findall(r">(\d,\d+)</text>", svg) == ["1,000", "2,000", "3,000", "4,000", "5,000"]
    assert not re.search(r"#[0-9a-f]{6}", svg)


def test_thresholds_of_zero_and_single_points_are_not_drawn() -> None:
    taus = (0.0, 0.5, 0.25)
    panel = report_plots.thresholds([record(k, layers=(layer("l0", tau=tau),)) for k, tau in enumerate(taus)])
    assert list(panel.legend[0].y) == pytest.approx([math.nan, 0.5, 0.25], nan_ok=True)
    assert "tau\u00a0=\u00a00" in panel.note and panel.svg
    single = report_plots.thresholds([record(k, layers=(layer("l0", tau=tau),)) for k, tau in enumerate(taus[:2])])
    assert single.svg is None and single.note == "There are fewer than two points to plot."


def raster(panel: report_plots.Panel) -> Image.Image:
    """A heat map's cells as they are seen."""
    picture = re.search(r'<image [^>]*href="data:image/png;base64,([^"]*)"[^>]*>', panel.svg or "")
    assert picture
    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(picture[1]))).convert("RGBA")
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if "scale(1 -1)" in picture[0] else image


def pixel(image: Image.Image, x: float, y: float) -> tuple[int, ...]:
    """The colour at shares of the width and, downwards, of the height."""
    found = image.getpixel((int(x * image.width), int(y * image.height)))
    assert isinstance(found, tuple)
    return found


def test_heat_map_has_time_upwards_and_steps_to_the_right() -> None:
    def at(step: int, *times: float) -> Record:
        return record(step, layers=(layer("l0", rows_by_time=times),))

    # Of the 4 steps one record covers 1 and the next 3; the one knows two time steps, the next only the first.
    (panel,) = report_plots.heat_maps([at(0, 0.9, 0.9), at(1, 0.1, 0.4), at(4, 0.2)])
    assert panel.heat is not None and panel.heat.top == "40.0\u00a0%" and panel.note == ""
    image = raster(panel)

    def colour(x: float, y: float) -> tuple[int, ...]:
        return pixel(image, x, y)

    def expected(share: float) -> tuple[int, ...]:
        return tuple(round(255 * part) for part in colormaps["viridis"](share))

    assert colour(0.2, 0.75) == pytest.approx(expected(0.25), abs=3)
    assert colour(0.2, 0.25) == pytest.approx(expected(1.0), abs=3)
    assert colour(0.3, 0.75) == colour(0.9, 0.75) == pytest.approx(expected(0.5), abs=3)
    assert colour(0.6, 0.25)[3] == 0
    grey = report_plots.heat_maps([at(1, 1.0, 0.9999999), at(4, 0.2, 0.3)])[0]
    assert grey.note == "Grey: every row kept." and grey.heat and grey.heat.top == "30.0\u00a0%"
    assert pixel(raster(grey), 0.1, 0.5) == (0x8F, 0x8F, 0x8F, 255)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10 k"),
        (999_499, "999 k"),
        (999_500, "1 M"),
        (1_234_567, "1.23 M"),
        (8.76e12, "8.76 T"),
        (2e21, "2e+03 E"),
        (0.25, "0.25"),
    ],
)
def test_counts_for_people(value: float, text: str) -> None:
    assert report_plots.count(value) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.9996, "100.0 %"),
        (0.1234, "12.3 %"),
        (0.0123, "1.23 %"),
        (0.000456, "0.046 %"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_shares_for_people(share: float | None, text: str) -> None:
    assert report_plots.percent(share) == text.replace(" ", "\u00a0")
