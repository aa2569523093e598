"""How likely a language model finds a given text after a prompt; nothing is sampled.

The prompt is read once. Each text is read behind it in the same cache, which is then wound back to the prompt, and the
vocabulary is only asked at the positions that predict a token of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check_finite
from ..qwen3.cache import KVCache
from ..qwen3.config import Qwen3Config, activation_bytes
from ..qwen3.model import Qwen3

CHUNK = 512  # positions in one pass: the scores of attention stay small whatever the length of the song
ROWS = 16_384  # of the vocabulary at a time, in float32
STATES = 1_024  # positions that meet them at a time

OnTokens = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What the model makes of N given tokens.

    Attributes:
        log_probs: float32 [N], natural logarithm of each token's probability.
        ranks: int64 [N], 1 for the likeliest token of the vocabulary; of equals all have the best rank.
    """

    log_probs: Tensor
    ranks: Tensor

    def split(self, lengths: Sequence[int]) -> list[TokenScores]:
        """The scores of texts that were scored one behind the other."""
        pairs = zip(self.log_probs.split(list(lengths)), self.ranks.split(list(lengths)), strict=True)
        return [TokenScores(*pair) for pair in pairs]


class Reader:
    """A model that reads texts behind a prompt; `capacity` positions hold the longest prompt with its longest text.

    `on_tokens(n)` is called before every pass over n tokens, and with 0 before every slice of the vocabulary; what it
    raises ends the reading.
    """

    def __init__(
        self, model: Qwen3, capacity: int, device: torch.device, dtype: torch.dtype, on_tokens: OnTokens
    ) -> None:
        self._model, self._device, self._dtype, self._on_tokens = model, device, dtype, on_tokens
        self._cache = KVCache(model.config, 1, capacity, device, dtype)
        like = torch.empty(0, device=device, dtype=dtype)
        self._head = model.ops.rows(model.embed_tokens, 0, model.config.vocab_size, like)  # [V, H]

    def scores(self, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[TokenScores]:
        """What the model makes of every token of each text, right behind the prompt.

        Raises:
            ACEStepError: when it answers with numbers that are not finite.
        """
        ids = torch.tensor([token for text in texts for token in text], device=self._device)  # [N]
        states = check_finite("planner", self._states(prompt, texts))
        found = token_scores(self._head, states, ids, lambda: self._on_tokens(0))
        return found.split([len(text) for text in texts])

    def _states(self, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """States [N, H] that predict the N tokens of all texts in their order."""
        self._cache.rewind()
        last = self._read(prompt)[-1:]  # [1, H]; predicts the first token of every text
        found = []
        for text in texts:
            found.append(last)
            if len(text) > 1:
                found.append(self._read(text[:-1]))
                self._cache.rewind(len(prompt))
        return torch.cat(found)  # [N, H]

    def _read(self, ids: Sequence[int]) -> Tensor:
        """States [L, H] of ids behind whatever the cache holds."""
        found = []
        for part in torch.tensor(ids, dtype=torch.int64, device=self._device).split(CHUNK):
            self._on_tokens(len(part))
            found.append(self._model(self._model.embed(part[None]).to(self._dtype), cache=self._cache)[0])
        return torch.cat(found)  # [L, H]


def token_scores(
    head: Tensor, states: Tensor, targets: Tensor, on_slice: Callable[[], None] = lambda: None
) -> TokenScores:
    """Scores of targets [N] by the states [N, H] that predict them, over the whole vocabulary: head [V, H].

    Products are formed in float32: in bfloat16 a logit of 20 is off by up to 0.06, as much as good takes differ by.
    The vocabulary is walked through in slices, so that [N, V] numbers never exist at once.
    """
    own = (states.float() * head[targets].float()).sum(dim=-1)  # [N]
    total = torch.full_like(own, -torch.inf)
    better = torch.zeros_like(targets)
    for start in range(0, len(head), ROWS):
        rows = head[start : start + ROWS].float()  # [R, H]
        for part in torch.arange(len(targets), device=targets.device).split(STATES):
            on_slice()
            logits = F.linear(states[part].float(), rows)  # [n, R]
            total[part] = torch.logaddexp(total[part], logits.logsumexp(dim=-1))
            above = (logits > own[part, None]).sum(dim=-1)
            better[part] += above - _own_above(logits, own[part], targets[part] - start)
    return TokenScores(own - total, better + 1)


def _own_above(logits: Tensor, own: Tensor, column: Tensor) -> Tensor:
    """1 where a token beats itself: the same product, rounded differently by another kernel."""
    here = (column >= 0) & (column < logits.shape[1])
    again = logits.gather(1, column.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return (here & (again > own)).to(column.dtype)


def reading_bytes(config: Qwen3Config, capacity: int, tokens: int, dtype: torch.dtype) -> int:
    """Room for a `Reader` of `capacity` positions and the scores of `tokens` tokens beside the weights.

    The cache, a pass of `CHUNK` positions with the scores of attention against all of them, the kept states, one slice
    of the vocabulary in float32 with its logits, and the head, which is copied where the weights are fetched at use.
    """
    chunk = min(CHUNK, capacity)
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * capacity * dtype.itemsize
    # Grouped keys and values are repeated for every query head; queries meet all positions, not only their chunk.
    heads = config.num_attention_heads
    meeting = heads * capacity * (2 * config.head_dim + 2 * chunk) * dtype.itemsize + chunk * capacity
    rows = min(ROWS, config.vocab_size)
    logits = 4 * (rows * config.hidden_size + min(STATES, tokens) * (3 * rows + config.hidden_size))
    head = config.vocab_size * config.hidden_size * dtype.itemsize
    kept = (capacity + tokens) * config.hidden_size * (2 * dtype.itemsize + 8)
    return cache + max(activation_bytes(config, 1, chunk, dtype) + meeting, logits) + kept + head
