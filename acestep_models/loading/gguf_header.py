"""What a GGUF file of ACE-Step 1.5 says about itself, as acestep.cpp writes it, without reading a weight.

Its tensors have the published names (a planner's with `model.` in front), its config is JSON in `acestep.config_json`,
its tokenizer is a list of tokens and one of merges. The `gguf` package builds an object for every token of a planner,
which takes seconds each time that a list of files is looked through; here they are stepped over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from .blocks import BLOCKS
from .header import CONFIG_KEY, ROLE_KEY, Header, Shape

MAGIC, VERSIONS = b"GGUF", (2, 3)
ARCHITECTURE, CONFIG, ALIGNMENT = "general.architecture", "acestep.config_json", "general.alignment"
# What acestep.cpp calls its four files -> the job of a Qwen3.
ROLES = {"acestep-lm": "lm", "acestep-text-enc": "text_encoder", "acestep-dit": None, "acestep-vae": None}
PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# ggml's numbers of the kinds that are read.
KINDS = {0: "F32", 1: "F16", 30: "BF16"} | {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}
KINDS |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}
# Numbers of single values -> how `struct` reads them.
VALUES = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_SIDES, MAX_SIDE = 4, 1 << 40
# A planner's header has 6 MB, nearly all of it 300 000 short strings. What goes beyond is a damaged length, and must
# cost neither time nor memory: every list of models looks into such files.
MAX_HEADER, MAX_STRINGS, MAX_TENSORS, MAX_VALUES = 1 << 26, 1 << 21, 1 << 16, 1 << 16
MAX_NAME, MAX_TEXT, MAX_TENSOR_NAME = 1 << 16, 1 << 20, 1 << 8
SHOWN = 80  # of a text in a complaint
# ggml drops sides of 1 in front when a file is quantised; these have three (spec/audio.md §1.5).
SNAKE = (".alpha", ".beta")  # [1, C, 1] or [C]
THREE_SIDES = re.compile(r"(.*\.)?(scale_shift_table|special_tokens?|null_condition_emb|alpha|beta)")
AGAIN = "The download was interrupted, or the file is damaged: fetch it again."


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does, whatever its name."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: Path) -> Header:
    """Names, shapes (outputs first), kinds and places of the tensors, and config and role as our metadata.

    Raises:
        ValueError: if the file is cut off, damaged, of another architecture or quantised in a way that is not read.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as memory:
        cursor = _Cursor(path, memory, frozenset((ARCHITECTURE, CONFIG, ALIGNMENT)))
        tensors = cursor.start()
        values = dict(cursor.values())
        metadata = _metadata(path, values)
        found = [cursor.tensor() for _ in range(tensors)]
        alignment = values.get(ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment % 8:
            raise cursor.damaged(f"its alignment is {_shown(alignment)}")
        odd = next((name for name, _, _, place in found if place % alignment), None)
        if odd is not None:
            raise cursor.damaged(f"{odd!r} lies at no multiple of {alignment} bytes")
        begin = -(-cursor.place // alignment) * alignment
        return _header(path, len(memory), begin, found, metadata)


def read_strings(path: Path, names: tuple[str, ...]) -> dict[str, list[str]]:
    """The lists of strings under these names, where the file has them.

    Raises:
        ValueError: if the file is cut off or damaged, or one of them is no list of strings.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as memory:
        cursor = _Cursor(path, memory, frozenset(names))
        cursor.start()
        found = {name: value for name, value in cursor.values() if name in names}
    odd = next((name for name, value in found.items() if not isinstance(value, list)), None)
    if odd is not None:
        raise cursor.damaged(f"{odd} is no list of strings")
    return found


class _Cursor:
    """A place in the file that moves on as it is read; `wanted` are the values that are not stepped over."""

    def __init__(self, path: Path, memory: mmap, wanted: frozenset[str] = frozenset()) -> None:
        self.path, self.memory, self.wanted = path, memory, wanted
        self.place = self.count = self.strings = 0

    def start(self) -> int:
        """Read the beginning; how many tensors there are."""
        self.skip(len(MAGIC))
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(
                f"{self.path}: a GGUF file of version {version}; read are {' and '.join(map(str, VERSIONS))}. {AGAIN}"
            )
        tensors: int = self.number("Q")
        self.count = self.number("Q")
        if tensors > MAX_TENSORS or self.count > MAX_VALUES:
            raise self.damaged(f"it promises {tensors:,} tensors and {self.count:,} values")
        return tensors

    def values(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of everything that is no tensor; texts and arrays that nobody wants are None."""
        for _ in range(self.count):
            name = self.text(MAX_NAME)
            yield name, self.value(self.number("I"), name in self.wanted)

    def value(self, kind: int, wanted: bool) -> Any:
        """One value of a kind."""
        if kind == STRING and wanted:
            return self.text(MAX_TEXT)
        if kind == STRING:
            self.skip(self.number("Q"))
            return None
        if kind == ARRAY:
            return self.array(wanted)
        if kind not in VALUES:
            raise self.damaged(f"there is no kind of value {kind}")
        return self.number(VALUES[kind])

    def array(self, wanted: bool) -> list[str] | None:
        """A list of strings, or None where it is stepped over; nothing that is wanted is a list of numbers."""
        kind, count = self.number("I"), self.number("Q")
        if kind in VALUES and not wanted:
            self.skip(count * struct.calcsize(VALUES[kind]))
            return None
        if kind != STRING:
            raise self.damaged(f"a list of {'strings' if wanted else 'values'} has values of the kind {kind}")
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise self.damaged(f"it promises lists of {self.strings:,} strings")
        if wanted:
            return [self.text(MAX_NAME) for _ in range(count)]
        for _ in range(count):
            self.skip(self.number("Q"))
        return None

    def tensor(self) -> tuple[str, Shape, int, int]:
        """(name, shape with the outputs first, kind, place among the data) of the next tensor."""
        name, sides = self.text(MAX_TENSOR_NAME), self.number("I")
        if sides > MAX_SIDES:
            raise self.damaged(f"{_shown(name)} has {sides} sides")
        lengths = [self.number("Q") for _ in range(sides)]
        if not all(0 < length < MAX_SIDE for length in lengths):
            raise self.damaged(f"{_shown(name)} has sides of {lengths}")
        shape = tuple(reversed(lengths))
        if THREE_SIDES.fullmatch(name) and not (sides == 1 and name.endswith(SNAKE)):
            shape = (1,) * (3 - sides) + shape
        return name, shape, self.number("I"), self.number("Q")

    def number(self, kind: str) -> Any:
        """One number, little-endian."""
        start, size = self.place, struct.calcsize(kind)
        self.skip(size)
        return struct.unpack_from(f"<{kind}", self.memory, start)[0]

    def text(self, most: int) -> str:
        """A length, of at most so many bytes, and that many bytes of UTF-8."""
        length, start = self.number("Q"), self.place
        if length > most:
            raise self.damaged(f"a text of {length:,} bytes where {most:,} are the most")
        self.skip(length)
        raw: bytes = self.memory[start : self.place]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"a name is no text ({raw[:16]!r})") from error

    def damaged(self, what: str) -> ValueError:
        """The complaint that says what is wrong."""
        return ValueError(f"{self.path}: damaged: {what}. {AGAIN}")

    def skip(self, count: int) -> None:
        """Move on, unless the file ends before."""
        self.place += count
        if self.place > len(self.memory):
            raise ValueError(
                f"{self.path}: the GGUF file is cut off inside its header: it has {len(self.memory):,} bytes, the "
                f"header goes on to {self.place:,}. {AGAIN}"
            )
        if self.place > MAX_HEADER:
            raise self.damaged(f"its header goes on to {self.place:,} bytes where {MAX_HEADER:,} are the most")


def _shown(value: Any) -> str:
    """A value of the file as a complaint quotes it: not whole, however long it is."""
    return repr(value[:SHOWN] if isinstance(value, (str, list)) else value)[: 2 * SHOWN]


def _metadata(path: Path, values: Mapping[str, Any]) -> dict[str, str]:
    architecture = values.get(ARCHITECTURE)
    if not isinstance(architecture, str) or architecture not in ROLES:
        shown = _shown(architecture)
        raise ValueError(
            f"{path}: a GGUF file of the architecture {shown}, which is another model or another program's "
            f"layout. Those of ACE-Step 1.5 are {', '.join(ROLES)}: take the files that acestep.cpp publishes."
        )
    ours = {CONFIG_KEY: values.get(CONFIG), ROLE_KEY: ROLES[architecture]}
    return {key: value for key, value in ours.items() if isinstance(value, str)}


def _header(
    path: Path, size: int, begin: int, found: list[tuple[str, Shape, int, int]], metadata: dict[str, str]
) -> Header:
    """The header, once every tensor is known to lie in the file."""
    strange = sorted({f"{kind} ({name})" for name, _, kind, _ in found if kind not in KINDS})
    if strange:
        raise ValueError(
            f"{path}: quantised in a way that is not read: ggml's kinds {', '.join(strange[:5])}. Read are "
            f"{', '.join(KINDS.values())}: choose such a file."
        )
    dtypes = {name: KINDS[kind] for name, _, kind, _ in found}
    if len(dtypes) != len(found):
        raise ValueError(f"{path}: damaged: it has tensors twice. {AGAIN}")
    shapes = {name: shape for name, shape, _, _ in found}
    ends = {name: begin + place + _bytes(path, name, shapes[name], dtypes[name]) for name, _, _, place in found}
    expected = max(ends.values(), default=begin)
    if size < expected:
        raise ValueError(
            f"{path}: the GGUF file is cut off: it has {size:,} bytes, its header promises {expected:,}. {AGAIN}"
        )
    starts = {name: begin + place for name, _, _, place in found}
    order = sorted(starts, key=lambda name: starts[name])
    crossed = next((name for before, name in pairwise(order) if starts[name] < ends[before]), None)
    if crossed is not None:
        raise ValueError(f"{path}: damaged: {crossed!r} begins inside of another tensor. {AGAIN}")
    return Header(path, shapes, dtypes, metadata, starts)


def _bytes(path: Path, name: str, shape: Shape, dtype: str) -> int:
    block = BLOCKS.get(dtype)
    if block is None:
        return prod(shape) * PLAIN_BYTES[dtype]
    if not shape or shape[-1] % block.numbers:
        raise ValueError(f"{path}: damaged: {name} of the shape {list(shape)} cannot be in {dtype}. {AGAIN}")
    return prod(shape[:-1]) * block.row_bytes(shape[-1])
