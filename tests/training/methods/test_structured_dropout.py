"""Structured dropout: what is drawn, and what a layer does with it, against autograd over plain formulas."""

from __future__ import annotations

import copy
import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradsieve.training.backends import FloatBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.methods.structured_dropout import ColumnDropout, ColumnMasks, StructuredDropout

CONFIDENCE = 1e-6
"""Probability that correct code fails one of the statistical tests, all its figures together (two-sided)."""
CASES = [(0.5, 4), (0.3, 5), (0.9, 3), (0.25, 1), (0.1, 7), (2 / 3, 6)]


def limit(figures: int) -> float:
    return NormalDist().inv_cdf(1 - CONFIDENCE / (2 * figures))


@pytest.mark.parametrize(("p", "tiles"), CASES)
def test_each_tile_survives_with_probability_exactly_one_minus_p(p: float, tiles: int) -> None:
    steps, R = 40000, 3
    masks = StructuredDropout(input=p, hidden=p, columns=R).draw(
        steps, tiles * R - 1, tiles * R, torch.Generator().manual_seed(1)
    )
    for kept in (masks.x, masks.h):
        assert kept is not None and kept.shape == (steps, tiles) and kept.dtype == torch.bool
        z = (kept.double().mean(dim=0) - (1 - p)) / math.sqrt(p * (1 - p) / steps)
        assert float(z.abs().max()) < limit(2 * tiles)
        # The count is the nearest below or above; its mean is what makes the probability exact.
        exact = (1 - p) * tiles
        counts = kept.sum(dim=1)
        assert set(counts.tolist()) <= {math.floor(exact + 1e-9), math.ceil(exact - 1e-9)}
        above = exact - math.floor(exact + 1e-9)
        if above > 1e-9:
            up = float((counts > math.floor(exact)).double().mean())
            assert abs(up - above) < limit(2) * math.sqrt(above * (1 - above) / steps)
    # x and h are drawn apart, and so is every step.
    assert masks.x is not None and masks.h is not None
    if tiles > 1:
        assert not torch.equal(masks.x, masks.h)
    first = masks.x[:, 0].double() - (1 - p)
    for other in (masks.h[:, 0].double() - (1 - p), first.roll(1)):
        assert abs(float((first * other).mean())) < limit(2) * p * (1 - p) / math.sqrt(steps)


def test_every_choice_of_tiles_is_as_likely() -> None:
    """4 tiles of 2 columns at p = 0.5: chi-square over the six pairs, at the confidence above."""
    steps = 60000
    masks = StructuredDropout(hidden=0.5, columns=2).draw(steps, 3, 8, torch.Generator().manual_seed(2))
    assert masks.x is None and masks.h is not None
    code = (masks.h.long() * torch.tensor([1, 2, 4, 8])).sum(dim=1)
    counts = torch.bincount(code, minlength=16)
    pairs = counts[[3, 5, 6, 9, 10, 12]].double()
    assert int(pairs.sum()) == steps
    square = float(((pairs - steps / 6) ** 2 / (steps / 6)).sum())
    assert square < 36.0  # of 5 degrees of freedom: 1 - 1e-6 is at 35.9


def test_masks_of_columns_and_tiles() -> None:
    x = torch.tensor([[True, False], [False, True]])
    masks = ColumnMasks(x, None, I=5, H=4, columns=3, x_scale=2.0, h_scale=1.0)
    by_x, by_h = masks.by_column(torch.device("cpu"))
    assert by_h is None and by_x is not None
    assert by_x.tolist() == [[True] * 3 + [False] * 2, [False] * 3 + [True] * 2]
    assert masks.tiles().tolist() == [[True, False, True, True], [False, True, True, True]]
    later = masks.steps(1, 2)
    assert later.tiles().tolist() == [[False, True, True, True]] and (later.x_scale, later.h_scale) == (2.0, 1.0)
    other = ColumnMasks(None, x, I=4, H=5, columns=3, x_scale=1.0, h_scale=2.0)
    assert other.tiles().tolist() == [[True, True, True, False], [True, True, False, True]]
    scales = StructuredDropout(input=0.75, hidden=0.5).draw(2, 3, 3)
    assert (scales.x_scale, scales.h_scale) == (4.0, 2.0)


def test_draws_repeat_with_the_generator() -> None:
    dropout = StructuredDropout(input=0.5, hidden=0.5, columns=2)
    one, same, other = (dropout.draw(50, 8, 8, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one.tiles(), same.tiles()) and not torch.equal(one.tiles(), other.tiles())
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(dropout.draw(50, 8, 8, generator).tiles(), one.tiles())
    assert not torch.equal(dropout.draw(50, 8, 8, generator).tiles(), one.tiles())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": 1.0}, r"input must be at least 0 and less than 1, got 1\.0"),
        ({"hidden": -0.1}, r"hidden must .*, got -0\.1"),
        ({"hidden": math.nan}, "hidden must .*, got nan"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StructuredDropout(**settings)  # type: ignore[arg-type]


# in a layer


def reference(lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, masks: ColumnMasks) -> tuple[Tensor, Tensor, Tensor]:
    """One layer by the formulas, differentiable: the same columns for the whole batch, other ones at each step."""
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]
    ys = []
    for t in range(len(x)):
        kept = []
        for tiles, n in ((masks.x, x.shape[2]), (masks.h, h.shape[1])):
            column = [1.0 if tiles is None or tiles[t, k // masks.columns] else 0.0 for k in range(n)]
            kept.append(torch.tensor(column, dtype=x.dtype))
        z = (x[t] * kept[0] * masks.x_scale) @ w_ih.T + (h * kept[1] * masks.h_scale) @ w_hh.T + b_ih + b_hh
        i, f, g, o = z.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        ys.append(h)
    return torch.stack(ys), h, c


@pytest.mark.parametrize("p", [(0.5, 0.5), (0.5, 0.0), (0.0, 0.5), (0.8, 0.3)], ids=str)
@pytest.mark.parametrize("batch", [3, 48])  # columns are compacted from some batch on
@pytest.mark.parametrize("sieved", [False, True])
def test_a_layer_against_autograd(p: tuple[float, float], batch: int, sieved: bool) -> None:
    torch.manual_seed(3)
    ours = SievedLSTM(7, 6, column_dropout=StructuredDropout(*p, columns=2)).double()
    if sieved:
        ours.sieve, ours.backend = RowSieve(tau=0.0), FloatBackend(lanes=2)
    x, h, c = (torch.randn(shape).double().requires_grad_() for shape in ((5, batch, 7), (batch, 6), (batch, 6)))
    for _ in range(2):  # the second pass draws anew
        state = torch.get_rng_state()
        assert ours.column_dropout is not None
        masks = ours.column_dropout.draw(5, 7, 6)
        torch.set_rng_state(state)
        y, (h_n, c_n) = ours(x, (h[None], c[None]))
        expected = reference(ours, x, h, c, masks)
        torch.testing.assert_close((y, h_n[0], c_n[0]), expected)
        gradients = []
        for out in ((y, h_n, c_n), expected):
            loss = out[0].pow(2).sum() + out[1].pow(3).sum() + out[2].sin().sum()
            gradients.append(torch.autograd.grad(loss, [x, h, c, *ours.parameters()]))
        torch.testing.assert_close(*gradients)
        dx = gradients[0][0]
        by_x, _ = masks.by_column(torch.device("cpu"))
        assert by_x is None or not dx.permute(0, 2, 1)[~by_x].any()
    taken = ours.take_statistics()
    assert [s.column is None for s in taken] == [True, True]  # their tiles are not the engine's
    assert [s.rows is not None for s in taken] == [sieved] * 2


def test_reproducible_and_off_in_eval_mode() -> None:
    dropout = StructuredDropout(input=0.5, hidden=0.5, columns=2)
    one, same, other = (SievedLSTM(8, 6, 2, bidirectional=True, column_dropout=dropout) for _ in range(3))
    plain = nn.LSTM(8, 6, 2, bidirectional=True)
    for module in (one, same, other):
        module.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3, 8)

    def seeded(module: nn.LSTM, seed: int) -> Tensor:
        """By PyTorch's own random numbers, as its dropout."""
        torch.manual_seed(seed)
        return module(x)[0]

    first = seeded(one, 1)
    assert torch.equal(first, seeded(same, 1)) and not torch.equal(first, seeded(other, 2))
    assert not torch.equal(first, one(x)[0])
    assert torch.equal(seeded(copy.deepcopy(one), 1), first)
    one.eval()
    torch.testing.assert_close(one(x), plain(x))
    one.weight_masks = WeightMasks(2, {})  # passes of ours
    torch.testing.assert_close(one(x), plain(x))
    with pytest.raises(ValueError, match=r"saved must hold the layers \[.*\], got \["):
        SievedLSTM(8, 6).load_sieve_state_dict(one.sieve_state_dict())


def test_packed_sequences_draw_by_time_step() -> None:
    """Forward in time, every sequence sees the masks that it sees in a padded batch."""
    dropout = StructuredDropout(input=0.5, hidden=0.5, columns=2)
    sequences = [torch.randn(n, 8) for n in (5, 3, 3, 1)]
    one, same = (SievedLSTM(8, 6, column_dropout=dropout) for _ in range(2))
    same.load_state_dict(one.state_dict())
    torch.manual_seed(7)
    packed, (h, _) = one(pack_sequence(sequences))
    torch.manual_seed(7)
    padded, _ = same(nn.utils.rnn.pad_sequence(sequences))
    unpacked, lengths = nn.utils.rnn.pad_packed_sequence(packed)
    for b, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(unpacked[:n, b], padded[:n, b])
        torch.testing.assert_close(h[0, b], padded[n - 1, b])


def test_the_expectation_is_that_of_no_dropout() -> None:
    """z-test of what the first step's gates read: the mean over draws of masked and scaled x is x."""
    draws, p = 20000, 0.4
    x = torch.randn(1, 2, 9, dtype=torch.float64).abs() + 0.5
    module = ColumnDropout(p, columns=2)
    torch.manual_seed(4)
    out = module(x.expand(draws, 2, 9))
    z = (out.mean(dim=0) / x[0] - 1) / math.sqrt(p / (1 - p) / draws)
    assert float(z.abs().max()) < limit(9)
    factors = out / x
    assert bool(((factors - 1 / (1 - p)).abs() < 1e-12).logical_xor(factors == 0).all())


def test_the_module() -> None:
    module, x = ColumnDropout(0.5, columns=4), torch.rand(6, 3, 10, requires_grad=True)
    torch.manual_seed(1)
    y = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), y)
    mask = y != 0
    assert bool((mask == mask[:, :1]).all()) and not bool((mask == mask[:1]).all())  # same for the batch, anew in time
    assert torch.equal(mask[:, :, :4].any(2), mask[:, :, :4].all(2))
    torch.testing.assert_close(y[mask], 2 * x[mask])
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, mask * 2.0)
    assert module.eval()(x) is x and ColumnDropout(0.0)(x) is x
    with pytest.raises(ValueError, match=r"must be at least 0 and less than 1, got 1\.0"):
        ColumnDropout(1.0)
    assert ColumnDropout(0.5, columns=4)(x.double()).dtype == torch.float64
