"""The way back from `SievedLSTM` to `torch.nn.LSTM`, for what knows only PyTorch's own modules."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gradsieve.training.lstm import SievedLSTM


def to_lstm(module: SievedLSTM) -> nn.LSTM:
    """A `torch.nn.LSTM` with copies of the weights, in the same mode, dtype and on the same device.

    Weights that `weight_masks` drop are zero in it.  With `unit_masks` the weights of units that do not exist are zero,
    so that those units stay zero if their initial state is.  Structured dropout and the sieve are left out: they act in
    training only.  Hooks are not copied, nor are ties between weights, of which each has its value.  Raises TypeError
    for a subclass with a forward pass of its own.
    """
    if type(module).forward is not SievedLSTM.forward:
        raise TypeError(f"module must have the forward pass of SievedLSTM, got {type(module).__name__} with its own")
    parameter = module._like
    plain = nn.LSTM(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        device=parameter.device,
        dtype=parameter.dtype,
    ).train(module.training)
    weights = dict(plain.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():  # by attribute: a parametrization computes some of them
            weight.copy_(getattr(module, name))
        if module.weight_masks is not None:
            for name, weight in weights.items():
                weight.copy_(module.weight_masks.apply(name, weight))
        if module.unit_masks is not None:
            for layer, mask in zip(module.layers, module.unit_masks, strict=True):
                rows = mask.to(parameter.device).repeat(4)
                for name, weight in weights.items():
                    if name.endswith(f"_{layer}"):
                        weight[~rows] = 0
    for name, weight in weights.items():
        weight.requires_grad_(getattr(module, name).requires_grad)
    return plain


def without_sieves(model: nn.Module) -> nn.Module:
    """A copy of a model with every `SievedLSTM` in it replaced by its `to_lstm`, one by one where it is shared.

    See `to_lstm` for what is not carried over.
    """
    if isinstance(model, SievedLSTM):
        return to_lstm(model)
    replaced: dict[int, nn.Module] = {}
    memo: dict[int, object] = {}
    for part in model.modules():
        if isinstance(part, SievedLSTM) and id(part) not in replaced:
            replaced[id(part)] = memo[id(part)] = to_lstm(part)
    return copy.deepcopy(model, memo)
