"""The placed network of one run: it reads prompts into caches and does one pass over new tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import REMEDY, ACEStepError
from ..qwen3.cache import KVCache
from ..qwen3.model import Qwen3
from ..qwen3.packed import PackedTexts
from ..runtime import Runtime
from .lm import LM
from .memory import CHUNK, RunSize, run_bytes

IN_FLIGHT = 4  # steps that a device may lag behind, so that Cancel is heard at once

Prompt = tuple[int, ...]


class Engine:
    """Made for one call; places the LM with room for `size`."""

    def __init__(self, runtime: Runtime, lm: LM, size: RunSize) -> None:
        handle = lm.model
        self.lm, self.runtime, self.dtype = lm, runtime, handle.dtype
        config = handle.module.config
        self.model: Qwen3 = runtime.place(handle, reserve_bytes=run_bytes(config, size, handle.dtype))
        self.device = runtime.device(handle)
        self._like = torch.empty(0, device=self.device, dtype=self.dtype)
        self._still = runtime.loaded_share(handle) >= 1.0 and self.model.ops.lies_still(self.model, self._like)
        self._flight: deque[Callable[[], object]] = deque()

    @property
    def records(self) -> bool:
        """Whether steps may be recorded: the weights lie still, the device can, and it has not failed yet."""
        return self._still and self.lm.graphs.work_on(self.device)

    def head(self, start: int, stop: int) -> Tensor:
        """Rows of the embedding as the weight of a head, [stop - start, H]; to be taken once a run."""
        return self.model.ops.rows(self.model.embed_tokens, start, stop, self._like)

    def ids(self, ids: Sequence[int]) -> Tensor:
        """Token ids on the device, [T]."""
        return torch.tensor(ids, dtype=torch.int64, device=self.device)

    def packed(self, ids: Tensor, texts: PackedTexts) -> Tensor:
        """Last hidden states of the new tokens ids [T] of several texts -> [T, H]."""
        return self.model.packed(self.model.embed(ids).to(self.dtype), texts)

    def read(self, cache: KVCache, ids: Sequence[int]) -> None:
        """Put a text, or more of it, into a cache of one text; long ones piece by piece."""
        for piece in self.ids(ids).split(CHUNK) if ids else ():
            self.runtime.check_cancelled()
            self.model(self.model.embed(piece[None]).to(self.dtype), cache=cache)

    def read_groups(self, groups: Sequence[Sequence[Prompt]], room: int) -> list[KVCache]:
        """A cache for each group of equally long prompts, with `room` more positions; equal prompts are read once.

        The last token of every prompt is left to the first step.
        """
        known: dict[Prompt, KVCache] = {}
        return [self._read_group(group, room, known) for group in groups]

    def _read_group(self, group: Sequence[Prompt], room: int, known: dict[Prompt, KVCache]) -> KVCache:
        read = len(group[0]) - 1
        cache = KVCache(self.model.config, len(group), read + room, self.device, self.dtype)
        for index, prompt in enumerate(group):
            row = cache.row(index)
            if prompt in known:
                row.copy_from(known[prompt])
            else:
                self.read(row, prompt[:-1])
                known[prompt] = row
        cache.length = read
        return cache

    def keep_up(self) -> None:
        """Wait until the device is at most `IN_FLIGHT` steps behind; on the CPU it never is."""
        if self.device.type == "cpu":
            return
        self._flight.append(_mark(self.device))
        if len(self._flight) > IN_FLIGHT:
            self._flight.popleft()()

    def settle(self) -> None:
        """Wait until nothing is under way: what a run used may go after that."""
        while self._flight:
            self._flight.popleft()()

    def check(self, sound: bool, tokens: int) -> None:
        """Raises an ACEStepError unless the logits so far were `sound`."""
        if not sound:
            raise ACEStepError(
                f"the planner {self.lm.name}: its logits are not finite numbers within the first {tokens} tokens. "
                f"{REMEDY}"
            )


def _mark(device: torch.device) -> Callable[[], object]:
    """Something to wait for: all that was asked of the device until now."""
    if device.type != "cuda":
        return torch.zeros(1, device=device).item
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
