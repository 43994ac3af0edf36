"""Texts as numbers: reading, vocabularies of characters or words, and parallel streams of tokens for training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["char", "word"]
"""What a token is: a character, or a word between white space."""

UNKNOWN = "<unk>"
"""The token of everything that the vocabulary does not hold."""
END = "<eos>"
"""The token of a line end, of words only; characters have the line end itself."""


class TextError(ValueError):
    """A text cannot be used; the message says why."""


def read_text(path: Path | None) -> str:
    """The text of a UTF-8 file, by default Python's own documentation; a byte order mark is no part of it.

    Raises TextError if it cannot be read.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise TextError(f"{path}: is no UTF-8 text") from None


def text_digest(path: Path | None) -> str:
    """First 16 hexadecimal digits of the SHA-256 of what `read_text` returns.  Raises TextError as it does."""
    return _digest(read_text(path).encode())


def source_name(path: Path | None) -> str:
    """What messages call the text that `read_text` reads."""
    return "Python's own documentation" if path is None else str(path)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens, each of which is the number of its place.

    Raises ValueError for a level that there is not and for a token that is there twice.
    """

    level: Level
    tokens: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        _check_level(self.level)
        if len(self._numbers) < len(self.tokens):
            token, count = Counter(self.tokens).most_common(1)[0]
            raise ValueError(f"tokens must be distinct, got {token!r} {count} times")

    @classmethod
    def build(cls, text: str, level: Level, limit: int | None = None) -> Vocabulary:
        """The `limit` most frequent tokens of the text, by default all, and `<unk>` for the rest, in sorted order.

        Of tokens equally frequent those first in the order of their characters are taken.  Of words, those that occur
        once are `<unk>` in any case (a rule of ours): a model that meets no unknown word in training cannot expect one
        in validation.  `<unk>` is always there, counts towards no limit, and is the same for the words `<unk>` in the
        text.  Raises ValueError for a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        counts = Counter(_split(text, level))
        counts.pop(UNKNOWN, None)
        least = 2 if level == "word" else 1
        ranked = sorted((t for t, count in counts.items() if count >= least), key=lambda t: (-counts[t], t))
        return cls(level, tuple(sorted([UNKNOWN, *ranked[:limit]])))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: n for n, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the level and the tokens."""
        return _digest(json.dumps([self.level, self.tokens]).encode())

    def encode(self, text: str) -> Tensor:
        """The numbers of the text's tokens, int64.

        Words are what white space separates; the end of each line, that of the text too, is `<eos>`, and lines without
        words are dropped.  Raises TextError for a token that is not in the vocabulary if `<unk>` is not either.
        """
        import torch  # here, as an error of this module must be told from others without loading PyTorch

        numbers, tokens = self._numbers, _split(text, self.level)
        unknown = numbers.get(UNKNOWN)
        if unknown is None:
            missing = next((token for token in tokens if token not in numbers), None)
            if missing is not None:
                raise TextError(f"{missing!r} is not in the vocabulary of {len(self)} tokens, nor is {UNKNOWN}")
        return torch.tensor([numbers.get(token, unknown) for token in tokens], dtype=torch.int64)

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """The text of the numbers: characters side by side, words with blanks between them and `<eos>` a line end."""
        tokens = [self.tokens[int(n)] for n in ids]
        if self.level == "char":
            return "".join(tokens)
        return "".join(
            "\n" if token == END else token if before == END else f" {token}"
            for before, token in zip([END, *tokens], tokens, strict=False)
        )


class Streams:
    """Token numbers (1-D) as `batch` parallel streams, read `steps` tokens at a time, again and again.

    What does not fill another token of every stream or another window of `steps` tokens is left out.  Raises TextError,
    naming `source`, if there are not two windows: the second is the first with a state carried to it.
    """

    windows: int
    """Windows in the streams: `next` begins again after so many."""

    def __init__(self, ids: Tensor, batch: int, steps: int, source: str) -> None:
        for name, value in (("batch", batch), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        need = batch * (2 * steps + 1)
        if len(ids) < need:
            raise TextError(
                f"{source}: has {len(ids)} tokens, and {batch} streams of {steps} tokens a step need {need} or more"
            )
        self._ids = side_by_side(ids, batch)
        self._steps = steps
        self._window = 0
        self.windows = (len(self._ids) - 1) // steps

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """Tokens and their successors, (steps, batch) each, and whether this is the beginning of the streams."""
        at = self._window * self._steps
        begins = self._window == 0
        self._window = (self._window + 1) % self.windows
        return self._ids[at : at + self._steps], self._ids[at + 1 : at + self._steps + 1], begins

    def state_dict(self) -> dict[str, int]:
        """The position: what `load_state_dict` goes on from."""
        return {"window": self._window}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position.  Raises ValueError for one that these streams do not have."""
        window = state["window"]
        if not 0 <= window < self.windows:
            raise ValueError(f"window must be from 0 to {self.windows - 1}, got {window}")
        self._window = window


def side_by_side(ids: Tensor, batch: int) -> Tensor:
    """Token numbers (1-D) as `batch` streams, (length, batch); the last ones that make no full row are left out."""
    length = len(ids) // batch
    return ids[: length * batch].view(batch, length).T.contiguous()


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text for training and one for validation, as numbers of one vocabulary, int64, and what messages call them."""

    vocabulary: Vocabulary
    train: Tensor = field(repr=False)
    valid: Tensor = field(repr=False)
    train_source: str
    valid_source: str

    @classmethod
    def load(
        cls,
        text: Path | None,
        valid: Path | None,
        level: Level,
        vocabulary: int | None = None,
        valid_share: float = 0.1,
    ) -> Corpus:
        """The training text, by default Python's own documentation, and the validation text, by default its end.

        The vocabulary is that of the training text alone, of at most `vocabulary` tokens besides `<unk>`.  Raises
        TextError for a text that cannot be read or has not two tokens, and ValueError for a share that is not between
        0 and 1.
        """
        train_source, whole = source_name(text), read_text(text)
        if valid is not None:
            train_text, valid_text, valid_source = whole, read_text(valid), source_name(valid)
        else:
            train_text, valid_text = split(whole, valid_share)
            valid_source = f"the last {100 * valid_share:g} % of {train_source}"
        built = Vocabulary.build(train_text, level, vocabulary)
        corpus = cls(built, built.encode(train_text), built.encode(valid_text), train_source, valid_source)
        for ids, source in ((corpus.train, train_source), (corpus.valid, valid_source)):
            if len(ids) < 2:
                raise TextError(f"{source}: has {len(ids)} tokens, and 2 or more are needed")
        return corpus

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the vocabulary and both texts, not of their names."""
        texts = (ids.numpy().tobytes() for ids in (self.train, self.valid))
        return _digest(b"".join([self.vocabulary.digest.encode(), len(self.train).to_bytes(8, "little"), *texts]))


def split(text: str, share: float) -> tuple[str, str]:
    """The text without its last share, and that share.

    The cut is after the first line end of the first half of the share, or after its first blank if it has no line end,
    or else anywhere, so that a text without lines is split too.  Raises ValueError for a share that is not between 0
    and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be greater than 0 and less than 1, got {share}")
    at = round(len(text) * (1 - share))
    half = (at + len(text)) // 2
    for end in ("\n", " "):
        found = text.find(end, at, half)
        if found >= 0:
            at = found + 1
            break
    return text[:at], text[at:]


def _split(text: str, level: Level) -> Sequence[str]:
    _check_level(level)
    if level == "char":
        return text
    return [token for line in text.split("\n") if (words := line.split()) for token in (*words, END)]


def _check_level(level: str) -> None:
    if level not in get_args(Level):
        raise ValueError(f"level must be {' or '.join(get_args(Level))}, got {level!r}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
