"""`import gradsieve`: light, typed, one name for everything, and no name that means two things."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import gradsieve
from gradsieve.cli.application import VERBS
from gradsieve.rtl_gen.extras import EXTRAS, missing

ROOT = Path(__file__).parents[2]
FOLDERS = ("hw", "golden", "rtl_gen", "tb", "fpga", "training")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN_PROCESS = re.compile(r"gradsieve\.tb\.(\w+\.)?bench_|__main__")
"""Modules that run in a simulator or are programs."""


def run(program: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_importing_the_package_is_light() -> None:
    """By what it loads, not by a clock: nothing but a few modules of Python's own."""
    program = "import sys; before = set(sys.modules); import gradsieve; print(*sorted(set(sys.modules) - before))"
    loaded = set(run(program).stdout.split())
    assert {m for m in loaded if m.split(".")[0] == "gradsieve"} == {"gradsieve"}
    assert {m.split(".")[0] for m in loaded} - {"gradsieve"} <= sys.stdlib_module_names
    assert len(loaded) < 20


def test_the_layer_loads_neither_amaranth_nor_the_simulator() -> None:
    program = "import sys; from gradsieve import RowSieve, SievedLSTM, StructuredDropout; print(*sys.modules)"
    loaded = set(run(program).stdout.split())
    assert "torch" in loaded
    unwanted = {"amaranth", *(module for modules in EXTRAS.values() for module in modules)}
    assert not unwanted & {m.split(".")[0] for m in loaded}
    assert not {m for m in loaded if m.startswith(("gradsieve.fpga", "gradsieve.rtl_gen", "gradsieve.tb"))}


def submodules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(gradsieve.__path__, "gradsieve.")]
    return [name for name in found if not OWN_PROCESS.search(name)]


def test_every_name_is_what_it_says_whatever_was_imported_before() -> None:
    """A submodule of the name of a function would hide it as soon as somebody imports it."""
    before = {name: getattr(gradsieve, name) for name in gradsieve.__all__}
    modules = submodules()
    assert len(modules) > 100 and {f"gradsieve.{f}" for f in FOLDERS} < set(modules)
    for name in modules:
        importlib.import_module(name)
    for name, value in before.items():
        assert getattr(gradsieve, name) is value and not inspect.ismodule(value), name
        if inspect.isclass(value):
            assert value.__name__ == name
    assert set(gradsieve.__all__) == {*gradsieve._HOMES, "__version__"} and set(gradsieve.__all__) <= set(
        dir(gradsieve)
    )
    with pytest.raises(AttributeError, match="module 'gradsieve' has no attribute 'nothing'"):
        _ = gradsieve.nothing


def test_the_names_of_type_checkers_are_those_of_the_interpreter() -> None:
    tree = ast.parse((ROOT / "gradsieve" / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (n for n in tree.body if isinstance(n, ast.If) and isinstance(n.test, ast.Name))
    imports = {a.name: n.module for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imports == gradsieve._HOMES
    assert (ROOT / "gradsieve" / "py.typed").is_file()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_has_a_second_name(folder: str) -> None:
    """With the root on the path, as in a checkout, `import hw.config` would be another EngineConfig."""
    first = next(m.name for m in pkgutil.iter_modules([str(ROOT / folder)]) if not m.name.startswith("bench_"))
    for name in (folder, f"{folder}.{first}"):
        done = run(f"import {name}")
        assert done.returncode == 1
        assert f"ImportError: {folder} is gradsieve.{folder}: import it by that name" in done.stderr
        assert run(f"import gradsieve.{name}").returncode == 0


def imported_modules() -> set[str]:
    """Third-party modules that the project's sources import anywhere."""
    found: set[str] = set()
    for folder in (*FOLDERS, "gradsieve/cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"gradsieve"}


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[<>=!\[ ;]", r)[0]) for r in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_requirement_of_the_core_or_of_the_extra_that_is_named() -> None:
    core, known = distributions(PROJECT["dependencies"]), packages_distributions()
    of_extras = {module: extra for extra, modules in EXTRAS.items() for module in modules}
    for module in imported_modules():
        owners = {normal(d) for d in known[module]}
        if module in of_extras:
            assert owners & distributions(PROJECT["optional-dependencies"][of_extras[module]]), module
        else:
            assert owners & core, module
    for extra, modules in EXTRAS.items():  # and nothing is asked for that no module stands for
        owners = {normal(d) for module in modules for d in known.get(module, [module])}
        assert distributions(PROJECT["optional-dependencies"][extra]) <= owners


NEEDS = {
    "verify": ("sim", "-p tiny"),
    "bench": ("sim", "-p tiny"),
    "demo": ("studies", "-p tiny"),
    "train": ("studies", "--steps 1 -o out"),
    "compare": ("studies", "study.toml -o out"),
    "build": ("fpga", "--board ulx3s -p tiny -o out"),
    "board": ("sim", "--virtual -p tiny"),
    "deploy": ("fpga", "--port /dev/null --check -p tiny"),
}
"""By verb, the extra that it cannot do without, and a call."""


def without(modules: tuple[str, ...]) -> str:
    """The beginning of a program in which these modules are not installed."""
    return f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize("verb", NEEDS)
def test_a_verb_whose_extra_is_missing_says_which_to_install(verb: str, tmp_path: Path) -> None:
    extra, arguments = NEEDS[verb]
    (tmp_path / "study.toml").write_text('[[run]]\nname = "dense"\n')
    program = f"""{without(EXTRAS[extra])}
from gradsieve.cli.application import main
sys.exit(main({[verb, *arguments.split()]!r}))
"""
    done = run(program, tmp_path)
    assert done.returncode == 1, done.stderr
    assert (
        f"is not installed: pip install 'gradsieve[{extra}]', or make setup in a checkout"
        in done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "result.json").exists()


def test_only_known_packages_are_advised() -> None:
    assert missing("cocotb.triggers") == (
        "the Python package cocotb is not installed: pip install 'gradsieve[sim]', or make setup in a checkout"
    )
    assert missing("numpy") is None
    assert set(NEEDS) <= set(VERBS)


def test_the_core_alone_generates_and_trains(tmp_path: Path) -> None:
    """Without a single package of the extras."""
    blocked = tuple(module for modules in EXTRAS.values() for module in modules)
    program = f"""{without(blocked)}
import torch, gradsieve
from gradsieve.cli.application import main
config = gradsieve.EngineConfig(R=2, C=2, max_H=4, max_I=4, max_B=2, max_T=2)
lstm = gradsieve.SievedLSTM(4, 4, sieve=gradsieve.RowSieve(target=0.5), backend=gradsieve.GoldenBackend(config))
lstm(torch.randn(2, 2, 4))[0].sum().backward()
assert lstm.take_statistics()[0].rows is not None
sys.exit(main(["--version"]) or main(["generate", "-p", "tiny", "-o", "out"]))
"""
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "gradsieve_tiny.v").is_file()
    assert done.stdout.startswith(f"gradsieve {gradsieve.__version__}\nPython ")


def test_versions_of_the_tools() -> None:
    done = subprocess.run([sys.executable, "-m", "gradsieve", "--version"], cwd=ROOT, capture_output=True, text=True)
    lines = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0
    assert set(lines) == {
        "gradsieve",
        "Python",
        "PyTorch",
        "Amaranth",
        "Yosys for Verilog",
        "Verilator",
        "Yosys for FPGAs",
    }
    assert lines["gradsieve"] == gradsieve.__version__ and all(re.match(r"\d+\.\d+", v) for v in lines.values())


SCRIPT = """
from gradsieve import FloatBackend, RowSieve, SievedLSTM, preset, simulated

lstm = SievedLSTM(3, 4, num_layers=2, batch_first=True, dropout=0.5, sieve=RowSieve(target=0.2), backend=FloatBackend())
lstm.sieve = None
reveal_type(lstm.sieve)
reveal_type(simulated(preset("tiny")))
SievedLSTM("3", 4)
SievedLSTM(3)
SievedLSTM(3, 4, sieve=0.2)
SievedLSTM(3, 4, batchfirst=True)
"""


def test_type_checkers_know_the_signatures(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    said: dict[int, str] = {}
    for number, text in re.findall(r"script\.py:(\d+): (.*)", done.stdout):
        said.setdefault(int(number), text)
    assert set(said) == {6, 7, 8, 9, 10, 11}, done.stdout
    assert "GradientSieve" in said[6] and "gradsieve.fpga.device.Device" in said[7]
    assert all(said[line].startswith("error:") for line in (8, 9, 10, 11))
