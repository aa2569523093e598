"""metrics.jsonl of a run folder: one JSON object a step, appended, and cut where a run goes on from an earlier one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ACEStepError
from .around import Point
from .files import write_text

NAME = "metrics.jsonl"
SMOOTHING = 0.98  # about the last 50 steps
_FIELDS = tuple(Point.__dataclass_fields__)


class Metrics:
    """The lines of one run.

    Lines that could not be written are owed: the next one that can brings them along.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._kept = 0  # bytes of lines that are final
        self._tail: dict[int, dict[str, Any]] = {}  # by step: the last line, which may still change, and what is owed
        self._written = True  # whether the tail is in the file

    def cut(self, step: int) -> tuple[Point, ...]:
        """Drop what comes after `step`, and lines that a crash or another program spoiled; the points that stay.

        Raises:
            ACEStepError: if the file cannot be read, or written anew; it is as it was.
        """
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            lines = [line for line in _lines(content) if line["step"] <= step]
            texts = [_text(line) for line in lines]
            if self.path.exists() and "".join(texts).encode() != content:
                write_text(self.path, "".join(texts))
        except OSError as error:
            raise ACEStepError(
                f"{self.path}: cannot be cut at step {step} ({error}). Make room on that disk or make the file "
                "writable, then run it again with the same name."
            ) from error
        self._kept = len("".join(texts[:-1]).encode())
        self._tail, self._written = {line["step"]: line for line in lines[-1:]}, True
        return tuple(_point(line) for line in lines)

    def add(self, point: Point, **more: Any) -> None:
        """One more line; it is with the operating system when this returns.

        Raises:
            ACEStepError: if it could not be written; it is owed.
        """
        if self._written:
            self._kept += len("".join(map(_text, self._tail.values())).encode())
            self._tail = {}
        self._tail[point.step] = {**{name: getattr(point, name) for name in _FIELDS}, **more}
        self._write()

    def validated(self, step: int, loss: float | None) -> None:
        """Put the validation loss into the line of the last step; another step has none to put it into.

        Raises:
            ACEStepError: if it could not be written; it is owed.
        """
        line = self._tail.get(step)
        if line is not None and line["validation"] != loss:
            line["validation"] = loss
            self._write()

    def _write(self) -> None:
        """The tail in the place of what follows the final lines, in one go: a kill leaves the old line or the new."""
        self._written = False
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.seek(min(self._kept, file.seek(0, os.SEEK_END)))
                file.write("".join(map(_text, self._tail.values())).encode())
                file.truncate()
        except OSError as error:
            raise ACEStepError(
                f"{self.path}: lines could not be written ({error}). They follow as soon as they can: make room on "
                "that disk before the next checkpoint is due."
            ) from error
        self._written = True


def smoothed(average: float | None, loss: float, heard: int) -> float | None:
    """The running mean of `heard` losses with one more; one that is no number does not count.

    Weights fall by SMOOTHING with each step back and add up to 1, also while there are few: the first loss, which is
    one of many noise levels, does not linger.
    """
    if not math.isfinite(loss):
        return average
    if average is None or heard == 0:
        return loss
    return average + (1 - SMOOTHING) / (1 - SMOOTHING ** (heard + 1)) * (loss - average)


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The lines that are points; whatever else is there is passed over."""
    for text in content.split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:  # no JSON, or not UTF-8
            continue
        if isinstance(line, dict) and _is_point(line):
            yield line


def _is_point(line: Mapping[str, Any]) -> bool:
    if not set(_FIELDS) <= line.keys():
        return False
    whole = all(type(line[name]) is int for name in ("step", "steps"))
    return whole and all(line[name] is None or type(line[name]) in (int, float) for name in _FIELDS)


def _text(values: Mapping[str, Any]) -> str:
    """JSON has no word for what is not a number: null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    return json.dumps(plain) + "\n"


def _point(line: Mapping[str, Any]) -> Point:
    values = {name: line[name] for name in _FIELDS}
    unknown = {name: math.nan for name in _FIELDS if values[name] is None and name != "validation"}
    return Point(**{**values, **unknown})
