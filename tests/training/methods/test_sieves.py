"""The sieves on real numbers, against their rules in plain Python, and the steering of the threshold."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import (
    METHODS,
    DenseSieve,
    ElementSieve,
    GradientSieve,
    RowSieve,
    SieveError,
    StochasticSieve,
    Threshold,
    gains,
    row_scores,
    sift,
)

CONFIDENCE = 1e-6
"""Two-sided probability that a correct sieve fails one of the statistical tests, all its figures together."""
MODES = [SieveMode.ELEMENT, SieveMode.ROW, SieveMode.STOCHASTIC]


def z_limit(figures: int = 1) -> float:
    """What no |z| of so many figures exceeds, but with the probability CONFIDENCE."""
    return NormalDist().inv_cdf(1 - CONFIDENCE / (2 * figures))


def scalar_gain(score: float, tau: float) -> float:
    """2^n of the row sieve's definition; infinite for a row that is dropped for sure."""
    if score == 0:
        return math.inf
    for n in range(16):
        if math.ldexp(score, n) >= tau:
            return 2.0**n
    return math.inf


def scalar_sift(
    mode: SieveMode, tau: float, dz: Tensor, lanes: int, draw: Tensor | None
) -> tuple[list[list[float]], list[list[bool]]]:
    """dz' (B, 4H) and the rows kept (tiles, 4H)."""
    B, rows = dz.shape
    values = dz.tolist()
    kept = [[False] * rows for _ in range(math.ceil(B / lanes))]
    for tile in range(len(kept)):
        inside = range(tile * lanes, min(B, (tile + 1) * lanes))
        for k in range(rows):
            score = max(abs(values[b][k]) for b in inside)
            factor = 1.0
            if mode == SieveMode.ELEMENT:
                for b in inside:
                    if abs(values[b][k]) < tau:
                        values[b][k] = 0.0
                keep = any(values[b][k] != 0 for b in inside)
            elif mode == SieveMode.ROW:
                keep = score >= tau and score > 0
            else:
                assert draw is not None
                factor = scalar_gain(score, tau)
                keep = math.isfinite(factor) and float(draw[tile, k]) < 1 / factor
            kept[tile][k] = keep
            for b in inside:
                values[b][k] = values[b][k] * factor if keep else 0.0
    return values, kept


def run(mode: SieveMode, tau: float, dz: Tensor, lanes: int, draw: Tensor | None) -> tuple[Tensor, Tensor]:
    """`sift`, with the factor that it may leave to the caller."""
    dz = dz.clone()
    sifted = sift(mode, tau, dz, lanes, draw)
    return (dz if sifted.factor is None else dz * sifted.factor), sifted.rows


def awkward(dtype: torch.dtype, B: int, rows: int, tau: float) -> Tensor:
    """Gate gradients with all the boundaries: tau and tau/2^n exactly and an ulp off, zeros, subnormals, huge ones."""
    limits = torch.finfo(dtype)
    exact = torch.tensor([tau * 2.0**-n for n in (0, 0, 1, 2, 7, 14, 15, 16, 17, 40)], dtype=dtype)
    up, down = (torch.nextafter(exact, torch.tensor(v, dtype=dtype)) for v in (math.inf, 0.0))
    odd = torch.tensor([0.0, -0.0, limits.tiny, limits.smallest_normal / 8, limits.max, 1.0, 3.0], dtype=dtype)
    smooth = torch.randn(20, dtype=dtype).exp() * tau
    pool = torch.cat([exact, up, down, odd, smooth])
    dz = pool[torch.randint(len(pool), (B, rows))] * torch.where(torch.rand(B, rows) < 0.5, -1, 1).to(dtype)
    dz[:, ::5] = 0
    # Rows of small elements only, so that scores on the boundaries do occur.
    dz[:, 1::3] = dz[:, 1::3].clamp(-tau, tau)
    dz[:, 2::3] = dz[:, 2::3].clamp(-tau / 16, tau / 16)
    return dz


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [1, 3, 4, 7, 100])
def test_rules_against_plain_python(mode: SieveMode, lanes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(lanes)
    # 0.7 as a float32 is a float64 too; the last is a subnormal number.
    taus = (0.0, 1.0, 2.0**-9, float(torch.tensor(0.7, dtype=torch.float32)), 3.0, torch.finfo(dtype).tiny / 4)
    for B in (1, 5, 7):
        for tau in taus:
            dz = awkward(dtype, B, 60, tau or 1.0)
            tiles = math.ceil(B / min(lanes, B))
            draw = torch.rand(tiles, 60, dtype=dtype) * torch.tensor([1.0, 2.0**-8, 0.0], dtype=dtype).repeat(20)
            found, rows = run(mode, tau, dz, min(lanes, B), draw)
            expected, kept = scalar_sift(mode, tau, dz, min(lanes, B), draw)
            assert rows.tolist() == kept, (B, tau)
            expected_dz = torch.tensor(expected, dtype=torch.float64).to(dtype)
            assert torch.equal(found, expected_dz), (B, tau)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gains_are_the_powers_of_two_of_the_definition(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    for tau in (0.0, 1.0, float(torch.tensor(0.1, dtype=torch.float32)), 2.0**-30, torch.finfo(dtype).tiny / 8):
        score = torch.cat([awkward(dtype, 1, 600, tau or 1.0).abs()[0], torch.rand(500, dtype=dtype) * tau])
        gain = gains(score, tau)
        for s, g in zip(score.tolist(), gain.tolist(), strict=True):
            expected = scalar_gain(s, tau)
            assert g == expected if math.isfinite(expected) else g > 2.0**15, (s, tau)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_sieve_hides_a_gradient_that_is_not_finite(mode: SieveMode, lanes: int, bad: float) -> None:
    dz = torch.zeros(5, 8)
    dz[1, 3] = bad
    found, rows = run(mode, 0.5, dz, lanes, torch.full((math.ceil(5 / lanes), 8), 0.99))
    assert rows.nonzero().tolist() == [[1 // lanes, 3]]
    assert not bool(found[1, 3].isfinite())


def test_rows_survive_with_probability_two_to_the_minus_n() -> None:
    """A z-test for each n; all together fail a correct sieve once in a million."""
    generator = torch.Generator().manual_seed(2)
    trials = 1 << 20
    for n in range(16):
        dz = torch.full((1, trials), 0.75 * 2.0**-n)
        draw = torch.rand(1, trials, generator=generator)
        found, rows = run(SieveMode.STOCHASTIC, 0.75, dz, 1, draw)
        kept, p = int(rows.sum()), 2.0**-n
        if n == 0:
            assert kept == trials
        else:
            assert abs(kept - trials * p) <= z_limit(15) * math.sqrt(trials * p * (1 - p)), n
        assert set(found.unique().tolist()) <= {0.0, 0.75}
    _, rows = run(SieveMode.STOCHASTIC, 0.75, torch.full((1, trials), 0.75 * 2.0**-16), 1, torch.zeros(1, trials))
    assert not rows.any()


def test_the_stochastic_sieve_has_no_bias() -> None:
    """z-test of the mean of every element's dz' against dz, in tiles that share their fate."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    tau, draws, B, rows = 1.0, 20000, 5, 24
    dz = torch.randn(B, rows, dtype=torch.float64).exp() * 0.05 * torch.where(torch.rand(B, rows) < 0.5, -1, 1)
    repeated = dz.repeat(1, draws)
    draw = torch.rand(2, rows * draws, generator=generator, dtype=torch.float64)
    found, _ = run(SieveMode.STOCHASTIC, tau, repeated, 3, draw)
    gain = torch.stack([gains(dz[part].abs().amax(dim=0), tau) for part in (slice(0, 3), slice(3, 5))])
    assert float(gain.max()) >= 16 and float(gain.min()) <= 4
    mean, sure = found.view(B, draws, rows).mean(dim=1), (gain == 1)[[0, 0, 0, 1, 1]]
    assert bool(sure.any()) and torch.allclose(mean[sure], dz[sure], rtol=1e-12)
    deviation = dz.abs() * (gain[[0, 0, 0, 1, 1]] - 1).sqrt() / math.sqrt(draws)
    z = ((mean - dz) / deviation)[~sure]
    assert float(z.abs().max()) < z_limit(len(z))


def test_settings() -> None:
    for make in (ElementSieve, RowSieve, StochasticSieve):
        for wrong, word in (
            ({}, "exactly one of tau and target must be given, got tau = None and target = None"),
            ({"tau": 1.0, "target": 0.5}, r"got tau = 1\.0 and target = 0\.5"),
            ({"tau": -1.0}, r"tau must be a finite number of at least 0, got -1\.0"),
            ({"tau": math.nan}, "tau must .*, got nan"),
            ({"tau": math.inf}, "tau must .*, got inf"),
            ({"target": 0.0}, r"target must be greater than 0 and at most 1, got 0\.0"),
            ({"target": 1.1}, r"target must .*, got 1\.1"),
            ({"target": math.nan}, "target must .*, got nan"),
        ):
            with pytest.raises(SieveError, match=word):
                make(**wrong)
        assert make(tau=0.5).with_target(0.25) == make(target=0.25)
        assert not make(target=1.0).dense
    with pytest.raises(SieveError, match="must be None for a dense pass, got "):
        DenseSieve(tau=1.0)
    assert DenseSieve().dense and DenseSieve().with_target(0.1) == DenseSieve()
    assert {name: method.mode.name.lower() for name, method in METHODS.items()} == {name: name for name in METHODS}
    assert all(method.source for method in METHODS.values())


# steering


def share_of(sieve: GradientSieve, tau: float, dz: Tensor, lanes: int) -> float:
    """The share that a pass with this threshold keeps; expected, where it is drawn."""
    if sieve.of_elements:
        return float((dz.abs() >= tau).double().mean())
    scores = torch.stack([row_scores(step.abs(), lanes) for step in dz])
    if sieve.mode == SieveMode.ROW:
        return float(((scores >= tau) & (scores > 0)).double().mean())
    return float(torch.tensor([1 / scalar_gain(s, tau) for s in scores.flatten().tolist()]).mean())


def synthetic(generator: torch.Generator, scale: float) -> Tensor:
    """Gate gradients of a pass, (T, B, 4H), as unequal from row to row as those of a training."""
    rows = torch.randn(4, 1, 64, generator=generator, dtype=torch.float64).mul(1.5).exp()
    return scale * rows * torch.randn(4, 6, 64, generator=generator, dtype=torch.float64)


REACHED = 16
"""Passes within which the share is at the target again after the gradients changed by a factor of 100; three times
as many suffice for a factor of a million.
"""


@pytest.mark.parametrize("method", [ElementSieve, RowSieve, StochasticSieve])
@pytest.mark.parametrize("target", [0.1, 0.2, 0.5])
def test_the_threshold_reaches_its_target(method: type[GradientSieve], target: float) -> None:
    generator = torch.Generator().manual_seed(6)
    sieve, threshold, lanes = method(target=target), Threshold(), 3
    assert threshold.current(sieve) is None
    for scale in (1.0, 100.0, 1.0, 1e-6):
        shares = []
        for _ in range((1 if scale > 1e-6 else 3) * REACHED + 8):
            dz = synthetic(generator, scale)
            if threshold.current(sieve) is None:
                threshold.measure(sieve, dz, lanes)
            tau = threshold.current(sieve)
            assert tau is not None and 0 < tau < math.inf
            shares.append(share_of(sieve, tau, dz, lanes))
            threshold.observe(sieve, shares[-1])
        late = shares[-8:]
        assert abs(sum(late) / len(late) / target - 1) < 0.2, (scale, shares)
        assert all(abs(share / target - 1) < 0.6 for share in late)


@pytest.mark.parametrize("method", [ElementSieve, RowSieve, StochasticSieve])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_threshold_is_the_target_at_once(method: type[GradientSieve], dtype: torch.dtype) -> None:
    dz = synthetic(torch.Generator().manual_seed(7), 1.0).to(dtype)
    for target in (0.01, 0.1, 0.5, 0.9, 1.0):
        for dead in (0.0, 0.3):  # rows of zeros count among those to choose from
            some = dz.clone()
            some[:, :, : int(64 * dead)] = 0
            for scale in (1.0, 1e-30, 1e30) if dtype == torch.float32 else (1.0, 1e-170, 1e150):
                threshold = Threshold()
                threshold.measure(method(target=target), some * scale, 3)
                assert threshold.tau is not None
                share = share_of(method(target=target), threshold.tau, some * scale, 3)
                alive = float((some != 0).double().mean())
                assert abs(share - min(target, alive)) < 0.02, (target, dead, scale)


def test_zero_gradients_neither_start_nor_stop_the_steering() -> None:
    sieve, threshold = RowSieve(target=0.2), Threshold()
    generator = torch.Generator().manual_seed(8)
    threshold.measure(sieve, torch.zeros(2, 3, 8), 1)
    assert threshold.current(sieve) is None
    threshold.observe(sieve, 0.0)
    dz = synthetic(generator, 1.0)
    threshold.measure(sieve, dz, 1)
    for _ in range(3000):  # as far as a float can be halved, and further
        threshold.observe(sieve, 0.0)
        assert threshold.tau is None or 0 < threshold.tau < math.inf
    for _ in range(12):
        dz = synthetic(generator, 1.0)
        if threshold.current(sieve) is None:
            threshold.measure(sieve, dz, 1)
        assert threshold.tau is not None
        share = share_of(sieve, threshold.tau, dz, 1)
        threshold.observe(sieve, share)
    assert abs(share / 0.2 - 1) < 0.6


@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_target_out_of_reach_does_not_break_the_threshold(share: float) -> None:
    """More rows that are not finite, or fewer rows that are not zero, than the target."""
    sieve, threshold = RowSieve(target=0.2), Threshold(tau=1.0)
    for _ in range(5000):
        threshold.observe(sieve, share)
        assert threshold.tau is None or 0 < threshold.tau < math.inf
        threshold.tau = threshold.tau or 1.0


def test_fixed_thresholds_stay_and_states_resume() -> None:
    fixed, threshold = RowSieve(tau=0.25), Threshold(tau=3.0)
    for share in (0.0, 0.1, 1.0):
        threshold.observe(fixed, share)
        assert threshold.current(fixed) == 0.25 and threshold.tau == 3.0
    steered, resumed = StochasticSieve(target=0.3), Threshold()
    resumed.load_state_dict(threshold.state_dict())
    for share in (0.5, 0.1, 0.9, 0.31):
        threshold.observe(steered, share)
        resumed.observe(steered, share)
        assert resumed.current(steered) == threshold.current(steered)
    fresh = Threshold()
    fresh.load_state_dict(Threshold().state_dict())
    assert fresh.tau is None


def test_a_layer_takes_a_sieve_or_none() -> None:
    lstm = SievedLSTM(2, 3, sieve=RowSieve(target=0.2))
    lstm.sieve = None
    assert isinstance(lstm.sieve, DenseSieve)
    for wrong in (RowSieve, 0.2):
        with pytest.raises(TypeError, match=r"sieve must be a sieve such as RowSieve\(target=0\.2\), or None; got "):
            lstm.sieve = wrong  # type: ignore[assignment]
    assert isinstance(lstm.sieve, DenseSieve)
