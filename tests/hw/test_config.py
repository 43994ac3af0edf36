"""The configuration: what is refused and how, what is derived, and that it survives a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gradsieve.hw.config import PRESETS, ConfigError, EngineConfig, load, make, preset
from gradsieve.hw.formats import FixedPoint, Formats

SMALL: dict[str, Any] = {"R": 2, "C": 2, "max_H": 8, "max_I": 8, "max_B": 6, "max_T": 6}


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(preset(name).to_toml())
    assert load(file) == preset(name)
    assert load(file).digest == preset(name).digest


def test_presets_are_what_the_readme_says() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"^Presets \(R x C\): (.+?)\.$", readme, re.MULTILINE | re.DOTALL)
    assert sentence is not None
    presets = re.findall(r"`(\w+)` \(([^)]+)\)", sentence[1])
    assert [name for name, _ in presets] == list(PRESETS)
    for name, text in presets:
        said: dict[str, int] = {}
        for part in re.split(r",\s", text):
            if found := re.fullmatch(r"(\d+) x (\d+)", part):
                said |= {"R": int(found[1]), "C": int(found[2])}
            elif found := re.fullmatch(r"((?:[HIBT] = )+)(\d+)", part):
                said |= {f"max_{size}": int(found[2]) for size in re.findall("[HIBT]", found[1])}
            elif found := re.fullmatch(r"batch (\d+)", part):
                said |= {"max_B": int(found[1])}
        assert said, name
        assert said == {setting: getattr(PRESETS[name], setting) for setting in said}, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": 0}, "R must be at least 1, got 0"),
        ({"C": "4"}, "C must be an integer, got '4'"),
        ({"max_H": 5000}, "max_H must be at most 4096, got 5000"),
        ({"stream_width": 48}, "stream_width must be one of 32, 64, 128, 256, 512; got 48"),
        ({"gate_rows_per_cycle": 3}, "gate_rows_per_cycle must be one of 1, 2, 4; got 3"),
        ({"lanes": 4}, "unknown setting 'lanes'; there are name, R, C, "),
        ({"formats": {"weights": "16.13"}}, "unknown setting 'formats.weights'; did you mean 'formats.weight'?"),
        ({"formats": {"weight": "16-13"}}, "formats.weight must be 'width.fraction', such as '16.13'; got '16-13'"),
        (
            {"formats": {"weight": 16.13}},
            "formats.weight must be a string 'width.fraction', such as '16.13'; got 16.13",
        ),
        ({"formats": {"weight": "8.8"}}, "formats.weight must have a fraction less than its width, got '8.8'"),
        ({"formats": {"cell": "19.11"}}, "formats.cell must have a width of 4 to 18 bits, got 19"),
        (
            {"formats": {"weight_grad_width": 32}},
            "formats.weight_grad_width must be at least 37 with max_B = 6 and max_T = 6, got 32",
        ),
        ({"name": "My Engine"}, "name must match ^[a-z][a-z0-9]*(_[a-z0-9]+)*$, got 'My Engine'"),
    ],
)
def test_bad_value_is_quoted(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make("some.toml", **SMALL | change)
    assert message in str(error.value)
    assert str(error.value).startswith("some.toml: ")


@pytest.mark.parametrize(("batch", "steps", "width"), [(1, 1, 16), (6, 6, 16), (8, 8, 18), (7, 9, 4)])
def test_the_least_width_of_the_sums_is_told(batch: int, steps: int, width: int) -> None:
    operand = f"{width}.{width - 1}"
    settings = SMALL | {"max_B": batch, "max_T": steps}

    def config(sums: int) -> EngineConfig:
        return make(**settings, formats={"input": operand, "gradient": operand, "weight_grad_width": sums})

    largest = batch * steps * FixedPoint(width=width, fraction=0).minimum ** 2
    least = next(sums for sums in range(16, 65) if largest <= (1 << (sums - 1)) - 1)
    assert config(least).max_terms >= batch * steps
    if least > 16:
        with pytest.raises(ConfigError, match=f"weight_grad_width must be at least {least} with .*, got {least - 1}$"):
            config(least - 1)


def test_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="max_T is missing"):
        make(**{k: v for k, v in SMALL.items() if k != "max_T"})


def test_unreadable_file_and_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("R = = 2")
    with pytest.raises(ConfigError, match="is not a TOML text"):
        load(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="preset must be one of tiny, edge, default, ptb; got 'huge'"):
        preset("huge")


def test_config_cannot_be_changed() -> None:
    config = EngineConfig(**SMALL)
    with pytest.raises(ValidationError):
        config.R = 4  # type: ignore[misc]
    assert config.R != 4


def test_derived_sizes_of_sizes_that_are_no_multiples() -> None:
    c = EngineConfig(R=3, C=4, max_H=17, max_I=10, max_B=9, max_T=2)
    assert (c.x_tiles, c.h_tiles, c.tiles, c.batch_tiles) == (4, 6, 10, 3)
    assert (c.gate_rows, c.bitmap_words, c.column_slots, c.lane_slots) == (68, 2, 4, 4)
    assert (c.multipliers, c.peak_macs) == (12 + 16, 12)
    assert c.memory_bits["weight_store"] == 68 * 10 * 3 * 16


@pytest.mark.parametrize("rows", [1, 2, 200, 256])
@pytest.mark.parametrize("width", [4, 16, 18])
def test_no_sum_can_overflow_and_none_is_a_bit_too_wide(rows: int, width: int) -> None:
    form = FixedPoint(width=width, fraction=1)
    formats = Formats(weight=form, gradient=form, input=form)
    c = EngineConfig(**SMALL | {"max_H": rows, "formats": formats})
    largest = 4 * rows * form.minimum**2
    assert largest <= (1 << (c.error_sum_width - 1)) - 1
    assert largest > (1 << (c.error_sum_width - 2)) - 1
    terms = c.max_terms
    top = (1 << (formats.weight_grad_width - 1)) - 1
    assert terms * form.minimum**2 <= top < (terms + 1) * form.minimum**2


def test_digest_is_of_everything_but_the_name() -> None:
    base = EngineConfig(**SMALL)
    assert EngineConfig(name="other", **SMALL).digest == base.digest
    assert all(EngineConfig(**SMALL | {k: v + 1}).digest != base.digest for k, v in SMALL.items())


def test_run_sizes_over_the_maxima_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"engine 'tiny': H must be from 1 to 8, got 9; B must be from 1 to 6, got 0"):
        preset("tiny").check_run(9, 8, 0, 6)


@pytest.mark.parametrize("name", ["", "A", "1a", "a__b", "a_", "_a", "a$b", "a-b", "a b", "ä"])
def test_names_make_identifiers_that_cannot_collide(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        make(name=name, **SMALL)
    assert make(name="a_b2_3c", **SMALL).name == "a_b2_3c"
