"""A pipeline of named stages: as long as their list, and values of different stages meet without being counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Signal, Value


class Staged:
    """A value of a pipeline; `now` is what it is in the stage that is being built."""

    def __init__(self, pipeline: Pipeline, value: Any, name: str, first: int) -> None:
        self._pipeline, self._name = pipeline, name
        self._first, self._values = first, [value]

    @property
    def now(self) -> Any:
        """The value at the beginning of the stage that is being built, delayed by as many registers as that takes.

        Raises ValueError in the stage whose `put` it is: there it has not come yet.
        """
        if self._pipeline.depth < self._first:
            raise ValueError(f"{self._name} is there after stage {self._pipeline.stages[self._first - 1]}, not in it")
        while len(self._values) <= self._pipeline.depth - self._first:
            later = f"{self._name}_{self._pipeline.stages[self._first + len(self._values) - 1]}"
            self._values.append(self._pipeline.register(self._values[-1], later))
        return self._values[self._pipeline.depth - self._first]


class Pipeline:
    """Registers in the order of `stages`, a cycle each, that never hold: what enters leaves len(`stages`) cycles later.

    The list is what the pipeline's latency is known from before it is built, and each stage of it is built in turn:
    after `begin`, `put` makes the registers at the stage's end.  What `put` and `enter` return is read as `now`, in
    this stage or a later one.  `end` closes the list: `now` is then what leaves.  Registers have no reset; `marks` are
    bits that have one.  The pipeline is the submodule `name`, so no condition of `m` holds its registers.
    """

    def __init__(self, m: Module, stages: Sequence[str], name: str = "pipeline") -> None:
        m.submodules[name] = self._m = Module()
        self.stages = tuple(stages)
        self.depth = self._begun = 0

    def enter(self, value: Any, name: str) -> Staged:
        """A value that comes when the stage that is being built begins."""
        return Staged(self, value, name, self.depth)

    def begin(self, stage: str) -> None:
        """Build this stage now.  Raises ValueError if it is not the next one of the list."""
        following = self.stages[self._begun] if self._begun < len(self.stages) else "none"
        if stage != following:
            raise ValueError(f"the pipeline's next stage must be {following}, got {stage}")
        self.depth, self._begun = self._begun, self._begun + 1

    def end(self) -> None:
        """All stages are built.  Raises ValueError if one of the list is not."""
        if self._begun != len(self.stages):
            raise ValueError(f"the pipeline must have all of its stages, {self.stages[self._begun]} was not built")
        self.depth = self._begun

    def put(self, value: Any, name: str) -> Staged:
        """A register at the end of the stage that is being built, for a value at its beginning."""
        return Staged(self, self.register(value, name), name, self.depth + 1)

    def register(self, value: Any, name: str) -> Signal:
        """A register without a reset."""
        register = Signal(Value.cast(value).shape(), name=name, reset_less=True)
        self._m.d.sync += register.eq(value)
        return register

    def marks(self, entering: Value) -> list[Value]:
        """A bit as it enters, and then at the end of each stage: from registers that a reset clears."""
        bits = [entering]
        for stage in self.stages:
            bits.append(Signal(name=f"valid_{stage}"))
            self._m.d.sync += bits[-1].eq(bits[-2])
        return bits
