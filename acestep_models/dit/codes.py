"""25 Hz latents to 5 Hz codes and back (spec/audio.md §2.5, §2.6)."""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import parameter
from ..ops import TORCH_OPS, Ops
from .config import DiTConfig
from .encoder import Encoder


class FSQ(nn.Module):
    """Finite scalar quantiser: six numbers, each rounded to one of a few levels; an index names the combination.

    Everything is computed in fp32 whatever the weights are stored in, the two projections included: a rounding
    error before the levels is another code. (That is why they do not run as plain layers.)
    """

    def __init__(
        self,
        width: int,
        levels: tuple[int, ...],
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.levels, self.ops = levels, ops
        self.basis = tuple(accumulate((1, *levels[:-1]), mul))
        self.project_in = ops.Linear(width, len(levels), device=device, dtype=dtype)
        self.project_out = ops.Linear(len(levels), width, device=device, dtype=dtype)

    @property
    def codes(self) -> int:
        """How many different indices there are: 64 000."""
        return math.prod(self.levels)

    def encode(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h [..., width] -> the nearest code's vector [..., width] in h's dtype, and its index [...] int64."""
        steps = self._numbers(self.levels, h.device) - 1  # [6]
        bound = 1 + 1 / steps
        z = bound * torch.tanh(self._project(self.project_in, h) / bound)  # [..., 6], soft clamp
        digits = torch.floor(steps * (z.clamp(-1, 1) + 1) / 2 + 0.5)  # hard clamp, then the nearest level
        index = (digits.to(torch.int64) * torch.tensor(self.basis, device=h.device)).sum(dim=-1)
        return self._vector(digits).to(h.dtype), index

    def decode(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """index [...] integer -> vectors [..., width].

        Raises:
            ValueError: an index that no code has.
        """
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.codes:
            raise ValueError(f"audio codes must be 0 to {self.codes - 1}, got {int(index.min())} to {int(index.max())}")
        return self._vector(self.digits(index)).to(dtype)

    def digits(self, index: Tensor) -> Tensor:
        """index [...] -> the level of each of the six numbers [..., 6], fp32."""
        basis = torch.tensor(self.basis, device=index.device)
        levels = torch.tensor(self.levels, device=index.device)
        return ((index.to(torch.int64)[..., None] // basis) % levels).float()

    def _vector(self, digits: Tensor) -> Tensor:
        code = 2 * digits / (self._numbers(self.levels, digits.device) - 1) - 1  # [..., 6] in -1 .. 1
        return self._project(self.project_out, code)

    def _project(self, layer: Any, x: Tensor) -> Tensor:
        x = x.float()
        weight, bias = self.ops.cast(layer.weight, x), self.ops.cast(layer.bias, x)
        return F.linear(x, weight, bias)

    @staticmethod
    def _numbers(values: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float32)


class AttentionPooler(Encoder):
    """Five frames to one vector: a special token is put first and read out."""

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        width = config.encoder_hidden_size
        super().__init__(config, width, config.num_attention_pooler_hidden_layers, ops, device, dtype)
        self.special_token = parameter(1, 1, width, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, 5, E] -> [B, N, E]."""
        h = self.embed_tokens(x).flatten(0, 1)  # [B·N, 5, E]
        token = self.ops.cast(self.special_token, h).expand(len(h), -1, -1)
        pooled = self.transform(torch.cat([token, h], dim=1))[:, 0]  # [B·N, E]
        return pooled.reshape(*x.shape[:2], -1)


class AudioTokenizer(nn.Module):
    """25 Hz latents to 5 Hz codes."""

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.window = config.pool_window_size
        self.audio_acoustic_proj = ops.Linear(
            config.audio_acoustic_hidden_dim, config.encoder_hidden_size, device=device, dtype=dtype
        )
        self.attention_pooler = AttentionPooler(config, ops, device, dtype)
        self.quantizer = FSQ(config.fsq_dim, config.fsq_input_levels, ops, device, dtype)

    def forward(self, latents: Tensor, silence: Tensor) -> tuple[Tensor, Tensor]:
        """latents [B, T, 64] -> vectors [B, N, fsq_dim] and indices [B, N] int64, N = ceil(T / 5).

        silence [1, >= 4, 64]: its first frames fill up the last group, as in training.
        """
        missing = -latents.shape[1] % self.window
        if silence.shape[1] < missing:
            raise ValueError(f"audio tokenizer: needs {missing} frames of silence to fill up, got {silence.shape[1]}")
        filling = silence[:, :missing].to(latents).expand(len(latents), -1, -1)
        frames = torch.cat([latents, filling], dim=1)  # [B, 5N, 64]
        groups = frames.unflatten(1, (-1, self.window))  # [B, N, 5, 64]
        return self.quantizer.encode(self.attention_pooler(self.audio_acoustic_proj(groups)))

    def vectors(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The vectors of written codes [B, N] -> [B, N, fsq_dim], as `AudioDetokenizer` takes them."""
        return self.quantizer.decode(indices, dtype)


class AudioDetokenizer(Encoder):
    """5 Hz vectors to 25 Hz latents ("hints"); every vector is decoded by itself."""

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        depth, width = config.num_attention_pooler_hidden_layers, config.encoder_hidden_size
        super().__init__(config, width, depth, ops, device, dtype)
        self.special_tokens = parameter(1, config.pool_window_size, width, device=device, dtype=dtype)
        self.proj_out = ops.Linear(width, config.audio_acoustic_hidden_dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, fsq_dim] -> latents [B, 5N, 64]."""
        h = self.embed_tokens(x).flatten(0, 1)[:, None]  # [B·N, 1, E]
        h = self.transform(h + self.ops.cast(self.special_tokens, h))  # [B·N, 5, E]
        out: Tensor = self.proj_out(h)
        return out.reshape(len(x), -1, out.shape[-1])
