"""Forward passes on the backend: the golden model's integers, to the last bit, whatever drops work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from gradsieve.golden.backward import backward
from gradsieve.golden.forward import forward
from gradsieve.golden.quantize import dequantize, quantize, quantize_inputs, quantize_weights
from gradsieve.golden.types import Masks, Outputs, Sieve, Tape
from gradsieve.hw.config import ConfigError
from gradsieve.training.backends import DeviceBackend, FloatBackend, GoldenBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.structured_dropout import StructuredDropout
from tests.training.test_backends import SMALL, Devices, gradients, model

INPUT, CELL = SMALL.formats.input.scale, SMALL.formats.cell.scale


class Watched(GoldenBackend):
    """Keeps what its integer backward pass was given."""

    def __init__(self) -> None:
        super().__init__(SMALL)
        self.given: list[tuple[Any, ...]] = []

    def run(self, *arguments: Any) -> Any:
        self.given.append(arguments)
        return super().run(*arguments)


def integers(lstm: SievedLSTM, x: Tensor, masks: Masks, h_scale: float = 1.0, **state: Tensor) -> Outputs:
    """Golden's outputs for a layer of one direction, quantised here."""
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in lstm.parameters())
    weights, _ = quantize_weights(SMALL, w_ih, w_hh * h_scale, b_ih + b_hh)
    inputs, _ = quantize_inputs(SMALL, x, **state)
    return forward(SMALL, weights, inputs, masks)


def draw(steps: int = 7, batch: int = 5) -> Tensor:
    torch.manual_seed(11)
    return 0.7 * torch.randn(steps, batch, 9)


def equals(found: Tensor, expected: Tensor, scale: int) -> bool:
    """Whether floats stand for exactly these integers."""
    return torch.equal(found.detach().double() * scale, expected.double())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_outputs_are_the_golden_model_s_in_every_mode(training: bool, grad: bool) -> None:
    lstm = model(GoldenBackend(SMALL), forward="backend").train(training)
    x, state = draw(), tuple(0.5 * torch.randn(1, 5, 10) for _ in range(2))
    with torch.set_grad_enabled(grad):
        y, (h, c) = lstm(x, state)
    expected = integers(lstm, x, Masks(), h0=state[0][0], c0=state[1][0])
    assert equals(y, expected.y, INPUT) and equals(h[0], expected.y[-1], INPUT) and equals(c[0], expected.c_n, CELL)


def test_the_backward_pass_gets_the_tape_of_the_integers_and_gives_their_gradients() -> None:
    backend = Watched()
    lstm = model(backend, forward="backend")
    x = draw().requires_grad_()
    y, _ = lstm(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    ((config, weights, tape, _, _),) = backend.given
    expected = integers(lstm, x.detach(), Masks())
    (statistics,) = lstm.take_statistics()
    assert statistics.scale is not None and statistics.forward is not None
    quantised, _ = quantize(dy.double() * statistics.scale, config.formats.gradient)
    of_golden = expected.tape(quantize_inputs(SMALL, x.detach())[0].x, quantised)
    for name in Tape.__dataclass_fields__:
        assert torch.equal(getattr(tape, name), getattr(of_golden, name)), name
    real = dequantize(config, backward(config, weights, of_golden, Sieve()), statistics.scale)
    assert x.grad is not None and torch.equal(x.grad.double(), real.dx)
    assert statistics.forward.saturations == expected.saturations


def test_structured_dropout_and_blocks_are_dropped_there_too() -> None:
    lstm = model(GoldenBackend(SMALL), forward="backend", column_dropout=StructuredDropout(0.5, 0.5, columns=4))
    block = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.6  # three tiles of x and of h each
    lstm.weight_masks = WeightMasks(4, {"weight_ih_l0": block[:, :3], "weight_hh_l0": block[:, 3:]})
    x = draw()
    torch.manual_seed(5)
    y, _ = lstm(x)
    torch.manual_seed(5)
    assert lstm.column_dropout is not None
    columns = lstm.column_dropout.draw(7, 9, 10)
    masks = Masks(block=block, column=columns.tiles())
    assert not bool(masks.column.all())  # type: ignore[union-attr]
    expected = integers(lstm, x * columns.x_scale, masks, columns.h_scale)
    assert equals(y, expected.y, INPUT)
    y.sum().backward()
    (statistics,) = lstm.take_statistics()
    assert statistics.forward_macs == expected.macs < 7 * 5 * 40 * 19


def test_layers_directions_and_packed_sequences_go_on_where_they_were() -> None:
    lstm = SievedLSTM(9, 10, 2, bidirectional=True, backend=GoldenBackend(), forward="backend")
    x = draw()
    whole, (h, c) = lstm(x)
    assert equals(whole, (whole.double() * INPUT).round(), INPUT)
    packed, (packed_h, packed_c) = lstm(pack_sequence([x[:, b] for b in range(5)]))
    assert torch.equal(packed.data.view(7, 5, -1), whole)
    assert torch.equal(packed_h, h) and torch.equal(packed_c, c)
    one = model(GoldenBackend(SMALL), forward="backend")
    first, state = one(x[:3])
    second, _ = one(x[3:], state)
    assert torch.equal(torch.cat([first, second]), one(x)[0])


def test_the_float_backend_s_forward_pass_is_float() -> None:
    found, expected = (gradients(model(FloatBackend(lanes=2), forward=place)) for place in ("backend", "float"))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_golden_s_is_near_to_float_s_and_float_is_the_default() -> None:
    x = draw()
    floats, by_golden = model(GoldenBackend(SMALL)), model(GoldenBackend(SMALL), forward="backend")
    reference = torch.nn.LSTM(9, 10)
    reference.load_state_dict(floats.state_dict())
    with torch.no_grad():
        expected = reference(x)[0]
        assert torch.equal(floats(x)[0], expected)
        error = (by_golden(x)[0] - expected).abs().max().item()
    # a few of the coarsest last bits: those of the cell, 2^-11, and of the preactivation, 2^-11
    assert 0 < error < 8 / 2048


def test_what_does_not_fit_is_counted() -> None:
    lstm = model(GoldenBackend(SMALL), forward="backend")
    with torch.no_grad():
        lstm.bias_ih_l0[:10] = 9.0  # input gates; 16.13 reaches 4
        lstm.bias_ih_l0[20:30] = 3.5
    x = draw()
    x[0, 0, 0] = 5.0
    lstm(x)[0].sum().backward()
    (statistics,) = lstm.take_statistics()
    assert statistics.forward is not None
    assert statistics.forward.quantized == {"x": 1, "h0": 0, "c0": 0, "w_ih": 0, "w_hh": 0, "bias": 10}


def test_no_bias_is_a_bias_of_zeros() -> None:
    torch.manual_seed(3)
    lstm = SievedLSTM(9, 10, bias=False, backend=GoldenBackend(SMALL), forward="backend")
    x = draw()
    weights, _ = quantize_weights(SMALL, *(p.detach() for p in lstm.parameters()), torch.zeros(40))
    assert equals(lstm(x)[0], forward(SMALL, weights, quantize_inputs(SMALL, x)[0]).y, INPUT)


def test_a_copy_keeps_it_and_shows_it() -> None:
    lstm = model(GoldenBackend(SMALL), forward="backend")
    assert "forward='backend'" in repr(lstm) and "forward" not in repr(model(GoldenBackend(SMALL)))
    copied = copy.deepcopy(lstm)
    assert copied.forward_on == "backend"
    assert torch.equal(copied(draw())[0], lstm(draw())[0])
    lstm.forward_on = "float"
    assert not torch.equal(copied(draw())[0], lstm(draw())[0])


def test_what_is_refused(devices: Devices) -> None:
    with pytest.raises(ValueError, match="forward must be 'float' or 'backend', got 'golden'"):
        SievedLSTM(9, 10, forward="golden")
    lstm = model(GoldenBackend(SMALL), forward="backend")
    lstm.column_dropout = StructuredDropout(0.5, 0.0, columns=16)
    with pytest.raises(ConfigError, match=r"tiles of the structured dropout must be R = 4 columns wide .*, got 16"):
        lstm(draw())
    lstm.column_dropout = None
    with pytest.raises(ConfigError, match="T must be from 1 to 8, got 9"):
        lstm(draw(steps=9))
    lstm.backend = DeviceBackend(devices(SMALL))
    with pytest.raises(ConfigError, match=r"forward must be 'float' with a DeviceBackend .*'small'"):
        lstm(draw())
