"""Lists of allowed token sequences as trees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trie:
    """Token sequences that share their beginnings: node 0 is the root, a node without children ends a sequence.

    `children[node]` maps the ids that may come next to the nodes behind them.
    """

    children: tuple[dict[int, int], ...]

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Trie:
        """The tree of the sequences.

        Raises:
            ValueError: if one of them is the beginning of another, so that its end could not be told.
        """
        children: list[dict[int, int]] = [{}]
        ends: set[int] = set()
        for sequence in sequences:
            node = 0
            for token in sequence:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
            ends.add(node)
        open_ends = [node for node in ends if children[node]]
        if open_ends:
            raise ValueError(f"{len(open_ends)} of {len(ends)} values begin another one: nothing would mark their end")
        return cls(tuple(children))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        depth = [0] * len(self.children)
        for node, children in enumerate(self.children):  # a node comes before those behind it
            for child in children.values():
                depth[child] = depth[node] + 1
        return max(depth)

    def __len__(self) -> int:
        return len(self.children)
