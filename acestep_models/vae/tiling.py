"""Long songs through the VAE in equal tiles that overlap by all it sees, so that the joins cannot be found.

Overlap and discard, no blending: what is kept of a tile depends on nothing outside of it (spec/audio.md §3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import check_finite
from ..runtime import Runtime
from .config import OobleckConfig
from .oobleck import Oobleck
from .reach import decode_overlap, encode_overlap

TILE = 512


class Tile(NamedTuple):
    """Frames start .. end go in; frames keep .. keep_end of the song are taken from what comes out."""

    start: int
    end: int
    keep: int
    keep_end: int


def tiles(frames: int, tile: int, overlap: int) -> list[Tile]:
    """Windows of `tile` frames over a song, the last one shifted back so that all have one shape.

    Raises:
        ValueError: a tile that its overlaps use up.
    """
    if frames <= tile:
        return [Tile(0, frames, 0, frames)]
    if overlap < 0 or tile <= 2 * overlap:
        raise ValueError(f"VAE tiles: a tile must be longer than its two overlaps, got {tile} and 2 x {overlap} frames")
    out: list[Tile] = []
    for position in range(0, frames - 2 * overlap, tile - 2 * overlap):
        start = min(position, frames - tile)
        end = start + tile
        out.append(Tile(start, end, out[-1].keep_end if out else 0, frames if end == frames else end - overlap))
    return out


def decode_tiled(
    vae: Oobleck,
    latents: Tensor,
    *,
    runtime: Runtime,
    device: torch.device | str,
    dtype: torch.dtype,
    tile: int = TILE,
    overlap: int | None = None,
    wanted: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """latents [B, 64, T] -> waveform [B, 2, 1920 · T] in fp32 on the CPU, item by item, tile by tile.

    `overlap` None is the smallest exact one (`decode_overlap`). `tile` and `overlap` are latent frames. With `wanted`,
    [start, end) in latent frames, tiles that give none of these are left out and silent; all others are bit for bit
    what they are without it.

    Raises:
        ACEStepError: the result is not finite.
        ValueError: a tile that its overlaps use up.
    """
    overlap = decode_overlap(vae.config) if overlap is None else overlap
    hop = vae.config.hop
    wave = torch.zeros(len(latents), vae.config.audio_channels, latents.shape[-1] * hop)
    for item, part in _parts(wave, _giving(tiles(latents.shape[-1], tile, overlap), wanted), runtime):
        window = latents[item : item + 1, :, part.start : part.end].to(device, dtype)
        sound = vae.decode(window)[0, :, (part.keep - part.start) * hop : (part.keep_end - part.start) * hop]
        wave[item, :, part.keep * hop : part.keep_end * hop] = sound  # copies to the CPU, in fp32
    return check_finite("VAE decode", wave)


def _giving(parts: list[Tile], wanted: Sequence[tuple[int, int]] | None) -> list[Tile]:
    """The tiles of which something wanted is taken."""
    if wanted is None:
        return parts
    return [part for part in parts if any(part.keep < end and start < part.keep_end for start, end in wanted)]


def encode_tiled(
    vae: Oobleck,
    wave: Tensor,
    *,
    runtime: Runtime,
    device: torch.device | str,
    dtype: torch.dtype,
    tile: int = TILE,
    overlap: int | None = None,
) -> Tensor:
    """The mean of `posterior_tiled`: waveform [B, 2, N] -> latents [B, 64, N // 1920]."""
    return posterior_tiled(vae, wave, runtime=runtime, device=device, dtype=dtype, tile=tile, overlap=overlap)[0]


def posterior_tiled(
    vae: Oobleck,
    wave: Tensor,
    *,
    runtime: Runtime,
    device: torch.device | str,
    dtype: torch.dtype,
    tile: int = TILE,
    overlap: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Waveform [B, 2, N] -> mean and standard deviation of the latents, item by item, tile by tile.

    Each is [B, 64, N // 1920] in fp32 on the CPU. `overlap` None is the smallest exact one (`encode_overlap`). Samples
    beyond the last whole frame go with the last tile: they are heard in it.

    Raises:
        ACEStepError: the result is not finite.
        ValueError: a tile that its overlaps use up, or less than one frame of sound.
    """
    overlap = encode_overlap(vae.config) if overlap is None else overlap
    hop = vae.config.hop
    frames = wave.shape[-1] // hop
    latents = torch.empty(2, len(wave), vae.config.decoder_input_channels, frames)
    for item, part in _parts(wave, tiles(frames, tile, overlap), runtime):
        end = wave.shape[-1] if part.end == frames else part.end * hop
        window = wave[item : item + 1, :, part.start * hop : end].to(device, dtype)
        both = torch.cat(vae.posterior(window))[..., part.keep - part.start : part.keep_end - part.start]
        latents[:, item, :, part.keep : part.keep_end] = both  # [2, 64, kept], copied to the CPU, in fp32
    mean, std = check_finite("VAE encode", latents)
    return mean, std


def _parts(items: Tensor, parts: list[Tile], runtime: Runtime) -> Iterator[tuple[int, Tile]]:
    """Every tile of every item, with progress reported and the cancel button heard between them."""
    total = len(items) * len(parts)
    for done in range(total):
        runtime.check_cancelled()
        yield done // len(parts), parts[done % len(parts)]
        runtime.progress(done + 1, total)


def decode_bytes(config: OobleckConfig, frames: int, dtype: torch.dtype) -> int:
    """Bytes that decoding one tile of `frames` latent frames needs beside the weights.

    In a residual unit three tensors live at once: its input, and what a layer makes of another. So they do where a
    block begins: twice what came in, and that `ratio` times as long.
    """
    peak, length = 0, frames
    for before, after, ratio in zip(
        config.decoder_widths, config.decoder_widths[1:], config.downsampling_ratios[::-1], strict=False
    ):
        peak = max(peak, 2 * before * length + after * length * ratio, 3 * after * length * ratio)
        length *= ratio
    return (peak + config.audio_channels * length) * dtype.itemsize


def encode_bytes(config: OobleckConfig, frames: int, dtype: torch.dtype) -> int:
    """Bytes that encoding one tile of `frames` frames of sound needs beside the weights, as in `decode_bytes`."""
    peak, length = 0, frames * config.hop
    samples = config.audio_channels * length
    for before, ratio in zip(config.encoder_widths, config.downsampling_ratios, strict=False):
        peak = max(peak, 3 * before * length)
        length //= ratio
    return (peak + samples) * dtype.itemsize
