"""What the planner is asked about a take: prompts, and the texts that they should lead to.

The texts are those of upstream's scoring (spec/planner.md §8). Its think block before the lyrics is not the empty one
of the training data; scores are compared with its scores, so it stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..blueprint import Blueprint
from ..lm_prompts import facts, plain, think_block
from ..planner.lm import LM

CAPTION, LYRICS = "caption", "lyrics"
TEXTS = (CAPTION, LYRICS)


@dataclass(frozen=True)
class Target:
    """The text that says one field of a song, by the field's name in the think block."""

    name: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """A prompt and the targets that are read behind it."""

    prompt: tuple[int, ...]
    targets: tuple[Target, ...]

    @property
    def positions(self) -> int:
        """What the prompt and the longest target fill; the last token of a target predicts nothing."""
        return len(self.prompt) + max(len(target.ids) for target in self.targets) - 1

    @property
    def tokens(self) -> int:
        """How many are read."""
        return len(self.prompt) + sum(len(target.ids) - 1 for target in self.targets)

    @property
    def judged(self) -> int:
        """How many get a score."""
        return sum(len(target.ids) for target in self.targets)


def targets(lm: LM, blueprint: Blueprint) -> tuple[Target, ...]:
    """Caption, lyrics, then each fact in the order of the names, as far as they are set.

    Raises:
        ValueError: for a text that would become a control token.
    """
    said = facts(blueprint)
    if not blueprint.is_set("seconds"):  # a length that only the codes have proves nothing about them
        said.pop("duration", None)
    if blueprint.is_set("genres"):
        said["genres"] = blueprint.genres
    texts = {name: f"{think_block({name: value})}\n" for name, value in sorted(said.items())}
    if blueprint.is_set(LYRICS):
        texts[LYRICS] = f"<think>\n</think>\n# Lyric\n{plain(LYRICS, blueprint.lyrics)}\n"
    order = sorted(texts, key=lambda name: name not in TEXTS)
    return tuple(Target(name, tuple(lm.tokenizer.encode(texts[name]))) for name in order)
