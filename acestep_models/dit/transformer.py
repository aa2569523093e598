"""The decoder: a transformer over patches of two frames that predicts the velocity (spec/audio.md §2.2, §2.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Attention, Band, FeedForward, KeysValues, LayerShape, Rope, parameter, rotary_table, sliding_band
from ..ops import TORCH_OPS, Ops
from .config import DiTConfig
from .told import Told

TIME_CHANNELS = 256
TIME_SCALE = 1000.0


class Transpose(nn.Module):
    """[B, L, C] <-> [B, C, L], where the convolutions want channels first (upstream's proj_in.0 and .2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Swap the last two axes."""
        return x.transpose(1, 2)


class Modulation(NamedTuple):
    """Shift, scale and gate of one sub-layer, each [B, 1, H]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def enter(self, x: Tensor) -> Tensor:
        """What the sub-layer sees of the normed stream x [B, S, H]."""
        return torch.addcmul(self.shift, x, 1 + self.scale)

    def leave(self, h: Tensor, out: Tensor) -> Tensor:
        """The stream h [B, S, H] with the sub-layer's output added through the gate."""
        return torch.addcmul(h, out, self.gate)


class TimeEmbedding(nn.Module):
    """A time in 0 .. 1 as a vector, and as the six modulations that all layers share (spec/audio.md §2.2)."""

    def __init__(
        self,
        width: int,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.linear_1 = ops.Linear(TIME_CHANNELS, width, device=device, dtype=dtype)
        self.linear_2 = ops.Linear(width, width, device=device, dtype=dtype)
        self.time_proj = ops.Linear(width, 6 * width, device=device, dtype=dtype)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """t [B] -> vector [B, H] and modulations [B, 6, H] in `dtype`."""
        vector: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid(t).to(dtype))))
        return vector, self.time_proj(F.silu(vector)).unflatten(1, (6, -1))


def sinusoid(t: Tensor) -> Tensor:
    """t [B] -> cosines then sines of 128 geometric frequencies [B, 256], fp32."""
    half = TIME_CHANNELS // 2
    exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half  # [128]
    angles = TIME_SCALE * t.float()[:, None] * torch.exp(-math.log(10_000.0) * exponent)  # [B, 128]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class DiTLayer(nn.Module):
    """Self-attention and feed-forward, both modulated by the time; between them attention to the condition."""

    def __init__(
        self,
        shape: LayerShape,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.ops = ops
        self.self_attn_norm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)
        self.self_attn = Attention(shape, ops, device, dtype)
        self.cross_attn_norm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)
        self.cross_attn = Attention(shape, ops, device, dtype)
        self.mlp_norm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)
        self.mlp = FeedForward(shape.width, shape.hidden, ops, device, dtype)
        self.scale_shift_table = parameter(1, 6, shape.width, device=device, dtype=dtype)

    def forward(
        self,
        h: Tensor,
        times: Tensor,
        rope: Rope,
        band: Band | None,
        tokens: Tensor | KeysValues,
        token_mask: Tensor | None,
    ) -> Tensor:
        """h [B, S, H], times [B, 6, H], tokens [B, L, H] (or keys and values), token_mask [B, 1, 1, L] -> [B, S, H]."""
        table = (self.ops.cast(self.scale_shift_table, times) + times).chunk(6, dim=1)
        listen, think = Modulation(*table[:3]), Modulation(*table[3:])
        seen = self.self_attn(listen.enter(self.self_attn_norm(h)), rope=rope, mask=band)
        h = listen.leave(h, seen)
        h = h + self.cross_attn(self.cross_attn_norm(h), context=tokens, mask=token_mask)
        return think.leave(h, self.mlp(think.enter(self.mlp_norm(h))))


LayerPass = Callable[[nn.Module, Tensor, Tensor, Rope, Band | None, Tensor | KeysValues, Tensor | None], Tensor]


def pass_layer(
    layer: nn.Module,
    h: Tensor,
    times: Tensor,
    rope: Rope,
    band: Band | None,
    tokens: Tensor | KeysValues,
    token_mask: Tensor | None,
) -> Tensor:
    """`layer` at work on the arguments of `DiTLayer.forward`; as a function it can be compiled once for all layers."""
    out: Tensor = layer(h, times, rope, band, tokens, token_mask)
    return out


class DiT(nn.Module):
    """The decoder of every variant; sizes from the config."""

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        width, patch = config.hidden_size, config.patch_size
        place = {"device": device, "dtype": dtype}
        conv_in = ops.Conv1d(config.in_channels, width, patch, stride=patch, **place)
        conv_out = ops.ConvTranspose1d(width, config.audio_acoustic_hidden_dim, patch, stride=patch, **place)
        self.proj_in = nn.Sequential(Transpose(), conv_in, Transpose())
        self.time_embed = TimeEmbedding(width, ops, device, dtype)
        self.time_embed_r = TimeEmbedding(width, ops, device, dtype)
        self.condition_embedder = ops.Linear(config.encoder_hidden_size, width, **place)
        shape = config.decoder_shape
        self.layers = nn.ModuleList(DiTLayer(shape, ops, device, dtype) for _ in range(config.num_hidden_layers))
        self.norm_out = ops.RMSNorm(width, eps=config.rms_norm_eps, **place)
        self.scale_shift_table = parameter(1, 2, width, device=device, dtype=dtype)
        self.proj_out = nn.Sequential(Transpose(), conv_out, Transpose())

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        tokens: Tensor | Told,
        t: Tensor,
        token_mask: Tensor | None = None,
        r: Tensor | None = None,
        through: LayerPass = pass_layer,
    ) -> Tensor:
        """Velocity [B, T, 64] at the noisy latents x [B, T, 64].

        context [B, T, 128] source and mask, tokens [B, L, E] condition, t [B] with 1 = pure noise, r [B] the
        time to step to (default t). token_mask [B, L] bool: False is padding and is never attended to (upstream
        attends to it, so there a song depends on its neighbours in the batch; spec/audio.md §2.3). In place of
        tokens and their mask, what `tell` made of them. `through` takes the place of `pass_layer` for every layer.
        """
        frames = x.shape[1]
        h = self._patches(torch.cat([context, x], dim=-1))  # [B, S, H]
        vector, times = self._times(t, t if r is None else r, h.dtype)  # [B, H], [B, 6, H]
        if isinstance(tokens, Told):
            told, (rope, band), seen = tokens.keys_values, (tokens.rope, tokens.band), tokens.mask
        else:  # a layer makes its own keys and values, which do not pile up
            told = (self.condition_embedder(tokens),) * len(self.layers)  # each [B, L, H]
            (rope, band), seen = self._places(h.shape[1], h), _over_heads(token_mask)
        for index, layer in enumerate(self.layers):
            h = through(layer, h, times, rope, band if index % 2 == 0 else None, told[index], seen)
        shift, scale = (self.ops.cast(self.scale_shift_table, vector) + vector[:, None]).chunk(2, dim=1)
        velocity: Tensor = self.proj_out(torch.addcmul(shift, self.norm_out(h), 1 + scale))
        return velocity[:, :frames]

    def tell(self, tokens: Tensor, frames: int, token_mask: Tensor | None = None) -> Told:
        """What `forward` makes of tokens [B, L, E] and token_mask [B, L] in every step of songs of `frames` frames."""
        embedded = self.condition_embedder(tokens)  # [B, L, H]
        made = (cast(DiTLayer, layer).cross_attn.keys_values(embedded) for layer in self.layers)
        keys_values = tuple((k, _alone(v)) for k, v in made)
        rope, band = self._places(-(-frames // self.config.patch_size), embedded)
        return Told(keys_values, _over_heads(token_mask), rope, band)

    def _places(self, patches: int, like: Tensor) -> tuple[Rope, Band | None]:
        """Positions of so many patches, and the band of the sliding layers."""
        config = self.config
        rope = rotary_table(patches, config.head_dim, config.rope_theta, device=like.device, dtype=like.dtype)
        return rope, sliding_band(patches, config.sliding_window, config.decoder_shape.groups, like)

    def _patches(self, frames: Tensor) -> Tensor:
        """frames [B, T, 192] -> [B, S, H]; an incomplete last patch is filled with zeros."""
        missing = -frames.shape[1] % self.config.patch_size
        h: Tensor = self.proj_in(F.pad(frames, (0, 0, 0, missing)) if missing else frames)
        return h.contiguous()  # seen from the side, every layer of a pass would read and write it across

    def _times(self, t: Tensor, r: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Both time embeddings, summed; the second is not zero at t = r and must be evaluated."""
        vector, times = self.time_embed(t, dtype)
        vector_r, times_r = self.time_embed_r(t - r, dtype)
        return vector + vector_r, times + times_r


def _alone(part: Tensor) -> Tensor:
    """A tensor that is kept, without the larger one that it may be a part of: keys and values come of one product."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()


def _over_heads(token_mask: Tensor | None) -> Tensor | None:
    """[B, L] -> [B, 1, 1, L], the same for every head and query."""
    return None if token_mask is None else token_mask[:, None, None]
