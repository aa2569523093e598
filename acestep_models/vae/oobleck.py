"""Oobleck, a convolutional VAE of stereo sound at 25 latent frames a second (spec/audio.md §3).

Names are those of diffusers with the weight norm folded away; the latents have no scale and no shift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import parameter
from ..ops import TORCH_OPS, Ops
from .config import OobleckConfig

DILATIONS = (1, 3, 9)
RESIDUAL_KERNEL = 7
EDGE_KERNEL = 7
LATENT_KERNEL = 3
STD_FLOOR = 1e-4
# A CPU's second cache: where a tensor is much larger, most of a unit's time goes into fetching it again and again.
SLICE_BYTES, CACHED_BYTES = 2 << 20, 16 << 20

Device = torch.device | str | None
Wave = Callable[[Tensor, Tensor, Tensor], Tensor]


def snake(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x + sin²(e^alpha · x) / e^beta for each channel: x [B, C, N], alpha and beta [1, C, 1] -> [B, C, N].

    In place on what it makes itself: these tensors are the largest of a decode.
    """
    wave = (x * alpha.exp()).sin_().square_()
    return wave.mul_((beta.exp() + 1e-9).reciprocal()).add_(x)


class Snake(nn.Module):
    """Alpha and beta of a snake; what is done with them comes with the call."""

    def __init__(self, channels: int, ops: Ops, device: Device, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.ops = ops
        self.alpha = parameter(1, channels, 1, device=device, dtype=dtype)
        self.beta = parameter(1, channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor, wave: Wave = snake) -> Tensor:
        """x [B, C, N] -> [B, C, N]; `wave` is `snake` or does the same."""
        return wave(x, self.ops.cast(self.alpha, x), self.ops.cast(self.beta, x))


class ResidualUnit(nn.Module):
    """A dilated convolution between two snakes, added to what came in."""

    def __init__(self, channels: int, dilation: int, ops: Ops, device: Device, dtype: torch.dtype | None) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.reach = reach = dilation * (RESIDUAL_KERNEL // 2)
        self.snake1 = Snake(channels, ops, device, dtype)
        self.conv1 = ops.Conv1d(channels, channels, RESIDUAL_KERNEL, padding=reach, dilation=dilation, **place)
        self.snake2 = Snake(channels, ops, device, dtype)
        self.conv2 = ops.Conv1d(channels, channels, 1, **place)

    def forward(self, x: Tensor, wave: Wave = snake) -> Tensor:
        """x [B, C, N] -> [B, C, N]."""
        if x.device.type == "cpu" and x.nbytes > CACHED_BYTES and not torch.is_grad_enabled():
            return self._in_slices(x, max(SLICE_BYTES // x[..., 0].nbytes, 4 * self.reach), wave)
        out: Tensor = self.conv2(self.snake2(self.conv1(self.snake1(x, wave)), wave))
        return out.add_(x)

    def _in_slices(self, x: Tensor, samples: int, wave: Wave = snake) -> Tensor:
        """The same for so many samples at a time, each with all that it sees, so that it stays in a CPU's cache.

        x [B, C, N] -> [B, C, N].
        """
        out, last = torch.empty_like(x), x.shape[-1]
        for start in range(0, last, samples):
            end = min(start + samples, last)
            low, high = max(0, start - self.reach), min(last, end + self.reach)
            seen = self.conv1(self.snake1(x[..., low:high].contiguous(), wave))[..., start - low : end - low]
            torch.add(self.conv2(self.snake2(seen.contiguous(), wave)), x[..., start:end], out=out[..., start:end])
        return out


class EncoderBlock(nn.Module):
    """Three residual units, then `stride` samples become one."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, ops: Ops, device: Device, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(inputs, dilation, ops, device, dtype) for dilation in DILATIONS
        )
        self.snake1 = Snake(inputs, ops, device, dtype)
        self.conv1 = ops.Conv1d(
            inputs, outputs, 2 * stride, stride=stride, padding=stride // 2, device=device, dtype=dtype
        )

    def layers(self) -> Iterator[nn.Module]:
        """In order: x [B, inputs, N] -> [B, outputs, N // stride]."""
        yield from (self.res_unit1, self.res_unit2, self.res_unit3, self.snake1, self.conv1)


class DecoderBlock(nn.Module):
    """One sample becomes `stride`, then three residual units."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, ops: Ops, device: Device, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.snake1 = Snake(inputs, ops, device, dtype)
        self.conv_t1 = ops.ConvTranspose1d(
            inputs, outputs, 2 * stride, stride=stride, padding=stride // 2, device=device, dtype=dtype
        )
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(outputs, dilation, ops, device, dtype) for dilation in DILATIONS
        )

    def layers(self) -> Iterator[nn.Module]:
        """In order: x [B, inputs, N] -> [B, outputs, stride · N]."""
        yield from (self.snake1, self.conv_t1, self.res_unit1, self.res_unit2, self.res_unit3)


class Encoder(nn.Module):
    """Waveform to mean and scale of the latents."""

    def __init__(self, config: OobleckConfig, ops: Ops, device: Device, dtype: torch.dtype | None) -> None:
        super().__init__()
        widths, place = config.encoder_widths, {"device": device, "dtype": dtype}
        self.conv1 = ops.Conv1d(config.audio_channels, widths[0], EDGE_KERNEL, padding=EDGE_KERNEL // 2, **place)
        self.block = nn.Sequential(
            *(
                EncoderBlock(inputs, outputs, ratio, ops, device, dtype)
                for inputs, outputs, ratio in zip(widths, widths[1:], config.downsampling_ratios, strict=False)
            )
        )
        self.snake1 = Snake(widths[-1], ops, device, dtype)
        outputs, padding = config.encoder_hidden_size, LATENT_KERNEL // 2
        self.conv2 = ops.Conv1d(widths[-1], outputs, LATENT_KERNEL, padding=padding, **place)

    def forward(self, sound: Tensor, wave: Wave = snake) -> Tensor:
        """sound [B, 2, N] -> [B, 128, N // 1920]."""
        return _through(self, sound, wave)


class Decoder(nn.Module):
    """Latents to waveform."""

    def __init__(self, config: OobleckConfig, ops: Ops, device: Device, dtype: torch.dtype | None) -> None:
        super().__init__()
        widths, place = config.decoder_widths, {"device": device, "dtype": dtype}
        inputs, outputs, padding = config.decoder_input_channels, config.audio_channels, EDGE_KERNEL // 2
        self.conv1 = ops.Conv1d(inputs, widths[0], EDGE_KERNEL, padding=padding, **place)
        self.block = nn.Sequential(
            *(
                DecoderBlock(before, after, ratio, ops, device, dtype)
                for before, after, ratio in zip(widths, widths[1:], config.downsampling_ratios[::-1], strict=False)
            )
        )
        self.snake1 = Snake(widths[-1], ops, device, dtype)
        self.conv2 = ops.Conv1d(widths[-1], outputs, EDGE_KERNEL, padding=padding, bias=False, **place)

    def forward(self, latents: Tensor, wave: Wave = snake) -> Tensor:
        """latents [B, 64, T] -> [B, 2, 1920 · T]."""
        return _through(self, latents, wave)


def _through(half: Any, x: Tensor, wave: Wave) -> Tensor:
    """x [B, C, N] through every layer of an encoder or decoder, with `wave` in all of its snakes.

    One loop over all of them, not a block within a block: nothing but the layer at work holds what it was given, so
    that what came into a block is gone when its widest layer runs.
    """
    blocks = (layer for block in half.block for layer in block.layers())
    for layer in (half.conv1, *blocks, half.snake1, half.conv2):
        x = layer(x, wave) if isinstance(layer, (Snake, ResidualUnit)) else layer(x)
    return x


class Oobleck(nn.Module):
    """The VAE of every variant; sizes from the config. `wave` is what its snakes do (see `snake`)."""

    wave: Wave = staticmethod(snake)

    def __init__(
        self,
        config: OobleckConfig,
        ops: Ops = TORCH_OPS,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, ops, device, dtype)
        self.decoder = Decoder(config, ops, device, dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, 64, T] -> waveform [B, 2, 1920 · T], not clipped.

        Raises:
            ValueError: latents of another shape (ours are channels first here).
        """
        channels = self.config.decoder_input_channels
        if latents.ndim != 3 or latents.shape[1] != channels:
            raise ValueError(f"VAE decode: expected latents [B, {channels}, T], got {list(latents.shape)}")
        sound: Tensor = self.decoder(latents, self.wave)
        return sound

    def posterior(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, 2, N] in -1 .. 1 -> mean and standard deviation, each [B, 64, N // 1920].

        Raises:
            ValueError: not stereo, or shorter than one frame.
        """
        channels = self.config.audio_channels
        if sound.ndim != 3 or sound.shape[1] != channels or sound.shape[2] < self.config.hop:
            raise ValueError(
                f"VAE encode: expected a waveform [B, {channels}, N] of at least {self.config.hop} samples, "
                f"got {list(sound.shape)}"
            )
        mean, scale = self.encoder(sound, self.wave).chunk(2, dim=1)
        return mean, F.softplus(scale) + STD_FLOOR

    def encode_mean(self, sound: Tensor) -> Tensor:
        """Waveform [B, 2, N] -> the mean latents [B, 64, N // 1920], the same every time."""
        return self.posterior(sound)[0]
