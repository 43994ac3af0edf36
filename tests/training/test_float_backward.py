"""The float backward pass in PyTorch's operations against a plain loop, and against PyTorch's gradient check."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

import gradsieve.training.float_backward
import gradsieve.training.forward
from gradsieve.golden.types import SieveMode
from gradsieve.training.backends import FloatBackend
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import LayerGradients, Workspace
from gradsieve.training.forward import compaction_pays
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout
from gradsieve.training.native import library
from tests.training.float_cases import DROPOUTS, MODES, assert_as_reference, case, check, module, reference, thresholds


@pytest.fixture(autouse=True)
def _in_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here takes the compiled passes."""
    monkeypatch.setattr(library, "serves", lambda *tensors: False)


@pytest.mark.parametrize("p", DROPOUTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [1, 3, 7])
def test_against_a_plain_loop(
    lanes: int, mode: SieveMode, p: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rows, by columns and whole: as they choose, and every mixture by force, in the same pass as well."""
    of, workspace = case(p=p), Workspace()  # one for all passes: what is left in it must not matter
    masked = 0 if of.columns is None else (of.columns.x is not None) + (of.columns.h is not None)
    chosen: list[bool] = []

    def recorded(share: float, batch: int) -> bool:
        chosen.append(compaction_pays(share, batch))
        return chosen[-1]

    def forced(sides: tuple[bool, ...], rows: tuple[bool, ...]) -> Callable[[float, int], bool]:
        """The answers for the columns of x and h, and from then on for the rows, in turn."""
        answers = itertools.chain(sides, itertools.cycle(rows))
        return lambda share, batch: next(answers)

    rules = list(itertools.product(itertools.product((True, False), repeat=masked), ((True,), (False,), (True, False))))
    for tau in (0.0, *thresholds(of)) if mode != SieveMode.DENSE else (0.0,):
        expected, tape = reference(of, mode, tau, lanes), of.tape()
        for rule in (recorded, *(forced(*answers) for answers in rules)):
            monkeypatch.setattr(gradsieve.training.float_backward, "compaction_pays", rule)
            assert_as_reference(of, of.run(mode, tau, lanes, workspace, tape), expected)
    if mode == SieveMode.ELEMENT or (mode == SieveMode.ROW and lanes == 7):
        assert set(chosen) == {True, False}  # both ways were taken unforced


@pytest.mark.parametrize("p", DROPOUTS[1:], ids=str)
def test_forward_by_columns(p: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    of, lstm = case(p=p), torch.nn.LSTM(6, 5).double()
    plain = case()
    with torch.no_grad():
        for parameter, value in zip(
            lstm.parameters(), (plain.w_ih, plain.w_hh, plain.bias, plain.bias * 0), strict=True
        ):
            parameter.copy_(value)
        y, (h, c) = lstm(plain.x, (plain.h0[None], plain.c0[None]))
    tape = plain.tape()
    torch.testing.assert_close((tape.hs[1:], tape.hs[-1:], tape.cs[-1:]), (y, h, c))
    tapes = []
    for pays in (True, False):
        monkeypatch.setattr(gradsieve.training.forward, "compaction_pays", lambda share, batch, pays=pays: pays)
        tapes.append(of.tape())
    for name, value in vars(tapes[0]).items():
        torch.testing.assert_close(getattr(tapes[1], name), value, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(tapes[0].hs, tape.hs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 4, 3, 2), (3, 1, 2, 3), (2, 33, 1, 2)], ids=str)
def test_smallest_and_odd_shapes(shape: tuple[int, int, int, int], mode: SieveMode) -> None:
    for p in (None, (0.5, 0.5)):
        of = case(*shape, p=p)
        for lanes in {1, min(2, shape[1]), shape[1]}:
            assert_as_reference(of, of.run(mode, 0.05, lanes), reference(of, mode, 0.05, lanes))
        # More lanes than samples are one tile.
        assert_as_reference(of, of.run(mode, 0.05, shape[1] + 5), reference(of, mode, 0.05, shape[1]))


def test_wide_batches_choose_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """At B = 64 and p = 0.5 the columns pay, at B = 4 they do not; the numbers do not tell."""
    taken: list[bool] = []

    def recorded(share: float, batch: int) -> bool:
        taken.append(compaction_pays(share, batch))
        return taken[-1]

    monkeypatch.setattr(gradsieve.training.float_backward, "compaction_pays", recorded)
    for B in (64, 4):
        of = case(3, B, p=(0.5, 0.5))
        assert_as_reference(of, of.run(SieveMode.DENSE, 0.0, B), reference(of, SieveMode.DENSE, 0.0, B))
    assert taken == [True, True, False, False]


def test_upstream_and_tape_are_left_alone_and_results_do_not_share_memory() -> None:
    of, workspace = case(), Workspace()
    tape = of.tape()
    before = [v.clone() for v in (*vars(tape).values(), *vars(of.upstream).values(), of.w_ih, of.w_hh)]

    def go() -> LayerGradients:
        backward = FloatBackward(tape, of.upstream, of.w_ih, of.w_hh, SieveMode.ROW, 0.1, 2, None, None, workspace)
        return backward.run()[0]

    first = go()
    copies = {name: v.clone() for name, v in vars(first).items()}
    go()
    for name, v in vars(first).items():
        assert torch.equal(v, copies[name]), name
    for a, b in zip((*vars(tape).values(), *vars(of.upstream).values(), of.w_ih, of.w_hh), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("p", [None, (0.6, 0.6)])
def test_without_dx(mode: SieveMode, p: tuple[float, float] | None) -> None:
    for B in (7, 64):
        of = case(3, B, p=p)
        both = [
            FloatBackward(
                of.tape(), of.upstream, of.w_ih, of.w_hh, mode, 0.5, 4, of.columns,
                torch.Generator().manual_seed(1), Workspace(), need_dx=need,
            ).run()[0]
            for need in (True, False)
        ]  # fmt: skip
        assert both[1].dx is None and both[0].dx is not None
        for name in ("dh0", "dc0", "dw_ih", "dw_hh", "db"):
            assert torch.equal(getattr(both[0], name), getattr(both[1], name)), name


def test_the_gradient_of_one_step_has_no_bias() -> None:
    """Over many draws of the stochastic sieve, every gradient's mean is the dense one.

    A z-test of all elements together, that fails a correct sieve once in a million (two-sided, Bonferroni).
    """
    of = case(T=1, B=6, I=3, H=4)
    tau, lanes, draws = float(thresholds(of)[2]), 3, 4000
    dense, _ = of.run(SieveMode.DENSE, 0.0, lanes)
    generator, workspace, tape = torch.Generator().manual_seed(5), Workspace(), of.tape()
    names = ("dx", "dh0", "dw_ih", "dw_hh", "db")
    sums = {name: torch.zeros_like(getattr(dense, name)) for name in names}
    squares = {name: torch.zeros_like(getattr(dense, name)) for name in names}
    kept = 0
    for _ in range(draws):
        found, k = FloatBackward(
            tape, of.upstream, of.w_ih, of.w_hh, SieveMode.STOCHASTIC, tau, lanes, None, generator, workspace
        ).run()
        kept += int(k.rows.sum())
        for name in names:
            error = getattr(found, name) - getattr(dense, name)
            sums[name] += error
            squares[name] += error * error
    assert 0.2 < kept / (draws * 2 * 16) < 0.8  # it does drop
    total = sum(v.numel() for v in sums.values())
    limit = NormalDist().inv_cdf(1 - 1e-6 / (2 * total))
    moving = 0
    for name in names:
        deviation = (squares[name] / draws).sqrt() / math.sqrt(draws)
        free = deviation > 1e-12
        moving += int(free.sum())
        assert float((sums[name] / draws).abs()[~free].sum()) < 1e-9  # rows that always survive
        z = (sums[name] / draws / deviation)[free]
        assert len(z) == 0 or float(z.abs().max()) < limit, name
    assert moving > total / 2


# PyTorch's own check of the whole module


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradcheck_dense(bidirectional: bool) -> None:
    check(*module(bidirectional))


@pytest.mark.parametrize("columns", [True, False])
def test_gradcheck_with_structured_dropout(columns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (gradsieve.training.forward, gradsieve.training.float_backward):
        monkeypatch.setattr(place, "compaction_pays", lambda share, batch: columns)
    lstm, inputs = module()
    lstm.column_dropout = StructuredDropout(input=0.4, hidden=0.4, columns=2)
    check(lstm, inputs)


def test_gradcheck_with_weight_masks() -> None:
    lstm, inputs = module()
    generator = torch.Generator().manual_seed(2)
    masks = {
        name: torch.rand(16, -(-weight.shape[1] // 2), generator=generator) < 0.6
        for name, weight in lstm.named_parameters()
        if name.startswith("weight")
    }
    lstm.weight_masks = WeightMasks(2, masks)
    check(lstm, inputs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradcheck_with_unit_masks(bidirectional: bool) -> None:
    lstm, inputs = module(bidirectional)
    lstm.weight_masks = None
    generator = torch.Generator().manual_seed(3)
    lstm.unit_masks = [torch.rand(4, generator=generator) < 0.6 for _ in lstm.layers]
    assert all(int(m.sum()) > 0 for m in lstm.unit_masks) and not all(bool(m.all()) for m in lstm.unit_masks)
    check(lstm, inputs)


def test_gradcheck_notices_a_sieve() -> None:
    lstm, inputs = module()
    lstm.weight_masks, lstm.sieve, lstm.backend = None, RowSieve(tau=0.3), FloatBackend(lanes=1)
    with pytest.raises(GradcheckError):
        check(lstm, inputs)
