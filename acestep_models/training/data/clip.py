"""One piece of sound with what is said about it, and many of them as a dataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...blueprint import Blueprint
from ...blueprint_fields import MAX_GENRE_CHARACTERS, check_text, shown

__all__ = ["CAPTION", "GENRE", "TAG_POSITIONS", "Clip", "Dataset"]

TAG_POSITIONS = ("prepend", "append", "replace")
CAPTION, GENRE = "caption", "genre"
OVERRIDES = ("", CAPTION, GENRE)
MAX_TAG_CHARACTERS = 200
MAX_REPEAT = 1_000
MAX_RATIO = 100  # percent


@dataclass(frozen=True, eq=False)
class Clip:
    """A song that is trained on, or a piece of one.

    Attributes:
        name: unique in its dataset: the path below the dataset's root with "/", such as "album/song.wav".
        blueprint: what the user or a label says of it. The caption is theirs to the byte, the tag is not in it;
            lyrics "" means that nobody said whether there are any. Seconds and codes are unset.
        path: its sound file.
        sound: its sound [C, N] in float32 and sample rate, where it was handed over in memory.
        tensors: a prepared ".pt" of a tensor manifest.
        seconds: how long it plays.
        genre: what stands for the caption where a genre is asked for.
        prompt_override: "caption" or "genre", whatever the dataset's genre ratio says; "" leaves it to that.
        tag: its own trigger words instead of the dataset's; None has the dataset's, "" none at all.
        repeat: how many times an epoch plays it.
        labelled: whether somebody, or a language model, has said what it is.
        read: how each field was found, one line each.

    Raises:
        ValueError: for a value out of its range, and for a clip that has not exactly one of path, sound, tensors
            or that has none of them.
    """

    name: str
    blueprint: Blueprint
    path: Path | None = None
    sound: tuple[Tensor, int] | None = None
    tensors: Path | None = None
    seconds: float = 0.0
    genre: str = ""
    prompt_override: str = ""
    tag: str | None = None
    repeat: int = 1
    labelled: bool = False
    read: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.path is None and self.sound is None and self.tensors is None:
            raise ValueError(f"{self.name}: a clip needs a sound file, a sound or a prepared tensor file")
        check_text("genre", self.genre, MAX_GENRE_CHARACTERS)
        if self.tag is not None:
            check_text("tag", self.tag, MAX_TAG_CHARACTERS)
        if self.prompt_override not in OVERRIDES:
            raise ValueError(f"prompt_override: expected caption, genre or nothing, got {shown(self.prompt_override)}")
        if type(self.repeat) is not int or not 1 <= self.repeat <= MAX_REPEAT:
            raise ValueError(f"repeat: expected a whole number 1 to {MAX_REPEAT}, got {shown(self.repeat)}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Clips, and how the words that the model reads are made of what is said about them.

    Attributes:
        name: what it is called, and what files that are made of it are called.
        clips: one or more, in the order in which they were found.
        tag: trigger words; "" is none.
        tag_position: where they stand: before the caption, behind it, or instead of it.
        genre_ratio: percent of the clips whose genre is read instead of the caption, 0 to 100.
        notes: what the user should know: files that were left out, and why.

    Raises:
        ValueError: for no clip, two clips of one name, and values out of their range.
    """

    name: str
    clips: tuple[Clip, ...]
    tag: str = ""
    tag_position: str = "prepend"
    genre_ratio: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.clips:
            raise ValueError(f"dataset {self.name}: there is no song in it; give one or more")
        names = Counter(clip.name for clip in self.clips)
        if double := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"dataset {self.name}: two songs are called {double[0]}; rename one of them")
        check_text("tag", self.tag, MAX_TAG_CHARACTERS)
        if self.tag_position not in TAG_POSITIONS:
            raise ValueError(
                f"tag_position: expected one of {', '.join(TAG_POSITIONS)}, got {shown(self.tag_position)}"
            )
        if type(self.genre_ratio) is not int or not 0 <= self.genre_ratio <= MAX_RATIO:
            raise ValueError(f"genre_ratio: expected a whole number 0 to 100, got {shown(self.genre_ratio)}")
