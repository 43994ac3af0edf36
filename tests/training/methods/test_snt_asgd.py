"""SNT-ASGD against torch's optimisers and against its definition, element by element."""

from __future__ import annotations

import io
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from gradsieve.training.methods.snt_asgd import SNTASGD

FALLING_THEN_UP = [5.0, 4.0, 3.0, 2.0, 1.5, 1.2, 6.0]
"""The seventh loss is the first with more than five before it, and it is above the first of them."""


def parameter(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def set_gradient(p: Tensor, seed: int) -> None:
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed), dtype=p.dtype)


def switch(optimizer: SNTASGD) -> None:
    for loss in FALLING_THEN_UP:
        optimizer.observe(loss)
    assert optimizer.averaging


def averages(optimizer: SNTASGD, p: Tensor) -> Tensor:
    with optimizer.averaged():
        return p.detach().clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_sgd_before_and_after_the_switch(dtype: torch.dtype) -> None:
    ours, theirs = parameter((5, 7), 1, dtype), parameter((5, 7), 1, dtype)
    optimizer = SNTASGD([ours], lr=0.3, weight_decay=0.01)
    reference = torch.optim.SGD([theirs], lr=0.3, weight_decay=0.01)
    for step in range(12):
        if step == 6:
            switch(optimizer)
            optimizer.masks = {ours: torch.rand(5, 7) < 0.5}
        set_gradient(ours, step)
        set_gradient(theirs, step)
        optimizer.step()
        reference.step()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask", [None, torch.ones(5, 7, dtype=torch.bool)])
def test_averages_are_those_of_asgd(dtype: torch.dtype, mask: Tensor | None, request: pytest.FixtureRequest) -> None:
    # torch keeps the rate and mu in the default dtype.
    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(dtype)
    ours, theirs = parameter((5, 7), 2, dtype), parameter((5, 7), 2, dtype)
    optimizer = SNTASGD([ours], lr=0.3, weight_decay=0.01)
    reference = torch.optim.ASGD([theirs], lr=0.3, weight_decay=0.01, t0=0, lambd=0, foreach=False)
    switch(optimizer)
    if mask is not None:
        optimizer.masks = {ours: mask}
    for step in range(20):
        set_gradient(ours, step)
        set_gradient(theirs, step)
        optimizer.step()
        reference.step()
        assert torch.equal(averages(optimizer, ours), reference.state[theirs]["ax"])


def test_masked_averages_by_element() -> None:
    p = parameter((4, 3), 3, torch.float64)
    optimizer = SNTASGD([p], lr=0.1)
    switch(optimizer)
    count, average = [0] * 12, [0.0] * 12
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        if step % 4 == 0:  # every element is masked and grown again at some time, after short and long lives
            mask = torch.rand(4, 3, generator=generator) < 0.7
            optimizer.masks = {p: mask}
        set_gradient(p, step)
        optimizer.step()
        for k, (w, kept) in enumerate(zip(p.flatten().tolist(), mask.flatten().tolist(), strict=True)):
            count[k] = count[k] + 1 if kept else 0
            average[k] = w if count[k] <= 2 else average[k] + (w - average[k]) * (1 / (count[k] - 1))
            average[k] *= kept
        assert averages(optimizer, p).flatten().tolist() == average
    assert max(count) > 12 and min(count) == 0


def test_a_mask_that_comes_late_keeps_the_count() -> None:
    ours, theirs = parameter((3,), 4), parameter((3,), 4)
    optimizer, reference = SNTASGD([ours], lr=0.3), SNTASGD([theirs], lr=0.3)
    switch(optimizer)
    switch(reference)
    for step in range(9):
        if step == 4:
            optimizer.masks = {ours: torch.tensor([True, False, True])}
        for o, p in ((optimizer, ours), (reference, theirs)):
            set_gradient(p, step)
            o.step()
    found, expected = averages(optimizer, ours), averages(reference, theirs)
    assert torch.equal(found[[0, 2]], expected[[0, 2]]) and found[1] == 0 and expected[1] != 0


@pytest.mark.parametrize(
    ("losses", "switches_at", "nonmono"),
    [
        (FALLING_THEN_UP, 6, 5),
        ([1.0, 2, 3, 4, 5, 6], None, 5),  # never more than five before
        ([1.0, 2, 3, 4, 5, 6, 1.0], None, 5),  # equal is not above
        ([5.0, 4, 3, 2, 1, 0.5, 4.9, 4.1], 7, 5),  # 4.9 is below the one loss older than five; 4.1 is above the second
        ([9.0, 1, 8, 7, 6, 5, 4, 3], 7, 5),  # it is the least of the older ones that counts
        ([3.0, 2, 1, 2.5], 3, 1),
        ([3.0, 2, 1, 2.5, 2.4], 4, 2),
    ],
)
def test_trigger(losses: list[float], switches_at: int | None, nonmono: int) -> None:
    optimizer = SNTASGD([parameter((2,), 0)], lr=1.0, nonmono=nonmono)
    switched = [optimizer.observe(loss) for loss in losses]
    assert switched == [k == switches_at for k in range(len(losses))]
    assert optimizer.averaging == (switches_at is not None)
    assert not optimizer.observe(1e9) or switches_at is None  # it switches once


def stepped(averaging: bool = True) -> tuple[SNTASGD, torch.nn.Parameter, torch.nn.Parameter]:
    w, b = parameter((4, 6), 5), parameter((4,), 6)
    groups: list[dict[str, Any]] = [{"params": [w]}, {"params": [b], "weight_decay": 0.1}]
    optimizer = SNTASGD(groups, lr=0.2, weight_decay=0.01)
    if averaging:
        switch(optimizer)
    optimizer.masks = {w: torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6}
    for step in range(5):
        set_gradient(w, step)
        set_gradient(b, step + 100)
        optimizer.step()
    return optimizer, w, b


def test_averaged_swaps_and_swaps_back() -> None:
    optimizer, w, b = stepped()
    before = w.detach().clone(), b.detach().clone()
    with optimizer.averaged():
        assert not torch.equal(w, before[0]) and not torch.equal(b, before[1])
        assert not w[~optimizer.masks[w]].any()
    assert torch.equal(w, before[0]) and torch.equal(b, before[1])

    def fail() -> None:
        with optimizer.averaged():
            raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        fail()
    assert torch.equal(w, before[0]) and torch.equal(b, before[1])


def test_averaged_before_the_switch_changes_nothing() -> None:
    optimizer, w, _ = stepped(averaging=False)
    before = w.detach().clone()
    with optimizer.averaged():
        assert torch.equal(w, before)
    optimizer.load_state_dict(optimizer.state_dict())


def test_averaged_follows_a_new_mask() -> None:
    optimizer, w, _ = stepped()
    old = optimizer.masks[w]
    optimizer.masks = {w: old & (torch.arange(6) > 2)}
    found = averages(optimizer, w)
    assert not found[:, :3].any() and found[:, 3:][old[:, 3:]].all()
    optimizer.masks = {}
    # What was masked in the last step has no average yet.
    assert w[~old].all() and torch.equal(averages(optimizer, w) != 0, old)


def test_restart_begins_the_average_anew() -> None:
    optimizer, w, b = stepped()
    anew = torch.zeros(4, 6, dtype=torch.bool)
    anew[1] = True
    before = averages(optimizer, w)
    optimizer.restart_({w: anew, b: torch.tensor([True, False, False, False])})
    kept = optimizer.masks[w]
    assert not averages(optimizer, w)[1].any() and torch.equal(averages(optimizer, w)[0], before[0])
    set_gradient(w, 7)
    set_gradient(b, 8)
    optimizer.step()
    # One step later a restarted element's average is the weight itself, any other's is not.
    same, same_b = averages(optimizer, w) == w, averages(optimizer, b) == b
    assert torch.equal(same[kept], anew[kept]) and kept[1].any()
    assert same_b.tolist() == [True, False, False, False]


def test_parameters_without_a_gradient_stay() -> None:
    w, idle = parameter((3,), 0), parameter((3,), 1)
    optimizer = SNTASGD([w, idle], lr=0.1, weight_decay=0.5)
    switch(optimizer)
    before = idle.detach().clone()
    set_gradient(w, 0)
    optimizer.step()
    assert torch.equal(idle, before) and torch.equal(averages(optimizer, idle), before)


def test_closure() -> None:
    w = parameter((3,), 0)
    optimizer = SNTASGD([w], lr=0.5)
    before = w.detach().clone()

    def closure() -> float:
        loss = (w * w).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == float((before * before).sum())
    assert not w.detach().any()  # w - 0.5 * 2w


@pytest.mark.parametrize("switched", [False, True])
def test_resumes_bit_for_bit(switched: bool) -> None:
    optimizer, w, b = stepped(switched)
    if not switched:
        for loss in FALLING_THEN_UP[:-1]:
            optimizer.observe(loss)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    w2, b2 = torch.nn.Parameter(w.detach().clone()), torch.nn.Parameter(b.detach().clone())
    resumed = SNTASGD([{"params": [w2]}, {"params": [b2]}], lr=9.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.averaging == switched and torch.equal(resumed.masks[w2], optimizer.masks[w])
    for step in range(6):
        if step == 1:
            assert optimizer.observe(6.0) == resumed.observe(6.0) == (not switched)
        for k, p in enumerate((w, b)):
            set_gradient(p, 10 * step + k)
        for k, p in enumerate((w2, b2)):
            set_gradient(p, 10 * step + k)
        optimizer.step()
        resumed.step()
        assert torch.equal(w, w2) and torch.equal(b, b2)
        assert torch.equal(averages(optimizer, w), averages(resumed, w2))
        assert torch.equal(averages(optimizer, b), averages(resumed, b2))
    assert not torch.equal(averages(resumed, w2), w2)


def test_a_saved_state_and_the_optimiser_share_nothing() -> None:
    optimizer, w, b = stepped()
    state, expected = optimizer.state_dict(), averages(optimizer, b)
    set_gradient(b, 50)
    optimizer.step()
    optimizer.observe(1.0)
    assert not torch.equal(averages(optimizer, b), expected) and state["history"] == FALLING_THEN_UP
    optimizer.load_state_dict(state)
    state["state"][1]["average"].zero_()
    state["masks"][0].zero_()
    assert torch.equal(averages(optimizer, b), expected) and optimizer.masks[w].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, r"lr must be a finite number of at least 0, got -0\.1"),
        ({"lr": math.nan}, "lr must .*, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must .*, got inf"),
        ({"nonmono": 0}, "nonmono must be at least 1, got 0"),
        (
            {"params": [torch.zeros(2, dtype=torch.bfloat16)]},
            r"params must be torch\.float32 or torch\.float64, got torch\.bfloat16",
        ),
        ({"params": []}, "empty"),
    ],
)
def test_refuses_bad_settings(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"params": [parameter((2,), 0)], "lr": 0.1} | settings
    with pytest.raises(ValueError, match=message):
        SNTASGD(**arguments)


def test_refuses_bad_masks_and_losses() -> None:
    w = parameter((2, 3), 0)
    optimizer = SNTASGD([w], lr=0.1)
    good = torch.ones(2, 3, dtype=torch.bool)
    optimizer.masks = {w: good}
    for bad, message in [
        (
            {parameter((4,), 0): torch.ones(4).bool()},
            r"must be for optimised parameters, got one for a tensor of shape \(4,\)",
        ),
        ({w: torch.ones(2, 3)}, r"mask of a parameter must be torch\.bool .*, got torch\.float32 of shape \(2, 3\)"),
        ({w: torch.ones(3, 2).bool()}, r"must be torch\.bool of shape \(2, 3\), got torch\.bool of shape \(3, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.masks = bad
        with pytest.raises(ValueError, match=message):
            optimizer.restart_(bad)
    assert optimizer.masks[w] is good
    for loss in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"valid_loss must be finite, got {loss}"):
            optimizer.observe(loss)
    assert optimizer.state_dict()["history"] == []


def test_refuses_a_corrupt_state_and_changes_nothing() -> None:
    optimizer, w, b = stepped()
    good = optimizer.state_dict()
    expected = averages(optimizer, w), averages(optimizer, b)

    def with_entry(**changes: Any) -> dict[str, Any]:
        return good | {"state": good["state"] | {0: good["state"][0] | changes}}

    groups = good["param_groups"]
    for bad, message in [
        (None, "state_dict must be a mapping with .*; got NoneType"),
        ({"state": {}, "param_groups": groups}, "state_dict must hold .*; got state, param_groups"),
        (good | {"averaging": 1}, r"state_dict\['averaging'\] must be True or False, got 1"),
        (good | {"history": [1.0, math.nan]}, r"\['history'\] must be a list of finite numbers, got \[1\.0, nan\]"),
        (
            good | {"masks": {2: good["masks"][0]}},
            r"state_dict\['masks'\] must be a mapping from numbers of parameters, got \['2'\]",
        ),
        (
            good | {"masks": {1: good["masks"][0]}},
            r"state_dict\['masks'\]\[1\] must .*, got torch\.bool of shape \(4, 6\)",
        ),
        (good | {"state": {"w": {}}}, r"state_dict\['state'\] must be a mapping from numbers of parameters, got "),
        (good | {"state": {0: {}}}, r"state_dict\['state'\]\[0\] must hold average, count; got nothing"),
        (
            with_entry(average=torch.zeros(6, 4)),
            r"\['average'\] must be a torch.Tensor of shape \(4, 6\), got torch.float32 of shape \(6, 4\)",
        ),
        (with_entry(average=torch.full((4, 6), math.nan)), r"\['average'\] must be finite, got nan"),
        (with_entry(count=torch.zeros(4)), r"\['count'\] must be a torch.Tensor of shape \(4, 6\), got .* \(4,\)"),
        (good | {"param_groups": groups[:1]}, "parameter groups"),
        (good | {"param_groups": [groups[0], 3]}, r"\['param_groups'\] must have lr, weight_decay and params, got 3"),
        (
            good | {"param_groups": [groups[0], groups[1] | {"params": 7}]},
            r"state_dict\['param_groups'\] must be those of the same parameters",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)  # type: ignore[arg-type]
    assert torch.equal(averages(optimizer, w), expected[0]) and torch.equal(averages(optimizer, b), expected[1])
    assert optimizer.state_dict()["history"] == FALLING_THEN_UP and optimizer.averaging
