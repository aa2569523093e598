"""A run of training as a picture: the loss of each step, its average, the validation loss and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...acestep_models.training.job import Point

WIDTH, HEIGHT = 640, 360
_BOX = (64, 40, WIDTH - 20, HEIGHT - 36)  # of the curves: left, top, right, bottom
_PAPER, _GRID, _INK = (24, 26, 30), (52, 56, 64), (206, 210, 216)
_RAW, _AVERAGE, _CHECKED, _RATE = (66, 96, 128), (96, 178, 255), (255, 176, 64), (110, 150, 96)
_LINES = 4  # across
_MARGIN = 0.08  # above and below the curves, of their height

At = Callable[[float, float], tuple[float, float]]


def loss_picture(points: Sequence[Point], title: str, first: tuple[int, float] | None = None) -> Any:
    """A PIL image, RGB, 640 x 360. Numbers that are none are left out; without any there is only the frame.

    `first` is a validation loss that no step belongs to: steps done before it, and the loss.

    Raises:
        ValueError: where Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ValueError("the picture of the loss needs Pillow: pip install pillow") from error
    picture = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    draw = ImageDraw.Draw(picture)
    losses = [(p.step, p.loss) for p in points if math.isfinite(p.loss)]
    averages = [(p.step, p.average) for p in points if math.isfinite(p.average)]
    checks = [(p.step, p.validation) for p in points if p.validation is not None and math.isfinite(p.validation)]
    checks = sorted([*([first] if first and math.isfinite(first[1]) else []), *checks])
    low, high = _range([value for _, value in (*losses, *averages, *checks)])
    steps = max((p.steps for p in points), default=1)
    _frame(draw, (low, high), steps, title)
    at = _places(steps, low, high)
    rate = max((p.learning_rate for p in points), default=0.0)
    if rate > 0:  # on a scale of its own: the peak is at the top
        _curve(draw, _places(steps, 0.0, rate), [(p.step, p.learning_rate) for p in points], _RATE, 1)
    _curve(draw, at, losses, _RAW, 1)
    _curve(draw, at, averages, _AVERAGE, 2)
    _curve(draw, at, checks, _CHECKED, 2)
    _dots(draw, at, checks)
    return picture


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value with room around them; never the same twice."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * _MARGIN or max(abs(high), 1e-3) * _MARGIN
    return low - room, high + room


def _places(steps: int, low: float, high: float) -> At:
    """Where a step and a value are in the picture; the left edge is before the first step."""
    left, top, right, bottom = _BOX

    def at(step: float, value: float) -> tuple[float, float]:
        across = step / steps
        return left + across * (right - left), bottom - (value - low) / (high - low) * (bottom - top)

    return at


def _frame(draw: Any, span: tuple[float, float], steps: int, title: str) -> None:
    left, top, right, bottom = _BOX
    for number in range(_LINES + 1):
        share = number / _LINES
        y = bottom - share * (bottom - top)
        draw.line([(left, y), (right, y)], fill=_GRID)
        draw.text((8, y - 6), f"{span[0] + share * (span[1] - span[0]):.4g}", fill=_INK)
        x = left + share * (right - left)
        draw.text((x - 10, bottom + 8), str(round(share * steps)), fill=_INK)
    draw.text((left, 8), title, fill=_INK)
    for number, (words, color) in enumerate(_legend()):
        draw.text((left + 110 * number, 24), words, fill=color)


def _legend() -> Iterator[tuple[str, Any]]:
    yield from (("loss", _RAW), ("average", _AVERAGE), ("validation", _CHECKED), ("learning rate", _RATE))


def _curve(draw: Any, at: At, pairs: Sequence[tuple[int, float]], color: Any, width: int) -> None:
    places = [at(step, value) for step, value in _thinned(pairs)]
    if len(places) > 1:
        draw.line(places, fill=color, width=width)
    elif places:
        (x, y), radius = places[0], 2
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _dots(draw: Any, at: At, pairs: Sequence[tuple[int, float]]) -> None:
    for x, y in (at(step, value) for step, value in _thinned(pairs)):
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_CHECKED)


def _thinned(pairs: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most two points a column, the last one always among them."""
    stride = max(1, len(pairs) // (2 * WIDTH))
    return [*pairs[::stride], pairs[-1]] if pairs else pairs
