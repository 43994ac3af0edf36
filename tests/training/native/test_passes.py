"""The compiled passes against plain loops, against those in PyTorch's operations within a derived bound, by threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import FloatPass, Upstream, Workspace
from gradsieve.training.forward import _in_operations, forward
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout
from gradsieve.training.native import library
from gradsieve.training.native.passes import NativeBackward
from tests.training.float_cases import (
    DROPOUTS,
    MODES,
    Case,
    assert_as_reference,
    case,
    check,
    module,
    reference,
    thresholds,
)
from tests.training.native.bounds import Bounded, bounded

SHAPES = [(1, 1, 1, 1), (1, 4, 3, 2), (3, 1, 2, 3), (2, 33, 1, 2), (2, 15, 17, 9), (2, 8, 64, 16)]
"""T, B, I, H: tiles of every width, whole strips and cut ones, in float64 and float32."""
SIEVED = [mode for mode in MODES if mode != SieveMode.DENSE]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    assert library.load()


def test_the_backend_takes_them() -> None:
    lstm = SievedLSTM(3, 4, sieve=RowSieve(tau=0.0))
    lstm(torch.randn(2, 3, 3))[0].sum().backward()
    assert lstm.take_statistics()[0].gemm_seconds is not None


# float64: as exact as the loops


@pytest.mark.parametrize("p", DROPOUTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [1, 3, 7])
def test_against_a_plain_loop(lanes: int, mode: SieveMode, p: tuple[float, float] | None) -> None:
    of, workspace = case(p=p), Workspace()  # one for all passes: what is left in it must not matter
    for tau in (0.0, *thresholds(of)) if mode != SieveMode.DENSE else (0.0,):
        assert_as_reference(
            of, of.run(mode, tau, lanes, workspace, kind=NativeBackward), reference(of, mode, tau, lanes)
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, int, int, int], mode: SieveMode) -> None:
    for p in (None, (0.5, 0.5)):
        of = case(*shape, p=p)
        for w in (of.w_ih, of.w_hh):
            w.div_(math.sqrt(w.shape[1]))  # far from where 1 - f is rounded to nothing
        for lanes in {1, min(2, shape[1]), shape[1], shape[1] + 5}:
            expected = reference(of, mode, 0.05, min(lanes, shape[1]))
            assert_as_reference(of, of.run(mode, 0.05, lanes, kind=NativeBackward), expected)


@pytest.mark.parametrize("p", DROPOUTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(
    shape: tuple[int, int, int, int], p: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = case(*shape, p=p)
    for bias in (of.bias, None):
        arguments = (of.x, of.h0, of.c0, of.w_ih, of.w_hh, bias, of.columns)
        compiled = forward(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(library, "serves", lambda *tensors: False)
            expected = forward(*arguments)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(compiled, name), value, rtol=1e-12, atol=1e-13, msg=f"{name} differs")


def test_inputs_that_are_not_contiguous() -> None:
    of = case()
    tape = of.tape()
    x, h0, c0, w_ih, w_hh, bias = (
        torch.stack([v, v], dim=-1)[..., 0] for v in (of.x, of.h0, of.c0, of.w_ih, of.w_hh, of.bias)
    )
    strided = forward(x, h0, c0, w_ih, w_hh, bias, None)
    for name, value in vars(tape).items():
        assert torch.equal(getattr(strided, name), value), name


@pytest.mark.parametrize("mode", MODES)
def test_without_dx_and_inputs_left_alone(mode: SieveMode) -> None:
    of, workspace = case(2, 9, p=(0.5, 0.5)), Workspace()
    tape = of.tape()
    inputs = [*vars(tape).values(), *vars(of.upstream).values(), of.w_ih, of.w_hh]
    before = [v.clone() for v in inputs]
    first, _ = of.run(mode, 0.1, 4, workspace, tape, NativeBackward)
    copies = {name: v.clone() for name, v in vars(first).items()}
    second, _ = of.run(mode, 0.1, 4, workspace, tape, NativeBackward, need_dx=False)
    assert second.dx is None
    for name, value in copies.items():
        assert torch.equal(getattr(first, name), value), name  # results do not lie in the workspace
        assert name == "dx" or torch.equal(getattr(second, name), value), name
    for a, b in zip(inputs, before, strict=True):
        assert torch.equal(a, b)


def test_a_nan_is_kept_and_a_zero_is_not() -> None:
    of = case(T=1, B=4, I=2, H=3)
    up = Upstream(torch.zeros_like(of.upstream.dy), torch.zeros_like(of.upstream.dh), torch.zeros_like(of.upstream.dc))
    up.dy[0, 2, 1] = float("nan")
    of.upstream = up
    for mode in SIEVED:
        gradients, kept = of.run(mode, 0.5, 2, kind=NativeBackward)
        expected = torch.zeros(1, 2, 12, dtype=torch.bool)
        expected[0, 1, 1::3] = True
        assert torch.equal(kept.rows, expected) and not kept.finite
        assert bool(gradients.dw_ih[1::3].isnan().all()) and not gradients.dw_ih[0::3].any()


def test_the_largest_gain_is_two_to_the_fifteenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows from just at tau down to tau 2^-20, with draws that let everything pass that may."""
    of = case(T=1, B=1, I=2, H=40)
    monkeypatch.setattr(FloatPass, "draws", lambda self, tiles: torch.zeros(1, tiles, 160, dtype=torch.float64))
    dz = of.run(SieveMode.DENSE, 0.0, 1)[0].db.abs()
    tau = float(dz.max())
    of.upstream.dy.mul_(torch.exp2(-torch.arange(40) / 2))
    of.upstream.dh.mul_(torch.exp2(-torch.arange(40) / 2))
    of.upstream.dc.mul_(torch.exp2(-torch.arange(40) / 2))
    score = of.run(SieveMode.DENSE, 0.0, 1)[0].db.abs()
    gain = torch.exp2(torch.ceil(torch.log2(tau / score)).clamp(min=0))
    assert bool((gain == 2.0**15).any()) and bool((gain == 2.0**16).any())
    gradients, kept = of.run(SieveMode.STOCHASTIC, tau, 1, kind=NativeBackward)
    assert torch.equal(kept.rows[0, 0], gain <= 2.0**15)
    torch.testing.assert_close(gradients.db.abs(), torch.where(gain <= 2.0**15, score * gain, 0))


@pytest.mark.parametrize("masked", ["dense", "dropout", "weights"])
def test_gradcheck(masked: str) -> None:
    lstm, inputs = module()
    if masked == "dropout":
        lstm.column_dropout = StructuredDropout(input=0.4, hidden=0.4, columns=2)
    if masked == "weights":
        masks = {
            name: torch.rand(16, -(-weight.shape[1] // 2), generator=torch.Generator().manual_seed(2)) < 0.6
            for name, weight in lstm.named_parameters()
            if name.startswith("weight")
        }
        lstm.weight_masks = WeightMasks(2, masks)
    check(lstm, inputs)


# float32: within the bound of float64, as the path in PyTorch's operations is


def rounded(of: Case) -> tuple[Case, Case]:
    """The case in float32, and its numbers in float64."""

    def to(dtype: torch.dtype) -> Case:
        tensors = {n: v.float().to(dtype) for n, v in vars(of).items() if isinstance(v, Tensor)}
        upstream = Upstream(*(v.float().to(dtype) for v in vars(of.upstream).values()))
        return Case(**tensors, upstream=upstream, columns=of.columns)

    single, double = to(torch.float32), to(torch.float64)
    tape = single.tape()
    single.tape = lambda: tape  # type: ignore[method-assign]
    double.tape = lambda: type(tape)(*(v.double() for v in vars(tape).values()))  # type: ignore[method-assign]
    return single, double


def by_lane(tiles: Tensor, lanes: int, batch: int) -> Tensor:
    return tiles.repeat_interleave(lanes, dim=0)[:batch]


def of_rows(rows: Tensor, lanes: int, t: int, dz: Tensor) -> Tensor:
    """The multiplier that keeps these rows."""
    return by_lane(rows[t], lanes, len(dz)).double()


def scores(dz: Tensor, lanes: int) -> Tensor:
    return torch.stack([part.amax(dim=0) for part in dz.abs().split(lanes)])


def assert_within(result: object, exact: Bounded) -> None:
    for name, value in vars(exact.gradients).items():
        excess = (getattr(result, name).double() - value).abs() - getattr(exact.bounds, name)
        assert float(excess.max()) <= 0, f"{name} is {float(excess.max())} beyond the bound"


def near(mode: SieveMode, exact: Bounded, tau: float, lanes: int, rows: Tensor) -> bool:
    """Whether any element, or score, is so near tau (of a row that was kept, tau times a power of two) that float32 may
    see it beyond.
    """
    value, bound = exact.dz.abs(), exact.dz_bound
    if mode != SieveMode.ELEMENT:
        value, bound = (torch.stack([scores(v, lanes) for v in of]) for of in (value, bound))
    at = torch.full_like(value, tau)
    if mode == SieveMode.STOCHASTIC:
        at = tau * torch.exp2(torch.log2(value / tau).clamp(max=0).round())
        value = value * rows
    return bool(((value - at).abs() <= bound + 2.0**-24 * tau)[value > 0].any())


LARGE = (6, 33, 70, 45)


@pytest.mark.parametrize("p", [None, (0.5, 0.5)], ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [4, 33])
@pytest.mark.parametrize("kind", [NativeBackward, FloatBackward])
def test_float32_within_the_bound(
    kind: type[FloatPass], lanes: int, mode: SieveMode, p: tuple[float, float] | None
) -> None:
    """With the kept set that the pass chose: of elements too, as none of theirs is near tau."""
    # The stochastic sieve has a threshold at every power of two: fewer rows, so that none is near any of them.
    single, double = rounded(case(*(LARGE if mode != SieveMode.STOCHASTIC else (3, 9, 40, 18)), p=p))
    lanes = min(lanes, single.x.shape[1])
    dense = bounded(double, lambda t, dz: torch.ones_like(dz))
    tau = float(dense.dz.abs().quantile(0.9))
    for _ in range(100):  # until no element of this case is so near tau that float32 might put it on the other side
        gradients, kept = single.run(mode, tau, lanes, kind=kind)

        def multiplier(t: int, dz: Tensor, tau: float = tau, rows: Tensor = kept.rows) -> Tensor:
            keep = of_rows(rows, lanes, t, dz)
            if mode == SieveMode.ELEMENT:
                return (dz.abs() >= tau).double()
            if mode == SieveMode.STOCHASTIC:
                n = torch.ceil(torch.log2(tau / scores(dz, lanes))).clamp(min=0)
                return keep * by_lane(torch.exp2(n), lanes, len(dz)).nan_to_num(posinf=0)
            return keep

        exact = bounded(double, multiplier)
        if mode == SieveMode.DENSE or not near(mode, exact, tau, lanes, kept.rows):
            break
        tau *= 1.0003
    else:
        pytest.fail("no threshold was found that no gate gradient is near")
    assert_within(gradients, exact)
    assert mode == SieveMode.DENSE or 0.02 < kept.share < 0.98
    if mode in (SieveMode.ROW, SieveMode.ELEMENT):
        expected = torch.stack([scores(dz, lanes) >= tau for dz in exact.dz])
        assert torch.equal(kept.rows, expected)


@pytest.mark.parametrize("kind", [NativeBackward, FloatBackward])
def test_only_rows_near_the_threshold_may_differ(kind: type[FloatPass]) -> None:
    """Whatever tau is, rows are on the side of it that float64 says, unless their score is within the bound of tau."""
    single, double = rounded(case(*LARGE))
    count = 0
    for tau in scores(bounded(double, lambda t, dz: torch.ones_like(dz)).dz[-1], 4).flatten()[:40].tolist():
        _, kept = single.run(SieveMode.ROW, tau, 4, kind=kind)
        exact = bounded(double, partial(of_rows, kept.rows, 4))
        score = torch.stack([scores(dz, 4) for dz in exact.dz])
        bound = torch.stack([scores(e, 4) for e in exact.dz_bound])
        far = (score - tau).abs() > bound
        assert torch.equal(kept.rows[far], (score >= tau)[far])
        count += int((~far & (score > 0)).sum())
    assert count >= 40  # the rows that the thresholds were taken from, at least


def test_the_bound_notices_a_wrong_row_of_weights() -> None:
    single, double = rounded(case(*LARGE))
    exact = bounded(double, lambda t, dz: torch.ones_like(dz))
    single.w_hh[3] *= 1.05
    with pytest.raises(AssertionError, match="beyond the bound"):
        assert_within(single.run(SieveMode.DENSE, 0.0, 33, kind=NativeBackward)[0], exact)


def test_float32_forward_is_near_float64() -> None:
    """Each step adds at most (n + 8) u of the magnitudes summed, n = I + H, and the gates' slopes are below 1."""
    single, double = rounded(case(1, 33, 70, 45))
    single_tape = forward(single.x, single.h0, single.c0, single.w_ih, single.w_hh, single.bias, None)
    exact = _in_operations(double.x, double.h0, double.c0, double.w_ih, double.w_hh, double.bias, None, None)
    magnitude = double.x[0].abs() @ double.w_ih.abs().T + double.h0.abs() @ double.w_hh.abs().T + double.bias.abs()
    bound = (70 + 45 + 8) * 2.0**-24 * magnitude + 8 * 2.0**-24
    assert float(((single_tape.gates[0].double() - exact.gates[0]).abs() - bound).max()) <= 0


# threads


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [4, 40])
def test_the_number_of_threads_changes_no_bit(mode: SieveMode, lanes: int) -> None:
    """Large enough that the work is shared out; the draws of the stochastic sieve are the same as well."""
    single, _ = rounded(case(4, 40, 90, 130, p=(0.5, 0.5)))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        tape = forward(single.x, single.h0, single.c0, single.w_ih, single.w_hh, single.bias, single.columns)
        gradients, kept = single.run(mode, 2.0, lanes, tape=tape, kind=NativeBackward)
        results.append([*vars(tape).values(), *vars(gradients).values(), kept.rows])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
