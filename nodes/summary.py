"""One song out of a blueprint, and all that its songs say, for the nodes that hold one in the user's hands."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import PLANNED, Blueprint
from ..acestep_models.blueprint_fields import shown
from ..acestep_models.units import MAX_SONGS
from .describe import describe_songs
from .host.schema import io, socket
from .plan import codes_line


def song_input(first: int, tooltip: str) -> Any:
    """The number of a song; `first` is the lowest, and what it stands on."""
    return socket(io.Int, "song", default=first, min=first, max=MAX_SONGS, tooltip=tooltip)


def checked_songs(blueprint: Any, name: str = "blueprint") -> tuple[Blueprint, ...]:
    """The songs on a wire: the host lets any plain value pass for one where a workflow comes over the API.

    Raises:
        TypeError: names the input.
    """
    if not isinstance(blueprint, tuple) or not all(isinstance(song, Blueprint) for song in blueprint):
        raise TypeError(
            f"{name}: expected songs on paper from the output of another node, got {shown(blueprint)}; connect a "
            "Blueprint or LoadBlueprint node"
        )
    return blueprint


def meant(blueprint: tuple[Blueprint, ...], song: int, first: int = 0) -> range:
    """Places of the songs that a number stands for; 0 is all of them, unless `first` is 1."""
    count = len(blueprint)
    if not first <= song <= count:
        held = "one song is" if count == 1 else "so many songs are"
        raise ValueError(f"song: expected {numbers(first, count)}, for {held} in the blueprint; got {song}")
    return range(song - 1, song) if song else range(count)


def numbers(first: int, count: int) -> str:
    """Which numbers of a song there are, in words."""
    if first == 0:
        return f"0 (all) to {count}"
    return "1" if count == 1 else f"1 to {count}"


def contents(songs: tuple[Blueprint, ...]) -> tuple[str, ...]:
    """All that the songs say."""
    seeds = ", ".join("-" if song.seed is None else str(song.seed) for song in songs)
    locked = sorted(set().union(*(song.locked for song in songs)), key=PLANNED.index)
    return (
        f"songs: {len(songs)}",
        *describe_songs(songs),
        codes_line(songs),
        f"noise seeds: {seeds}" if any(song.seed is not None for song in songs) else "",
        f"locked: {', '.join(locked)}" if locked else "",
    )
