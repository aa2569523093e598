"""What a step of training takes: songs as latents beside the conditions that inference would have made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

# Frames: a song, a window and a crop start and end on a code (5 frames) and on a patch (2 frames).
FRAME_STEP = 10


def whole_frames(frames: int) -> int:
    """The most frames that end on a code and on a patch."""
    return frames // FRAME_STEP * FRAME_STEP


@dataclass(frozen=True, eq=False)
class Example:
    """One song, ready to be trained on; every tensor is a normal one, float32 on the CPU.

    Attributes:
        name: of its clip.
        latents: [T, 64], T a multiple of 10.
        plain: [L, E], what the decoder reads of the song without codes.
        hinted: [L2, E], the same with codes (another instruction); None where nobody asked for hints.
        hints: [T, 64], what the codes of the song stand for; the source of a hinted context.
        repeat: how often an epoch has it.
    """

    name: str
    latents: Tensor
    plain: Tensor
    hinted: Tensor | None = None
    hints: Tensor | None = None
    repeat: int = 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dataset, ready to be trained on.

    Attributes:
        examples: at least one.
        null: [1, E], the token that stands for "no condition" at every place.
        silence: [longest T, 64], the source of a plain context, from frame 0.
        fingerprint: another one for other sounds, words, options or networks; the place of the files does not count.
        facts: what an adapter's metadata says of it: trigger, trigger_position, conditioning, songs and the options.
        notes: what was left out or is doubtful, a sentence each.
    """

    examples: tuple[Example, ...]
    null: Tensor
    silence: Tensor
    fingerprint: str
    facts: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def longest(self, crop_frames: int) -> tuple[int, int]:
        """(frames, tokens) of the longest item, where crops have so many frames; 0 takes whole songs."""
        frames = max(whole_frames(len(one.latents)) for one in self.examples)
        words = (rows for one in self.examples for rows in (one.plain, one.hinted) if rows is not None)
        return min(frames, crop_frames or frames), max(len(rows) for rows in words)
