"""One song out of a blueprint, and all that its songs say, for the nodes that hold one in the user's hands."""

from __future__ import annotations

from typing import Any

from ..acestep_models.blueprint import PLANNED, Blueprint
from ..acestep_models.units import MAX_SONGS
from .describe import describe_songs
from .host.schema import io, socket
from .plan import codes_line


def song_input(first: int, tooltip: str) -> Any:
    """The number of a song; `first` is the lowest, and what it stands on."""
    return socket(io.Int, "song", default=first, min=first, max=MAX_SONGS, tooltip=tooltip)


def meant(blueprint: tuple[Blueprint, ...], song: int) -> range:
    """Places of the songs that a number stands for."""
    if not 0 <= song <= len(blueprint):
        raise ValueError(
            f"song: expected 0 (all) to {len(blueprint)}, for so many songs are in the blueprint; got {song}"
        )
    return range(song - 1, song) if song else range(len(blueprint))


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
