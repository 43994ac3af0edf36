"""`gradsieve generate`: a config becomes a directory of Verilog, register map and documentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradsieve.cli.options import (
    ConfigArgument,
    JsonOption,
    PresetOption,
    console,
    resolve_config,
    stages,
    write_json,
)

if TYPE_CHECKING:
    from gradsieve.rtl_gen.generate import Generated


def command(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")],
    config: ConfigArgument = None,
    preset: PresetOption = None,
    json: JsonOption = None,
) -> None:
    """Write an engine to a directory that a hardware engineer can use.

    The directory holds the Verilog, an IP-XACT component, a FuseSoC core, the register map as a page, a C header and
    SystemRDL, the config itself, a summary, and a README that explains them. The same config gives the same bytes.
    Files of an earlier run are replaced; files that gradsieve did not write are never overwritten.

    *Examples:*

    gradsieve generate --preset tiny -o build/tiny

    gradsieve generate my_engine.toml -o rtl/my_engine --json summary.json
    """
    from gradsieve.rtl_gen.generate import generate

    engine = resolve_config(config, preset)
    with stages(f"generating {engine.name}") as progress:
        generated = generate(engine, output, progress)
    if json is not None:
        import json as json_text

        write_json(json, json_text.loads(generated.summary.to_json()))
    _show(generated)


def _show(generated: Generated) -> None:
    from rich.table import Table

    summary = generated.summary
    screen = console()
    facts = Table(title=summary.name, show_header=False)
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_row("multipliers", f"{summary.multipliers:,}")
    facts.add_row("peak multiply-accumulates a cycle", f"{summary.peak_macs:,}")
    facts.add_row("memory", f"{summary.memory_bits:,} bits")
    facts.add_row("config digest", summary.config_digest)
    screen.print(facts)
    memories = Table(title="memories")
    for heading, justify in (("memory", "left"), ("words", "right"), ("bits a word", "right"), ("bits", "right")):
        memories.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for m in summary.memories:
        memories.add_row(m.path, f"{m.words:,}", f"{m.bits:,}", f"{m.words * m.bits:,}")
    screen.print(memories)
    screen.print(f"{len(generated.files)} files in {generated.directory}", highlight=False, markup=False)
    screen.print(f"begin with {generated.directory / 'README.md'}", highlight=False, markup=False)
