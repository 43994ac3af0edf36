"""SievedLSTM on the inputs that PyTorch's own module tests have for torch.nn.LSTM.

The checks are this project's statement of those in PyTorch's test/test_modules.py; inputs with projections are left
out, as projections are refused.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleInput, module_db

from gradsieve.training.backends import FloatBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import RowSieve

(INFO,) = (info for info in module_db if info.module_cls is nn.LSTM)
Made = Callable[[ModuleInput], SievedLSTM]


def plain(given: ModuleInput, **more: Any) -> SievedLSTM:
    """The layer as it is without a sieve: PyTorch's own passes."""
    return SievedLSTM(*given.constructor_input.args, **given.constructor_input.kwargs | more)


def keeps_all(given: ModuleInput, **more: Any) -> SievedLSTM:
    """A sieve that keeps every row that is not zero: passes of ours."""
    lstm = plain(given, **more)
    lstm.sieve, lstm.backend = RowSieve(tau=0.0), FloatBackend(lanes=2)
    return lstm


def inputs(dtype: torch.dtype = torch.float64, training: bool = True) -> list[ModuleInput]:
    given = INFO.module_inputs_func(INFO, device="cpu", dtype=dtype, requires_grad=True, training=training)
    return [i for i in given if not i.constructor_input.kwargs.get("proj_size")]


CASES = [pytest.param(n, made, id=f"{n}-{made.__name__}") for n in range(len(inputs())) for made in (plain, keeps_all)]


def test_there_are_inputs_of_every_kind() -> None:
    kinds = [i.constructor_input.kwargs for i in inputs()]
    for name in ("bias", "bidirectional", "batch_first"):
        assert {bool(k.get(name)) for k in kinds} == {False, True}
    assert {k["num_layers"] for k in kinds} == {2}


def test_projections_are_refused() -> None:
    given = INFO.module_inputs_func(INFO, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    projecting = [i for i in given if i.constructor_input.kwargs.get("proj_size")]
    assert projecting
    for i in projecting:
        with pytest.raises(ValueError, match=r"proj_size must be 0 \(the engine has no projection\)"):
            SievedLSTM(*i.constructor_input.args, **i.constructor_input.kwargs, dtype=torch.float64)


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        value = value.data
    return [value] if isinstance(value, Tensor) else [t for part in value for t in tensors(part)]


def twins(n: int, made: Made, dtype: torch.dtype = torch.float64) -> tuple[nn.LSTM, SievedLSTM, ModuleInput]:
    """PyTorch's layer and ours with the same weights, and the input."""
    torch.manual_seed(n)
    given = inputs(dtype)[n]
    ours = made(given, dtype=dtype)  # type: ignore[call-arg]
    theirs = nn.LSTM(*given.constructor_input.args, **given.constructor_input.kwargs, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours, given


def call(module: nn.Module, given: ModuleInput) -> Any:
    return module(*given.forward_input.args, **given.forward_input.kwargs)


@pytest.mark.parametrize(("n", "made"), CASES)
def test_forward_and_gradients(n: int, made: Made) -> None:
    theirs, ours, given = twins(n, made)
    found = []
    leaves = [t for t in tensors([*given.forward_input.args, *given.forward_input.kwargs.values()]) if t.requires_grad]
    for module in (theirs, ours):
        outputs = tensors(call(module, given))
        loss = sum((o.sin() * (k + 1)).sum() for k, o in enumerate(outputs))
        assert isinstance(loss, Tensor)
        found.append((outputs, torch.autograd.grad(loss, [*leaves, *module.parameters()])))
    torch.testing.assert_close(found[1], found[0])
    kept = ours.take_statistics()
    assert kept and all((s.rows is None) == (made is plain) for s in kept)


@pytest.mark.parametrize(("n", "made"), CASES)
def test_gradcheck(n: int, made: Made) -> None:
    _, ours, given = twins(n, made)
    arguments = tensors([*given.forward_input.args, *given.forward_input.kwargs.values()])
    if any(isinstance(a, PackedSequence) for a in given.forward_input.args):
        pytest.fail("an input that this check does not know")

    def flat(*values: Tensor) -> tuple[Tensor, ...]:
        x, *state = values[: len(arguments)]
        return tuple(tensors(ours(x, tuple(state)) if state else ours(x)))

    leaves = [a.detach().requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(flat, (*leaves, *ours.parameters()), fast_mode=True, check_batched_grad=False)


@pytest.mark.parametrize(("n", "made"), CASES)
def test_pickle_copy_save_and_load(n: int, made: Made) -> None:
    _, ours, given = twins(n, made)
    expected = tensors(call(ours, given))
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    with torch.serialization.safe_globals([SievedLSTM]):
        loaded = torch.load(buffer)
    fresh = made(given, dtype=torch.float64)  # type: ignore[call-arg]
    fresh.load_state_dict(ours.state_dict())
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), loaded, fresh):
        torch.testing.assert_close(tensors(call(other, given)), expected, rtol=0, atol=0)
        assert repr(other) == repr(ours)


@pytest.mark.parametrize(("n", "made"), CASES)
def test_repr_begins_as_pytorch_s(n: int, made: Made) -> None:
    theirs, ours, _ = twins(n, made)
    assert repr(ours).startswith(f"Sieved{repr(theirs)[:-1]}, sieve={ours.sieve!r}, ")


@pytest.mark.parametrize(("n", "made"), CASES)
def test_factory_arguments(n: int, made: Made) -> None:
    """`device` and `dtype`, PyTorch's default device, and initial values as PyTorch draws them."""
    given = inputs()[n]
    for dtype in (torch.float32, torch.float64):
        for device in ("cpu", "meta"):
            lstm = made(given, device=device, dtype=dtype)  # type: ignore[call-arg]
            assert {(p.device.type, p.dtype) for p in lstm.parameters()} == {(device, dtype)}
    with torch.device("meta"):
        assert next(made(given).parameters()).device.type == "meta"
    torch.manual_seed(5)
    ours = made(given)
    torch.manual_seed(5)
    theirs = nn.LSTM(*given.constructor_input.args, **given.constructor_input.kwargs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert next(nn.utils.skip_init(SievedLSTM, 3, 4).parameters()).device.type == "cpu"


def holed(value: Any) -> Any:
    """The same values, of which every second one in memory counts."""
    if not isinstance(value, Tensor):
        return type(value)(holed(v) for v in value)
    wide = torch.empty(*value.shape, 2, dtype=value.dtype)
    wide[..., 0] = value.detach()
    assert not wide[..., 0].is_contiguous() or value.numel() < 2
    return wide[..., 0].requires_grad_(value.requires_grad)


@pytest.mark.parametrize(("n", "made"), CASES)
def test_inputs_and_gradients_that_are_not_contiguous(n: int, made: Made) -> None:
    _, ours, given = twins(n, made)
    found = []
    for change in (lambda v: v, holed):
        arguments = [change(a) for a in given.forward_input.args]
        outputs = tensors(ours(*arguments))
        wanted = [*tensors(arguments), *ours.parameters()]
        gradients = torch.autograd.grad(outputs, wanted, [change(torch.ones_like(o)) for o in outputs])
        found.append((outputs, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
