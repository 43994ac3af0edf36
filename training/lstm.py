"""`SievedLSTM`: a drop-in `torch.nn.LSTM` whose backward pass is sieved, on the backend of your choice."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.utils.rnn import PackedSequence

from gradsieve.training.autograd import Pass, Plan, refuse_transforms
from gradsieve.training.backends import Backend, FloatBackend
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.masks import WeightMasks, kept_units
from gradsieve.training.methods.sieves import DenseSieve, GradientSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout
from gradsieve.training.packing import Segments, reversal
from gradsieve.training.saving import from_plain, to_plain
from gradsieve.training.statistics import PassStatistics, StatisticsQueue, dense_pass

State = tuple[Tensor, Tensor]

_SETTINGS = ("_sieve", "_backend", "_column_dropout", "weight_masks")
"""Attributes that are saved as plain values."""


class SievedLSTM(nn.LSTM):
    """`torch.nn.LSTM` with a gradient sieve.

    Arguments, shapes, `state_dict` keys and meaning are those of `torch.nn.LSTM`, with weights that load into each
    other; `proj_size` is refused.  All of the following may be changed between steps:

    - `sieve`: which gate gradients the backward pass uses; `DenseSieve()` by default.
    - `backend`: what computes the backward pass (`gradsieve.training.backends`); `FloatBackend()` by default.
    - `forward_on`: what computes the forward pass, `"float"` (the default) or `"backend"`; the argument is `forward`.
      On the golden backend it then is the integers' own, in every mode of the module, and gradients are those of the
      real function at its values.
    - `column_dropout`: structured dropout of x and h in training mode (`gradsieve.training.methods`).
    - `weight_masks`: which weights exist (`gradsieve.training.methods.masks.WeightMasks`), in every mode.
    - `unit_masks`: (H,) bool a layer and direction in the order of `layers`, or None: hidden units that exist.  The
      layer then runs at the smaller size, and h and c of the other units are zero.

    Without any of them, passes are PyTorch's own.  A layer's backward pass is one run of the backend; a PackedSequence
    takes one for every stretch of steps with the same batch, whose gradients add up.  `take_statistics` tells what the
    passes did.  Structured dropout draws from PyTorch's own random numbers, as `dropout` does; the stochastic sieve, in
    the backward pass, from ones of its own, which begin with `seed`.  Under autocast, results have the dtype of
    `torch.nn.LSTM`'s, and the pass that of the parameters.  Gradients of gradients, torch.func, batched and per-sample
    gradients, and TorchScript are refused by RuntimeError; `to_lstm` leads back to `torch.nn.LSTM`.  Raises what
    `torch.nn.LSTM` raises, and ValueError for `proj_size`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        sieve: GradientSieve | None = None,
        backend: Backend | None = None,
        column_dropout: StructuredDropout | None = None,
        forward: str = "float",
        seed: int = 1,
    ) -> None:
        if proj_size:
            raise ValueError(f"proj_size must be 0 (the engine has no projection), got {proj_size!r}")
        sizes = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(*sizes, device=device, dtype=dtype)
        self.sieve = sieve
        self.backend = backend if backend is not None else FloatBackend()
        self.column_dropout = column_dropout
        self.forward_on = forward
        self.weight_masks: WeightMasks | None = None
        self.unit_masks: list[Tensor] | None = None
        directions = ("", "_reverse") if self.bidirectional else ("",)
        self.layers = tuple(f"l{n}{d}" for n in range(self.num_layers) for d in directions)
        self.states = [LayerState(layer, number, seed) for number, layer in enumerate(self.layers)]
        self._statistics = StatisticsQueue()
        self._warned = False

    @property
    def sieve(self) -> GradientSieve:
        """Which gate gradients the backward pass uses; None means `DenseSieve()`.  Raises TypeError for no sieve."""
        return self._sieve

    @sieve.setter
    def sieve(self, sieve: GradientSieve | None) -> None:
        if sieve is not None and not isinstance(sieve, GradientSieve):
            raise TypeError(f"sieve must be a sieve such as RowSieve(target=0.2), or None; got {sieve!r}")
        self._sieve = sieve if sieve is not None else DenseSieve()

    @property
    def backend(self) -> Backend:
        """What computes the backward pass.  Raises TypeError for what is no backend."""
        return self._backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        if isinstance(backend, type) or not callable(getattr(backend, "backward", None)):
            raise TypeError(f"backend must be a backend such as FloatBackend(), got {backend!r}")
        self._backend = backend

    @property
    def forward_on(self) -> str:
        """What computes the forward pass.  Raises ValueError for anything but "float" and "backend"."""
        return self._forward_on

    @forward_on.setter
    def forward_on(self, place: str) -> None:
        if place not in ("float", "backend"):
            raise ValueError(f"forward must be 'float' or 'backend', got {place!r}")
        self._forward_on = place

    @property
    def column_dropout(self) -> StructuredDropout | None:
        """Structured dropout of x and h in training mode.  Raises TypeError for anything else."""
        return self._column_dropout

    @column_dropout.setter
    def column_dropout(self, dropout: StructuredDropout | None) -> None:
        if dropout is not None and not isinstance(dropout, StructuredDropout):
            raise TypeError(f"column_dropout must be a StructuredDropout or None, got {dropout!r}")
        self._column_dropout = dropout

    @property
    def _like(self) -> Tensor:
        """A weight, for its device and dtype: replicas of `torch.nn.DataParallel` have no parameters."""
        return cast(Tensor, self.weight_ih_l0)

    # what the passes did, and how to go on

    def take_statistics(self) -> list[PassStatistics]:
        """The statistics of every backward pass since the last call, in the order of their ends."""
        return self._statistics.take()

    def sieve_state_dict(self) -> dict[str, Any]:
        """Thresholds, random words and loss scales: what a checkpoint needs beside `state_dict`."""
        return {state.layer: state.state_dict() for state in self.states}

    def load_sieve_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from `sieve_state_dict`.  Raises ValueError for one of other layers."""
        if set(saved) != set(self.layers):
            raise ValueError(f"saved must hold the layers {sorted(self.layers)}, got {sorted(saved)}")
        for state in self.states:
            state.load_state_dict(saved[state.layer])

    # copies, files, and what shows

    def __getstate__(self) -> dict[str, Any]:
        """Of plain values and tensors, without the statistics: `torch.load` needs to be allowed this class only."""
        state: dict[str, Any] = super().__getstate__()
        for name in ("states", "_statistics", "_warned"):
            state.pop(name)
        for name in _SETTINGS:
            state[name] = to_plain(state[name])
        return state | {"sieve_state": self.sieve_state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state["sieve_state"]
        rest = {name: value for name, value in state.items() if name != "sieve_state"}
        super().__setstate__({"_forward_on": "float"} | rest | {name: from_plain(state[name]) for name in _SETTINGS})
        self.states = [LayerState(layer, number) for number, layer in enumerate(self.layers)]
        self.load_sieve_state_dict(saved)
        self._statistics, self._warned = StatisticsQueue(), False

    def __prepare_scriptable__(self) -> Any:
        """Called by `torch.jit.script`.  Raises RuntimeError."""
        raise RuntimeError("SievedLSTM cannot be compiled by torch.jit.script: give it the module's to_lstm()")

    def extra_repr(self) -> str:
        """As `torch.nn.LSTM`'s, with the sieve, the backend and the dropout."""
        parts = [super().extra_repr(), f"sieve={self.sieve!r}", f"backend={self.backend!r}"]
        if self.column_dropout is not None:
            parts.append(f"column_dropout={self.column_dropout!r}")
        if self.forward_on != "float":
            parts.append(f"forward={self.forward_on!r}")
        return ", ".join(parts)

    def to_lstm(self) -> nn.LSTM:
        """A `torch.nn.LSTM` with copies of the weights (see `gradsieve.training.deployment`)."""
        from gradsieve.training.deployment import to_lstm

        return to_lstm(self)

    # forward

    def _plain(self, batch: int) -> bool:
        """Whether PyTorch's own passes do what is asked."""
        if batch == 0:
            return True
        if self.forward_on == "backend" and not isinstance(self.backend, FloatBackend):
            return False
        if self.weight_masks is not None or self.unit_masks is not None:
            return False
        if self.column_dropout is not None and self.training:
            return False
        if not torch.is_grad_enabled() and not (self.training and self.dropout):
            return (
                True  # with dropout, a second forward pass with gradients must draw as this one does: cuDNN would not
            )
        if not self.sieve.dense and _top_saved_tensors_default_hooks(True) is not None:
            return False  # a checkpoint's second forward pass must take the way of the first
        over = [self.backend.passes_over(self.sieve, state, self._like, batch) for state in self.states]
        return all(over)

    def forward(self, input: Any, hx: State | None = None) -> tuple[Any, State]:
        """As `torch.nn.LSTM.forward`."""
        if self._plain(self._batch(input)):
            output, state = super().forward(input, hx)
            self._watch_plain(output, state)
            return output, state
        device, dtype = self._like.device.type, self._like.dtype
        refuse_transforms(self.parameters())
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return self._own(input, hx)
        with torch.autocast(device, enabled=False):  # the tape is written in place, in one dtype
            output, state = self._own(input.to(dtype), hx if hx is None else (hx[0].to(dtype), hx[1].to(dtype)))
        if dtype == torch.float64:  # which autocast leaves alone
            return output, state
        low = torch.get_autocast_dtype(device)
        if isinstance(input, PackedSequence):  # autocast knows only the GEMMs of PyTorch's pass over it
            low = torch.promote_types(low, input.data.dtype if hx is None else hx[0].dtype)
        return output.to(low), (state[0].to(low), state[1].to(low))

    def _own(self, input: Any, hx: State | None) -> tuple[Any, State]:
        """By passes of ours."""
        if isinstance(input, PackedSequence):
            state = self._initial(input.data, int(input.batch_sizes[0]), hx, input.sorted_indices)
            self.check_forward_args(input.data, state, input.batch_sizes)
            segments = Segments.of(input.batch_sizes.tolist())
            data, state = self._stack(input.data, state, segments)
            packed = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            return packed, self.permute_hidden(state, input.unsorted_indices)
        return self._forward_tensor(input, hx)

    def _batch(self, input: Any) -> int:
        if isinstance(input, PackedSequence):
            return int(input.batch_sizes[0])
        return 1 if input.dim() != 3 else input.shape[0 if self.batch_first else 1]

    def _forward_tensor(self, x: Tensor, hx: State | None) -> tuple[Tensor, State]:
        if x.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        batched, batch_dim = x.dim() == 3, 0 if self.batch_first else 1
        if hx is not None and any(s.dim() != x.dim() for s in hx):
            raise RuntimeError(
                f"For {'batched' if batched else 'unbatched'} {x.dim()}-D input, hx and cx should also be {x.dim()}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        if not batched:
            x = x.unsqueeze(batch_dim)
            hx = hx if hx is None else tuple(s.unsqueeze(1) for s in hx)  # type: ignore[assignment]
        state = self._initial(x, x.shape[batch_dim], hx, None)
        self.check_forward_args(x, state, None)
        if self.batch_first:
            x = x.transpose(0, 1)
        T, B, _ = x.shape
        if T == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        y, (h, c) = self._stack(x.reshape(T * B, -1), state, Segments.of([B] * T))
        y = y.view(T, B, -1)
        if self.batch_first:
            y = y.transpose(0, 1)
        return (y, (h, c)) if batched else (y.squeeze(batch_dim), (h.squeeze(1), c.squeeze(1)))

    def _initial(self, data: Tensor, batch: int, hx: State | None, order: Tensor | None) -> State:
        if hx is not None:
            if len(hx) > 2:
                raise RuntimeError("lstm expects two hidden states")
            if any(s.dtype != data.dtype for s in hx):
                raise RuntimeError(
                    f"hx must have the input's dtype, {data.dtype}; got {', '.join(str(s.dtype) for s in hx)}"
                )
            return self.permute_hidden(hx, order)
        zeros = data.new_zeros(len(self.layers), batch, self.hidden_size)
        return zeros, zeros

    def _stack(self, data: Tensor, state: State, segments: Segments) -> tuple[Tensor, State]:
        """All layers over flat data (N, I), the steps one after the other."""
        directions = 2 if self.bidirectional else 1
        units: Tensor | None = None  # of the layer below, by column of this layer's input
        hs, cs = [], []
        for number in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                n = number * directions + direction
                order = reversal(segments, data.device) if direction else None
                source = data if order is None else data[order]
                y, h, c = self._layer(n, source, units, state[0][n], state[1][n], segments)
                outputs.append(y if order is None else y[order])
                hs.append(h)
                cs.append(c)
            data = outputs[0] if directions == 1 else torch.cat(outputs, dim=1)
            if self.unit_masks is not None:
                first = number * directions
                units = torch.cat(self.unit_masks[first : first + directions]).to(data.device).nonzero()[:, 0]
            if self.dropout and number < self.num_layers - 1:
                data = nn.functional.dropout(data, self.dropout, self.training)
        return data, (torch.stack(hs), torch.stack(cs))

    def _layer(
        self, n: int, data: Tensor, inputs: Tensor | None, h: Tensor, c: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer and direction; `inputs`: the columns of `data` that may be other than zero."""
        w_ih, w_hh, b_ih, b_hh = self._weights(n)
        units = None
        if self.unit_masks is not None:
            if self.weight_masks is not None:
                raise ValueError("unit_masks and weight_masks are both given: give one of them")
            units = kept_units(self.unit_masks, n, self.layers, self.hidden_size).to(self._like.device)
            rows = torch.cat([units + gate * self.hidden_size for gate in range(4)])
            w_ih, w_hh = w_ih[rows], w_hh[rows][:, units]
            b_ih, b_hh = (b if b is None else b[rows] for b in (b_ih, b_hh))
            h, c = h[:, units], c[:, units]
            if inputs is not None:
                w_ih, data = w_ih[:, inputs], data[:, inputs]
        plan = self._plan(n, segments, w_ih.shape[1], w_hh.shape[1])
        ys, ended_h, ended_c = [], [], []
        for s in segments:
            ended_h.append(h[s.batch :])
            ended_c.append(c[s.batch :])
            x = data[s.begin : s.end].view(s.last - s.first, s.batch, -1)
            part = plan.of(s.first, s.last)
            y, h, c = Pass.apply(x, h[: s.batch], c[: s.batch], w_ih, w_hh, b_ih, b_hh, part)
            ys.append(y.flatten(0, 1))
        y = ys[0] if len(ys) == 1 else torch.cat(ys)
        h, c = (v if len(ys) == 1 else torch.cat([v, *reversed(e)]) for v, e in ((h, ended_h), (c, ended_c)))
        if units is None:
            return y, h, c
        y, h, c = (v.new_zeros(len(v), self.hidden_size).index_copy(1, units, v) for v in (y, h, c))
        return y, h, c

    def _weights(self, n: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        layer = self.layers[n]
        w_ih, w_hh = getattr(self, f"weight_ih_{layer}"), getattr(self, f"weight_hh_{layer}")
        if self.weight_masks is not None:
            w_ih, w_hh = (
                self.weight_masks.apply(f"weight_{kind}_{layer}", w) for kind, w in (("ih", w_ih), ("hh", w_hh))
            )
        if not self.bias:
            return w_ih, w_hh, None, None
        return w_ih, w_hh, getattr(self, f"bias_ih_{layer}"), getattr(self, f"bias_hh_{layer}")

    def _plan(self, n: int, segments: Segments, I: int, H: int) -> Plan:
        state = self.states[n]
        columns = None
        dropout = self.column_dropout
        if dropout is not None and self.training and (dropout.input or dropout.hidden):
            # by PyTorch's own random numbers: activation checkpointing winds these back for its second forward pass
            columns = dropout.draw(segments.steps, I, H)
        masks = self.weight_masks
        block = None if masks is None else masks.blocks(self.layers[n], 4 * H, (I, H))
        block_columns = None if masks is None else masks.columns
        by_backend = self.forward_on == "backend"
        return Plan(self.backend, self._statistics, state, self.sieve, block, block_columns, columns, by_backend)

    # the passes that are PyTorch's own

    def _watch_plain(self, output: Any, state: State) -> None:
        """Have a dense pass counted once its gradients arrive."""
        data = output.data if isinstance(output, PackedSequence) else output
        if not data.requires_grad or not data.numel() or torch.jit.is_tracing():
            return
        if isinstance(output, PackedSequence):
            segments = Segments.of(output.batch_sizes.tolist())
        else:
            batch, steps = (1, len(data)) if data.dim() == 2 else data.shape[:2][:: 1 if self.batch_first else -1]
            segments = Segments.of([batch] * steps)
        left_dense = not self.sieve.dense
        lanes, columns = self.backend.lanes, self.backend.columns
        directions = 2 if self.bidirectional else 1

        def count(_: Tensor) -> None:
            for n, layer in enumerate(self.layers):
                I = self.input_size if n < directions else directions * self.hidden_size
                for s in segments:
                    sizes = (self.hidden_size, I, s.batch, s.last - s.first)
                    self._statistics.add(dense_pass(layer, sizes, lanes or s.batch, columns, left_dense))
            if left_dense and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{len(self.layers) * len(segments.parts)} of {self._statistics.passes} backward passes so far "
                    "were PyTorch's own dense ones: dense_where_faster is set, and sieving would save no time there; "
                    "take_statistics() counts them on as left_dense",
                    stacklevel=2,
                )

        register_multi_grad_hook((data, *state), count, mode="any")
