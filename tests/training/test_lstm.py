"""SievedLSTM against torch.nn.LSTM: outputs, states and every gradient, on PyTorch's own passes and on ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from gradsieve.training.lstm import SievedLSTM
from tests.training.pairs import PATHS, H, I, pair

LAYOUTS: list[dict[str, Any]] = [
    {"num_layers": n, "bidirectional": two, "batch_first": first, "bias": bias}
    for n, two, first, bias in itertools.product((1, 2), (False, True), (False, True), (False, True))
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaves(module: nn.LSTM, batch: int | None, hx: bool) -> tuple[Tensor, Tensor] | None:
    if not hx:
        return None
    shape = (len(module.all_weights), *(() if batch is None else (batch,)), H)
    h, c = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return h, c


def data_of(output: Any) -> Tensor:
    return output.data if isinstance(output, PackedSequence) else output


def gradients(
    module: nn.LSTM, x: Any, hx: Any, inputs: list[Tensor], parts: str = "yhc"
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs, and the gradients of `inputs` and all parameters of a loss that weighs each output at random."""
    y, (h, c) = module(x() if callable(x) else x, hx)
    outputs = [data_of(y), h, c]
    draw = torch.Generator().manual_seed(5)
    weights = [torch.randn(v.shape, generator=draw, dtype=v.dtype) for v in outputs]
    loss = sum((v * w).sum() for name, v, w in zip("yhc", outputs, weights, strict=True) if name in parts)
    wanted = [p for p in [*inputs, *module.parameters()] if p.requires_grad]
    return outputs, list(torch.autograd.grad(loss, wanted, allow_unused=True))


def assert_equal_passes(theirs: nn.LSTM, ours: SievedLSTM, x: Any, hx: Any, inputs: list[Tensor], **how: Any) -> None:
    expected, expected_gradients = gradients(theirs, x, hx, inputs, **how)
    found, found_gradients = gradients(ours, x, hx, inputs, **how)
    for a, b in zip(found + found_gradients, expected + expected_gradients, strict=True):
        if b is None:
            assert a is None or not a.any()
        else:
            assert a is not None and a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def assert_path(ours: SievedLSTM, path: str, passes: int) -> None:
    """That `passes` layer passes took the path asked for."""
    statistics = ours.take_statistics()
    assert len(statistics) == passes
    assert all((s.rows is None) == (path != "sieved") for s in statistics)
    assert ours.backend.calls == (0 if path == "plain" else passes)  # type: ignore[attr-defined]
    ours.backend.calls = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_tensors(layout: dict[str, Any], path: str) -> None:
    theirs, ours = pair(path, **layout)
    for (T, B), hx in itertools.product([(5, 3), (1, 3), (4, 1), (1, 1), (4, None), (1, None)], (False, True)):
        shape: tuple[int, ...] = (T, I) if B is None else ((B, T, I) if layout["batch_first"] else (T, B, I))
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        state = leaves(theirs, B, hx)
        assert_equal_passes(theirs, ours, x, state, [x, *(state or ())])
        assert_path(ours, path, len(ours.layers))


LENGTHS: dict[str, tuple[list[int], bool]] = {
    "sorted": ([5, 3, 3, 1], True),
    "unsorted": ([2, 5, 1, 5], False),
    "needlessly unsorted": ([4, 3, 1], False),
    "same": ([3, 3, 3], True),
    "steps of one": ([1, 1], True),
    "one sequence": ([4], True),
    "one of one": ([1], False),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", [v for v in LAYOUTS if v["bias"] != v["batch_first"]], ids=str)
def test_packed_sequences(layout: dict[str, Any], path: str) -> None:
    theirs, ours = pair(path, **layout)
    for (lengths, is_sorted), hx in itertools.product(LENGTHS.values(), (False, True)):
        padded = torch.randn(max(lengths), len(lengths), I, dtype=torch.float64, requires_grad=True)
        sizes = torch.tensor(lengths)
        pack = partial(pack_padded_sequence, padded, sizes, enforce_sorted=is_sorted)
        state = leaves(theirs, len(lengths), hx)
        assert_equal_passes(theirs, ours, pack, state, [padded, *(state or ())])
        assert_path(ours, path, len(ours.layers) * len(set(lengths)))
        mine, reference = ours(pack(), state)[0], theirs(pack(), state)[0]
        assert torch.equal(mine.batch_sizes, reference.batch_sizes)
        for name in ("sorted_indices", "unsorted_indices"):
            a, b = getattr(mine, name), getattr(reference, name)
            assert a is b or torch.equal(a, b)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parts", ["y", "h", "c", "yc", "hc"])
def test_partial_use_of_the_outputs(parts: str, path: str) -> None:
    theirs, ours = pair(path, num_layers=2, bidirectional=True)
    x = torch.randn(4, 3, I, dtype=torch.float64, requires_grad=True)
    state = leaves(theirs, 3, True)
    assert state is not None
    assert_equal_passes(theirs, ours, x, state, [x, *state], parts=parts)
    assert ours.backend.calls == (0 if path == "plain" else 4)  # type: ignore[attr-defined]
    packed = pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in (4, 2, 1)])
    assert_equal_passes(theirs, ours, packed, state, [*state], parts=parts)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("frozen", ["weight_ih_l0", "weight_hh_l1", "bias_ih_l0", "bias_hh_l1", "all but bias_hh_l0"])
def test_frozen_parameters_and_inputs_without_gradient(frozen: str, path: str) -> None:
    theirs, ours = pair(path, num_layers=2)
    for module in (theirs, ours):
        for name, p in module.named_parameters():
            p.requires_grad_(name == "bias_hh_l0" if frozen.startswith("all") else name != frozen)
    x = torch.randn(4, 3, I, dtype=torch.float64)
    assert_equal_passes(theirs, ours, x, None, [])
    assert ours.backend.calls == (0 if path == "plain" else 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_that_needs_a_gradient(path: str) -> None:
    theirs, ours = pair(path)
    for module in (theirs, ours):
        module.requires_grad_(False)
    x = torch.randn(4, 3, I, dtype=torch.float64)
    y, (h, c) = ours(x)
    torch.testing.assert_close((y, (h, c)), theirs(x))
    assert not (y.requires_grad or h.requires_grad or c.requires_grad)


@pytest.mark.parametrize("path", PATHS)
def test_gradients_accumulate_and_the_state_carries_them(path: str) -> None:
    results = []
    for module in pair(path, num_layers=2):
        torch.manual_seed(3)
        x1, x2 = (torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True) for _ in range(2))
        y1, state = module(x1)
        y2, _ = module(x2, state)  # through time: the state is not detached
        (y1.pow(2).sum() + y2.pow(3).sum()).backward()
        module(x1.detach())[0].sum().backward()
        assert x1.grad is not None and x2.grad is not None
        results.append([x1.grad, x2.grad, *(p.grad for p in module.parameters())])
        (b_ih, b_hh) = (p.grad for name, p in module.named_parameters() if name in ("bias_ih_l0", "bias_hh_l0"))
        assert b_ih is not None and b_hh is not None and b_ih.data_ptr() != b_hh.data_ptr()
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_backward_twice_over_a_retained_graph(path: str) -> None:
    theirs, ours = pair(path, bidirectional=True)
    x = torch.randn(4, 3, I, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (theirs, ours):
        loss = module(x)[0].pow(2).sum()
        first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
        second = torch.autograd.grad(loss, [x, *module.parameters()])
        torch.testing.assert_close(second, first, rtol=0, atol=0)
        found.append(first)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
    torch.testing.assert_close(found[1], found[0])
    assert_path(ours, path, 4)


@pytest.mark.parametrize("path", PATHS)
def test_outputs_may_be_changed_in_place(path: str) -> None:
    theirs, ours = pair(path)
    x = torch.randn(4, 3, I, dtype=torch.float64, requires_grad=True)

    def loss(module: nn.LSTM, in_place: bool) -> Tensor:
        y, (h, c) = module(x)
        for v, by in ((y, 2.0), (h, 3.0), (c, 5.0)):
            if in_place:
                v.mul_(by)
        if not in_place:
            y, h, c = y * 2, h * 3, c * 5
        return y.pow(2).sum() + h.pow(3).sum() + c.pow(2).sum()

    expected = torch.autograd.grad(loss(theirs, False), [x, *theirs.parameters()])
    found = torch.autograd.grad(loss(ours, True), [x, *ours.parameters()])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("path", PATHS)
def test_weights_changed_before_the_backward_pass_are_noticed(path: str) -> None:
    _, ours = pair(path)
    y, _ = ours(torch.randn(4, 3, I, dtype=torch.float64))
    with torch.no_grad():
        dict(ours.named_parameters())["weight_hh_l0"].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("path", PATHS[1:])
@pytest.mark.parametrize("linear", [True, False])
def test_second_order_gradients_are_refused(path: str, linear: bool) -> None:
    """Also where the loss is linear in y, so that the gradient from above is a constant."""
    _, ours = pair(path)
    x = torch.randn(4, 3, I, dtype=torch.float64, requires_grad=True)
    y, _ = ours(x)
    (dx,) = torch.autograd.grad(y.sum() if linear else y.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not support gradients of gradients"):
        dx.pow(2).sum().backward()


@pytest.mark.parametrize("path", PATHS)
def test_no_grad_and_eval(path: str) -> None:
    theirs, ours = pair(path, num_layers=2, dropout=0.5)
    x = torch.randn(4, 3, I, dtype=torch.float64)
    for module in (theirs, ours):
        module.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
    assert_equal_passes(theirs, ours, x, None, [])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", [v for v in LAYOUTS if v["num_layers"] == 2 and v["bias"]], ids=str)
def test_the_dropout_between_layers_draws_what_theirs_draws(layout: dict[str, Any], path: str) -> None:
    theirs, ours = pair(path, dropout=0.5, **layout)
    packed = pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in (4, 2, 1)])
    for x in (torch.randn(4, 3, I, dtype=torch.float64), packed):
        results = []
        for module in (theirs, ours):
            torch.manual_seed(7)
            results.append(gradients(module, x, None, []))
        torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)
    torch.manual_seed(8)
    assert not torch.equal(data_of(ours(packed)[0]), results[1][0][0])  # it does drop


def test_weights_load_both_ways() -> None:
    for layout in LAYOUTS:
        theirs, ours = nn.LSTM(I, H, **layout), SievedLSTM(I, H, **layout)
        assert list(theirs.state_dict()) == list(ours.state_dict())
        assert ours.load_state_dict(theirs.state_dict(), strict=True) == theirs.load_state_dict(ours.state_dict())
        ours.reset_parameters()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        x = torch.randn(2, 3, I)
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        SievedLSTM(I, H, num_layers=2).load_state_dict(nn.LSTM(I, H).state_dict())


def test_the_same_seed_initialises_the_same_weights() -> None:
    states = []
    for kind in (nn.LSTM, SievedLSTM):
        torch.manual_seed(4)
        states.append(kind(I, H, 2).state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_constructor_refuses_what_it_does_not_do() -> None:
    for call in (
        lambda: SievedLSTM(I, H, proj_size=2),
        lambda: SievedLSTM(I, H, 1, True, False, 0.0, False, 2),
    ):
        with pytest.raises(ValueError, match=r"proj_size must be 0 \(the engine has no projection\), got 2"):
            call()
    assert SievedLSTM(I, H, 1, True, False, 0.0, False, 0).proj_size == SievedLSTM(I, H, proj_size=0).proj_size == 0
    same_errors(lambda kind: kind(I, H, dropout=2.0))
    same_errors(lambda kind: kind(I, 0))
    same_errors(lambda kind: kind(I, H, num_layers=0))
    same_errors(lambda kind: kind(I))
    same_errors(lambda kind: kind(I, H, 1, num_layers=1))
    same_errors(lambda kind: kind(I, H, colour=1))
    made = SievedLSTM(I, H, 2, False, True, 0.25, True, device="cpu", dtype=torch.float64)
    assert (made.bias, made.batch_first, made.dropout, made.bidirectional) == (False, True, 0.25, True)
    assert made.weight_ih_l0.dtype == torch.float64


def same_errors(call: Callable[[Any], Any]) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(nn.LSTM)
    with pytest.raises(expected.type):
        call(SievedLSTM)


def _z(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


WRONG_CALLS: dict[str, Callable[[nn.LSTM], Any]] = {
    "1-D x": lambda m: m(_z(I)),
    "4-D x": lambda m: m(_z(2, 2, 2, I)),
    "width of x": lambda m: m(_z(2, 3, I + 1)),
    "width of an unbatched x": lambda m: m(_z(2, I + 1)),
    "float64 x": lambda m: m(_z(2, 3, I, dtype=torch.float64)),
    "integer x": lambda m: m(_z(2, 3, I, dtype=torch.int64)),
    "no steps": lambda m: m(_z(0, 3, I)),
    "no steps, unbatched": lambda m: m(_z(0, I)),
    "a list": lambda m: m([1.0]),
    "nothing": lambda m: m(None),
    "2-D hx of a 3-D x": lambda m: m(_z(2, 3, I), (_z(1, H), _z(1, H))),
    "3-D hx of a 2-D x": lambda m: m(_z(2, I), (_z(1, 1, H), _z(1, 1, H))),
    "batch of hx": lambda m: m(_z(2, 3, I), (_z(1, 2, H), _z(1, 2, H))),
    "layers of hx": lambda m: m(_z(2, 3, I), (_z(2, 3, H), _z(2, 3, H))),
    "width of h": lambda m: m(_z(2, 3, I), (_z(1, 3, H + 1), _z(1, 3, H))),
    "width of c": lambda m: m(_z(2, 3, I), (_z(1, 3, H), _z(1, 3, H + 1))),
    "float64 hx": lambda m: m(_z(2, 3, I), (_z(1, 3, H).double(), _z(1, 3, H).double())),
    "float64 c": lambda m: m(_z(2, 3, I), (_z(1, 3, H), _z(1, 3, H).double())),
    "three states": lambda m: m(_z(2, 3, I), (_z(1, 3, H),) * 3),
    "a tensor as hx": lambda m: m(_z(2, 3, I), _z(1, 3, H)),
    "packed, width of x": lambda m: m(pack_sequence([_z(2, I + 1), _z(1, I + 1)])),
    "packed, batch of hx": lambda m: m(pack_sequence([_z(2, I), _z(1, I)]), (_z(1, 3, H), _z(1, 3, H))),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("call", WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls_raise_what_theirs_raise(call: Callable[[nn.LSTM], Any], path: str) -> None:
    theirs, ours = pair(path, double=False)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        call(theirs)
    with pytest.raises(expected.type) as found:
        call(ours)
    if not any(word in str(expected.value) for word in ("mkldnn", "non-singleton", "mat1")):  # their kernels' words
        assert str(found.value) == str(expected.value)
    assert ours.backend.calls == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_batch(path: str) -> None:
    theirs, ours = pair(path, num_layers=2, bidirectional=True)
    x = torch.randn(4, 0, I, dtype=torch.float64, requires_grad=True)
    assert_equal_passes(theirs, ours, x, None, [x])
    assert ours.take_statistics() == []
