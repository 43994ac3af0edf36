"""What passes report, counted one by one; and when the float backend leaves a pass to PyTorch."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from gradsieve.training.backends import OPERATIONS, PROBE, Backend, FloatBackend, GoldenBackend, sieving_pays
from gradsieve.training.layer_state import LayerState
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import (
    DenseSieve,
    ElementSieve,
    GradientSieve,
    RowSieve,
    StochasticSieve,
)
from gradsieve.training.methods.structured_dropout import StructuredDropout
from gradsieve.training.statistics import KEPT_BYTES, KEPT_PASSES, PassStatistics, StatisticsQueue


def statistics(
    H: int, I: int, B: int, T: int, lanes: int, columns: int, rows: Tensor | None, elements: int = 0, **more: Any
) -> PassStatistics:
    return PassStatistics("l0", H, I, B, T, lanes, columns, rows, elements, tau=None, **more)


def tile_of(column: int, I: int, columns: int) -> int:
    """Column tile of a column of x (below I) or of h, which begin a tile of their own."""
    return column // columns if column < I else -(-I // columns) + (column - I) // columns


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("sizes", [(3, 5, 7, 2, 3, 4), (2, 4, 1, 3, 1, 16), (4, 1, 6, 1, 4, 2), (3, 5, 2, 2, 8, 1)])
@pytest.mark.parametrize("sieved", [False, True])
def test_multiply_accumulates_against_counting(
    sizes: tuple[int, ...], blocks: bool, dropped: bool, sieved: bool
) -> None:
    H, I, B, T, lanes, columns = sizes
    torch.manual_seed(sum(sizes))
    batch_tiles, tiles = -(-B // lanes), -(-I // columns) + -(-H // columns)
    rows = torch.rand(T, batch_tiles, 4 * H) < 0.4 if sieved else None
    block = torch.rand(4 * H, tiles) < 0.6 if blocks else None
    column = torch.rand(T, tiles) < 0.6 if dropped else None
    of = statistics(H, I, B, T, lanes, columns, rows, elements=17, block=block, column=column)
    macs = forward = covered = kept = 0
    for t, k in itertools.product(range(T), range(4 * H)):
        kept += sum(rows is None or bool(rows[t, tile, k]) for tile in range(batch_tiles))
        for b in range(B):
            row = rows is None or bool(rows[t, b // lanes, k])
            covered += row
            for n in range(I + H):
                tile = tile_of(n, I, columns)
                exists = (block is None or block[k, tile]) and (column is None or column[t, tile])
                forward += bool(exists)
                macs += 2 * bool(exists and row)  # once for the error, once for the weight gradient
    assert of.macs == macs
    assert of.forward_macs == forward
    assert of.kept_rows == kept and of.all_rows == T * batch_tiles * 4 * H
    assert of.covered_elements == covered and of.all_elements == T * B * 4 * H
    assert of.dense_macs == 2 * T * B * 4 * H * (I + H)
    assert of.element_macs == round(macs * 17 / covered)
    if rows is None and block is None and column is None:
        assert of.macs == of.dense_macs == 2 * of.forward_macs


def test_a_pass_that_kept_nothing() -> None:
    nothing = statistics(3, 2, 4, 2, 2, 4, torch.zeros(2, 2, 12, dtype=torch.bool))
    assert nothing.macs == nothing.element_macs == nothing.kept_rows == nothing.covered_elements == 0


@pytest.mark.parametrize("sieve", [ElementSieve(tau=0.05), RowSieve(tau=0.1), StochasticSieve(tau=0.1)])
@pytest.mark.parametrize("lanes", [1, 3, None, 50])
def test_what_a_module_reports_is_what_its_gradients_show(sieve: GradientSieve, lanes: int | None) -> None:
    """db of a step of one is the sum of dz', so that rows without gradient are rows that were dropped."""
    torch.manual_seed(1)
    lstm = SievedLSTM(5, 6, sieve=sieve, backend=FloatBackend(lanes=lanes, columns=4))
    y, _ = lstm(torch.randn(1, 7, 5))
    (y * torch.randn_like(y)).sum().backward()
    (taken,) = lstm.take_statistics()
    assert (taken.H, taken.I, taken.B, taken.T) == (6, 5, 7, 1) and taken.tau == sieve.tau
    assert taken.lanes == (lanes or 7) and taken.columns == 4 and taken.rows is not None
    assert taken.rows.shape == (1, math.ceil(7 / (lanes or 7)), 24)
    db = dict(lstm.named_parameters())["bias_ih_l0"].grad
    assert db is not None
    assert torch.equal(taken.rows.any(dim=(0, 1)), db.ne(0))
    assert 0 < taken.kept_rows < taken.all_rows
    assert taken.kept_rows <= taken.elements <= taken.covered_elements
    if not sieve.of_elements:
        assert taken.elements == taken.covered_elements
    assert taken.element_macs <= taken.macs < taken.dense_macs


def test_masks_and_dropout_are_reported_in_tiles_of_the_engine() -> None:
    lstm = SievedLSTM(5, 6, backend=FloatBackend(columns=4), column_dropout=StructuredDropout(0.5, 0.5, columns=4))
    lstm.weight_masks = WeightMasks(4, {"weight_hh_l0": torch.rand(24, 2) < 0.5})
    x = torch.randn(3, 2, 5)
    lstm(x)[0].sum().backward()
    (taken,) = lstm.take_statistics()
    assert taken.block is not None and taken.block.shape == (24, 4)
    assert taken.column is not None and taken.column.shape == (3, 4)
    assert taken.rows is None and taken.macs < taken.dense_macs
    lstm.backend = FloatBackend(columns=16)  # tiles of another engine save it nothing
    lstm(x)[0].sum().backward()
    (taken,) = lstm.take_statistics()
    assert taken.block is None and taken.column is None and taken.macs == taken.dense_macs


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["time first", "batch first", "unbatched", "unbatched batch first", "packed"])
def test_plain_passes_are_counted_as_ours(kind: str, bidirectional: bool) -> None:
    """The same sizes from PyTorch's own passes as from a dense pass of ours."""
    T, B = 5, 3
    inputs: dict[str, Tensor | PackedSequence] = {
        "time first": torch.randn(T, B, 4),
        "batch first": torch.randn(B, T, 4),
        "unbatched": torch.randn(T, 4),
        "unbatched batch first": torch.randn(T, 4),
        "packed": pack_sequence([torch.randn(n, 4) for n in (2, T, 2)], enforce_sorted=False),
    }
    x = inputs[kind]
    layout: dict[str, Any] = {
        "num_layers": 2,
        "bidirectional": bidirectional,
        "batch_first": kind.endswith("batch first"),
    }
    lstm = SievedLSTM(4, 6, **layout, backend=FloatBackend(columns=4))
    found = []
    for masks in (None, WeightMasks(3, {})):  # of ours, in the second round
        lstm.weight_masks = masks
        y, _ = lstm(x)
        assert lstm.take_statistics() == []  # nothing ran backward yet
        (y.data if isinstance(y, PackedSequence) else y).pow(2).sum().backward()
        found.append(lstm.take_statistics())
        assert lstm.take_statistics() == []

    def key(s: PassStatistics) -> tuple[Any, ...]:
        return (s.layer, s.B, s.T, s.H, s.I, s.lanes, s.columns, s.elements, s.tau, s.macs, s.forward_macs)

    assert sorted(map(key, found[0])) == sorted(map(key, found[1]))
    layers = 4 if bidirectional else 2
    assert len(found[0]) == layers * (2 if kind == "packed" else 1)
    samples = 9 if kind == "packed" else T * (1 if kind.startswith("unbatched") else B)
    assert sum(s.all_elements for s in found[0]) == layers * samples * 24
    assert all(s.rows is None and s.macs == s.dense_macs for s in found[0])


def test_plain_passes_count_once_a_backward_pass_whatever_is_used() -> None:
    lstm = SievedLSTM(4, 6)
    x = torch.randn(5, 3, 4)
    for number in range(3):
        out = lstm(x)
        (out[0], *out[1])[number].sum().backward()
        assert len(lstm.take_statistics()) == 1
    y, (h, c) = lstm(x)
    (y.sum() + h.sum() + c.sum()).backward(retain_graph=True)
    assert len(lstm.take_statistics()) == 1
    y.sum().backward()
    assert len(lstm.take_statistics()) == 1
    with torch.no_grad():
        lstm(x)
    lstm(x)
    assert lstm.take_statistics() == []
    for _ in range(KEPT_PASSES + 5):
        lstm(x[:1])[0].sum().backward()
    assert len(lstm.take_statistics()) == KEPT_PASSES  # the oldest are gone


# when the float backend passes over


H, B = 512, 64


def over(sieve: GradientSieve, state: LayerState, lanes: int | None = None, h: int = H, b: int = B) -> bool:
    return FloatBackend(lanes=lanes, dense_where_faster=lanes is None).passes_over(
        sieve, state, torch.zeros(4 * h, 1), b
    )


def test_what_pays() -> None:
    assert sieving_pays(0.2, H, B) and not sieving_pays(0.95, H, B) and not sieving_pays(0.2, 8, 4)
    shares = [sieving_pays(share / 100, H, B) for share in range(101)]
    assert shares == sorted(shares, reverse=True)  # once it does not pay, it does not for more rows
    assert sieving_pays(0.5, H, B) and not sieving_pays(0.5, H, B, OPERATIONS)


def test_dense_is_plain_and_lanes_always_sieve() -> None:
    assert over(DenseSieve(), LayerState("l0", 0)) and over(DenseSieve(), LayerState("l0", 0), lanes=4)
    for sieve in (RowSieve(target=1.0), RowSieve(tau=0.0), ElementSieve(target=0.9)):
        state = LayerState("l0", 0, share=1.0)
        assert not any(over(sieve, state, lanes=4) for _ in range(PROBE + 5))


@pytest.mark.parametrize("method", [RowSieve, StochasticSieve])
def test_a_target_of_rows_tells_beforehand(method: type[GradientSieve]) -> None:
    few, many = LayerState("l0", 0), LayerState("l0", 0)
    for _ in range(PROBE + 5):  # it needs no trying, whatever the last share was
        assert not over(method(target=0.2), few) and over(method(target=0.95), many)
        assert over(method(target=0.2), LayerState("l0", 0), h=8, b=4)
        few.share, many.share = 1.0, 0.0


@pytest.mark.parametrize("sieve", [RowSieve(tau=0.1), ElementSieve(tau=0.1), ElementSieve(target=0.2)])
def test_others_are_tried_and_tried_again(sieve: GradientSieve) -> None:
    state = LayerState("l0", 0)
    assert not over(sieve, state)  # unknown: tried
    state.share = 0.1
    assert not any(over(sieve, state) for _ in range(PROBE + 5))
    state.share = 0.95
    answers = [over(sieve, state) for _ in range(2 * (PROBE + 1))]
    assert answers == ([True] * PROBE + [False]) * 2
    state.share = 0.1
    assert not over(sieve, state)


def test_a_module_falls_back_and_probes_again() -> None:
    """tau = 0 keeps everything: one pass finds out, PROBE plain ones follow, then it looks again."""
    torch.manual_seed(2)
    lstm = SievedLSTM(4, 6, sieve=RowSieve(tau=0.0), backend=FloatBackend(dense_where_faster=True))
    x = torch.randn(3, 2, 4)
    ours = []
    for _ in range(2 * PROBE + 3):
        lstm(x)[0].sum().backward()
        (taken,) = lstm.take_statistics()
        ours.append(taken.rows is not None)
    assert ours == [True, *[False] * PROBE, True, *[False] * PROBE, True]


@pytest.mark.parametrize(
    ("sieve", "lanes"),
    [
        (RowSieve(target=0.2), None),
        (StochasticSieve(target=0.2), None),
        (RowSieve(target=0.2), 4),
        (StochasticSieve(target=0.2), 4),
        (ElementSieve(target=0.1), 4),  # over a whole batch too many rows hold an element
    ],
)
def test_a_module_reaches_its_target(sieve: GradientSieve, lanes: int | None) -> None:
    torch.manual_seed(3)
    size, batch = (200, 32) if lanes is None else (16, 8)
    lstm = SievedLSTM(16, size, sieve=sieve, backend=FloatBackend(lanes=lanes))
    shares = []
    for step in range(24):
        y, _ = lstm(torch.randn(4, batch, 16))
        (y * torch.randn_like(y)).sum().mul(100.0 if step > 8 else 1.0).backward()
        (taken,) = lstm.take_statistics()
        assert taken.rows is not None and taken.tau is not None and 0 < taken.tau < math.inf
        share = taken.elements / taken.all_elements if sieve.of_elements else taken.kept_rows / taken.all_rows
        shares.append(share)
    assert sieve.target is not None
    assert abs(shares[0] / sieve.target - 1) < 0.25  # measured beforehand
    assert abs(sum(shares[-4:]) / 4 / sieve.target - 1) < 0.25, shares


@pytest.mark.parametrize(
    "made", [FloatBackend, lambda: FloatBackend(lanes=4), GoldenBackend], ids=["float", "lanes", "golden"]
)
@pytest.mark.parametrize(("h", "b", "target"), [(200, 20, 0.2), (64, 8, 0.2), (128, 16, 0.5), (6, 1, 0.2)])
def test_a_sieve_that_is_set_sieves(made: Callable[[], Backend], h: int, b: int, target: float) -> None:
    """At every size, whatever it gains; and with every way to set it."""
    torch.manual_seed(1)
    early, late = SievedLSTM(h, h, sieve=RowSieve(target=target), backend=made()), SievedLSTM(h, h, backend=made())
    late.sieve = RowSieve(target=target)
    for lstm in (early, late):
        for _ in range(3):
            y = lstm(torch.randn(3, b, h))[0]
            (y * torch.randn_like(y)).sum().backward()
        taken = lstm.take_statistics()
        assert len(taken) == 3 and not any(s.left_dense for s in taken)
        assert all(s.rows is not None and 0 < s.kept_rows < s.all_rows for s in taken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        early(torch.randn(3, b, h))[0].sum().backward()


def test_dense_where_faster_warns_once_and_counts() -> None:
    lstm = SievedLSTM(4, 6, 2, sieve=RowSieve(target=0.5), backend=FloatBackend(dense_where_faster=True))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(5):
            lstm(torch.randn(3, 2, 4))[0].sum().backward()
    (only,) = warned
    assert "2 of 2 backward passes so far were PyTorch's own dense ones" in str(only.message)
    assert [s.left_dense for s in lstm.take_statistics()] == [True] * 10
    lstm.sieve = DenseSieve()  # a dense pass that was asked for
    lstm(torch.randn(3, 2, 4))[0].sum().backward()
    assert [s.left_dense for s in lstm.take_statistics()] == [False] * 2
    with pytest.raises(ValueError, match="lanes must be None with dense_where_faster, got 4"):
        FloatBackend(lanes=4, dense_where_faster=True)


def test_waiting_statistics_are_bounded_in_bytes() -> None:
    def passed(steps: int) -> PassStatistics:
        rows = torch.ones(steps, 1, 4 * 64, dtype=torch.bool)
        return PassStatistics("l0", 64, 8, 4, steps, 4, 16, rows, elements=0, tau=1.0)

    queue, one = StatisticsQueue(), passed(512).nbytes
    assert one == 512 * 4 * 64
    for _ in range(2 * KEPT_BYTES // one):
        queue.add(passed(512))
    taken = queue.take()
    assert len(taken) == KEPT_BYTES // one and queue.take() == []
    queue.add(passed(2 * KEPT_BYTES // 256))  # one that is too large is kept while it is the last
    assert len(queue.take()) == 1
    for _ in range(2):
        queue.add(passed(2 * KEPT_BYTES // 256))
    assert len(queue.take()) == 1


@pytest.mark.parametrize("method", [RowSieve, ElementSieve, StochasticSieve])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_passes_that_are_not_finite_leave_the_threshold(method: type[GradientSieve], bad: float) -> None:
    """As of a loss scale that overflows: the next clean step keeps what it would have kept."""
    torch.manual_seed(6)
    lstm, x = SievedLSTM(6, 8, sieve=method(target=0.3)), torch.randn(5, 3, 6)
    lstm(x)[0].sum().backward()
    before = lstm.sieve_state_dict()["l0"]["threshold"]
    for _ in range(3):
        (lstm(x)[0] * bad).sum().backward()
    assert lstm.sieve_state_dict()["l0"]["threshold"] == before
    lstm.take_statistics()
    lstm(x)[0].sum().backward()
    assert lstm.take_statistics()[0].kept_rows > 0


def test_zero_gradients_do_no_harm() -> None:
    torch.manual_seed(4)
    lstm = SievedLSTM(4, 6, sieve=RowSieve(target=0.3), backend=FloatBackend(lanes=1))
    x = torch.randn(3, 2, 4)
    for scale in (0.0, 0.0, 1.0, 0.0, 1.0, 1.0):
        lstm.zero_grad()
        lstm(x)[0].sum().mul(scale).backward()
        (taken,) = lstm.take_statistics()
        grads = [p.grad for p in lstm.parameters()]
        assert all(g is not None and bool(g.isfinite().all()) and bool(g.any()) == (scale > 0) for g in grads)
        assert taken.tau is None or 0 < taken.tau < math.inf


@pytest.mark.parametrize(("lanes", "columns"), [(0, 16), (-1, 16), (None, 0)])
def test_engines_that_make_no_sense(lanes: int | None, columns: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        FloatBackend(lanes=lanes, columns=columns)


def test_state_resumes_in_the_middle_of_a_sieved_training() -> None:
    def made() -> SievedLSTM:
        return SievedLSTM(4, 6, 2, sieve=StochasticSieve(target=0.3), backend=FloatBackend(lanes=1))

    def steps(lstm: SievedLSTM, count: int) -> None:
        for _ in range(count):
            loss = lstm(torch.randn(3, 2, 4, generator=draw))[0].pow(2).sum()
            gradients = torch.autograd.grad(loss, list(lstm.parameters()))
            with torch.no_grad():
                for p, g in zip(lstm.parameters(), gradients, strict=True):
                    p.sub_(0.1 * g)

    torch.manual_seed(5)
    one, other = made(), made()
    draw = torch.Generator().manual_seed(6)
    steps(one, 4)
    other.load_state_dict(one.state_dict())
    other.load_sieve_state_dict(one.sieve_state_dict())
    here = draw.get_state()
    steps(one, 4)
    draw.set_state(here)
    steps(other, 4)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
