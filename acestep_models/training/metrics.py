"""metrics.jsonl of a run folder: one JSON object a step, appended, and cut where a run goes on from an earlier one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .around import Point
from .files import write_text

NAME = "metrics.jsonl"
SMOOTHING = 0.98  # about the last 50 steps


class Metrics:
    """The lines of one run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def cut(self, step: int) -> tuple[Point, ...]:
        """Drop what comes after `step`, and a line that a crash left unfinished; the points that stay."""
        kept = [line for line in self._lines() if line["step"] <= step]
        text = "".join(_line(line) for line in kept)
        if self.path.exists() and text != self.path.read_text(encoding="utf-8"):
            write_text(self.path, text)
        return tuple(_point(line) for line in kept)

    def add(self, point: Point, **more: Any) -> None:
        """One more line; it is with the operating system when this returns."""
        values = {name: getattr(point, name) for name in point.__dataclass_fields__}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({**values, **more}))

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and set(Point.__dataclass_fields__) <= line.keys():
                yield line


def smoothed(average: float | None, loss: float) -> float | None:
    """The running mean with one more loss; the first starts it, one that is no number does not count."""
    if not math.isfinite(loss):
        return average
    return loss if average is None else SMOOTHING * average + (1 - SMOOTHING) * loss


def _line(values: Mapping[str, Any]) -> str:
    """JSON has no word for what is not a number: null."""
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
    return json.dumps(plain) + "\n"


def _point(line: Mapping[str, Any]) -> Point:
    values = {name: line[name] for name in Point.__dataclass_fields__}
    numbers = {name: math.nan for name in ("loss", "average", "grad_norm") if values[name] is None}
    return Point(**{**values, **numbers})
