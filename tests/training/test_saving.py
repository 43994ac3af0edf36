"""Copies, files and what shows of a SievedLSTM; and the way back to torch.nn.LSTM."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradsieve.fpga.device import Device
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.training.backends import DeviceBackend, FloatBackend, GoldenBackend
from gradsieve.training.deployment import without_sieves
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import DenseSieve, ElementSieve, GradientSieve, RowSieve, StochasticSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout
from tests.training.pairs import COARSE, PATHS, I, pair


@pytest.mark.parametrize("path", PATHS)
def test_copies_pickles_and_moves(path: str) -> None:
    torch.manual_seed(0)
    theirs, ours = pair(path, double=False, num_layers=2)
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    x = torch.randn(4, 3, I)
    for other in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(buffer, weights_only=False),
    ):
        torch.testing.assert_close(other(x), ours(x), rtol=0, atol=0)
        other(x)[0].sum().backward()
        assert all(p.grad is not None for p in other.parameters()) and other.weight_ih_l0 is not ours.weight_ih_l0
        assert len(other.take_statistics()) == 2 and ours.take_statistics() == []
        with torch.no_grad():
            next(other.parameters()).zero_()
    for dtype in (torch.float64, torch.bfloat16):
        theirs.to(dtype), ours.to(dtype)
        y, state = ours(x.to(dtype))
        assert y.dtype == state[0].dtype == state[1].dtype == dtype
        torch.testing.assert_close(y, theirs(x.to(dtype))[0], **(COARSE if dtype == torch.bfloat16 else {}))
        y.sum().backward()


def steps(lstm: nn.LSTM, count: int, batch: int = 8) -> None:
    """Training steps, gradients thrown away."""
    for step in range(count):
        torch.manual_seed(step)
        lstm(torch.randn(6, batch, lstm.input_size))[0].pow(2).sum().backward()


def saved(module: nn.Module) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return buffer.getvalue()


MODULES = {
    "dense": lambda: SievedLSTM(5, 6),
    "row": lambda: SievedLSTM(5, 6, 2, bidirectional=True, sieve=RowSieve(target=0.3)),
    "element": lambda: SievedLSTM(5, 6, sieve=ElementSieve(tau=0.1), backend=FloatBackend(lanes=2, columns=4)),
    "stochastic": lambda: SievedLSTM(5, 6, sieve=StochasticSieve(target=0.3), seed=7),
    "golden": lambda: SievedLSTM(5, 6, sieve=RowSieve(target=0.3), backend=GoldenBackend(lanes=2, columns=8)),
    "golden config": lambda: SievedLSTM(5, 6, sieve=RowSieve(tau=0.1), backend=GoldenBackend(preset("tiny"))),
    "faster": lambda: SievedLSTM(5, 6, backend=FloatBackend(dense_where_faster=True)),
    "dropout": lambda: SievedLSTM(5, 6, column_dropout=StructuredDropout(0.5, 0.25, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_file_loads_with_one_allowed_name_and_goes_on(name: str) -> None:
    """As a saved nn.LSTM, which needs just its own class allowed."""
    lstm = MODULES[name]()
    if name == "dense":
        lstm.weight_masks = WeightMasks(2, {"weight_ih_l0": torch.rand(24, 3) < 0.5})
        lstm.sieve = RowSieve(tau=0.01)
    steps(lstm, 3, batch=4)
    content = saved(lstm)
    with pytest.raises(pickle.UnpicklingError, match="SievedLSTM"):
        torch.load(io.BytesIO(content))
    with torch.serialization.safe_globals([SievedLSTM]):
        loaded = torch.load(io.BytesIO(content))
    assert repr(loaded) == repr(lstm) and loaded.sieve == lstm.sieve
    for module in (lstm, loaded):
        module.zero_grad()
        module.take_statistics()
        steps(module, 4, batch=4)
    for (key, a), b in zip(lstm.named_parameters(), loaded.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.equal(a.grad, b.grad), key
    for a, b in zip(lstm.take_statistics(), loaded.take_statistics(), strict=True):
        assert (a.tau, a.elements, a.kept_rows, a.scale) == (b.tau, b.elements, b.kept_rows, b.scale)


def test_a_file_does_not_grow_with_training() -> None:
    lstm = SievedLSTM(16, 32, sieve=RowSieve(target=0.3), backend=FloatBackend(lanes=4))
    before = len(saved(lstm))
    assert before < len(saved(nn.LSTM(16, 32))) + 20_000
    steps(lstm, 30)
    assert abs(len(saved(lstm)) - before) < 1_000
    assert copy.deepcopy(lstm).take_statistics() == [] and len(lstm.take_statistics()) == 30


def test_a_device_is_shared_by_copies_and_not_saved(devices: Callable[[EngineConfig], Device]) -> None:
    lstm = SievedLSTM(5, 6, sieve=RowSieve(target=0.3), backend=DeviceBackend(devices(preset("tiny"))))
    other = copy.deepcopy(lstm)
    assert other.backend is lstm.backend and other.sieve == lstm.sieve
    with pytest.raises(TypeError, match="a module with a DeviceBackend cannot be saved whole"):
        saved(lstm)


@pytest.mark.parametrize(
    ("lstm", "shown"),
    [
        (SievedLSTM(3, 4), "SievedLSTM(3, 4, sieve=DenseSieve(), backend=FloatBackend(lanes=None, columns=16))"),
        (
            SievedLSTM(3, 4, 2, bidirectional=True, sieve=RowSieve(target=0.2), backend=FloatBackend(lanes=4)),
            "SievedLSTM(3, 4, num_layers=2, bidirectional=True, sieve=RowSieve(target=0.2), "
            "backend=FloatBackend(lanes=4, columns=16))",
        ),
        (
            SievedLSTM(3, 4, sieve=ElementSieve(tau=0.5), backend=GoldenBackend(preset("tiny"))),
            "SievedLSTM(3, 4, sieve=ElementSieve(tau=0.5), backend=GoldenBackend(config='tiny'))",
        ),
        (
            SievedLSTM(3, 4, backend=GoldenBackend(), column_dropout=StructuredDropout(0.5, columns=2)),
            "SievedLSTM(3, 4, sieve=DenseSieve(), backend=GoldenBackend(lanes=4, columns=16), "
            "column_dropout=StructuredDropout(input=0.5, hidden=0.0, columns=2))",
        ),
    ],
)
def test_print_shows_sieve_and_backend(lstm: SievedLSTM, shown: str) -> None:
    assert repr(lstm) == shown


def test_device_backend_shows_its_engine(devices: Callable[[EngineConfig], Device]) -> None:
    assert repr(DeviceBackend(devices(preset("tiny")))) == "DeviceBackend('tiny')"


# back to torch.nn.LSTM


@pytest.mark.parametrize("sieve", [DenseSieve(), RowSieve(target=0.2)])
def test_the_way_back_computes_the_same(sieve: GradientSieve) -> None:
    lstm = SievedLSTM(5, 6, 2, batch_first=True, bidirectional=True, dropout=0.5, sieve=sieve).double().eval()
    plain = lstm.to_lstm()
    assert type(plain) is nn.LSTM and not plain.training
    x = torch.randn(3, 4, 5).double()
    torch.testing.assert_close(plain(x), lstm(x))
    assert torch.equal(plain.weight_ih_l0, lstm.weight_ih_l0) and plain.weight_ih_l0 is not lstm.weight_ih_l0


def test_the_way_back_of_parametrized_weights() -> None:
    lstm = nn.utils.parametrizations.weight_norm(SievedLSTM(5, 6, sieve=RowSieve(target=0.3)), "weight_hh_l0").eval()
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(lstm.to_lstm()(x), lstm(x))


def test_masks_are_zeros_in_the_way_back() -> None:
    lstm, x = SievedLSTM(5, 6, 2).eval(), torch.randn(4, 3, 5)
    lstm.weight_masks = WeightMasks(
        2, {"weight_ih_l0": torch.rand(24, 3) < 0.5, "weight_hh_l1": torch.rand(24, 3) < 0.5}
    )
    torch.testing.assert_close(lstm.to_lstm()(x), lstm(x))
    assert int((lstm.to_lstm().weight_ih_l0 == 0).sum()) > 20
    lstm.weight_masks, lstm.unit_masks = None, [torch.arange(6) < 4, torch.arange(6) % 2 == 0]
    torch.testing.assert_close(lstm.to_lstm()(x), lstm(x))


class Outputs(nn.Module):
    """What TorchScript needs: a forward of one signature."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def test_a_model_without_sieves_can_be_quantised_and_scripted() -> None:
    """What knows PyTorch's own modules only passes over a SievedLSTM; TorchScript is refused with the way out."""
    model = nn.ModuleDict({"a": SievedLSTM(5, 6, sieve=RowSieve(target=0.2)), "b": nn.Linear(6, 2)})
    model["again"] = model["a"]
    plain = without_sieves(model)
    assert type(plain["a"]) is nn.LSTM and plain["again"] is plain["a"] and type(model["a"]) is SievedLSTM
    assert torch.equal(plain["b"].weight, model["b"].weight) and plain["b"] is not model["b"]
    assert type(without_sieves(model["a"])) is nn.LSTM
    quantised = torch.ao.quantization.quantize_dynamic(plain, {nn.LSTM, nn.Linear})
    x = torch.randn(4, 3, 5)
    assert type(quantised["a"]) is not nn.LSTM
    torch.testing.assert_close(quantised["a"](x)[0], model["a"](x)[0], **COARSE)
    with pytest.raises(RuntimeError, match=r"cannot be compiled by torch.jit.script: .* to_lstm\(\)"):
        torch.jit.script(Outputs(model["a"]))
    torch.testing.assert_close(torch.jit.script(Outputs(plain["a"]))(x), model["a"](x)[0])


@pytest.mark.parametrize("sieve", [DenseSieve(), RowSieve(target=0.3)])
def test_parametrized_modules_copy(sieve: GradientSieve) -> None:
    """PyTorch copies the attributes of a parametrized module one by one, without asking it."""
    lstm = nn.utils.parametrizations.weight_norm(SievedLSTM(5, 6, sieve=sieve), "weight_hh_l0")
    other, x = copy.deepcopy(lstm), torch.randn(4, 3, 5)
    torch.testing.assert_close(other(x), lstm(x))
    other(x)[0].sum().backward()
    assert other.states[0].lock is not lstm.states[0].lock and lstm.take_statistics() == []


def test_replicas_without_parameters() -> None:
    """As `torch.nn.DataParallel` makes them."""
    lstm, x = SievedLSTM(5, 6, sieve=RowSieve(tau=0.0)), torch.randn(4, 3, 5)
    replica = lstm._replicate_for_data_parallel()
    for name, weight in lstm.named_parameters():
        setattr(replica, name, weight * 1.0)
    torch.testing.assert_close(replica(x), lstm(x))


def test_meta_gives_shapes() -> None:
    y, (h, c) = SievedLSTM(5, 6, sieve=RowSieve(tau=0.0), device="meta")(torch.randn(4, 3, 5, device="meta"))
    assert (y.shape, h.shape, c.shape) == ((4, 3, 6), (1, 3, 6), (1, 3, 6))


def test_inference_before_training() -> None:
    lstm, x = SievedLSTM(5, 6), torch.randn(4, 3, 5)
    lstm.weight_masks = WeightMasks(2, {"weight_hh_l0": torch.rand(24, 3) < 0.5})
    with torch.inference_mode():
        first = lstm(x)[0].clone()
        made_inside = torch.rand(24, 3) < 0.5
    y = lstm(x)[0]
    y.sum().backward()
    torch.testing.assert_close(y, first)
    lstm.weight_masks = WeightMasks(2, {"weight_hh_l0": made_inside})
    lstm(x)[0].sum().backward()


class WithHead(SievedLSTM):
    """A subclass with a forward pass of its own."""

    def forward(self, input: torch.Tensor, hx: object = None) -> torch.Tensor:  # type: ignore[override]
        return super().forward(input)[0]


def test_what_cannot_be_or_has_no_meaning_is_refused_where_it_is_set() -> None:
    with pytest.raises(TypeError, match="module must have the forward pass of SievedLSTM, got WithHead with its own"):
        without_sieves(nn.Sequential(WithHead(5, 6)))
    lstm = SievedLSTM(5, 6)
    for wrong in ("golden", None, GoldenBackend):
        with pytest.raises(TypeError, match=r"backend must be a backend such as FloatBackend\(\), got"):
            lstm.backend = wrong  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"column_dropout must be a StructuredDropout or None, got 0\.5"):
        lstm.column_dropout = 0.5  # type: ignore[assignment]
