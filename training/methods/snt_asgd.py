"""SGD that switches to averaging, with averages that know of masks: SNT-ASGD (Liu et al. 2021, Selfish-RNN)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from gradsieve.hw.validation import quote
from gradsieve.training.methods.sparse_weights import check_keys, check_mask, kind_of

ByParameter = Mapping[Any, Tensor]
"""Tensors by the parameters that they belong to."""


class SNTASGD(torch.optim.Optimizer):
    """Plain SGD until the validation loss stops falling, then also an average of the weights, to evaluate on.

    Steps are w -= lr * (gradient + weight_decay * w), before and after the switch, as `torch.optim.SGD`.  The switch is
    the paper's non-monotonic trigger: see `observe`.

    After it every step updates an average `ax`: without a mask that of `torch.optim.ASGD` with t0 = 0 and lambd = 0.
    With one, each element counts its own steps: 0 where it is masked, else one more than before; mu = 1 up to a count
    of 2, then 1 / (count - 1); ax = w where mu is 1, else ax += mu * (w - ax); and zero where masked.  So the average
    of an element that was masked for a step starts anew; `restart_` does so for one that was not.

    The masks touch the averages only: the caller keeps masked weights at zero.
    """

    def __init__(self, params: ParamsT, lr: float, weight_decay: float = 0.0, nonmono: int = 5) -> None:
        """As `torch.optim.SGD`; `nonmono` is n of the trigger.

        Raises ValueError for settings out of range and for parameters that are not float32 or float64 (a counter of
        steps needs the digits).
        """
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        if nonmono < 1:
            raise ValueError(f"nonmono must be at least 1, got {nonmono}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for p in self._parameters():
            if p.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"params must be torch.float32 or torch.float64, got {p.dtype}")
        self._nonmono = nonmono
        self._history: list[float] = []
        self._averaging = False
        self._masks: dict[Tensor, Tensor] = {}

    @property
    def averaging(self) -> bool:
        """Whether the switch has happened."""
        return self._averaging

    @property
    def masks(self) -> ByParameter:
        """The mask of each masked parameter: bool, of its shape, True is kept.  Set anew whenever a mask changes.

        Setting raises ValueError for a mask of another dtype or shape and for a parameter that is not optimised here.
        """
        return dict(self._masks)

    @masks.setter
    def masks(self, masks: ByParameter) -> None:
        self._check_masks(masks)
        self._masks = dict(masks)

    @torch.no_grad()
    def restart_(self, elements: ByParameter) -> None:
        """Start the averages of these elements anew, given as `masks` are, True where: ours, for weights set to zero.

        A weight that was removed and grown again within one update was never masked for a step, and the paper's rule
        would go on averaging it with what it was before.  Raises ValueError as setting `masks`.
        """
        self._check_masks(elements)
        for p, where in elements.items():
            if p in self.state:
                for name, values in self.state[p].items():
                    self.state[p][name] = torch.where(where, 0, values)

    def observe(self, valid_loss: float) -> bool:
        """Note a validation loss; True if it makes the optimiser switch to averaging, which happens once.

        It does if there are more than n earlier losses and it is above the least of them, the last n left out.
        Raises ValueError, and notes nothing, for a loss that is not finite.
        """
        if not math.isfinite(valid_loss):
            raise ValueError(f"valid_loss must be finite, got {valid_loss}")
        earlier = self._history[: -self._nonmono]
        switch = not self._averaging and bool(earlier) and valid_loss > min(earlier)
        self._averaging |= switch
        self._history.append(float(valid_loss))
        return switch

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad.add(p, alpha=group["weight_decay"]), alpha=-group["lr"])
                if self._averaging:
                    self._average(p)
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averages in place of the weights, and the weights back at the end, also after an exception.

        Before the switch the weights stay.  An average is zero where the present mask is: also if it has changed since
        the last step.
        """
        weights = {p: p.detach().clone() for p in self._parameters() if p in self.state}
        try:
            with torch.no_grad():
                for p in weights:
                    p.copy_(self.state[p]["average"])
                    if p in self._masks:
                        p.masked_fill_(~self._masks[p], 0)
            yield
        finally:
            with torch.no_grad():
                for p, saved in weights.items():
                    p.copy_(saved)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that later steps depend on, but the weights: averages, counts, losses, masks."""
        masks = {k: self._masks[p] for k, p in enumerate(self._parameters()) if p in self._masks}
        trigger = {"averaging": self._averaging, "history": self._history, "masks": masks}
        return copy.deepcopy(super().state_dict() | trigger)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of what `state_dict` returned: later steps are those that would have been, bit for bit.

        Raises ValueError, and changes nothing, for the state of other parameters or anything else.
        """
        names = ("state", "param_groups", "averaging", "history", "masks")
        check_keys(state_dict, names, "state_dict")
        state = copy.deepcopy(dict(state_dict))
        averaging, history, masks = (state.pop(name) for name in names[2:])
        if not isinstance(averaging, bool):
            raise ValueError(f"state_dict['averaging'] must be True or False, got {averaging!r}")
        if not isinstance(history, list) or not all(isinstance(v, float) and math.isfinite(v) for v in history):
            raise ValueError(f"state_dict['history'] must be a list of finite numbers, got {quote(history)}")
        parameters = self._parameters()
        for what, entries in (("state", state["state"]), ("masks", masks)):
            if not isinstance(entries, Mapping) or not set(entries) <= set(range(len(parameters))):
                got = sorted(map(repr, entries)) if isinstance(entries, Mapping) else kind_of(entries)
                raise ValueError(f"state_dict[{what!r}] must be a mapping from numbers of parameters, got {got}")
        for group in state["param_groups"]:
            if not isinstance(group, Mapping) or not {"lr", "weight_decay", "params"} <= set(group):
                raise ValueError(f"state_dict['param_groups'] must have lr, weight_decay and params, got {group!r}")
        for k, mask in masks.items():
            check_mask(mask, tuple(parameters[k].shape), f"state_dict['masks'][{k}]")
        for k, entry in state["state"].items():
            _check_entry(entry, parameters[k].shape, f"state_dict['state'][{k}]")
        try:
            super().load_state_dict(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"state_dict['param_groups'] must be those of the same parameters ({error!r})") from error
        self._averaging, self._history = averaging, history
        self._masks = {parameters[k]: mask.to(parameters[k].device) for k, mask in masks.items()}

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _check_masks(self, masks: ByParameter) -> None:
        known = set(self._parameters())
        for p, mask in masks.items():
            if p not in known:
                raise ValueError(
                    f"masks must be for optimised parameters, got one for a tensor of shape {tuple(p.shape)}"
                )
            check_mask(mask, tuple(p.shape), "mask of a parameter")

    def _average(self, p: Tensor) -> None:
        state, mask = self.state[p], self._masks.get(p)
        if not state:
            # One count for the whole tensor until a mask makes its elements differ.
            state["count"], state["average"] = torch.zeros((), dtype=p.dtype, device=p.device), p.detach().clone()
        count, average = state["count"] + 1, state["average"]
        if mask is not None:
            count = torch.where(mask, count, 0)
        mu = 1 / (count - 1).clamp(min=1)
        average = torch.where(mu == 1, p, average + (p - average) * mu)
        if mask is not None:
            average.masked_fill_(~mask, 0)
        state["count"], state["average"] = count, average


def _check_entry(entry: Any, shape: torch.Size, what: str) -> None:
    check_keys(entry, ("average", "count"), what)
    for name, shapes in (("average", (shape,)), ("count", (shape, torch.Size()))):
        value = entry[name]
        if not isinstance(value, Tensor) or value.shape not in shapes:
            raise ValueError(f"{what}[{name!r}] must be a torch.Tensor of shape {tuple(shape)}, got {kind_of(value)}")
        bad = value[~value.isfinite()]
        if len(bad):
            raise ValueError(f"{what}[{name!r}] must be finite, got {bad[0].item()}")
