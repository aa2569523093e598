"""Text from the language model, several songs side by side, each held by its own grammar (spec/planner.md §3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..qwen3.cache import KVCache
from ..qwen3.packed import PackedCache, PackedTexts
from ..runtime import Runtime
from .actions import Choose, Force, Mask, Stop, Writer
from .decode import CodesRequest, write_codes
from .engine import Engine
from .lm import LM
from .memory import CHUNK, MAX_POSITIONS, RunSize, check_positions
from .pace import Pace
from .sampling import TokenSampling, generator, pick
from .static import StaticSteps

__all__ = ["CodesRequest", "write_codes", "write_text"]

GROWTH = 512  # positions; how long a text becomes is not known before
USUAL = 2048  # tokens of a text that the host is asked to leave room for


def write_text(
    runtime: Runtime,
    lm: LM,
    prompts: Sequence[Sequence[int]],
    writers: Sequence[Writer],
    seeds: Sequence[int],
    sampling: TokenSampling,
    limit: int,
) -> list[list[int]]:
    """The ids that follow each of `prompts`: what its writer forced and what was sampled in between.

    A song takes one number of its own seed's stream for every id that it had to choose, so it comes out the same
    alone and in a batch. It ends where its writer stops, or after `limit` ids.

    Raises:
        ValueError: numbers that do not match, or a prompt that the model cannot read.
        ACEStepError: the network gives numbers that are not finite.
    """
    if not len(prompts) == len(writers) == len(seeds) or not prompts:
        raise ValueError(f"expected a writer and a seed a prompt, got {len(prompts)}, {len(writers)}, {len(seeds)}")
    for prompt in prompts:
        check_positions(len(prompt), 1)
    engine = Engine(runtime, lm, text_size(prompts, limit, lm.vocabulary.code_base))
    with torch.inference_mode():
        run = _TextRun(engine, sampling)
        caches = engine.read_groups([[tuple(prompt)] for prompt in prompts], min(limit, GROWTH))
        songs = [
            _Song(writer, generator(seed), cache, prompt[-1], min(limit, MAX_POSITIONS - len(prompt)))
            for writer, seed, cache, prompt in zip(writers, seeds, caches, prompts, strict=True)
        ]
        pace = Pace(runtime, "text", limit, len(songs), open_end=True)
        while active := [song for song in songs if song.advance()]:
            run.step(active)
            pace.step(min(limit, max(len(song.written) for song in songs)))
        pace.finish(max(len(song.written) for song in songs))
        return [song.written for song in songs]


def text_size(prompts: Sequence[Sequence[int]], limit: int, text_rows: int) -> RunSize:
    """What a run needs memory for, if no text becomes unusually long."""
    caches = [(1, len(prompt) + min(limit, USUAL)) for prompt in prompts]
    return RunSize(caches, max(map(len, prompts)), text_rows)


class _Song:
    """One text: its grammar, its numbers, what is written and what of it the network has not read yet."""

    def __init__(self, writer: Writer, source: torch.Generator, cache: KVCache, last: int, limit: int) -> None:
        self._writer, self._source, self._limit = writer, source, limit
        self.cache = cache
        self.unread = [last]
        self.written: list[int] = []
        self.wanted: Choose | Mask = Choose(())

    def advance(self) -> bool:
        """Write all that is certain; False if the text ends there, else `wanted` says what must be chosen."""
        while len(self.written) < self._limit:
            action = self._writer.next_action()
            if isinstance(action, Stop):
                return False
            if isinstance(action, Force):
                self._write(action.ids)
            elif isinstance(action, Choose) and len(action.ids) == 1:
                self.take(action.ids[0])
            else:
                self.wanted = action
                return True
        return False

    def take(self, token: int) -> None:
        """The id that was chosen."""
        self._writer.take(token)
        self._write((token,))

    def uniform(self) -> Tensor:
        """The next number of the song's stream, float32 [1]."""
        return torch.rand(1, generator=self._source)

    def _write(self, ids: Sequence[int]) -> None:
        room = self._limit - len(self.written)
        self.written += ids[:room]
        self.unread += ids[:room]


class _TextRun:
    """The network at work on whichever songs still need a token."""

    def __init__(self, engine: Engine, sampling: TokenSampling) -> None:
        self.engine, self._sampling = engine, sampling
        self._rows = engine.lm.vocabulary.code_base
        self._head = engine.head(0, self._rows)
        self._static = StaticSteps(engine.lm.graphs)
        self._active: list[_Song] = []
        self._ids, self._hidden = engine.ids([]), engine.ids([])
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}

    def step(self, songs: list[_Song]) -> None:
        """Read what the songs have written, and choose one more id for each."""
        hidden = self._read(songs)  # [songs, H]
        found = [song for song in songs if isinstance(song.wanted, Mask)]
        if found:
            self._from_mask(found, hidden[[songs.index(song) for song in found]])
        for index, song in enumerate(songs):
            if isinstance(song.wanted, Choose):
                self._from_few(song, song.wanted, hidden[index : index + 1])

    def _read(self, songs: list[_Song]) -> Tensor:
        """The last hidden state of each song, [songs, H], after everything unread."""
        for song in songs:
            self._make_room(song)
        if self.engine.records and all(len(song.unread) == 1 for song in songs):
            hidden = self._recorded(songs)
        else:
            counts = [len(song.unread) for song in songs]
            ids = self.engine.ids([token for song in songs for token in song.unread])
            ends = self.engine.ids(counts).cumsum(0) - 1
            hidden = self.engine.packed(ids, PackedCache([song.cache for song in songs], counts))[ends]
        for song in songs:
            song.unread = []
        return hidden

    def _make_room(self, song: _Song) -> None:
        """Space in the cache for what is unread; of very much, only the end is left to the common pass."""
        needed = song.cache.length + len(song.unread)
        if needed > song.cache.capacity:
            song.cache.grow(needed + GROWTH)
        if len(song.unread) > CHUNK:
            self.engine.read(song.cache, song.unread[:-1])
            song.unread = song.unread[-1:]

    def _recorded(self, songs: list[_Song]) -> Tensor:
        if songs != self._active:
            self._active = songs
            self._ids = self.engine.ids([0] * len(songs))
            self._hidden = self._head.new_empty(len(songs), self._head.shape[1])

        def step(texts: PackedTexts) -> None:
            self._hidden.copy_(self.engine.packed(self._ids, texts))

        self._ids.copy_(self.engine.ids([song.unread[0] for song in songs]))
        self._static.run([song.cache for song in songs], step)
        return self._hidden

    def _from_mask(self, songs: list[_Song], hidden: Tensor) -> None:
        """hidden [songs, H]; any id that the mask of a song permits."""
        logits = F.linear(hidden, self._head).float()  # [songs, rows]
        self._check(logits, songs)
        allowed = torch.stack([self._mask(song.wanted) for song in songs])
        numbers = torch.cat([song.uniform() for song in songs]).to(logits.device)
        chosen = pick(logits.masked_fill(~allowed, float("-inf")), numbers, self._sampling)
        for song, token in zip(songs, chosen.tolist(), strict=True):
            song.take(token)

    def _from_few(self, song: _Song, choice: Choose, hidden: Tensor) -> None:
        """hidden [1, H]; one of a few ids, of which only these rows of the head are needed."""
        logits = F.linear(hidden, self._head[self.engine.ids(choice.ids)]).float()  # [1, ids]
        self._check(logits, [song])
        sampling = replace(self._sampling, temperature=0.0) if choice.greedy else self._sampling
        song.take(choice.ids[int(pick(logits, song.uniform().to(logits.device), sampling))])

    def _mask(self, wanted: Choose | Mask) -> Tensor:
        """The mask on the device, moved there once; kept together with its original, whose id stays taken."""
        assert isinstance(wanted, Mask)
        key = id(wanted.allowed)
        if key not in self._masks:
            if wanted.allowed.shape != (self._rows,):
                raise ValueError(f"a mask must be [{self._rows}], got {list(wanted.allowed.shape)}")
            self._masks[key] = (wanted.allowed, wanted.allowed.to(self.engine.device))
        return self._masks[key][1]

    def _check(self, logits: Tensor, songs: list[_Song]) -> None:
        self.engine.check(bool(logits.sum().isfinite()), max(len(song.written) for song in songs) + 1)
