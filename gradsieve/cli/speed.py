"""`gradsieve speed`: the float backend's passes beside PyTorch's own, on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradsieve.cli.options import JsonOption, UsageError, console, stages, write_json
from gradsieve.training.settings import MAX_THREADS

if TYPE_CHECKING:
    from gradsieve.training.speed import Pair, Sized

LARGEST = 1 << 16
"""Largest size of a layer that is measured."""


def command(
    hidden: Annotated[str, typer.Option(metavar="SIZES", help="Hidden sizes H; I is the same.")] = "256,512,1024",
    batch: Annotated[str, typer.Option(metavar="SIZES", help="Batch sizes.")] = "16,32,64",
    kept: Annotated[str, typer.Option(metavar="SHARES", help="Shares of the gate rows kept.")] = "1,0.5,0.2,0.1",
    method: Annotated[str, typer.Option(metavar="SIEVE", help="row or stochastic.")] = "row",
    window: Annotated[int, typer.Option(help="Time steps.", min=1, max=LARGEST)] = 35,
    lanes: Annotated[
        int | None,
        typer.Option(help="Lanes of a batch tile; the whole batch by default.", min=1, max=LARGEST, show_default=False),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(metavar="P", help="Also measure structured dropout with this probability.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured passes; their median counts.", min=1)] = 7,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.", min=1, max=MAX_THREADS)] = 1,
    json: JsonOption = None,
) -> None:
    """Measure how much faster sieved passes are than torch.nn.LSTM's, side by side.

    A row is kept or dropped for a whole batch tile. 1.00 is PyTorch's time; more is faster: of the *backward* pass, the
    *forward* pass and *both* together. *allowed* is what the arithmetic left over would allow the backward pass, at the
    speed of PyTorch's; *in GEMMs* is the share of our backward pass that is arithmetic. *break even* is the share of
    rows kept below which sieving pays; *dense where faster* is the backward pass of
    FloatBackend(dense_where_faster=True), which leaves passes to PyTorch where sieving does not pay.

    *Examples:*

    gradsieve speed

    gradsieve speed --hidden 512 --batch 64 --kept 0.2 --dropout 0.5
    """
    sizes = [(h, b) for h in _whole("--hidden", hidden) for b in _whole("--batch", batch)]
    shares = _shares(kept)
    with stages("speed") as stage:
        stage("loading PyTorch")
        import torch

        from gradsieve.training.methods.sieves import METHODS
        from gradsieve.training.speed import measure, measure_dropout

    if method not in ("row", "stochastic"):
        raise UsageError(f"--method must be row or stochastic, got {method!r}")
    if dropout is not None and not 0 < dropout < 1:
        raise UsageError(f"--dropout must be greater than 0 and less than 1, got {dropout}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    from gradsieve.cli.progress import steps

    try:
        with steps("speed", len(sizes) * (len(shares) + (dropout is not None))) as step:
            results, dropped = [], []
            for H, B in sizes:
                results.append(measure(H, B, window, shares, repeats, METHODS[method], lanes, step))
                if dropout is not None:
                    step(f"H = {H}, B = {B}, dropout")
                    pairs = [measure_dropout(H, B, window, dropout, p, repeats) for p in (0.0, dropout)]
                    dropped.append((H, B, pairs))
    finally:
        torch.set_num_threads(before)
    _show(results, method)
    if dropped:
        _show_dropout(dropped, dropout or 0.0)
    if json is not None:
        value: dict[str, Any] = {"threads": threads, "window": window, "method": method, "repeats": repeats}
        value["lanes"] = lanes
        value["sizes"] = [_sized(r) for r in results]
        value["dropout"] = [{"H": H, "B": B, "x": asdict(p[0]), "x_and_h": asdict(p[1])} for H, B, p in dropped]
        write_json(json, value)


def _sized(r: Sized) -> dict[str, Any]:
    pairs = {share: asdict(pair) | {"allowed": pair.allowed} for share, pair in r.pairs.items()}
    return asdict(r) | {"pairs": pairs, "break_even": r.break_even}


def _whole(option: str, text: str) -> list[int]:
    parts = text.split(",")
    for part in parts:
        if not (part.strip().isascii() and part.strip().isdigit() and 0 < int(part) <= LARGEST):
            raise UsageError(
                f"{option} must be integers from 1 to {LARGEST}, such as 64,128; got {part.strip()!r} in {text!r}"
            )
    return [int(part) for part in parts]


def _shares(text: str) -> list[float]:
    from gradsieve.cli.bench import parse_shares

    return list(dict.fromkeys(parse_shares(text)))


def _show(results: list[Sized], method: str) -> None:
    from rich.table import Table

    table = Table(title=f"the {method} sieve: PyTorch's time over ours")
    headings = ("H, B", "rows kept", "PyTorch, ms", "backward", "allowed", "in GEMMs", "forward", "both", "break even")
    for heading in (*headings, "dense where faster"):
        table.add_column(heading, justify="right")
    for r in results:
        even = "never" if r.break_even is None else f"{100 * r.break_even:.0f} %"
        for n, (share, pair) in enumerate(r.pairs.items()):
            table.add_row(
                f"{r.H}, {r.B}" if not n else "",
                f"{100 * pair.kept:.0f} %",
                f"{1e3 * pair.backward[0]:.1f}",
                f"{pair.speedup:.2f}",
                f"{pair.allowed:.2f}",
                "-" if pair.gemm_share is None else f"{100 * pair.gemm_share:.0f} %",
                f"{pair.forward_speedup:.2f}",
                f"{pair.total:.2f}",
                even if not n else "",
                f"{r.fallback[share].speedup:.2f}" if r.fallback else "-",
            )
        table.add_section()
    console().print(table)


def _show_dropout(dropped: list[tuple[int, int, list[Pair]]], p: float) -> None:
    from rich.table import Table

    table = Table(title=f"structured dropout, p = {p:g}: time of PyTorch's layer with standard dropout over ours")
    for heading in ("H, B", "x: forward", "x: backward", "x: both", "x and h: forward", "x and h: backward", "both"):
        table.add_column(heading, justify="right")
    for H, B, pairs in dropped:
        cells = [
            f(p) for p in pairs for f in (lambda q: q.forward[0] / q.forward[1], lambda q: q.speedup, lambda q: q.total)
        ]
        table.add_row(f"{H}, {B}", *(f"{c:.2f}" for c in cells))
    console().print(table)
