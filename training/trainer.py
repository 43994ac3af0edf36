"""The training loop of a language model: any method, any backend, checkpoints that go on exactly where they were."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradsieve.hw.config import EngineConfig
from gradsieve.rtl_gen.files import claimed
from gradsieve.training.accounting import Account
from gradsieve.training.backends import Backend
from gradsieve.training.checkpoint import difference, load_checkpoint, save_checkpoint
from gradsieve.training.construction import (
    engine_of,
    layer_sizes,
    make_backend,
    make_lstm,
    make_model,
    make_optimizer,
    make_schedule,
    make_weight_method,
)
from gradsieve.training.errors import SettingsError, TrainingError
from gradsieve.training.history import Record, Result
from gradsieve.training.language_model import evaluate
from gradsieve.training.methods.snt_asgd import SNTASGD
from gradsieve.training.reports.report import write_report, write_result
from gradsieve.training.settings import Settings, make
from gradsieve.training.text import Corpus, Streams

CHECKPOINT, RESULT, REPORT = "checkpoint.pt", "result.json", "report.html"

Progress = Callable[[int, str], None]


class Trainer:
    """One training.  `backend`: one to use in place of the one that the settings name, an open device say.

    Raises TextError for a text that cannot be used, ConfigError for an engine that the model does not fit, ToolError if
    the simulator cannot be built; before any training.
    """

    def __init__(self, settings: Settings, corpus: Corpus | None = None, backend: Backend | None = None) -> None:
        self.settings = settings
        loop, text = settings.training, settings.text
        torch.set_num_threads(loop.threads)
        self.config = engine_of(settings)
        sizes = layer_sizes(settings)
        if settings.backend.kind != "float":
            for s in sizes:
                self.config.check_run(H=s.H, I=s.I, B=s.B, T=s.T)
        if settings.backend.forward == "backend":
            _check_forward(self.config)
        self.corpus = corpus or Corpus.load(text.file, text.valid, text.level, text.vocabulary, text.valid_share)
        self.streams = Streams(self.corpus.train, loop.batch, loop.window, self.corpus.train_source)
        self.valid = self.corpus.valid[: text.valid_tokens]
        self._open = ExitStack()
        torch.manual_seed(loop.seed)
        self.lstm = make_lstm(settings, backend or self._open.enter_context(make_backend(settings, self.config)))
        self.model = make_model(settings, len(self.corpus.vocabulary), self.lstm)
        self.optimizer = make_optimizer(settings, self.model)
        self.masks = make_weight_method(settings, self.lstm)
        self.schedule = make_schedule(settings)
        self.account = Account(sizes, self.config, loop.batch * loop.window)
        self.state = self.model.zero_state(loop.batch)
        self.done = 0
        self.records: list[Record] = []
        self._losses: list[float] = []
        self._seconds = self._backward_seconds = 0.0
        self._watch_backward()

    def close(self) -> None:
        """Give the device up, if there is one."""
        self._open.close()

    def _watch_backward(self) -> None:
        """Time the LSTM's backward passes, PyTorch's own and ours alike: from the gradient of y to that of x."""
        begun = 0.0

        def begin(gradient: Tensor) -> None:
            nonlocal begun
            begun = time.perf_counter()

        def end(gradient: Tensor) -> None:
            self._backward_seconds += time.perf_counter() - begun

        def watch(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
            if output[0].requires_grad and inputs[0].requires_grad:
                output[0].register_hook(begin)
                inputs[0].register_hook(end)

        self.lstm.register_forward_hook(watch)

    # training

    def step(self) -> float:
        """One training step; returns the loss in nats a token.  Raises TrainingError if it is not finite."""
        loop, begun = self.settings.training, time.perf_counter()
        tokens, targets, begins = self.streams.next()
        if begins:
            self.state = self.model.zero_state(loop.batch)
        self.lstm.sieve = self.schedule.at(self.done)
        self.masks.before(self.done)
        if loop.decay == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = loop.rate * (1 + math.cos(math.pi * self.done / loop.steps)) / 2
        loss, state = self.model.loss(tokens, targets, self.state)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {self.done + 1} is {value}: lower training.rate = {loop.rate} or training.clip = "
                f"{loop.clip}; the last checkpoint is kept"
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), loop.clip)

        def again() -> float:
            with torch.no_grad():
                return self.model.loss(tokens, targets, self.state)[0].item()

        more_forward = self.masks.after_loss(self.done, value, again)
        self.optimizer.step()
        self.masks.after(self.done, self.optimizer)
        self.state = state
        self._seconds += time.perf_counter() - begun
        self.account.add_step(self.lstm.take_statistics(), more_forward * tokens.numel())
        self._losses.append(value)
        self.done += 1
        return value

    def evaluate(self) -> float:
        """The validation loss in nats a token."""
        loop = self.settings.training
        batch = max(1, min(loop.batch, len(self.valid) // 2))
        with ExitStack() as stack:
            stack.enter_context(self.masks.evaluation())
            if isinstance(self.optimizer, SNTASGD):
                stack.enter_context(self.optimizer.averaged())
            return evaluate(self.model, self.valid, batch, loop.window)

    def record(self, valid_loss: float | None) -> None:
        """Note the state of the training."""
        rows, elements, layers = self.account.take()
        self.records.append(
            Record(
                step=self.done,
                train_loss=sum(self._losses) / len(self._losses),
                valid_loss=valid_loss,
                seconds=self._seconds,
                backward_seconds=self._backward_seconds,
                rows=rows,
                elements=elements,
                work=self.account.work,
                saturations=dict(self.account.saturations),
                layers=layers,
            )
        )
        self._losses = []

    def run(self, progress: Progress, save: Callable[[], None], stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end, or until `stop` says so after a step; `save` is called when a checkpoint is due.

        `progress` is told the steps done and a remark.  Returns whether the end was reached.
        """
        loop = self.settings.training
        while self.done < loop.steps:
            loss = self.step()
            last = self.done == loop.steps
            due = last or self.done % loop.evaluate_every == 0
            valid = self.evaluate() if due else None
            if valid is not None and isinstance(self.optimizer, SNTASGD):
                self.optimizer.observe(valid)
            if due or self.done % loop.record_every == 0:
                self.record(valid)
            progress(self.done, self._remark(loss))
            if last or self.done % loop.checkpoint_every == 0:
                save()
            elif stop():
                save()
                return False
        return True

    def _remark(self, loss: float) -> str:
        tokens = self.settings.training.batch * self.settings.training.window
        kept = f", {100 * self.records[-1].rows:.1f} % of rows" if self.records else ""
        return f"{loss:.3f} nats a token{kept}, {self.done * tokens / max(self._seconds, 1e-9):,.0f} tokens/s"

    # results and checkpoints

    def result(self) -> Result:
        """What has been recorded so far."""
        return Result(
            name=self.settings.title,
            settings=self.settings.as_dict() | {"sources": self._sources()},
            records=tuple(self.records),
            measured=self.settings.backend.kind == "simulated",
            parameters=sum(p.numel() for p in self.model.parameters()),
            finished=self.done == self.settings.training.steps,
        )

    def _sources(self) -> dict[str, Any]:
        return {
            "train": self.corpus.train_source,
            "valid": self.corpus.valid_source,
            "tokens": len(self.corpus.train),
            "valid_tokens": len(self.valid),
            "vocabulary": len(self.corpus.vocabulary),
            "engine": self.config.model_dump(mode="json"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            "settings": self.settings.as_dict(),
            "text": self.corpus.digest,
            "engine": self.config.digest,
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lstm": self.lstm.sieve_state_dict(),
            "masks": self.masks.state_dict(),
            "streams": self.streams.state_dict(),
            "state": self.state,
            "random": torch.get_rng_state(),
            "losses": list(self._losses),
            "records": [r.model_dump(mode="json") for r in self.records],
            "account": self.account.state_dict(),
            "seconds": (self._seconds, self._backward_seconds),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `state_dict`.  Raises SettingsError for one of another configuration, text or engine.

        The content of texts and config files decides, not where they are.
        """
        before = make(saved["settings"], "the checkpoint")
        if other := difference(before.decisive, self.settings.decisive):
            raise SettingsError(f"the checkpoint is of another configuration: {other}")
        if saved["text"] != self.corpus.digest:
            raise SettingsError(
                f"the text must be that of the checkpoint, got another: {self.corpus.train_source}"
                + (f", validated on {self.corpus.valid_source}" if self.settings.text.valid else "")
            )
        if saved["engine"] != self.config.digest:
            engine = self.settings.backend.config or self.config.name
            raise SettingsError(f"the engine must be that of the checkpoint, got another: {engine}")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.lstm.load_sieve_state_dict(saved["lstm"])
        self.masks.load_state_dict(saved["masks"])
        self.streams.load_state_dict(saved["streams"])
        self.state = saved["state"]
        torch.set_rng_state(saved["random"])
        self.done, self._losses = saved["done"], list(saved["losses"])
        self.records = [Record.model_validate(r) for r in saved["records"]]
        self.account.load_state_dict(saved["account"])
        self._seconds, self._backward_seconds = saved["seconds"]


def _check_forward(config: EngineConfig) -> None:
    try:
        config.formats.check_forward()
    except ValueError as error:
        raise SettingsError(f"backend.forward must be 'float' with engine {config.name!r}: {error}") from None


@contextmanager
def _trainer(settings: Settings) -> Any:
    trainer = Trainer(settings)
    try:
        yield trainer
    finally:
        trainer.close()


def train(
    settings: Settings,
    folder: Path,
    progress: Progress | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train, and leave `result.json`, `report.html` and `checkpoint.pt` in `folder`.

    With `resume` it goes on from the checkpoint there, if there is one.  When `stop` says so after a step, everything
    is saved and the result is not finished.  Raises TextError, SettingsError and ConfigError for what cannot be
    trained, before any work; TrainingError if it cannot go on, or another training is writing to the folder.
    """
    with claimed(folder, TrainingError), _trainer(settings) as trainer:
        checkpoint = folder / CHECKPOINT
        if resume and checkpoint.exists():
            trainer.load_state_dict(load_checkpoint(checkpoint))
        trainer.run(
            progress or (lambda done, remark: None), lambda: save_checkpoint(trainer.state_dict(), checkpoint), stop
        )
        result = trainer.result()
        if result.records:
            write_result(result, folder / RESULT)
            write_report(result, folder / REPORT)
        return result
