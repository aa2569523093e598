"""Conditions of a dataset, by the same functions that inference makes them with (spec/lora.md §2.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ..blueprint import Blueprint
from ..errors import ACEStepError
from ..pipelines.encode import ConditionerModels, encode_song
from ..runtime import Handle, PartRuntime, Runtime
from ..units import frames_to_seconds
from ..vae.oobleck import Oobleck
from .data.captions import spoken
from .data.clip import Dataset
from .examples import FRAME_STEP, Example, Prepared
from .files import check_folder, drafts
from .manifest import write_manifest
from .marks import mark
from .song import LONGEST_SECONDS, VERSION, Done, PrepareOptions, SongMaker, Unheard, networks_mark, normal
from .texts import check_texts, said_seconds

__all__ = ["ELSEWHERE", "LONGEST_SECONDS", "PROFILE", "PrepareOptions", "prepare"]

PROFILE = "acestep-15 inference"
ELSEWHERE = "prepared elsewhere"
_DRAFT_SECONDS = 3600.0  # a draft older than this belongs to a run that died


def prepare(
    runtime: Runtime,
    conditioner: ConditionerModels,
    vae: Handle[Oobleck],
    dataset: Dataset,
    folder: Path,
    wish: PrepareOptions,
) -> Prepared:
    """Every clip encoded, as one .pt each and manifest.json in `folder`; what is there already is not made again.

    A clip that has `tensors` is taken as they are. A clip whose sound cannot be heard is left out, and a note says it.
    All tensors are normal ones, also where this is called in inference mode.

    Raises:
        ValueError: where no clip is left; for words that are longer than the text encoder reads, all of them named
            before the first song is encoded; for a file where `folder` must be.
        ACEStepError: when a network answers with numbers that are not finite, or the disk does not take a file.
    """
    words = spoken(dataset)
    check_texts(conditioner.tokenizer, dataset, words, said_seconds(dataset, wish), hinted=wish.hints)
    check_folder(folder)
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    maker = SongMaker(conditioner, vae, folder, wish, networks_mark(conditioner, vae))
    done: list[Done] = []
    notes = list(dataset.notes)
    for place, (clip, said) in enumerate(zip(dataset.clips, words, strict=True)):
        runtime.check_cancelled()
        runtime.say(f"preparing song {place + 1} of {len(dataset.clips)}: {clip.name}")
        try:
            done.append(maker.make(PartRuntime(runtime, place, len(dataset.clips)), clip, said))
        except Unheard as error:
            notes.append(f"{clip.name}: left out: {error}")
        runtime.progress(place + 1, len(dataset.clips))
    if not done:
        raise ValueError(f"dataset {dataset.name}: no song of it can be used. {'; '.join(notes)}")
    notes += [note for one in done for note in one.notes]
    prepared = _gathered(runtime, conditioner, dataset, wish, done, notes)
    with _disk(folder):
        write_manifest(folder, dataset, [one.file for one in done], prepared)
    return prepared


def _gathered(
    runtime: Runtime,
    conditioner: ConditionerModels,
    dataset: Dataset,
    wish: PrepareOptions,
    done: Sequence[Done],
    notes: Sequence[str],
) -> Prepared:
    examples = tuple(one.stored.example for one in done)
    null = _null(runtime, conditioner, [one for one in done if not one.foreign])
    for example in examples:
        if example.plain.shape[1] != null.shape[1]:
            raise ValueError(
                f"{example.name}: its tensors are {example.plain.shape[1]} wide, the model reads {null.shape[1]}; they "
                "were prepared for another model, prepare the song again"
            )
    longest = max(len(example.latents) for example in examples)
    parts = [(one.stored.example.name, one.stored.example.repeat, one.mark) for one in done]
    facts = _facts(dataset, wish, examples, any(one.foreign for one in done))
    silence = normal(conditioner.silence.take(longest)[0])
    return Prepared(examples, null, silence, mark(VERSION, *parts), facts, tuple(notes))


def _null(runtime: Runtime, conditioner: ConditionerModels, own: Sequence[Done]) -> Tensor:
    """[1, E]: of a song of ours, else asked of the condition encoder."""
    found = next((one.stored.null for one in own if one.stored.null is not None), None)
    if found is not None:
        return found
    return normal(encode_song(runtime, conditioner, Blueprint(caption="music"), FRAME_STEP).null[0])


def _facts(dataset: Dataset, wish: PrepareOptions, examples: Sequence[Example], foreign: bool) -> dict[str, str]:
    tags = dict.fromkeys(dataset.tag if clip.tag is None else clip.tag for clip in dataset.clips)
    seconds = frames_to_seconds(sum(len(example.latents) for example in examples))
    return {
        "trigger": ", ".join(tag for tag in tags if tag.strip()),
        "trigger_position": dataset.tag_position,
        "conditioning": ELSEWHERE if foreign else PROFILE,
        "dataset": dataset.name,
        "songs": str(len(examples)),
        "song_seconds": f"{seconds:g}",
        "hinted_songs": str(sum(example.hints is not None for example in examples)),
        "duration": wish.duration,
        "posterior": wish.posterior,
    }


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ACEStepError(
            f"{folder}: the prepared songs cannot be kept there ({error}). Make room on that disk, or choose another "
            "folder, then run again; the songs that are prepared already are kept"
        ) from error


def _sweep(folder: Path) -> None:
    """Drafts of runs that were killed."""
    for draft, _, _ in drafts(folder):
        try:
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink(missing_ok=True)
        except FileNotFoundError:  # its own process has just finished it
            continue
