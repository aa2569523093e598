"""Labels: what the language model hears in clips, for what nobody said (spec/lora.md §1.2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..blueprint import INSTRUMENTAL, Blueprint
from ..errors import ACEStepError, Cancelled
from ..pipelines.encode import ConditionerModels
from ..pipelines.listen import encode_source, source_codes
from ..planner.lm import LM
from ..planner.sampling import TokenSampling
from ..planner.understand import UnderstandOptions, gaps, understand
from ..runtime import Handle, PartRuntime, Runtime
from ..vae.oobleck import Oobleck
from .data.captions import spoken
from .data.clip import Clip, Dataset
from .data.sound import clip_sound
from .files import write_text
from .marks import clip_mark, mark, network_mark
from .texts import check_texts

LYRICS = ("keep", "transcribe")
WHICH = ("unlabelled", "all")
HEARD_SECONDS = 240.0  # as much of a song as is trained on
TEMPERATURE = 0.7
_VERSION = 1
_FILLED = ("caption", "lyrics", "bpm", "key", "time_signature", "language", "genres")


@dataclass(frozen=True)
class LabelOptions:
    """How to label.

    Attributes:
        lyrics: of clips whose lyrics nobody gave: "keep" leaves it so, which reads as instrumental; "transcribe" has
            the language model write what it hears.
        which: "unlabelled" passes over clips that somebody labelled and that have a caption; "all" fills their gaps.
        listen: how the language model listens.
        kept: a folder that keeps the label of each song as soon as it is made, so that Cancel loses only one; None
            keeps nothing.

    Raises:
        ValueError: for a value out of its list.
    """

    lyrics: str = "keep"
    which: str = "unlabelled"
    listen: UnderstandOptions = field(
        default_factory=lambda: UnderstandOptions(sampling=TokenSampling(temperature=TEMPERATURE))
    )
    kept: Path | None = None

    def __post_init__(self) -> None:
        for name, options in (("lyrics", LYRICS), ("which", WHICH)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name}: expected one of {', '.join(options)}; got {getattr(self, name)!r}")


def label(
    runtime: Runtime,
    lm: LM,
    conditioner: ConditionerModels,
    vae: Handle[Oobleck],
    dataset: Dataset,
    options: LabelOptions,
) -> Dataset:
    """The dataset with what is heard in what nobody said; whatever was said stays byte for byte.

    A clip whose sound cannot be heard, or of which the language model writes nothing usable, stays as it is, and a
    note of the dataset says it.

    Raises:
        ValueError: for texts of the user that are longer than the model reads, all of them named, before any song is
            listened to.
        ACEStepError: if the language model fails at every song, or a network's numbers are not finite.
    """
    _check_said(conditioner, dataset)
    labeller = _Labeller(lm, conditioner, vae, options)
    clips: list[Clip] = []
    failures: list[str] = []
    asked = 0
    for place, clip in enumerate(dataset.clips):
        runtime.check_cancelled()
        draft = labeller.draft(clip)
        if draft is not None:
            asked += 1
            runtime.say(f"listening to song {place + 1} of {len(dataset.clips)}: {clip.name}")
            try:
                clip = labeller.label(PartRuntime(runtime, place, len(dataset.clips)), clip, draft)
            except Cancelled:
                raise
            except (ValueError, ACEStepError) as error:
                failures.append(f"{clip.name}: not labelled: {error}")
        clips.append(clip)
        runtime.progress(place + 1, len(dataset.clips))
    if failures and len(failures) == asked:
        raise ACEStepError(f"dataset {dataset.name}: no song could be labelled. {'; '.join(failures)}")
    return replace(dataset, clips=tuple(clips), notes=(*dataset.notes, *labeller.notes, *failures))


def _check_said(conditioner: ConditionerModels, dataset: Dataset) -> None:
    """As `check_texts`, of what the user said; what was heard before does not count."""
    said = replace(dataset, clips=tuple(replace(clip, blueprint=_own(clip.blueprint)) for clip in dataset.clips))
    check_texts(conditioner.tokenizer, said, spoken(said), [clip.seconds for clip in said.clips], hinted=False)


def _own(song: Blueprint) -> Blueprint:
    """Caption and lyrics so far as the user wrote them."""
    caption = "" if "caption" in song.filled else song.caption
    return replace(song, caption=caption, lyrics="" if "lyrics" in song.filled else song.lyrics)


@dataclass(frozen=True, eq=False)
class _Labeller:
    lm: LM
    conditioner: ConditionerModels
    vae: Handle[Oobleck]
    options: LabelOptions
    networks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def draft(self, clip: Clip) -> Blueprint | None:
        """What is known of a clip, with locks on what shall not be heard; None where there is nothing to ask."""
        song = clip.blueprint
        done = clip.labelled and song.is_set("caption") and self.options.which == "unlabelled"
        if done or clip.tensors is not None:
            return None
        locked = set(song.locked)
        if not song.is_set("lyrics") and self.options.lyrics == "keep":
            locked.add("lyrics")
        if "lyrics" in locked or song.lyrics.strip().lower() == INSTRUMENTAL.lower():
            locked.add("language")  # of nothing that is sung
        draft = replace(song, genres=clip.genre, locked=frozenset(locked), seconds=None, codes=None)
        return draft if gaps(draft)[0] else None

    def label(self, runtime: Runtime, clip: Clip, draft: Blueprint) -> Clip:
        """The clip with its gaps filled, by what is kept of an earlier run where there is that."""
        path = self._path(clip, draft)
        values = None if path is None else _kept(path)
        if values is None:
            values = self._heard(runtime, clip, draft)
            if path is not None:
                self._keep(path, values)
        return _filled(clip, draft, values, self.lm.name)

    def _heard(self, runtime: Runtime, clip: Clip, draft: Blueprint) -> dict[str, Any]:
        sound, rate = clip_sound(clip, runtime.check_cancelled)
        source = encode_source(runtime, self.vae, sound[None, :, : int(HEARD_SECONDS * rate)], rate)
        codes = source_codes(runtime, self.conditioner, source)
        song = understand(runtime, self.lm, codes, draft, self.options.listen)
        cut = [name for name, _ in song.lm if name.startswith("cut_")]
        return {**{name: getattr(song, name) for name in _FILLED if name in song.filled}, "cut": cut}

    def _keep(self, path: Path, values: Mapping[str, Any]) -> None:
        """A label that cannot be kept is still a label; it is said once."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(values, ensure_ascii=False))
        except OSError as error:
            if not self.notes:
                self.notes.append(
                    f"labels could not be kept in {path.parent} ({error}): make room there, or these songs are "
                    "listened to again the next time"
                )

    def _path(self, clip: Clip, draft: Blueprint) -> Path | None:
        """Where the answer to exactly this question is kept."""
        folder = self.options.kept
        if folder is None:
            return None
        if not self.networks:
            c = self.conditioner
            handles: tuple[Handle[Any], ...] = (self.lm.model, c.code_tokenizer, self.vae)
            self.networks.extend(network_mark(handle) for handle in handles)
        said = [getattr(draft, name) for name in _FILLED]
        question = mark(_VERSION, clip_mark(clip), *said, sorted(draft.locked), self.options.listen, *self.networks)
        return folder / f"{question}.json"


def _kept(path: Path) -> dict[str, Any] | None:
    """None for what is not there, or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        Blueprint(**{name: value for name, value in values.items() if name in _FILLED})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return values if isinstance(values.get("cut"), list) else None


def _filled(clip: Clip, draft: Blueprint, values: Mapping[str, Any], model: str) -> Clip:
    found = {name: value for name, value in values.items() if name in _FILLED and name not in draft.locked}
    found = {name: value for name, value in found.items() if not draft.is_set(name)}
    genre = found.pop("genres", clip.genre)
    names = [*found, *(["genre"] if genre != clip.genre else [])]
    read = f"{', '.join(names)}: heard by {model}" if names else f"nothing more was heard by {model}"
    cut = [f"{name.removeprefix('cut_')}: the language model did not end it, so it was cut" for name in values["cut"]]
    blueprint = replace(clip.blueprint, **found, filled=clip.blueprint.filled | found.keys())
    return replace(clip, blueprint=blueprint, genre=genre, labelled=True, read=(*clip.read, read, *cut))
