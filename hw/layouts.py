"""Layouts that several blocks speak, by the way of the data; defined by neither the producer nor the consumer."""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.hw.config import EngineConfig, SieveMode
from gradsieve.hw.dataflow import Dataflow
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.packets import EXACT_BITS, RECORDS, SHORT_BITS


def sizes_layout(config: EngineConfig) -> data.StructLayout:
    """Sizes H, I, B, T of a run, its tiles, and the sizes of the last ones.

    `end` has the last value of a counter of each of them: size - 1, ready-made, so that counting costs one comparison.
    """
    ends = {
        "H": range(config.max_H),
        "I": range(config.max_I),
        "T": range(config.max_T),
        "batch_tiles": range(config.batch_tiles),
        "x_tiles": range(config.x_tiles),
        "h_tiles": range(config.h_tiles),
        "tiles": range(config.tiles),
        "bitmap_words": range(config.bitmap_words),
    }
    return data.StructLayout(
        {
            "H": bits_for(config.max_H),
            "I": bits_for(config.max_I),
            "B": bits_for(config.max_B),
            "T": bits_for(config.max_T),
            "batch_tiles": bits_for(config.batch_tiles),
            "x_tiles": bits_for(config.x_tiles),
            "h_tiles": bits_for(config.h_tiles),
            "last_lanes": bits_for(config.C),
            "last_x_columns": bits_for(config.R),
            "last_h_columns": bits_for(config.R),
            "bitmap_words": bits_for(config.bitmap_words),
            "end": data.StructLayout(ends),
        }
    )


def run_layout(config: EngineConfig) -> data.StructLayout:
    """A run: its sizes, the sieve's settings, and the mode bits."""
    return data.StructLayout(
        {
            **sizes_layout(config).members,
            "sieve": bits_for(max(SieveMode)),
            "tau": config.formats.gradient.width,
            "seed": 1,
            "block_mask": 1,
            "column_mask": 1,
            "state_out": 1,
        }
    )


def lanes_layout(config: EngineConfig) -> data.ArrayLayout:
    """C gradients."""
    return data.ArrayLayout(signed(config.formats.gradient.width), config.C)


def state_layout(config: EngineConfig) -> data.StructLayout:
    """dh and dc of one hidden unit."""
    return data.StructLayout({"dh": lanes_layout(config), "dc": lanes_layout(config)})


def record_layout(config: EngineConfig) -> data.StructLayout:
    """One hidden unit of the tape, in stream order."""
    widths = {vector.name: getattr(config.formats, vector.format).width for vector in RECORDS.vectors}
    return data.StructLayout({name: data.ArrayLayout(signed(width), config.C) for name, width in widths.items()})


def gate_input_layout(config: EngineConfig) -> data.StructLayout:
    """C lanes of one hidden unit's tape and incoming gradients, and which lanes hold a sample."""
    f = config.formats

    def lanes(fmt: FixedPoint) -> data.ArrayLayout:
        return data.ArrayLayout(signed(fmt.width), config.C)

    activations = {name: lanes(f.activation) for name in ("i", "f", "g", "o", "tanh_c")}
    gradients = {name: lanes(f.gradient) for name in ("dy", "dh", "dc")}
    return data.StructLayout({**activations, "c_prev": lanes(f.cell), **gradients, "lane_valid": config.C})


def gate_rows_layout(config: EngineConfig) -> data.ArrayLayout:
    """`gate_rows_per_cycle` consecutive gate rows of C gradients."""
    row = data.ArrayLayout(signed(config.formats.gradient.width), config.C)
    return data.ArrayLayout(row, config.gate_rows_per_cycle)


def sieved_rows_layout(config: EngineConfig) -> data.StructLayout:
    """Gate rows after the sieve; `kept` has a bit a row, `elements` the count of non-zero elements of each row."""
    rate = config.gate_rows_per_cycle
    return data.StructLayout(
        {
            "rows": gate_rows_layout(config),
            "kept": rate,
            "elements": data.ArrayLayout(bits_for(config.C), rate),
            "saturated": bits_for(rate * config.C),
        }
    )


def job_layout(config: EngineConfig) -> data.StructLayout:
    """One tile's work for the array."""
    return data.StructLayout(
        {
            "dataflow": Dataflow,
            "hidden": 1,  # columns of h, else of x
            "slot": 1,  # of the double-buffered stores
            "tile": range(config.tiles),  # column tile in the stores: x from 0, h from x_tiles
            "first_column": bits_for(max(config.max_I, config.max_H)),  # within x or h
            "columns": bits_for(config.R),  # that exist in this tile
            "lanes": bits_for(config.C),  # that hold a sample
            "batch_tile": range(config.batch_tiles),
            "kept": 1,  # column bitmap
            "fence": 1,  # first gradient job of a batch tile: older dW words must be written back
            "ends_hidden": 1,  # last error job of h
            "ends_step": 1,  # last job of the batch tile
        }
    )


def index_layout(config: EngineConfig) -> data.StructLayout:
    """One row index q = 4 * unit + gate of a job; `empty` marks the one beat of a job that has no index."""
    return data.StructLayout(
        {"q": range(config.gate_rows), "first": 1, "last": 1, "empty": 1, "job": job_layout(config)}
    )


def operand_layout(config: EngineConfig) -> data.StructLayout:
    """One index's operands: a gate row of dz', and what the array does with it."""
    f = config.formats
    return data.StructLayout(
        {
            "dataflow": Dataflow,
            "last": 1,
            "dz": data.ArrayLayout(signed(f.gradient.width), config.C),
        }
    )


def input_row_layout(config: EngineConfig) -> data.StructLayout:
    """The C lanes of one column of x or h, and the row of the array that keeps them, one-hot."""
    return data.StructLayout({"row": config.R, "lanes": data.ArrayLayout(signed(config.formats.input.width), config.C)})


def requantized_layout(config: EngineConfig) -> data.StructLayout:
    """C gradients and, for each, whether it was saturated."""
    return data.StructLayout(
        {"lanes": data.ArrayLayout(signed(config.formats.gradient.width), config.C), "saturated": config.C}
    )


def weight_word_layout(config: EngineConfig) -> data.ArrayLayout:
    """R weights of one gate row."""
    return data.ArrayLayout(signed(config.formats.weight.width), config.R)


def gradient_word_layout(config: EngineConfig) -> data.ArrayLayout:
    """R weight gradients of one gate row."""
    return data.ArrayLayout(signed(config.formats.weight_grad_width), config.R)


def group_elements(config: EngineConfig) -> int:
    """Elements of a word that are read out together: a beat of requantized ones, at most a whole vector."""
    return min(config.stream_width // SHORT_BITS, config.column_slots)


def read_mode_layout() -> data.StructLayout:
    """The fields of READ_MODE."""
    return data.StructLayout({"exact": 1, "keep": 1, "fraction": 6})


def group_layout(config: EngineConfig) -> data.StructLayout:
    """A group of elements, packed to 64 or 32 bits each; a bias section has one element a group."""
    return data.StructLayout(
        {"data": group_elements(config) * EXACT_BITS, "exact": 1, "single": 1, "last": 1}  # last of its section
    )
