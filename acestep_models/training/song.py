"""One clip as prepared tensors: from disk where it is there already, else heard and read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blueprint import INSTRUMENTAL, Blueprint
from ..errors import ACEStepError
from ..pipelines.encode import ConditionerModels, Conditioning, encode_song, read_codes
from ..pipelines.listen import MIN_SOURCE_SECONDS, Source, encode_source, source_codes
from ..runtime import Handle, Runtime
from ..units import FRAMES_PER_CODE, MAX_SECONDS, frames_to_seconds
from ..vae.oobleck import Oobleck
from .data.clip import Clip
from .data.sound import clip_sound
from .examples import FRAME_STEP, Example
from .marks import clip_mark, mark, network_mark, number, tensor_mark
from .tensors import Stored, fingerprint_of, read_stored, write_stored

LONGEST_SECONDS = 240.0
VERSION = 1  # another one makes everything again
POSTERIORS = ("mean", "sample")
_OPTIONS = {"duration": ("song", "crop"), "posterior": POSTERIORS}


@dataclass(frozen=True)
class PrepareOptions:
    """How songs are prepared.

    Attributes:
        hints: whether each song gets hinted conditions beside the plain ones.
        duration: what the facts say, the length of the "song" or that of a "crop".
        crop_frames: length of a crop, a multiple of 10; read for duration "crop" only.
        posterior: the "mean" of what the VAE thinks likely, or a "sample" of it.
        longest_seconds: what comes later in a song is cut off.
        seed: of the samples.

    Raises:
        ValueError: for a value out of its range.
    """

    hints: bool = True
    duration: str = "song"
    crop_frames: int = 0
    posterior: str = "mean"
    longest_seconds: float = LONGEST_SECONDS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, options in _OPTIONS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"{name}: expected one of {', '.join(options)}; got {getattr(self, name)!r}")
        if not MIN_SOURCE_SECONDS <= self.longest_seconds <= MAX_SECONDS:
            raise ValueError(f"longest_seconds: expected 1 to {MAX_SECONDS:g}, got {self.longest_seconds:g}")
        if self.duration == "crop" and (self.crop_frames < FRAME_STEP or self.crop_frames % FRAME_STEP):
            raise ValueError(
                f"crop_frames: expected a multiple of {FRAME_STEP} from {FRAME_STEP} on, got {self.crop_frames}"
            )

    def read(self) -> tuple[object, ...]:
        """What of it changes a prepared song."""
        crop = self.crop_frames if self.duration == "crop" else 0
        return self.hints, crop, self.seed if self.posterior == "sample" else None, float(self.longest_seconds)


class Unheard(Exception):
    """A clip of which there is nothing to train on."""


@dataclass(frozen=True, eq=False)
class Done:
    """A clip in its file; `foreign` where another trainer made that, with its words and padding."""

    stored: Stored
    file: Path
    mark: str
    foreign: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SongMaker:
    """Makes songs of one dataset; `networks` is the mark of what reads and hears."""

    conditioner: ConditionerModels
    vae: Handle[Oobleck]
    folder: Path
    wish: PrepareOptions
    networks: str

    def make(self, runtime: Runtime, clip: Clip, words: Blueprint) -> Done:
        """One clip, from disk where it is there as it would be made."""
        try:
            heard = clip_mark(clip)
        except ValueError as error:
            raise Unheard(str(error)) from error
        if clip.tensors is not None:
            return self._taken(clip, clip.tensors, heard)
        wanted = mark(VERSION, heard, self.networks, _spoken_mark(words), *self.wish.read())
        path = self.folder / _file_name(clip.name)
        stored = _kept(path, clip, wanted)
        if stored is None:
            stored = self._encoded(runtime, clip, words, number(self.wish.seed, heard))
            self._write(path, stored, wanted)
        return Done(stored, path, wanted, notes=_doubts(clip, words))

    def _taken(self, clip: Clip, path: Path, heard: str) -> Done:
        """Tensors of a manifest, ours or another trainer's."""
        try:
            stored = read_stored(path, clip.name, clip.repeat)
        except ValueError as error:
            raise Unheard(str(error)) from error
        if not self.wish.hints:
            stored = replace(stored, example=replace(stored.example, hinted=None, hints=None))
        notes = []
        if self.wish.hints and stored.example.hints is None:
            notes.append(f"{clip.name}: its tensors have no hints, so it is trained without")
        if self.wish.duration == "crop":
            notes.append(f"{clip.name}: its tensors name the duration that they were prepared with, not a crop's")
        copy = self.folder / _file_name(clip.name)
        if copy.resolve() != path.resolve():
            self._write(copy, stored, fingerprint_of(stored))
        return Done(stored, copy, mark(VERSION, heard, self.wish.hints), not fingerprint_of(stored), tuple(notes))

    def _write(self, path: Path, stored: Stored, wanted: str) -> None:
        silence = normal(self.conditioner.silence.take(len(stored.example.latents))[0])
        _write(path, stored, silence, wanted)

    def _encoded(self, runtime: Runtime, clip: Clip, words: Blueprint, seed: int) -> Stored:
        source = self._source(runtime, clip, seed if self.wish.posterior == "sample" else None)
        frames = source.latents.shape[-1]
        said = min(self.wish.crop_frames, frames) if self.wish.duration == "crop" else frames
        words = replace(words, seconds=None, codes=None)
        try:
            plain = encode_song(runtime, self.conditioner, words, said)
            hinted, hints = self._hints(runtime, source, words, said) if self.wish.hints else (None, None)
        except ValueError as error:
            raise ValueError(f"{clip.name}: {error}") from error
        example = Example(
            clip.name,
            normal(source.latents[0].T),
            normal(plain.tokens[0]),
            None if hinted is None else normal(hinted.tokens[0]),
            None if hints is None else normal(hints[0]),
            clip.repeat,
        )
        return Stored(example, normal(plain.null[0]), _metadata(clip, words, frames))

    def _source(self, runtime: Runtime, clip: Clip, seed: int | None) -> Source:
        """The beginning of a clip as latents [1, 64, T], T a multiple of 10."""
        try:
            sound, rate = clip_sound(clip, runtime.check_cancelled)
            wave = sound[None, :, : int(self.wish.longest_seconds * rate)]
            source = encode_source(runtime, self.vae, wave, rate, seed=seed)
        except ValueError as error:
            raise Unheard(str(error)) from error
        frames = source.latents.shape[-1] // FRAME_STEP * FRAME_STEP
        return replace(source, latents=source.latents[..., :frames])

    def _hints(self, runtime: Runtime, source: Source, words: Blueprint, said: int) -> tuple[Conditioning, Tensor]:
        """Conditions with codes, for `said` frames, and what all codes of the song stand for, [1, T, 64]."""
        codes = source_codes(runtime, self.conditioner, source)
        told = replace(words, codes=codes[: said // FRAMES_PER_CODE])
        return encode_song(runtime, self.conditioner, told, said), read_codes(runtime, self.conditioner, codes)


def normal(tensor: Tensor) -> Tensor:
    """A copy in float32 on the CPU that autograd may save, whatever mode this runs in."""
    with torch.inference_mode(False):
        return tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format)


def networks_mark(conditioner: ConditionerModels, vae: Handle[Oobleck]) -> str:
    """Of all networks that a prepared song depends on, and of the silence."""
    c = conditioner
    handles: tuple[Handle[Any], ...] = (c.text, c.condition, c.code_tokenizer, c.detokenizer, vae)
    return mark(*(network_mark(handle) for handle in handles), tensor_mark(c.silence.frames))


def _spoken_mark(words: Blueprint) -> str:
    """Of all that the decoder is told."""
    return mark(words.caption, words.lyrics, words.bpm, words.key, words.time_signature, words.language)


def _file_name(clip: str) -> str:
    """Readable, and of its own for every name of a clip."""
    readable = re.sub(r"[^\w-]+", "_", clip.rpartition("/")[2].rpartition(".")[0] or clip)[:40]
    return f"{readable}-{mark(clip)[:12]}.pt"


def _kept(path: Path, clip: Clip, wanted: str) -> Stored | None:
    """What is there already, if it is whole and would be made the same."""
    if not path.is_file():
        return None
    try:
        stored = read_stored(path, clip.name, clip.repeat)
    except ValueError:  # half-written or damaged: made again
        return None
    return stored if fingerprint_of(stored) == wanted else None


def _write(path: Path, stored: Stored, silence: Tensor, wanted: str) -> None:
    try:
        write_stored(path, stored, silence, wanted)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise ACEStepError(
            f"{path.parent}: song {stored.example.name} could not be written ({error}). Free some space there and run "
            "again; the songs that are prepared already are kept"
        ) from error


def _metadata(clip: Clip, words: Blueprint, frames: int) -> dict[str, object]:
    """Under upstream's names; null where nobody said anything, as there."""
    return {
        "audio_path": "" if clip.path is None else clip.path.as_posix(),
        "filename": clip.name,
        "caption": words.caption,
        "genre": clip.genre,
        "lyrics": words.lyrics,
        "bpm": words.bpm,
        "keyscale": words.key or "",
        "timesignature": words.time_signature or "",
        "duration": int(frames_to_seconds(frames)),
        "language": words.language or "unknown",
        "is_instrumental": words.lyrics.strip().lower() == INSTRUMENTAL.lower(),
        "repeat": clip.repeat,
    }


def _doubts(clip: Clip, words: Blueprint) -> tuple[str, ...]:
    said = words.caption.strip()
    return () if said else (f"{clip.name}: has no caption and no tag; write one, or let Label Dataset listen to it",)
