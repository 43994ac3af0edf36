"""Reading texts, vocabularies, streams and corpora."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradsieve.cli.options import error_status
from gradsieve.training.text import Corpus, Streams, TextError, Vocabulary, read_text, side_by_side, source_name, split

WORDS = "b a b <unk> \n\n  \n a\tb  c d\nc c <unk> e\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"line {n} é\n" for n in range(100)), encoding="utf-8")
    return file


def test_a_file_and_the_default_text_are_read(text: Path) -> None:
    assert read_text(text).startswith("line 0 é\nline 1 é\n")
    assert len(read_text(None)) > 100_000
    assert source_name(text) == str(text)
    assert source_name(None) == "Python's own documentation"


def test_a_text_that_cannot_be_read_is_an_error_of_status_1(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    with pytest.raises(TextError) as missing:
        read_text(file)
    assert str(missing.value) == f"{file}: cannot be read (No such file or directory)"
    assert error_status(missing.value) == 1
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TextError, match="is no UTF-8 text"):
        read_text(file)


def test_errors_are_told_apart_without_loading_pytorch() -> None:
    program = "import sys, gradsieve.training.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


def test_words_are_split_at_white_space_and_line_ends_are_tokens() -> None:
    vocabulary = Vocabulary.build(WORDS, "word")
    assert vocabulary.tokens == ("<eos>", "<unk>", "a", "b", "c")
    eos, unk, a, b, c = range(5)
    assert vocabulary.encode(WORDS).tolist() == [b, a, b, unk, eos, a, b, c, unk, eos, c, c, unk, unk, eos]
    assert vocabulary.encode("a\r\n\nnew").tolist() == [a, eos, unk, eos]
    assert vocabulary.encode("a\x0cb\u2028c").tolist() == [a, b, c, eos]  # white space, but no line end
    assert vocabulary.encode(WORDS).dtype == vocabulary.encode("").dtype == torch.int64


def test_characters_are_tokens_one_by_one() -> None:
    vocabulary = Vocabulary.build("ba\n <unk>", "char")
    assert vocabulary.tokens == ("\n", " ", "<", "<unk>", ">", "a", "b", "k", "n", "u")
    assert vocabulary.encode("ab<\nz").tolist() == [5, 6, 2, 0, 3]


@pytest.mark.parametrize(
    ("limit", "tokens"),
    [
        (1, ("<eos>", "<unk>")),
        (2, ("<eos>", "<unk>", "b")),
        (3, ("<eos>", "<unk>", "b", "c")),
        (4, ("<eos>", "<unk>", "a", "b", "c")),
        (99, ("<eos>", "<unk>", "a", "b", "c")),
    ],
)
def test_the_most_frequent_are_kept_and_ties_go_by_the_token(limit: int, tokens: tuple[str, ...]) -> None:
    text = WORDS + "b"  # b and <eos> are there 4 times, c 3 times, a and <unk> twice, d and e once
    assert Vocabulary.build(text, "word", limit).tokens == tokens
    assert Vocabulary.build("bbaac", "char", 1).tokens == ("<unk>", "a")
    assert Vocabulary.build("bbaac", "char", 3).tokens == ("<unk>", "a", "b", "c")


def test_decoding_gives_the_text_back() -> None:
    text = "two words\nand two words and more\n"
    words = Vocabulary("word", ("<eos>", "and", "more", "two", "words"))
    assert words.decode(words.encode(text)) == text
    assert words.decode([3, 4]) == "two words"
    assert words.decode([0, 0, 1]) == "\n\nand"
    characters = Vocabulary.build(text, "char")
    assert characters.decode(characters.encode(text + "!").tolist()) == text + "<unk>"


def test_a_vocabulary_without_unknown_refuses_what_it_does_not_hold() -> None:
    vocabulary = Vocabulary("char", ("a", "b"))
    assert len(vocabulary) == 2
    with pytest.raises(TextError, match="'c' is not in the vocabulary of 2 tokens, nor is <unk>"):
        vocabulary.encode("abcd")


def test_bad_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match="level must be char or word, got 'line'"):
        Vocabulary("line", ())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level must be char or word, got 'line'"):
        Vocabulary.build("", "line")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokens must be distinct, got 'b' 3 times"):
        Vocabulary("char", ("a", "b", "c", "b", "b"))
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Vocabulary.build("a", "char", 0)


def test_digest_tells_vocabularies_and_corpora_apart(tmp_path: Path) -> None:
    vocabularies = [Vocabulary("char", ("a", "b")), Vocabulary("char", ("b", "a")), Vocabulary("word", ("a", "b"))]
    assert len({v.digest for v in vocabularies}) == 3
    assert Vocabulary("char", ("a", "b")).digest == vocabularies[0].digest

    def corpus(train: list[int], valid: list[int], source: str = "x") -> Corpus:
        return Corpus(vocabularies[0], torch.tensor(train), torch.tensor(valid), source, source)

    corpora = [
        corpus([0, 1, 1], [0, 1]),
        corpus([1, 0, 1], [0, 1]),
        corpus([0, 1, 1], [1, 1]),
        corpus([0, 1], [1, 0, 1]),
    ]
    assert len({c.digest for c in corpora}) == 4
    assert corpus([0, 1, 1], [0, 1], "other").digest == corpora[0].digest
    assert replace(corpora[0], vocabulary=vocabularies[1]).digest != corpora[0].digest


def test_streams_read_the_text_side_by_side_and_begin_again() -> None:
    ids = torch.arange(4 * 15 + 3) % 26
    streams = Streams(ids, 4, 7, "text")
    columns = ids[:60].view(4, 15).T
    assert torch.equal(side_by_side(ids, 4), columns)
    assert streams.windows == 2
    for at, first in ((0, True), (7, False), (0, True)):
        tokens, successors, begins = streams.next()
        assert torch.equal(tokens, columns[at : at + 7])
        assert torch.equal(successors, columns[at + 1 : at + 8])
        assert begins == first


def test_a_last_token_without_successor_makes_no_window() -> None:
    assert [Streams(torch.arange(length), 1, 5, "text").windows for length in (11, 15, 16, 20, 21)] == [2, 2, 3, 3, 4]


def test_streams_go_on_from_a_saved_position() -> None:
    ids = torch.arange(70)
    one, other = Streams(ids, 2, 5, "text"), Streams(ids, 2, 5, "text")
    for _ in range(one.windows + 1):
        one.next()
    other.load_state_dict(one.state_dict())
    for _ in range(one.windows):
        (a, b, begins), (c, d, also_begins) = one.next(), other.next()
        assert torch.equal(a, c) and torch.equal(b, d) and begins == also_begins
    for window in (-1, one.windows):
        with pytest.raises(ValueError, match=f"window must be from 0 to 5, got {window}"):
            other.load_state_dict({"window": window})


def test_streams_that_are_too_short_are_refused() -> None:
    Streams(torch.arange(33), 3, 5, "text")
    with pytest.raises(TextError, match=r"^my.txt: has 32 tokens, and 3 streams of 5 tokens a step need 33 or more$"):
        Streams(torch.arange(32), 3, 5, "my.txt")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        Streams(torch.arange(32), 0, 5, "text")
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        Streams(torch.arange(32), 1, -1, "text")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a b c d\n" * 10, 64),  # the first line end at or after character 60
        ("a b c d\n" * 9 + "efg h ij", 64),  # a line end comes before a blank
        ("a\n" + "bcd " * 20, 66),  # no line end from character 62 of 82 on: after a blank
        ("a\n" + "b" * 78 + "\n", 61),  # neither in the first half of the last quarter
    ],
)
def test_a_text_is_split_at_a_line_end_where_there_is_one(text: str, cut: int) -> None:
    assert split(text, 0.25) == (text[:cut], text[cut:])


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_bad_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"share must be greater than 0 and less than 1, got {share}"):
        split("a\nb\n", share)


def test_a_corpus_holds_out_the_end_of_its_text(text: Path) -> None:
    corpus = Corpus.load(text, None, "char", valid_share=0.25)
    whole = read_text(text)
    train, valid = corpus.vocabulary.decode(corpus.train), corpus.vocabulary.decode(corpus.valid)
    assert train + valid == whole
    assert train.endswith("\n") and abs(len(valid) - 0.25 * len(whole)) < 12
    assert (corpus.train_source, corpus.valid_source) == (str(text), f"the last 25 % of {text}")


def test_a_corpus_takes_its_vocabulary_from_the_training_text_alone(text: Path, tmp_path: Path) -> None:
    other = tmp_path / "valid.txt"
    other.write_text("line unseen unseen é\n", encoding="utf-8")
    corpus = Corpus.load(text, other, "word")
    assert corpus.vocabulary.tokens == ("<eos>", "<unk>", "line", "é")
    assert corpus.valid.tolist() == [2, 1, 1, 3, 0]
    assert len(corpus.train) == 400
    assert (corpus.train_source, corpus.valid_source) == (str(text), str(other))
    assert Corpus.load(text, other, "word", 1).vocabulary.tokens == ("<eos>", "<unk>")
    assert "Q" not in Corpus.load(text, other, "char").vocabulary.tokens


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        ("", "long enough", "train.txt: has 0 tokens, and 2 or more are needed"),
        ("long enough", " \n", "valid.txt: has 0 tokens, and 2 or more are needed"),
        ("\n\n\n", None, "train.txt: has 0 tokens, and 2 or more are needed"),
        ("x", None, "the last 10 % of .*train.txt: has 0 tokens, and 2 or more are needed"),
    ],
)
def test_a_corpus_without_tokens_is_refused(train: str, valid: str | None, message: str, tmp_path: Path) -> None:
    files: dict[str, Any] = {"train": tmp_path / "train.txt", "valid": None}
    files["train"].write_text(train)
    if valid is not None:
        files["valid"] = tmp_path / "valid.txt"
        files["valid"].write_text(valid)
    with pytest.raises(TextError, match=message):
        Corpus.load(files["train"], files["valid"], "word")


def test_a_megabyte_of_words_takes_well_under_a_second(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("".join(" ".join(f"w{n * k % 9973}" for k in range(20)) + "\n" for n in range(1, 12_000)))
    assert file.stat().st_size > 1_200_000
    begin = time.thread_time()
    corpus = Corpus.load(file, None, "word")
    assert time.thread_time() - begin < 0.8
    assert len(corpus.train) + len(corpus.valid) == 11_999 * 21
