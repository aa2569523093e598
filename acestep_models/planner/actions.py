"""What a grammar may ask of the language model at one place of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Force:
    """These ids come next; nothing is sampled, and the model reads them in one pass with whatever follows."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Choose:
    """One of a few ids, by their logits alone; `greedy` takes the likeliest."""

    ids: tuple[int, ...]
    greedy: bool = False


@dataclass(frozen=True, eq=False)
class Mask:
    """Any id of the text that `allowed` (bool [text rows], on the CPU) permits.

    A grammar hands out the same few tensors again and again, so that whoever samples may move each of them once.
    """

    allowed: Tensor


@dataclass(frozen=True)
class Stop:
    """The text is complete."""


Action = Force | Choose | Mask | Stop


class Writer(Protocol):
    """The grammar of one text, in one state at a time."""

    def next_action(self) -> Action:
        """What may come next. A `Force` counts as written when it is handed out; `take` is not called for it."""

    def take(self, token: int) -> None:
        """The id that was sampled where `next_action` last answered `Choose` or `Mask`."""
