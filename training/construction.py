"""What a training is made of, from its settings: engine, backend, model, optimizer, weight method and schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gradsieve.hw import config as engine_config
from gradsieve.hw.config import EngineConfig
from gradsieve.training.accounting import LayerSize
from gradsieve.training.backends import Backend, DeviceBackend, FloatBackend, GoldenBackend, fitting_config
from gradsieve.training.errors import SettingsError
from gradsieve.training.language_model import LanguageModel
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.schedules import MixedTraining
from gradsieve.training.methods.sieves import METHODS, DenseSieve, SieveError
from gradsieve.training.methods.snt_asgd import SNTASGD
from gradsieve.training.methods.structured_dropout import ColumnDropout, StructuredDropout
from gradsieve.training.settings import Settings
from gradsieve.training.weight_methods import MaskSampling, NoMasks, SparseWeights, WeightMethod


def engine_of(settings: Settings) -> EngineConfig:
    """The engine of a training: the one that is named, or one that fits the model.  Raises ConfigError."""
    e, m, loop = settings.backend, settings.model, settings.training
    if e.preset is not None:
        return engine_config.preset(e.preset)
    if e.config is not None:
        return engine_config.load(e.config)
    inputs = max(m.embedding or m.hidden, m.hidden if m.layers > 1 else 0)
    return fitting_config(
        m.hidden, inputs, loop.batch, loop.window, lanes=e.lanes or loop.batch, columns=e.columns, name="training"
    )


def layer_sizes(settings: Settings) -> list[LayerSize]:
    """The sizes of each layer, from the first on."""
    m, loop = settings.model, settings.training
    return [
        LayerSize(f"l{n}", m.hidden, m.hidden if n else m.embedding or m.hidden, loop.batch, loop.window)
        for n in range(m.layers)
    ]


@contextmanager
def make_backend(settings: Settings, config: EngineConfig) -> Iterator[Backend]:
    """The backend; a simulated device is given up at the end.  Raises ToolError if the simulator cannot be built."""
    e = settings.backend
    if e.kind == "float":
        yield FloatBackend(e.lanes or None, e.columns, dense_where_faster=e.dense_where_faster)
    elif e.kind == "golden":
        yield GoldenBackend(config)
    else:
        from gradsieve.fpga.device import simulated

        with simulated(config) as device:
            yield DeviceBackend(device)


def make_lstm(settings: Settings, backend: Backend) -> SievedLSTM:
    """The LSTM, with dropout between its layers, or structured dropout of columns."""
    m, d, loop = settings.model, settings.dropout, settings.training
    columns = None
    if d.kind == "structured" and (d.input or d.hidden):
        columns = StructuredDropout(d.input, d.hidden, backend.columns)
    return SievedLSTM(
        m.embedding or m.hidden,
        m.hidden,
        m.layers,
        dropout=d.input if d.kind == "standard" and m.layers > 1 else 0.0,
        backend=backend,
        column_dropout=columns,
        forward=settings.backend.forward,
        seed=loop.seed,
    )


def make_model(settings: Settings, vocabulary: int, lstm: SievedLSTM) -> LanguageModel:
    """The language model around an LSTM, with dropout of its input and output."""
    dropout = settings.dropout
    output: nn.Module | None = None
    if dropout.output:
        structured = ColumnDropout(dropout.output, settings.backend.columns)
        output = structured if dropout.kind == "structured" else nn.Dropout(dropout.output)
    standard_input = nn.Dropout(dropout.input) if dropout.kind == "standard" and dropout.input else None
    return LanguageModel(vocabulary, lstm, standard_input, output)


def make_optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters."""
    loop = settings.training
    if loop.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=loop.rate)
    if loop.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=loop.rate)
    return SNTASGD(model.parameters(), lr=loop.rate)


def make_weight_method(settings: Settings, lstm: SievedLSTM) -> WeightMethod:
    """The method that masks an LSTM's weights, or that of none."""
    loop, columns = settings.training, lstm.backend.columns
    if settings.sparse_weights is not None:
        return SparseWeights(lstm, settings.sparse_weights, columns, loop.steps, loop.seed)
    if settings.sampled_masks is not None:
        return MaskSampling(lstm, settings.sampled_masks, columns, loop.steps, loop.seed)
    return NoMasks()


def make_schedule(settings: Settings) -> MixedTraining:
    """The sieve of each step.  Raises SettingsError for a threshold or target that no sieve takes."""
    s, loop = settings.sieve, settings.training
    if s.method == "dense":
        return MixedTraining(DenseSieve(), loop.steps)
    # The loss of a step is the mean over the tokens of a window, tau is told for their sum.
    tau = None if s.tau is None else s.tau / (loop.batch * loop.window)
    target = s.target if not s.targets else s.targets[0][1]
    try:
        sieve = METHODS[s.method](tau=tau, target=target)
        return MixedTraining(sieve, loop.steps, s.warm_up, s.dense_every, s.dense_tail, s.targets)
    except SieveError as error:
        raise SettingsError(f"sieve.{error}") from None
