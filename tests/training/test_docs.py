"""docs/training.md says what there is: every setting with its default, and code that runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gradsieve.training.settings import Settings, make
from gradsieve.training.studies.study import make_study

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")

NO_DEFAULT = {
    "name", "text.file", "text.valid", "text.level", "text.vocabulary", "text.valid_tokens", "model.embedding",
    "sieve.method", "sieve.target", "dropout.kind", "dropout.input", "dropout.output", "sparse_weights.density",
    "sampled_masks.keep",
}  # fmt: skip
"""Settings that the page shows with an example, as a default of none would show nothing."""


def block(language: str, holding: str) -> str:
    """The code block of the page in that language that holds the text."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if holding in b)


def leaves(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    out = {}
    for key, value in data.items():
        out |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return out


def fields(model: type[BaseModel], path: str = "") -> dict[str, Any]:
    """Every setting by its path, with its default."""
    out: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kinds = [info.annotation, *getattr(info.annotation, "__args__", ())]
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        out |= fields(section, f"{path}{name}.") if section is not None else {f"{path}{name}": info.default}
    return out


def test_page_shows_every_setting_with_its_default() -> None:
    text = block("toml", "[sampled_masks]")
    shown, there = leaves(tomllib.loads(text)), fields(Settings)
    for name in there.keys() - shown.keys():
        assert re.search(rf"\b{name.split('.')[-1]} = ", text), f"{name} is not on the page"
    assert shown.keys() <= there.keys()
    for name in shown.keys() - NO_DEFAULT:
        assert shown[name] == there[name], name


def test_page_shows_settings_that_are_accepted() -> None:
    data = tomllib.loads(block("toml", "[sampled_masks]"))
    for left_out in ("sparse_weights", "sampled_masks"):
        make({name: value for name, value in data.items() if name != left_out})


STUDIES = sorted((Path(__file__).parents[2] / "docs" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_results_page_can_be_read(path: Path, tmp_path: Path) -> None:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    if "run" not in data:
        assert make(data).backend.kind == "simulated"
        return
    texts = data["base"].get("text", {})
    for text in (tmp_path / texts[name] for name in ("file", "valid") if name in texts):
        text.parent.mkdir(exist_ok=True)
        text.touch()
    assert make_study(data, tmp_path, path.name).tasks


def test_page_shows_code_that_runs(capsys: Any) -> None:
    code = block("python", "SievedLSTM(512, 512").replace("512", "16")
    names: dict[str, Any] = {}
    exec("import torch\nx = torch.randn(3, 2, 16)\n" + code, names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["l1", "l0"] or [line.split()[0] for line in lines] == ["l0", "l1"]
