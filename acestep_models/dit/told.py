"""What the condition of a song is to every layer of the decoder: the same in every step, so computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import Band, KeysValues, Rope


@dataclass(frozen=True, eq=False)
class Told:
    """Made by `DiT.tell`; as long as tokens, weights and length stay, `DiT` may be given it in place of the tokens.

    Attributes:
        keys_values: of each layer's attention to the condition, each [B, kv, L, D].
        mask: [B, 1, 1, L] bool, False where padding stands.
        rope: positions of the patches.
        band: what the sliding layers see.
    """

    keys_values: tuple[KeysValues, ...]
    mask: Tensor | None
    rope: Rope
    band: Band | None

    def rows(self, start: int, stop: int) -> Told:
        """Rows start .. stop - 1 of the batch, as views."""
        parts = tuple((k[start:stop], v[start:stop]) for k, v in self.keys_values)
        return Told(parts, None if self.mask is None else self.mask[start:stop], self.rope, self.band)


Tell = Callable[[Tensor, Tensor | None], Told]
KEPT = 2  # of a run


class ToldStore:
    """What a run was told last, found again by the tokens it was made of: whoever calls may change the order of rows,
    leave some out, or go on to another set of conditions. A run owns it, for the weights must not change.

    Two are kept: a song and its null token, where short memory makes the host ask for one after the other.
    """

    def __init__(self) -> None:
        self._held: tuple[_Held, ...] = ()

    def find(self, tell: Tell, tokens: Tensor, mask: Tensor | None, length: int) -> Told:
        """`tell(tokens, mask)` for tokens [B, L, E], mask [B, L] and latents of `length` frames, or what it gave."""
        known = next((told for held in self._held if (told := held.find(tokens, mask, length)) is not None), None)
        if known is not None:
            return known
        self._held = self._held[1 - KEPT :]  # before the new one needs room
        told = tell(tokens, mask)
        self._held = (*self._held, _Held(tokens, mask, length, told))
        return told

    def forget(self) -> None:
        """Let go of what is held."""
        self._held = ()


@dataclass(frozen=True, eq=False)
class _Held:
    """One `Told`, and what it was made of."""

    tokens: Tensor
    mask: Tensor | None
    length: int
    told: Told

    def find(self, tokens: Tensor, mask: Tensor | None, length: int) -> Told | None:
        """The part that belongs to these tokens: all rows, the first or the last; None where they are others."""
        for start in {0, max(len(self.tokens) - len(tokens), 0)}:
            rows = slice(start, start + len(tokens))
            own = None if self.mask is None else self.mask[rows]
            if length == self.length and _same(tokens, self.tokens[rows]) and _same(mask, own):
                return self.told if len(tokens) == len(self.tokens) else self.told.rows(rows.start, rows.stop)
        return None


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors agree in everything; one comparison of a few MB a step against two projections a layer."""
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
