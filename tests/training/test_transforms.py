"""What a sieved pass cannot serve is refused by name; PyTorch's own pass serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import RowSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout

X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))


def func_grad(lstm: nn.LSTM) -> Any:
    weights = {name: p.detach() for name, p in lstm.named_parameters()}
    return torch.func.grad(lambda w: torch.func.functional_call(lstm, w, (X,))[0].sum())(weights)


def batched(lstm: nn.LSTM) -> Any:
    y = lstm(X)[0]
    return torch.autograd.grad(y, list(lstm.parameters()), torch.ones(5, *y.shape), is_grads_batched=True)


def forward_mode(lstm: nn.LSTM) -> Any:
    with dual_level():
        return lstm(make_dual(X, torch.ones_like(X)))


def vmapped(lstm: nn.LSTM) -> Any:
    return torch.func.vmap(lambda x: lstm(x)[0], in_dims=1)(X)


def per_sample(lstm: nn.LSTM) -> Any:
    return call_for_per_sample_grads(lstm, batch_size=3, batch_first=True)(X)


def twice(lstm: nn.LSTM) -> Any:
    (g,) = torch.autograd.grad(lstm(X)[0].sum(), [lstm.weight_ih_l0], create_graph=True)
    return torch.autograd.grad(g.sum(), [lstm.weight_ih_l0])


def traced(lstm: nn.LSTM) -> Any:
    return torch.jit.trace(lambda x: lstm(x)[0], X)(X)


REFUSED: dict[Callable[[nn.LSTM], Any], str] = {
    func_grad: r"SievedLSTM does not support torch\.func's grad, vmap and jvp: use .* to_lstm\(\)",
    vmapped: r"SievedLSTM does not support torch\.func's grad, vmap and jvp",
    batched: r"SievedLSTM does not support batched gradients \(is_grads_batched, vmap\): use",
    forward_mode: "SievedLSTM does not support forward-mode differentiation: use",
    per_sample: r"SievedLSTM does not support per-sample gradients \(ExpandedWeight\): use",
    traced: r"SievedLSTM does not support torch\.jit\.trace: use .* to_lstm\(\)",
    twice: "SievedLSTM does not support gradients of gradients",
}


@pytest.mark.parametrize("call", REFUSED, ids=lambda c: c.__name__)
def test_refused_by_name(call: Callable[[nn.LSTM], Any]) -> None:
    lstm = SievedLSTM(4, 5, batch_first=True, sieve=RowSieve(tau=0.1))
    with pytest.raises(RuntimeError, match=REFUSED[call]):
        call(lstm)
    y = lstm(X)[0]
    y.sum().backward()  # what was refused left nothing behind
    assert lstm.weight_ih_l0.grad is not None and len(lstm.take_statistics()) >= 1


@pytest.mark.parametrize("call", REFUSED, ids=lambda c: c.__name__)
def test_what_a_dense_layer_does_is_what_torch_does(call: Callable[[nn.LSTM], Any]) -> None:
    theirs, ours = nn.LSTM(4, 5, batch_first=True), SievedLSTM(4, 5, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    try:
        expected = call(theirs)
    except Exception as error:
        with pytest.raises(type(error)):
            call(ours)
        return
    found = call(ours)
    for a, b in zip(leaves(expected), leaves(found), strict=True):
        torch.testing.assert_close(a, b)


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        value = list(value.values())
    return [value] if isinstance(value, Tensor) else [t for part in value for t in leaves(part)]


def test_exporting_a_sieved_pass_is_refused_and_of_a_dense_one_is_not() -> None:
    with pytest.raises(Exception, match=r"SievedLSTM does not support torch\.export: use"):
        torch.export.export(SievedLSTM(4, 5, sieve=RowSieve(tau=0.1)), (X,))
    lstm = SievedLSTM(4, 5).eval()
    torch.testing.assert_close(torch.export.export(lstm, (X,)).module()(X), lstm(X))


def test_structured_dropout_compiled_at_two_lengths() -> None:
    lstm = SievedLSTM(6, 8, column_dropout=StructuredDropout(0.5, 0.5, 2))
    compiled = torch.compile(lstm, backend="eager")
    for steps in (5, 7):
        x = torch.randn(steps, 3, 6)
        torch.manual_seed(1)
        expected = lstm(x)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(x)[0], expected)


def test_compiled() -> None:
    """With the eager backend of torch.compile: the layer is where its graph breaks."""
    lstm, x = SievedLSTM(4, 5, sieve=RowSieve(tau=0.01)), torch.randn(3, 2, 4)

    def loss(x: Tensor) -> Tensor:
        return (lstm(x * 2)[0] + 1).pow(2).sum()

    expected = torch.autograd.grad(loss(x), list(lstm.parameters()))
    found = torch.autograd.grad(torch.compile(loss, backend="eager")(x), list(lstm.parameters()))
    torch.testing.assert_close(found, expected)
