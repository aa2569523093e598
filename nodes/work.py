"""What the nodes that work on a sound share: which models may do it, which tracks are meant, and what they say."""

from __future__ import annotations

import difflib
import re
from typing import Any

from ..acestep_models.dit.config import DiTConfig
from ..acestep_models.pipelines.listen import Source
from ..acestep_models.tasks import TRACKS, check_task, task_named
from ..acestep_models.units import MAX_SECONDS
from .host.models import song_model
from .variant import contradiction, stated
from .widgets import answer

ALL = "all"
AUTO_PLACE = -1.0
NODES = {"extract": "Separate Stems", "lego": "Add Track", "complete": "Complete"}  # what users call a row of TASKS
BETWEEN_TRACKS = re.compile(r"[,;|&\n\uff0c\uff1b\u3001]|\s+and\s+", re.IGNORECASE)


def check_model(task: str, model: Any) -> str:
    """A warning, or nothing, about what a MODEL is said to be, before it runs a row of TASKS.

    That a variant may try but was not trained for it is said by the schedule of the run.

    Raises:
        ValueError: for a model of another kind, or a variant that never learned the task.
    """
    network = song_model(model)
    try:
        check_task(task, network.variant_name)
    except ValueError as error:
        named = f"{NODES[task]} ({task}):" if task in NODES else f"{task}:"
        raise ValueError(str(error).replace(f"{task}:", named, 1)) from error
    return doubt_line(task, network.variant_name, network.config)


def doubt_line(task: str, variant: str, config: DiTConfig) -> str:
    """That the file of a model says a variant that was not trained for a task, where another one was chosen by hand."""
    told, said = contradiction(variant, config), stated(config)
    if not told or said is None or said in task_named(task).variants:
        return ""
    return f"{told}; chosen {variant}: if the file is right, {task} comes out badly"


def still_to_make(given: dict[str, Any]) -> list[str]:
    """The connected inputs that the host has not made yet; it passes them as None, and leaves out the others."""
    return [name for name, value in given.items() if value is None]


def read_tracks(text: str) -> tuple[str, ...]:
    """Tracks as people write them: "Backing vocals, drums and bass", one a line, or "all"; each once, in order.

    "all" anywhere among them is all of them.

    Raises:
        ValueError: for a word that is no track, or for none at all.
    """
    words = [re.sub(r"[\s_-]+", "_", part.strip().lower()) for part in BETWEEN_TRACKS.split(text)]
    names = tuple(dict.fromkeys(word for word in words if word))
    unknown = [name for name in names if name not in (ALL, *TRACKS)]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"tracks: expected {ALL}, or some of {', '.join(TRACKS)}; got {got}{_meant(unknown)}")
    return TRACKS if ALL in names else names


def _meant(unknown: list[str]) -> str:
    """The tracks that unknown words look like."""
    near = [match for name in unknown for match in difflib.get_close_matches(name, (*TRACKS, ALL), 1)]
    return f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""


def tracks_problem(text: str | None) -> bool | str:
    """What the host asks before anything runs: True, or what is wrong with a text; None is not known yet."""
    return answer(lambda: read_tracks(ALL if text is None else text))


def check_region(start: float | None, end: float | None) -> None:
    """Refuse what no source can make right about the seconds of a part; None is not known yet.

    Raises:
        ValueError: for a second that no song has, or an end that is not behind the start.
    """
    for name, value in (("start", start), ("end", end)):
        if value is not None and not (value == AUTO_PLACE or 0.0 <= value <= MAX_SECONDS):
            raise ValueError(f"{name}: expected {AUTO_PLACE:g}, or 0 to {MAX_SECONDS:g} seconds; got {value:g}")
    if start is None or end is None or end == AUTO_PLACE:
        return
    if not max(0.0, start) < end:
        raise ValueError(f"start, end: expected an end behind the start, got {max(0.0, start):g} to {end:g} s")


def source_line(source: Source) -> str:
    """What was worked on."""
    return f"source: {source.seconds:g} s, {source.latents.shape[-1]} latent frames"
