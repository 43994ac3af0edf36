"""The autograd functions of a layer: forward with the tape, backward by the backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor, peek_interpreter_stack
from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

from gradsieve.training.backends import Backend, BackwardPass, ForwardPass
from gradsieve.training.float_pass import Upstream
from gradsieve.training.forward import forward
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.sieves import GradientSieve
from gradsieve.training.methods.structured_dropout import ColumnMasks
from gradsieve.training.statistics import ForwardStatistics, StatisticsQueue
from gradsieve.training.tape import LayerTape

HOW = "use nn.LSTM's own pass (no sieve, no masks, FloatBackend) or the module's to_lstm()"
"""Where to go with what a sieved pass refuses."""


def refuse_transforms(weights: Iterable[Tensor]) -> None:
    """Raise RuntimeError in a transform of torch.func or a trace, and for the weights of per-sample gradients.

    An autograd function of our own cannot serve them, and what PyTorch says then does not name the layer.
    """
    if torch.compiler.is_exporting():
        raise RuntimeError(f"SievedLSTM does not support torch.export: {HOW}")
    if torch.jit.is_tracing():
        raise RuntimeError(f"SievedLSTM does not support torch.jit.trace: {HOW}")
    if peek_interpreter_stack() is not None:
        raise RuntimeError(f"SievedLSTM does not support torch.func's grad, vmap and jvp: {HOW}")
    if any(isinstance(w, ExpandedWeight) for w in weights):
        raise RuntimeError(f"SievedLSTM does not support per-sample gradients (ExpandedWeight): {HOW}")


@dataclass(frozen=True)
class Plan:
    """How the backward pass of a layer shall run."""

    backend: Backend
    statistics: StatisticsQueue
    state: LayerState
    sieve: GradientSieve
    block: Tensor | None
    block_columns: int | None
    columns: ColumnMasks | None
    forward_by_backend: bool = False
    forward: ForwardStatistics | None = None
    """What the forward pass did, once it is over."""

    def of(self, begin: int, end: int) -> Plan:
        """The plan of some of the steps."""
        if self.columns is None:
            return self
        return replace(self, columns=self.columns.steps(begin, end))


class Pass(torch.autograd.Function):
    """One layer over steps of the same batch, time first."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, plan = arguments
        bias = b_ih if b_hh is None else b_ih + b_hh
        statistics = None
        if plan.forward_by_backend:
            run = ForwardPass(x, h0, c0, w_ih, w_hh, bias, plan.block, plan.block_columns, plan.columns)
            tape, statistics = plan.backend.forward(run)
        else:
            tape = forward(x, h0, c0, w_ih, w_hh, bias, plan.columns)
        ctx.plan = replace(plan, forward=statistics)
        ctx.save_for_backward(tape.x, tape.hs, tape.cs, tape.gates, tape.tanh_c, w_ih, w_hh)
        # Copies: the user may do what he likes with them, the tape must stay.
        return tape.hs[1:].clone(), tape.hs[-1].clone(), tape.cs[-1].clone()

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuse forward-mode differentiation."""
        raise RuntimeError(f"SievedLSTM does not support forward-mode differentiation: {HOW}")

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        if any(is_batchedtensor(g) or is_legacy_batchedtensor(g) for g in upstream):
            raise RuntimeError(f"SievedLSTM does not support batched gradients (is_grads_batched, vmap): {HOW}")
        # a function of its own is only needed, and only costs time, where a graph of the gradients is asked for
        gradients = _Gradients.apply if torch.is_grad_enabled() else _gradients
        *most, db = gradients(ctx.plan, ctx.needs_input_grad[0], *upstream, *ctx.saved_tensors)
        return (*most, *(db if needed else None for needed in ctx.needs_input_grad[5:7]), None)


def _gradients(plan: Plan, need_dx: bool, *tensors: Tensor) -> tuple[Tensor | None, ...]:
    """The backward pass: dx, dh0, dc0, dw_ih, dw_hh and db from dy, dh and dc, the tape, w_ih and w_hh."""
    dy, dh, dc, x, hs, cs, gates, tanh_c, w_ih, w_hh = tensors
    run = BackwardPass(
        tape=LayerTape(x, hs, cs, gates, tanh_c),
        upstream=Upstream(*(g.contiguous() for g in (dy, dh, dc))),
        w_ih=w_ih,
        w_hh=w_hh,
        sieve=plan.sieve,
        state=plan.state,
        block=plan.block,
        block_columns=plan.block_columns,
        columns=plan.columns,
        need_dx=need_dx,
    )
    with torch.autocast(dy.device.type, enabled=False):
        gradients, statistics = plan.backend.backward(run)
    plan.statistics.add(replace(statistics, forward=plan.forward))
    dx = gradients.dx
    if dx is not None and plan.columns is not None:
        dx = dx * plan.columns.x_scale
    return dx, gradients.dh0, gradients.dc0, gradients.dw_ih, gradients.dw_hh, gradients.db


class _Gradients(torch.autograd.Function):
    """The backward pass as a function, so that gradients of gradients are refused instead of left out."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        return _gradients(*arguments)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Any, ...]:
        raise RuntimeError("SievedLSTM does not support gradients of gradients")
