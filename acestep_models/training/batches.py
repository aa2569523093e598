"""Which songs a step learns from, and what is drawn for each: all of it a function of the seed and the item's number.

Item n is the n-th song or crop of the whole run, over all processes. Nothing remembers what was drawn before, so a
run that goes on draws what it would have drawn, and W processes draw what one does (spec/lora.md §4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dit.context import task_context
from .examples import FRAME_STEP, Example, Prepared, whole_frames
from .noise import generator
from .options import TrainOptions
from .times import DISCRETE, DISCRETE_STEPS, Times, condition_dropout_for
from .wish import check_held_out

# The three things of the validation that are drawn.
NOISE, PLACE, HELD_OUT = range(3)


@dataclass(frozen=True, eq=False)
class Item:
    """One song or crop as a step sees it: clean, noise and source [T, 64], tokens [L, E], t in 0 .. 1."""

    clean: Tensor
    noise: Tensor
    source: Tensor
    tokens: Tensor
    t: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Items side by side, the shorter ones filled up at the end.

    Attributes:
        clean, noise: [B, T, 64] float32.
        context: [B, T, 128].
        tokens: [B, L, E].
        t: [B] float32.
        frames: [B, T] bool, False is filling; None where there is none.
        seen: [B, L] bool, the same of the tokens.
    """

    clean: Tensor
    noise: Tensor
    context: Tensor
    tokens: Tensor
    t: Tensor
    frames: Tensor | None = None
    seen: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        there = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **there)


def collate(items: Sequence[Item]) -> Batch:
    """Items as a batch. Self-attention sees the filling of shorter songs, only the loss does not: batches of one
    length, or of one song, are exact (spec/lora.md §2.4)."""
    frames, tokens = [len(item.clean) for item in items], [len(item.tokens) for item in items]
    return Batch(
        clean=_stack([item.clean for item in items]),
        noise=_stack([item.noise for item in items]),
        context=task_context(_stack([item.source for item in items])),
        tokens=_stack([item.tokens for item in items]),
        t=torch.cat([item.t for item in items]),
        frames=_real(frames),
        seen=_real(tokens),
    )


def _stack(rows: Sequence[Tensor]) -> Tensor:
    longest = max(map(len, rows))
    return torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])


def _real(lengths: Sequence[int]) -> Tensor | None:
    """[B, longest], True within each length; None where all are the same."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


@dataclass(frozen=True, eq=False)
class Draws:
    """What every item of a run is.

    Attributes:
        data: the songs.
        times: how noise levels are drawn.
        dropped: share of items without a condition.
        trained, validated: indices of examples; an example stands in `trained` as often as an epoch has it.
    """

    data: Prepared
    options: TrainOptions
    times: Times
    dropped: float
    trained: tuple[int, ...]
    validated: tuple[int, ...]
    _orders: dict[int, Tensor] = field(default_factory=dict)

    def example(self, number: int) -> Example:
        """The song of item `number`: every epoch has each entry once, in an order of its own."""
        epoch, place = divmod(number, len(self.trained))
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = torch.randperm(len(self.trained), generator=self._random("order", epoch))
        return self.data.examples[self.trained[int(self._orders[epoch][place])]]

    def item(self, number: int) -> Item:
        """Item `number` of the run."""
        example = self.example(number)
        hinted = example.hinted is not None and self._share("hint", number) < self.options.hint_share
        empty = self._share("drop", number) < self.dropped
        start = self._start(example, "crop", number)
        t = self.times.draw(self._random("time", number), 1)
        return self._item(example, start, t, self._random("noise", number), hinted=hinted, empty=empty)

    def grid(self) -> list[Item]:
        """The fixed items of the validation loss: songs in turn, noise of their own, times spread as they are drawn.

        Always with the plain condition: the curve moves by what was learned alone (spec/lora.md §2.5).
        """
        points = self.options.validation_points if self.validated else 0
        times = self.times.grid(points)
        items = []
        for point in range(points):
            example = self.data.examples[self.validated[point % len(self.validated)]]
            start = self._start(example, "validation", PLACE, point)
            noise = self._random("validation", NOISE, point)
            items.append(self._item(example, start, times[self._time_of(point)][None], noise))
        return items

    def _time_of(self, point: int) -> int:
        """Which of the grid's times a point has: songs and the eight discrete times come round together, and then
        would always meet the same ones, so each round goes one time further."""
        count, songs = self.options.validation_points, len(self.validated)
        rounds = point // math.lcm(songs, DISCRETE_STEPS) if self.times.kind == DISCRETE else 0
        return (point + rounds) % count

    def _item(
        self,
        example: Example,
        start: int,
        t: Tensor,
        random: torch.Generator,
        *,
        hinted: bool = False,
        empty: bool = False,
    ) -> Item:
        window = slice(start, start + self._length(example))
        clean = example.latents[window].float()
        tokens, source = example.plain, self.data.silence[: len(clean)]  # silence begins anew in every crop
        if hinted and example.hinted is not None and example.hints is not None:
            tokens, source = example.hinted, example.hints[window]
        if empty:
            tokens = self.data.null.expand_as(tokens)
        return Item(clean, torch.randn(clean.shape, generator=random), source.float(), tokens.float(), t)

    def _length(self, example: Example) -> int:
        whole = whole_frames(len(example.latents))
        return min(whole, self.options.crop_frames or whole)

    def _start(self, example: Example, purpose: str, *numbers: int) -> int:
        """The first frame of the window: any that a code begins at, and a patch."""
        places = (whole_frames(len(example.latents)) - self._length(example)) // FRAME_STEP + 1
        return int(torch.randint(places, (1,), generator=self._random(purpose, *numbers))) * FRAME_STEP

    def _share(self, purpose: str, number: int) -> float:
        return float(torch.rand(1, generator=self._random(purpose, number), dtype=torch.float64))

    def _random(self, purpose: str, *numbers: int) -> torch.Generator:
        return generator(self.options.seed, purpose, *numbers)


def make_draws(data: Prepared, options: TrainOptions, times: Times) -> Draws:
    """Check the songs and part them into those that are trained and those that are only listened to.

    Raises:
        ValueError: names the song that is too short, has tensors that do not fit or are not numbers; no song left.
    """
    for example in data.examples:
        _check(example, data)
    count, held = len(data.examples), options.validation_songs
    check_held_out(held, count)
    order = torch.randperm(count, generator=generator(options.seed, "validation", HELD_OUT)).tolist()
    outside = set(order[:held])
    trained = [index for index in range(count) if index not in outside for _ in range(data.examples[index].repeat)]
    if not trained:
        raise ValueError("no song is left to train on: every repeat is 0")
    validated = sorted(outside) or sorted(set(trained))
    dropped = condition_dropout_for(options, times)
    return Draws(data, options, times, dropped, tuple(trained), tuple(validated))


def _check(example: Example, data: Prepared) -> None:
    name, frames, channels = example.name, len(example.latents), data.silence.shape[-1]
    if whole_frames(frames) == 0:
        raise ValueError(f"{name}: {frames} latent frames are too short, at least {FRAME_STEP} (0.4 s) are needed")
    expected = {"latents": channels, "hints": channels, "plain": data.null.shape[-1], "hinted": data.null.shape[-1]}
    for part, width in expected.items():
        tensor: Tensor | None = getattr(example, part)
        if tensor is None:
            continue
        if tensor.ndim != 2 or tensor.shape[1] != width or len(tensor) == 0:
            raise ValueError(
                f"{name}: its {part} are {list(tensor.shape)}, expected [length, {width}]; prepare it again"
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name}: its {part} hold NaN or infinity; prepare it again, at precision fp32")
    if len(data.silence) < whole_frames(frames):
        raise ValueError(f"{name}: {frames} frames, but only {len(data.silence)} of silence; prepare the dataset again")
    if example.hints is not None and len(example.hints) < whole_frames(frames):
        raise ValueError(f"{name}: hints for {len(example.hints)} of {frames} frames; prepare it again")
