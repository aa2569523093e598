"""Audio codes: a fixed number of tokens for every song, with or without guidance (spec/planner.md §3.6, §4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ..qwen3.packed import PackedCache, PackedTexts
from ..runtime import Runtime
from ..units import CODEBOOK_SIZE
from .engine import Engine, Prompt
from .lm import LM
from .memory import RunSize, check_positions
from .pace import Pace
from .sampling import TokenSampling, pick, uniforms
from .static import StaticSteps

MAY_END = 0.8  # of the codes; a natural end is not allowed before
END = -1  # stands among the codes for the natural end
LOOK_EVERY = 32  # codes; asking the device more often would make it wait


@dataclass(frozen=True)
class CodesRequest:
    """`codes` codes for each of `prompts`, every song from its own seed.

    `negative` is the prompt that guidance moves away from: one for all songs, one a song, or None for no guidance;
    guidance 1 means none as well. With `natural_end` a song may end by itself after four fifths of its codes.

    Raises:
        ValueError: nothing to do, numbers that do not match, or more than the model can read.
    """

    prompts: tuple[Prompt, ...]
    negative: Prompt | tuple[Prompt, ...] | None
    codes: int
    seeds: tuple[int, ...]
    guidance: float = 2.0
    sampling: TokenSampling = TokenSampling()
    natural_end: bool = False

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise ValueError(f"codes must be at least 1 (5 are a second), got {self.codes}")
        if not self.prompts or len(self.seeds) != len(self.prompts):
            raise ValueError(f"expected a seed for each song, got {len(self.prompts)} prompts, {len(self.seeds)} seeds")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a number from 0 on (1 = off, 2 as trained), got {self.guidance!r}")
        for branch in self.branches:
            if len(branch) != len(self.prompts):
                raise ValueError(f"expected one negative prompt or {len(self.prompts)}, got {len(branch)}")
            for prompt in branch:
                check_positions(len(prompt), self.codes)

    @property
    def branches(self) -> tuple[tuple[Prompt, ...], ...]:
        """The prompts of every song, and where guidance is on what each is guided away from."""
        if self.negative is None or self.guidance == 1:
            return (self.prompts,)
        each = all(isinstance(prompt, tuple) for prompt in self.negative)
        return (self.prompts, self.negative if each else (self.negative,) * len(self.prompts))  # type: ignore[return-value]

    @property
    def size(self) -> RunSize:
        """What the run needs memory for."""
        prompts = [prompt for branch in self.branches for prompt in branch]
        caches = [(1, len(prompt) + self.codes) for prompt in prompts]
        return RunSize(caches, max(map(len, prompts)), CODEBOOK_SIZE)


def write_codes(runtime: Runtime, lm: LM, request: CodesRequest) -> list[tuple[int, ...]]:
    """The codes of every song: exactly `request.codes` each, fewer only with a natural end.

    Cancel is heard within one token, tokens a second and the time left are told twice a second.

    Raises:
        ACEStepError: the network gives numbers that are not finite.
    """
    engine = Engine(runtime, lm, request.size)
    with torch.inference_mode():
        run = _CodesRun(engine, request)
        pace = Pace(runtime, "codes", request.codes, len(request.prompts))
        done = 0
        try:
            while done < request.codes and not run.ended(done):
                run.step()
                done += 1
                pace.step(done)
            codes = run.codes(done)
        finally:
            engine.settle()
        pace.finish(done)
        return codes


class _CodesRun:
    """All that changes from step to step lies in tensors on the device, so that a step can be recorded."""

    def __init__(self, engine: Engine, request: CodesRequest) -> None:
        self._engine, self._request = engine, request
        prompts = [prompt for branch in request.branches for prompt in branch]
        groups = [list(group) for branch in request.branches for _, group in groupby(branch, key=len)]
        self._caches = engine.read_groups(groups, request.codes)
        self._static = StaticSteps(engine.lm.graphs)
        self._heads = self._take_heads()
        self._ids = engine.ids([prompt[-1] for prompt in prompts])  # [branches · N]
        self._at = engine.ids([0])
        self._uniforms = uniforms(request.seeds, request.codes).to(engine.device)  # [codes, N]
        self._written = torch.zeros_like(self._uniforms, dtype=torch.int64)
        self._sum = torch.zeros((), device=engine.device)  # of all logits: not finite as soon as one of them is not

    def step(self) -> None:
        """One more code for every song."""
        if self._engine.records:
            self._static.run(self._caches, self._step)
        else:
            self._step(PackedCache(self._caches, [1] * len(self._caches)))
        self._engine.keep_up()

    def ended(self, done: int) -> bool:
        """Whether every song has come to its natural end; checks the logits as well. Looks only now and then."""
        if done == 0 or done % LOOK_EVERY:
            return False
        self._engine.check(bool(self._sum.isfinite()), done)
        return self._request.natural_end and bool((self._written[:done] == END).any(dim=0).all())

    def codes(self, done: int) -> list[tuple[int, ...]]:
        """What was written, without the natural ends."""
        self._engine.check(bool(self._sum.isfinite()), done)
        songs = self._written[:done].T.tolist()
        return [tuple(song[: song.index(END)] if END in song else song) for song in songs]

    def _take_heads(self) -> list[Tensor]:
        """Rows of what may be written, in the order of their ids: the end where it is allowed, then the codes."""
        engine, words = self._engine, self._engine.lm.vocabulary
        codes = engine.head(words.code_base, min(words.code_base + CODEBOOK_SIZE, engine.model.config.vocab_size))
        return [engine.head(words.im_end, words.im_end + 1), codes] if self._request.natural_end else [codes]

    def _step(self, texts: PackedTexts) -> None:
        hidden = self._engine.packed(self._ids, texts)  # [branches · N, H]
        logits = self._guided([F.linear(hidden, head).float() for head in self._heads])  # [N, ends + codes]
        self._sum.add_(logits.sum())
        uniform = self._uniforms.index_select(0, self._at)[0]  # [N]
        chosen = pick(self._held_open(logits), uniform, self._request.sampling)  # [N]
        code = chosen - (len(self._heads) - 1)  # END for the row before the codes
        self._written.index_copy_(0, self._at, code[None])
        self._ids.copy_(self._token(code).repeat(len(self._request.branches)))
        self._at.add_(1)

    def _guided(self, parts: Sequence[Tensor]) -> Tensor:
        logits = torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0]  # [branches · N, V]
        if len(self._request.branches) == 1:
            return logits
        with_prompt, without = logits.chunk(2)
        return without + self._request.guidance * (with_prompt - without)

    def _held_open(self, logits: Tensor) -> Tensor:
        """The logits, with no end before its time."""
        if not self._request.natural_end:
            return logits
        early = self._at < MAY_END * self._request.codes  # [1]
        end = logits[:, :1].masked_fill(early, float("-inf"))
        return torch.cat([end, logits[:, 1:]], dim=1)

    def _token(self, code: Tensor) -> Tensor:
        words = self._engine.lm.vocabulary
        return torch.where(code == END, words.im_end, code + words.code_base)
