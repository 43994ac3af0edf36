"""The demo's picture: which rows were kept, and what that saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from gradsieve.hw.config import GATES

INK, MUTED, BAR, IDEAL = "#222222", "#666666", "#4878a8", "#d1603d"
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Bar:
    """One mode: `rows_kept` (T, batch_tiles, 4H) bool, its cycles, the indices streamed, and the speedup over dense."""

    mode: str
    rows_kept: Tensor
    cycles: int
    indices: int
    speedup: float


def by_gate_and_step(rows_kept: Tensor) -> np.ndarray:
    """The share of rows kept, (4 gates, T)."""
    return rows_kept.double().unflatten(-1, (len(GATES), -1)).mean(dim=(1, 3)).T.numpy()


def draw(bars: list[Bar], title: str, path: Path) -> None:
    """Write the picture as a PNG.  `bars` begin with the dense run, which gets no map.  Raises OSError."""
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    grid = figure.add_gridspec(1, 2, width_ratios=(1.25, 1))
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    _maps(left, bars[1:])
    _cycles(right.subplots(), bars)
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png", metadata={"Software": None})


def _maps(figure: SubFigure, bars: list[Bar]) -> None:
    axes = figure.subplots(len(bars), 1, sharex=True)
    figure.suptitle("Rows kept, by gate and time step", fontsize=11, color=INK)
    for ax, bar in zip(axes, bars, strict=True):
        share = 100 * by_gate_and_step(bar.rows_kept)
        # The square root tells small shares apart, and the sieves leave small shares.
        image = ax.imshow(share, aspect="auto", cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        ax.set_yticks(range(len(GATES)), GATES)
        ax.set_title(f"{bar.mode}: {100 * bar.rows_kept.double().mean():.1f} % of rows", fontsize=10, color=INK)
        ax.set_ylabel("gate", color=MUTED)
        _plain(ax)
    axes[-1].set_xlabel("time step t (the backward pass goes from right to left)", color=MUTED)
    figure.colorbar(image, ax=list(axes), label="rows kept, %", ticks=(0, 5, 10, 25, 50, 75, 100), shrink=0.8)


def _cycles(ax: Axes, bars: list[Bar]) -> None:
    places = range(len(bars))
    ax.barh(places, [b.cycles for b in bars], height=0.55, color=BAR, label="cycles taken")
    for y, bar in enumerate(bars):
        ax.plot(
            [bar.indices] * 2, [y - 0.36, y + 0.36], color=IDEAL, lw=2.5, label=None if y else "ideal: an index a cycle"
        )
        ax.annotate(
            f"{bar.cycles:,}  ({bar.speedup:.1f}×)" if y else f"{bar.cycles:,}",
            (max(bar.cycles, bar.indices), y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    ax.set_yticks(places, [b.mode for b in bars])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.32 * max(b.cycles for b in bars))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.locator_params(axis="x", nbins=5)
    ax.set_title("Cycles of the backward pass", fontsize=11, color=INK)
    ax.set_xlabel("cycles", color=MUTED)
    ax.legend(loc="lower right", frameon=False, fontsize=9)
    _plain(ax)


def _plain(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.tick_params(colors=MUTED, length=0, labelcolor=INK)
