"""What the nodes that work on a sound share: which models may do it, which tracks are meant, and what they say."""

from __future__ import annotations

import re
from typing import Any

from ..acestep_models.pipelines.listen import Source
from ..acestep_models.tasks import TRACKS, check_task
from .host.models import song_model

ALL = "all"


def check_model(task: str, model: Any) -> str:
    """A warning, or nothing, about a MODEL for a row of TASKS.

    Raises:
        ValueError: for a model of another kind, or a variant that never learned the task.
    """
    return check_task(task, song_model(model).variant_name)


def still_to_make(given: dict[str, Any]) -> list[str]:
    """The connected inputs that the host has not made yet; it passes them as None, and leaves out the others."""
    return [name for name, value in given.items() if value is None]


def read_tracks(text: str) -> tuple[str, ...]:
    """Tracks as people write them: "Backing vocals, drums", one a line, or "all"; each once, in their order.

    Raises:
        ValueError: for a word that is no track, or for none at all.
    """
    words = [re.sub(r"[\s_-]+", "_", part.strip().lower()) for part in re.split(r"[,;|\n]", text)]
    names = tuple(dict.fromkeys(word for word in words if word))
    if names == (ALL,):
        return TRACKS
    unknown = [name for name in names if name not in TRACKS]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"tracks: expected {ALL}, or some of {', '.join(TRACKS)}; got {got}")
    return names


def tracks_problem(text: str | None) -> bool | str:
    """What the host asks before anything runs: True, or what is wrong with a text; None is not known yet."""
    try:
        read_tracks(ALL if text is None else text)
    except ValueError as error:
        return str(error)
    return True


def source_line(source: Source) -> str:
    """What was worked on."""
    return f"source: {source.seconds:g} s, {source.latents.shape[-1]} latent frames"
