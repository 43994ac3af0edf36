"""The methods that mask weights, as the training loop uses them: one interface over their algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sampled_masks import SampledMasks
from gradsieve.training.methods.snt_asgd import SNTASGD
from gradsieve.training.methods.sparse_weights import DynamicSparseTraining
from gradsieve.training.settings import SampledMasksSettings, SparseWeightsSettings

Loss = Callable[[], float]


class WeightMethod(Protocol):
    """Masks the weights of a `SievedLSTM` over a training."""

    def before(self, step: int) -> None:
        """Set the masks of step 0, 1, ..."""

    def after_loss(self, step: int, loss: float, again: Loss) -> int:
        """Learn from the step's loss; `again` gives that of the same minibatch with the masks that are then set.

        Returns the multiply-accumulates of further forward passes.
        """

    def after(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Follow up on the optimiser's step."""

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The masks to evaluate with."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""


def lstm_weights(lstm: SievedLSTM) -> dict[str, Tensor]:
    """The weight matrices of the layers, by name, without the biases."""
    return {name: p for name, p in lstm.named_parameters() if name.startswith("weight_")}


class NoMasks:
    """All weights, always."""

    def before(self, step: int) -> None:
        """Nothing to set."""

    def after_loss(self, step: int, loss: float, again: Loss) -> int:
        """Nothing to learn."""
        return 0

    def after(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to follow up."""

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The weights as they are."""
        yield

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


class SparseWeights(NoMasks):
    """`DynamicSparseTraining` of the LSTM's weights: a mask update every so many steps, none after the last."""

    def __init__(self, lstm: SievedLSTM, settings: SparseWeightsSettings, columns: int, steps: int, seed: int) -> None:
        self.lstm, self.settings, self.steps = lstm, settings, steps
        self.masks = DynamicSparseTraining(
            lstm_weights(lstm),
            settings.density,
            columns if settings.structure == "block" else 1,
            steps=steps,
            death_rate=settings.death_rate,
            distribution=settings.distribution,
            seed=seed,
        )
        self.masks.apply_()
        self._set()

    def _set(self) -> None:
        self.lstm.weight_masks = WeightMasks(self.masks.columns, dict(self.masks.masks))

    def _by_parameter(self, expand: Callable[[str], Tensor]) -> dict[Tensor, Tensor]:
        return {p: expand(name) for name, p in lstm_weights(self.lstm).items()}

    def after(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Keep masked weights at zero; update the masks when it is time, and let the optimiser forget grown weights."""
        self.masks.apply_()
        if isinstance(optimizer, SNTASGD) and not optimizer.masks:
            optimizer.masks = self._by_parameter(self.masks.expand)
        done = step + 1
        if done % self.settings.every or done >= self.steps:
            return
        update = self.masks.update_(done)
        grown = self._by_parameter(update.grown.__getitem__)
        if isinstance(optimizer, SNTASGD):
            optimizer.restart_(grown)
            optimizer.masks = self._by_parameter(self.masks.expand)
        else:
            _forget(optimizer, grown)
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self.masks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.masks.load_state_dict(state)
        self._set()


def _forget(optimizer: torch.optim.Optimizer, elements: dict[Tensor, Tensor]) -> None:
    """Zero an optimiser's moments of the elements that begin anew."""
    for p, where in elements.items():
        for value in optimizer.state[p].values():
            if isinstance(value, Tensor) and value.shape == p.shape:
                value.masked_fill_(where, 0)


class MaskSampling(NoMasks):
    """`SampledMasks` over hidden units or weight blocks: two draws a step, the weights learn on the first.

    After the share `freeze` of the steps the most probable masks stay and only the weights go on learning, as the
    authors' fine-tuning does; when to begin is ours.
    """

    def __init__(self, lstm: SievedLSTM, settings: SampledMasksSettings, columns: int, steps: int, seed: int) -> None:
        self.lstm, self.settings, self.columns = lstm, settings, columns
        self.frozen_from = round(settings.freeze * steps)
        weights = lstm_weights(lstm)
        shapes: dict[str, tuple[int, ...]]
        if settings.granularity == "unit":
            shapes = dict.fromkeys(lstm.layers, (lstm.hidden_size,))
        else:
            shapes = {name: (len(w), -(-w.shape[1] // columns)) for name, w in weights.items()}
        self.sampler = SampledMasks(
            shapes, settings.keep, steps=max(1, self.frozen_from), lr=settings.rate, grad_clip=3.0, seed=seed
        )
        self._drawn: dict[str, Tensor] = {}

    def _set(self, masks: dict[str, Tensor]) -> None:
        if self.settings.granularity == "unit":
            self.lstm.unit_masks = [_at_least_one(masks[layer]) for layer in self.lstm.layers]
        else:
            self.lstm.weight_masks = WeightMasks(self.columns, masks)

    def before(self, step: int) -> None:
        """Draw the step's masks, or set the most probable ones."""
        self._drawn = self.sampler.sample() if step < self.frozen_from else self.sampler.best()
        self._set(self._drawn)

    def after_loss(self, step: int, loss: float, again: Loss) -> int:
        """The loss of a second draw, without a backward pass, and a step of the probabilities."""
        if step >= self.frozen_from:
            return 0
        second = self.sampler.sample()
        self._set(second)
        other = again()
        macs = self._forward_macs(second)
        self.sampler.update_([self._drawn, second], [loss, other])
        self._set(self._drawn)
        return macs

    def _forward_macs(self, masks: dict[str, Tensor]) -> int:
        """Multiply-accumulates of a forward pass for one token."""
        if self.settings.granularity == "block":
            return sum(
                int(_block_widths(mask, w.shape[1], self.columns).sum())
                for (name, w) in lstm_weights(self.lstm).items()
                for mask in (masks[name],)
            )
        total, inputs = 0, self.lstm.input_size
        for layer in self.lstm.layers:
            units = int(_at_least_one(masks[layer]).sum())
            total += 4 * units * (inputs + units)
            inputs = units
        return total

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The most probable masks."""
        self._set(self.sampler.best())
        try:
            yield
        finally:
            if self._drawn:
                self._set(self._drawn)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.sampler.load_state_dict(state)


def _at_least_one(mask: Tensor) -> Tensor:
    """A layer cannot run without units: a draw of none keeps the first."""
    if bool(mask.any()):
        return mask
    mask = mask.clone()
    mask[0] = True
    return mask


def _block_widths(mask: Tensor, width: int, columns: int) -> Tensor:
    widths = (width - torch.arange(0, width, columns)).clamp(max=columns)
    return mask.cpu() * widths
