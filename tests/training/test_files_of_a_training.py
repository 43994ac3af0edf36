"""The files that a training reads: what they hold decides, not where they are, nor a byte order mark."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gradsieve.hw.config import load as load_engine
from gradsieve.hw.config import preset
from gradsieve.training.errors import SettingsError
from gradsieve.training.history import Result
from gradsieve.training.settings import Settings, load, make, merge
from gradsieve.training.studies.cluster import ClusterError, attempt, finished, run_study
from gradsieve.training.studies.study import Study, make_study, read_study
from gradsieve.training.text import Corpus, read_text, text_digest
from gradsieve.training.trainer import train
from tests.training.studies import study_stand_in as stand_in

TEXT, VALID = "the quick brown fox jumps\n" * 40, "the lazy dog\n" * 20
SMALL: dict[str, Any] = {
    "model": {"hidden": 4},
    "training": {"steps": 4, "batch": 2, "window": 4, "evaluate_every": 2},
    "backend": {"kind": "golden"},
}


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "text").write_text(TEXT)
    (folder / "valid").write_text(VALID)
    (folder / "engine.toml").write_text(preset("tiny").to_toml())
    return folder


def settings(folder: Path, **over: Any) -> Settings:
    files = {
        "text": {"file": str(folder / "text"), "valid": str(folder / "valid")},
        "backend": {"config": str(folder / "engine.toml")},
    }
    return make(merge(merge(SMALL, files), over))


def begin(folder: Path, out: Path) -> Result:
    """Two steps of a training on the files of the folder, and its checkpoint."""
    stops = iter([False, True])
    return train(settings(folder), out, stop=lambda: next(stops))


def test_a_training_goes_on_after_its_files_have_moved(tmp_path: Path) -> None:
    before, after = write(tmp_path / "before"), tmp_path / "after" / "all"
    assert not begin(before, tmp_path / "out").finished
    after.parent.mkdir()
    shutil.move(before, after)
    result = train(settings(after), tmp_path / "out", resume=True)
    assert result.finished and result.settings["text"]["file"] == str(after / "text")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text", TEXT.replace("fox", "box", 1), r"the text must be that of the checkpoint, got another: .*/text, val"),
        ("valid", VALID.replace("the", "hte", 1), r"the text must be that of the checkpoint, got another: .*/valid"),
        (
            "engine.toml",
            preset("tiny").to_toml().replace('"16.12"', '"18.12"'),
            r"the engine must be that of the checkpoint, got another: .*/engine\.toml",
        ),
    ],
)
def test_a_file_of_other_content_is_refused_where_the_old_one_was(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "files")
    begin(folder, tmp_path / "out")
    assert (folder / name).read_text() != content
    (folder / name).write_text(content)
    with pytest.raises(SettingsError, match=message):
        train(settings(folder), tmp_path / "out", resume=True)


def test_another_configuration_is_named_and_how_often_it_saves_is_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    begin(folder, tmp_path / "out")
    other = settings(folder, training={"checkpoint_every": 7, "seed": 2})
    with pytest.raises(SettingsError, match=r"another configuration: training\.seed was 1 and is 2$"):
        train(other, tmp_path / "out", resume=True)


# studies


def study(folder: Path, **files: str) -> Study:
    given = {"file": "text", "valid": "valid"} | files
    data = {"base": {"text": given, "backend": {"kind": "golden", "config": "engine.toml"}}, "run": [{"name": "dense"}]}
    return make_study(data, folder, "study.toml")


def test_finished_runs_are_known_after_the_files_have_moved(tmp_path: Path) -> None:
    before, after, out = write(tmp_path / "before"), tmp_path / "after", tmp_path / "out"
    (task,) = study(before).tasks
    (out / "runs").mkdir(parents=True)
    assert attempt(stand_in.train, task, out / "runs" / task.folder, tmp_path / "stop") == ""
    shutil.move(before, after)
    (after / "text").rename(after / "renamed")
    (moved,) = study(after, file="renamed").tasks
    assert moved.folder == task.folder
    assert finished(moved, out) is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [("text", TEXT + "x"), ("valid", VALID + "x"), ("engine.toml", preset("tiny").to_toml().replace("16.12", "18.12"))],
)
def test_runs_on_files_of_other_content_are_other_runs(name: str, content: str, tmp_path: Path) -> None:
    folder, out = write(tmp_path / "files"), tmp_path / "out"
    (task,) = study(folder).tasks
    (out / "runs").mkdir(parents=True)
    attempt(stand_in.train, task, out / "runs" / task.folder, tmp_path / "stop")
    (folder / name).write_text(content)
    (changed,) = study(folder).tasks
    assert changed.folder != task.folder
    assert finished(changed, out) is None


def test_texts_of_equal_content_can_be_compared(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    shutil.copy(folder / "text", folder / "copy")
    runs = [{"name": "a", "text": {"file": "text"}}, {"name": "b", "text": {"file": "copy"}}]
    assert len(make_study({"run": runs}, folder, "study.toml").tasks) == 2
    (folder / "copy").write_text(TEXT + "x")
    with pytest.raises(SettingsError, match="run 'b': its text is not that of its baseline 'a'"):
        make_study({"run": runs}, folder, "study.toml")


def test_a_text_or_engine_that_cannot_be_read_is_refused_with_the_study(tmp_path: Path) -> None:
    folder = write(tmp_path / "files")
    (folder / "study.toml").write_text('[[run]]\nname = "dense"\ntext.file = "text"\n')
    (folder / "text").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match=r"study\.toml, run 'dense': .*/text: is no UTF-8 text"):
        read_study(folder / "study.toml")
    (folder / "engine.toml").write_text("R = 0")
    with pytest.raises(SettingsError, match=r"study\.toml, run 'dense': .*engine\.toml: "):
        study(folder, file="valid")


def test_a_relative_cache_folder_is_one_of_this_process_not_of_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSIEVE_BUILD", "caches")
    with pytest.raises(ClusterError, match="there is no scheduler"):
        run_study(study(write(tmp_path / "files")), tmp_path, stand_in.train, scheduler="tcp://127.0.0.1:1")
    assert os.environ["GRADSIEVE_BUILD"] == str(tmp_path / "caches")


# byte order marks


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    plain.write_text(TEXT, encoding="utf-8")
    marked.write_text(TEXT, encoding="utf-8-sig")
    assert marked.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert read_text(marked) == TEXT
    assert text_digest(marked) == text_digest(plain)
    corpora = [Corpus.load(text, valid, "char") for text, valid in ((plain, plain), (marked, marked), (marked, None))]
    assert corpora[0].digest == corpora[1].digest
    assert all("\ufeff" not in corpus.vocabulary.tokens for corpus in corpora)
    marked.write_text("a\ufeffb", encoding="utf-8")
    assert read_text(marked) == "a\ufeffb"  # in the middle it is a character as any other


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path: Path) -> None:
    engine, own, many = tmp_path / "engine.toml", tmp_path / "settings.toml", tmp_path / "study.toml"
    engine.write_text(preset("tiny").to_toml(), encoding="utf-8-sig")
    own.write_text("[model]\nhidden = 4\n", encoding="utf-8-sig")
    many.write_text('[[run]]\nname = "dense"\n', encoding="utf-8-sig")
    assert engine.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert load_engine(engine) == preset("tiny")
    assert load(own).model.hidden == 4
    assert [task.run for task in read_study(many).tasks] == ["dense"]
