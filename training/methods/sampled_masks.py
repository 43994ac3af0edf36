"""Masks drawn from learned probabilities under a budget: the variance-reduced policy gradient of Zhou et al. 2021.

Each mask bit m is a Bernoulli trial with a probability s of its own.  The weights learn by the chain rule on the
network that was drawn; the probabilities learn from the losses of two or more draws on the same minibatch alone,
without a backward pass.  After each step all probabilities together are projected onto the budget.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradsieve.training.methods.sparse_weights import check_keys, check_mask, kind_of, restored_generator

EPSILON = 1e-20
"""Added to s(1-s) under the root, as in the authors' code: no division by zero where s is 0 or 1."""

MAX_BISECTIONS = 100
"""More than float64 has digits to halve."""


class SampledMasks:
    """Probabilities in named groups, the masks drawn from them, and their learning (Zhou et al. 2021, VR-PGE).

    A group is of any shape: (H,) with one probability a hidden unit, or (4H, tiles) with one a weight block.  The
    budget is k = keep * probabilities of all groups: the expected number of ones.  Everything is float64 on the CPU.

    A probability that reaches 0 or 1 has no gradient any more: only Adam's momentum and the projection still move it.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        keep: float,
        *,
        steps: int,
        initial: float | None = None,
        lr: float = 12e-3,
        grad_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        """`keep` is the share kept of all probabilities, `steps` the length of the cosine decay of Adam's `lr` to zero.

        `initial` is where the probabilities start, projected onto the budget (ours): None is `keep` (ours); the
        authors' code starts at 0.5.  `grad_clip` limits the norm of the gradient over all groups; the authors' code
        clips at 3 together with the weights' gradients.  Raises ValueError for settings out of range.
        """
        if not shapes:
            raise ValueError("shapes must hold at least one group, got none")
        for name, shape in shapes.items():
            if not shape or min(shape) < 1:
                raise ValueError(f"shapes[{name!r}] must be one or more sizes of at least 1, got {tuple(shape)}")
        for setting, value in (("keep", keep), ("initial", keep if initial is None else initial)):
            if not 0 < value <= 1:
                raise ValueError(f"{setting} must be greater than 0 and at most 1, got {value}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        for setting, value in (("lr", lr), ("grad_clip", 1.0 if grad_clip is None else grad_clip)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{setting} must be a finite number greater than 0, got {value}")
        self.budget = keep * sum(math.prod(shape) for shape in shapes.values())
        self._steps, self._lr, self._grad_clip = steps, lr, grad_clip
        self._step = 0
        self._generator = torch.Generator().manual_seed(seed)
        start = keep if initial is None else initial
        self._s = {name: torch.full(tuple(shape), start, dtype=torch.float64) for name, shape in shapes.items()}
        self._project()
        self._adam = torch.optim.Adam(self._s.values(), lr=lr)

    @property
    def probabilities(self) -> dict[str, Tensor]:
        """A copy of s, by group."""
        return {name: s.clone() for name, s in self._s.items()}

    def sample(self) -> dict[str, Tensor]:
        """Draw the masks, bool by group, each bit True with its probability."""
        return {
            name: torch.rand(s.shape, dtype=torch.float64, generator=self._generator) < s for name, s in self._s.items()
        }

    def estimate(self, masks: Sequence[Mapping[str, Tensor]], losses: Sequence[float]) -> dict[str, Tensor]:
        """The paper's estimate of the gradient of the expected loss, from K >= 2 draws and their losses.

        sum over j of (L_j - mean L) / (K - 1) * (m_j - s) / sqrt(s(1-s)).  The root is the authors' code's: the
        expectation is sqrt(s(1-s)) times the gradient, the gradient itself would need s(1-s).

        Raises ValueError for fewer than two draws, as many losses as draws not given, a loss that is not finite, and
        masks that `sample` would not return.
        """
        if len(masks) < 2 or len(masks) != len(losses):
            raise ValueError(
                f"masks must be at least 2 draws, each with a loss; got {len(masks)} and {len(losses)} losses"
            )
        for loss in losses:
            if not math.isfinite(loss):
                raise ValueError(f"losses must be finite, got {loss}")
        for draw in masks:
            check_keys(draw, tuple(self._s), "a draw")
            for name, mask in draw.items():
                check_mask(mask, tuple(self._s[name].shape), f"mask of {name}")
        mean = math.fsum(losses) / len(losses)
        out = {}
        for name, s in self._s.items():
            total = torch.zeros_like(s)
            for draw, loss in zip(masks, losses, strict=True):
                total += (loss - mean) / (len(losses) - 1) * (draw[name].cpu().double() - s)
            out[name] = total / torch.sqrt(s * (1 - s) + EPSILON)
        return out

    def update_(self, masks: Sequence[Mapping[str, Tensor]], losses: Sequence[float]) -> None:
        """One step of Adam on the probabilities, along `estimate`, and the projection onto the budget.

        `masks` were drawn since the last update.  Raises ValueError, and changes nothing, as `estimate`.
        """
        for name, gradient in self.estimate(masks, losses).items():
            self._s[name].grad = gradient
        if self._grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self._s.values()), self._grad_clip)
        progress = min(self._step / self._steps, 1.0)
        self._adam.param_groups[0]["lr"] = self._lr * (1 + math.cos(math.pi * progress)) / 2
        self._adam.step()
        self._step += 1
        self._project()

    def best(self) -> dict[str, Tensor]:
        """The masks to keep in the end, ours: the round(budget) largest probabilities of all groups, bool by group.

        At least one of each group is kept, also beyond the budget.  Among equals the earlier group and index is kept.
        """
        s = self._joint()
        kept = torch.zeros_like(s, dtype=torch.bool)
        start = 0
        for group in self._s.values():
            # argmax does not promise the first of equals; a stable sort does.
            kept[start + group.flatten().sort(descending=True, stable=True).indices[0]] = True
            start += group.numel()
        others = [k for k in s.sort(descending=True, stable=True).indices.tolist() if not kept[k]]
        kept[others[: max(0, round(self.budget) - len(self._s))]] = True
        return self._split(kept)

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything that later draws and updates depend on."""
        return {
            "probabilities": self.probabilities,
            "optimizer": copy.deepcopy(self._adam.state_dict()),
            "step": self._step,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` of an object with the same settings returned: all goes on as it would have.

        Raises ValueError, and changes nothing, for anything else.
        """
        check_keys(state, ("probabilities", "optimizer", "step", "generator"), "state")
        check_keys(state["probabilities"], tuple(self._s), "state['probabilities']")
        for name, s in state["probabilities"].items():
            shape = tuple(self._s[name].shape)
            what = f"state['probabilities'][{name!r}]"
            if not isinstance(s, Tensor) or tuple(s.shape) != shape:
                raise ValueError(f"{what} must be a torch.Tensor of shape {shape}, got {kind_of(s)}")
            bad = s[~((s >= 0) & (s <= 1))]
            if len(bad):
                raise ValueError(f"{what} must be from 0 to 1, got {bad[0].item()}")
        if not isinstance(state["step"], int) or state["step"] < 0:
            raise ValueError(f"state['step'] must be an integer of at least 0, got {state['step']!r}")
        total = sum(float(s.sum()) for s in state["probabilities"].values())
        if total > self.budget * (1 + 1e-9):
            raise ValueError(f"state['probabilities'] must have a sum of at most {self.budget}, got {total}")
        generator = restored_generator(state["generator"])
        probabilities = {name: state["probabilities"][name].double().clone() for name in self._s}
        adam = torch.optim.Adam(probabilities.values(), lr=self._lr)
        _load_adam(adam, state["optimizer"])
        self._s, self._adam, self._step, self._generator = probabilities, adam, state["step"], generator

    def _joint(self) -> Tensor:
        return torch.cat([s.flatten() for s in self._s.values()])

    def _split(self, joint: Tensor) -> dict[str, Tensor]:
        parts = joint.split([s.numel() for s in self._s.values()])
        return {name: part.reshape(s.shape) for (name, s), part in zip(self._s.items(), parts, strict=True)}

    def _project(self) -> None:
        for name, values in self._split(project(self._joint(), self.budget)).items():
            self._s[name].copy_(values)


def project(values: Tensor, budget: float) -> Tensor:
    """The nearest numbers from 0 to 1 whose sum is within the budget: clip(values - v, 0, 1) with the least v >= 0.

    v is found by bisection as in the authors' code, to the last digit where that stops within 0.001 of the budget
    (ours); the sum never exceeds the budget.  Raises ValueError for a negative budget and values that are not finite.
    """
    if not budget >= 0:
        raise ValueError(f"budget must be at least 0, got {budget}")
    if not values.isfinite().all():
        bad = values[~values.isfinite()]
        raise ValueError(f"values must be finite, got {bad[0].item()} (values that are not finite: {len(bad)})")
    clipped = values.clamp(0, 1)
    if float(clipped.sum()) <= budget:
        return clipped
    low, high = 0.0, float(values.max())
    for _ in range(MAX_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if float((values - middle).clamp(0, 1).sum()) <= budget:
            high = middle
        else:
            low = middle
    return (values - high).clamp(0, 1)


def _load_adam(adam: torch.optim.Adam, state: Any) -> None:
    parameters = adam.param_groups[0]["params"]
    try:
        adam.load_state_dict(copy.deepcopy(state))
        entries = [(p, adam.state[p]) for p in parameters if adam.state[p]]
        sound = len(entries) in (0, len(parameters)) and all(
            entry["exp_avg"].shape == entry["exp_avg_sq"].shape == p.shape and entry["step"].ndim == 0
            for p, entry in entries
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"state['optimizer'] must be a state of Adam for the same shapes ({error!r})") from error
    if not sound:
        raise ValueError("state['optimizer'] must be a state of Adam for the same shapes, got other shapes")
