"""The integer backends: the golden model behind `SievedLSTM`, and a device that gives the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradsieve.fpga.device import Device
from gradsieve.golden.backward import backward
from gradsieve.golden.quantize import dequantize, quantize_tape, quantize_weights
from gradsieve.golden.types import Masks, Sieve, SieveMode, Tape
from gradsieve.hw.config import ConfigError, EngineConfig, make
from gradsieve.training.backends import Backend, DeviceBackend, FloatBackend, GoldenBackend
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

Devices = Callable[[EngineConfig], Device]

SMALL = make("test", name="small", R=4, C=2, max_H=12, max_I=12, max_B=6, max_T=8)
SIEVES: list[GradientSieve] = [
    DenseSieve(),
    ElementSieve(target=0.3),
    RowSieve(target=0.4),
    RowSieve(tau=1e-3),
    StochasticSieve(target=0.3),
]


def model(backend: Backend, **more: Any) -> SievedLSTM:
    """An LSTM of I = 9 and H = 10 with weights that do not depend on the backend."""
    torch.manual_seed(3)
    return SievedLSTM(9, 10, backend=backend, **more)


def gradients(lstm: SievedLSTM, steps: int = 7, batch: int = 5) -> list[Tensor]:
    """Gradients of a loss that uses y, h and c."""
    torch.manual_seed(4)
    x = (0.7 * torch.randn(steps, batch, lstm.input_size)).requires_grad_()
    lstm.zero_grad()
    y, (h, c) = lstm(x)
    (torch.sin(y * torch.arange(y.numel()).view(y.shape)).mean() + 0.1 * (h * h).mean() + 0.1 * c.mean()).backward()
    return [_grad(x), *(_grad(p) for p in lstm.parameters())]


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.clone()


@pytest.mark.parametrize("sieve", SIEVES, ids=lambda s: f"{s.mode.name}-{s.tau}")
def test_golden_backend_is_the_golden_model_between_quantisation_and_scaling(sieve: GradientSieve) -> None:
    caught: list[tuple[Any, ...]] = []

    class Watched(GoldenBackend):
        def run(self, *arguments: Any) -> Any:
            caught.append(arguments)
            return super().run(*arguments)

    lstm = model(Watched(SMALL), sieve=sieve)
    found = gradients(lstm)
    ((config, weights, tape, registers, masks),) = caught
    (statistics,) = lstm.take_statistics()
    scale = statistics.scale
    assert scale is not None
    assert scale == 2 ** round(torch.log2(torch.tensor(scale)).item())
    # The tape again, from PyTorch's cell: the layer's own forward pass is not trusted.
    cell = nn.LSTMCell(9, 10)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
    torch.manual_seed(4)
    x = 0.7 * torch.randn(7, 5, 9)
    h = c = torch.zeros(5, 10)
    steps = []
    for x_t in x:
        z = x_t @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh
        i, f, g, o = z.chunk(4, dim=1)
        before = h, c
        h, c = cell(x_t, (h, c))
        steps.append((before[0], i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid(), c.tanh(), before[1]))
    names = ("h_prev", "i", "f", "g", "o", "tanh_c", "c_prev")
    forward = {n: torch.stack(v).detach() for n, v in zip(names, zip(*steps, strict=True), strict=True)}
    zeros = torch.zeros(7, 5, 10)
    expected, _ = quantize_tape(config, Tape(x=x, dy=zeros, dh=zeros[0], dc=zeros[0], **forward))
    for name in ("x", *names):
        # Two float32 evaluations may round to neighbouring integers.
        assert int((getattr(tape, name) - getattr(expected, name)).abs().max()) <= 1, name
    assert registers.mode == sieve.mode
    integers = backward(config, weights, tape, registers, masks)
    real = dequantize(config, integers, scale)
    for ours, theirs in zip(found, (real.dx, real.dw_ih, real.dw_hh, real.db, real.db), strict=True):
        assert torch.equal(ours, theirs.float())
    ih, hh = (p.detach() for p in (lstm.weight_ih_l0, lstm.weight_hh_l0))
    golden_weights, _ = quantize_weights(config, ih, hh)
    assert torch.equal(weights.w_ih, golden_weights.w_ih)
    assert torch.equal(weights.w_hh, golden_weights.w_hh)
    assert torch.equal(statistics.rows, integers.rows_kept)  # type: ignore[arg-type]
    assert statistics.saturations == integers.saturations


def test_golden_is_near_the_float_backend() -> None:
    golden, float_ = (gradients(model(e)) for e in (GoldenBackend(SMALL), FloatBackend()))
    for a, b in zip(golden, float_, strict=True):
        # An LSB of the gradients is 2^-12 of a range of 8, of which the largest gradient takes an eighth or more: its
        # rounding and those of some ten factors before it stay well below a hundredth of the whole.
        assert (a - b).norm() <= 0.01 * b.norm()


def test_golden_is_near_the_float_backend_with_dropout_of_x_and_h() -> None:
    dropout = StructuredDropout(input=0.5, hidden=0.5, columns=SMALL.R)
    golden, float_ = (gradients(model(e, column_dropout=dropout)) for e in (GoldenBackend(SMALL), FloatBackend()))
    for a, b in zip(golden, float_, strict=True):
        # Both draw the same tiles.  The bound as without dropout, twice for the scale of 2 of x and h.
        assert (a - b).norm() <= 0.02 * b.norm()


def test_random_words_go_on_from_pass_to_pass() -> None:
    caught: list[tuple[int, int]] = []

    class Watched(GoldenBackend):
        def run(self, config: Any, weights: Any, tape: Any, sieve: Sieve, masks: Any) -> Any:
            result = super().run(config, weights, tape, sieve, masks)
            caught.append((sieve.random, result[0].random))
            return result

    lstm = model(Watched(SMALL), sieve=StochasticSieve(target=0.3))
    for _ in range(3):
        gradients(lstm)
    assert [before for before, _ in caught[1:]] == [after for _, after in caught[:-1]]
    assert len({before for before, _ in caught}) == 3


@pytest.mark.parametrize("sieve", SIEVES, ids=lambda s: f"{s.mode.name}-{s.tau}")
def test_device_gives_the_bits_of_golden(sieve: GradientSieve, devices: Devices) -> None:
    dropout = StructuredDropout(input=0.4, hidden=0.3, columns=SMALL.R)
    masks = WeightMasks(SMALL.R, {"weight_hh_l0": torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.6})
    runs = []
    for backend in (GoldenBackend(SMALL), DeviceBackend(devices(SMALL))):
        lstm = model(backend, sieve=sieve, column_dropout=dropout)
        lstm.weight_masks = masks
        runs.append([gradients(lstm), gradients(lstm), lstm.take_statistics(), lstm.sieve_state_dict()])
    for a, b in zip(runs[0][0] + runs[0][1], runs[1][0] + runs[1][1], strict=True):
        assert torch.equal(a, b)
    assert [s.macs for s in runs[0][2]] == [s.macs for s in runs[1][2]]
    assert all(s.cycles is None for s in runs[0][2])
    assert all(s.cycles > 0 for s in runs[1][2])
    states = [{k: v for k, v in r[3]["l0"].items() if k != "generator"} for r in runs]
    assert states[0] == states[1]


def test_integer_backends_take_packed_sequences_in_stretches(devices: Devices) -> None:
    lengths = (6, 6, 3, 1)
    results = []
    for backend in (GoldenBackend(SMALL), DeviceBackend(devices(SMALL)), FloatBackend()):
        lstm = model(backend)
        torch.manual_seed(5)
        xs = [torch.randn(n, 9).requires_grad_() for n in lengths]
        y, (h, _) = lstm(pack_sequence(xs))
        ((y.data**2).mean() + h.mean()).backward()
        results.append([_grad(v) for v in (*xs, *lstm.parameters())])
        if backend.name != "float":
            assert [(s.B, s.T) for s in lstm.take_statistics()] == [(2, 3), (3, 2), (4, 1)]
    for golden, device, float_ in zip(*results, strict=True):
        assert torch.equal(golden, device)
        assert (golden - float_).norm() <= 0.02 * float_.norm()


def test_fifty_training_steps_on_the_device_equal_golden_in_every_weight(devices: Devices) -> None:
    weights = []
    for backend in (GoldenBackend(SMALL), DeviceBackend(devices(SMALL))):
        lstm = model(backend, sieve=StochasticSieve(target=0.4))
        head = nn.Linear(10, 3)
        optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=0.01)
        state = None
        torch.manual_seed(6)
        for step in range(50):
            x = torch.randn(8, 6, 9)
            lstm.sieve = (DenseSieve(), StochasticSieve(target=0.4), RowSieve(target=0.3))[step % 3]
            y, state = lstm(x, state)
            state = tuple(s.detach() for s in state)
            loss = nn.functional.cross_entropy(head(y).flatten(0, 1), x[:, :, :3].argmax(dim=2).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append([p.detach().clone() for p in (*lstm.parameters(), *head.parameters())])
    for a, b in zip(*weights, strict=True):
        assert torch.equal(a, b)


def test_thresholds_of_the_register_stay_in_its_range() -> None:
    for tau, expected in ((0.0, 1), (1e9, (1 << 16) - 1)):
        caught: list[Sieve] = []

        class Watched(GoldenBackend):
            def run(self, config: Any, weights: Any, tape: Any, sieve: Sieve, masks: Any) -> Any:
                caught.append(sieve)  # noqa: B023
                return super().run(config, weights, tape, sieve, masks)

        gradients(model(Watched(SMALL), sieve=RowSieve(tau=tau)))
        assert caught[0].tau == expected
        assert caught[0].mode == SieveMode.ROW


def test_loss_scale_follows_the_gradients_and_is_reported() -> None:
    lstm = model(GoldenBackend(SMALL))
    scales = []
    for factor in (1.0, 2.0**-10, 2.0**20):
        lstm.states[0].loss_scale.largest = 0.0
        x = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(1))
        y, _ = lstm(x)
        (factor * y.mean()).backward()
        scales.append(lstm.take_statistics()[0].scale)
    assert scales == [scales[0], scales[0] * 2**10, scales[0] / 2**20]  # type: ignore[operator]
    # A gradient that leaves the range says so, and the next pass has more room.
    state = lstm.states[0].loss_scale
    state.largest, state.headroom = 0.0, -6
    lstm.zero_grad()
    lstm(torch.randn(4, 3, 9))[0].sum().backward()
    (statistics,) = lstm.take_statistics()
    assert statistics.saturations is not None
    assert statistics.quantized is not None
    assert statistics.quantized["dy"] + statistics.saturations.gate > 0
    assert state.headroom == -5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tape_that_is_not_finite_is_refused_and_spoils_nothing(value: float) -> None:
    lstm = model(GoldenBackend(SMALL), sieve=RowSieve(target=0.4))
    gradients(lstm)
    before = lstm.sieve_state_dict()["l0"]
    y, _ = lstm(torch.randn(4, 3, 9))
    with pytest.raises(ValueError, match=r"tape\.dy must be finite, got (nan|inf) \(values that are not finite: 12\)"):
        (y[:, :, 0] * value).sum().backward()
    with pytest.raises(ValueError, match=r"tape\.\w+ must be finite, got nan"):
        lstm(torch.full((4, 3, 9), float("nan")))[0].sum().backward()
    after = lstm.sieve_state_dict()["l0"]
    assert {k: v for k, v in after.items() if k != "generator"} == {k: v for k, v in before.items() if k != "generator"}


def test_what_the_engine_cannot_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"B must be from 1 to 6, got 7"):
        gradients(model(GoldenBackend(SMALL)), batch=7)
    lstm = model(GoldenBackend(SMALL), column_dropout=StructuredDropout(input=0.5, columns=16))
    with pytest.raises(ConfigError, match="must be R = 4 columns wide for engine 'small', got 16"):
        gradients(lstm)
    lstm = model(GoldenBackend(SMALL))
    lstm.weight_masks = WeightMasks(1, {"weight_hh_l0": torch.ones(40, 10, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="must be R = 4 columns wide for engine 'small', got 1"):
        gradients(lstm)


def test_masks_reach_the_engine_as_one_product() -> None:
    caught: list[Masks] = []

    class Watched(GoldenBackend):
        def run(self, config: Any, weights: Any, tape: Any, sieve: Any, masks: Masks) -> Any:
            caught.append(masks)
            return super().run(config, weights, tape, sieve, masks)

    lstm = model(Watched(SMALL), column_dropout=StructuredDropout(input=0.5, columns=4))
    block = torch.rand(40, 3) < 0.5
    lstm.weight_masks = WeightMasks(4, {"weight_ih_l0": block})
    gradients(lstm)
    (masks,) = caught
    assert masks.block is not None
    assert masks.column is not None
    assert torch.equal(masks.block, torch.cat([block, torch.ones(40, 3, dtype=torch.bool)], dim=1))
    assert bool(masks.column[:, 3:].all())
    assert not bool(masks.column[:, :3].all())
