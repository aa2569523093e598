"""Long songs through the VAE in equal tiles that overlap by all it sees, so that the joins cannot be found.

Overlap and discard, no blending: what is kept of a tile depends on nothing outside of it (spec/audio.md §3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, product
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


class Work(NamedTuple):
    """Where and in what the VAE computes, in tiles of so many latent frames, and how many of them go in together.

    `overlap` None is the smallest exact one.
    """

    runtime: Runtime
    device: torch.device
    dtype: torch.dtype
    tile: int = TILE
    at_once: int = 1
    overlap: int | None = None


class Piece(NamedTuple):
    """Frames start .. end of song `item`, finished.

    `sound` is [2, 1920 · (end - start)], on the device and in the dtype of the VAE: whoever wants it longer than until
    the next piece copies it, since it may be a part of something larger.
    """

    item: int
    start: int
    end: int
    sound: Tensor


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


def decode_pieces(
    vae: Oobleck, latents: Tensor, work: Work, wanted: Sequence[tuple[int, int]] | None = None
) -> Iterator[Piece]:
    """latents [B, 64, T] -> its sound in pieces that join without a seam, in order, song by song.

    A piece is made when it is asked for, and nothing but what goes through the VAE together is alive at once. With
    `wanted`, [start, end) in latent frames, pieces that hold none of these are left out; all others are bit for bit
    what they are without it.

    Raises:
        ACEStepError: a piece is not finite.
        ValueError: a tile that its overlaps use up.
    """
    overlap = decode_overlap(vae.config) if work.overlap is None else work.overlap
    hop = vae.config.hop
    parts = _giving(tiles(latents.shape[-1], work.tile, overlap), wanted)
    for batch in _batches(len(latents), parts, work, lambda part: part.end - part.start):
        windows = [latents[item : item + 1, :, part.start : part.end] for item, part in batch]
        sounds = vae.decode(_together(windows, work))  # [n, 2, 1920 · tile]
        for index, (item, part) in enumerate(batch):
            kept = sounds[index, :, (part.keep - part.start) * hop : (part.keep_end - part.start) * hop]
            yield Piece(item, part.keep, part.keep_end, check_finite("VAE decode", kept))
        del sounds, kept  # before the next ones are made


def decode_tiled(vae: Oobleck, latents: Tensor, work: Work, wanted: Sequence[tuple[int, int]] | None = None) -> Tensor:
    """latents [B, 64, T] -> waveform [B, 2, 1920 · T] in fp32 on the CPU, tile by tile.

    What is not `wanted` (see `decode_pieces`) is silent.

    Raises:
        ACEStepError: the result is not finite.
        ValueError: a tile that its overlaps use up.
    """
    hop = vae.config.hop
    wave = torch.zeros(len(latents), vae.config.audio_channels, latents.shape[-1] * hop)
    for item, start, end, sound in decode_pieces(vae, latents, work, wanted):
        wave[item, :, start * hop : end * hop] = sound  # copies to the CPU, in fp32
        del sound
    return wave


def _giving(parts: list[Tile], wanted: Sequence[tuple[int, int]] | None) -> list[Tile]:
    """The tiles of which something wanted is taken."""
    if wanted is None:
        return parts
    return [part for part in parts if any(part.keep < end and start < part.keep_end for start, end in wanted)]


def encode_tiled(
    vae: Oobleck, wave: Tensor, *, runtime: Runtime, device: torch.device, dtype: torch.dtype, tile: int = TILE
) -> Tensor:
    """The mean of `posterior_tiled`: waveform [B, 2, N] -> latents [B, 64, N // 1920]."""
    return posterior_tiled(vae, wave, Work(runtime, device, dtype, tile))[0]


def posterior_tiled(vae: Oobleck, wave: Tensor, work: Work) -> tuple[Tensor, Tensor]:
    """Waveform [B, 2, N] -> mean and standard deviation of the latents, tile by tile.

    Each is [B, 64, N // 1920] in fp32 on the CPU. Samples beyond the last whole frame go with the last tile: they are
    heard in it.

    Raises:
        ACEStepError: the result is not finite.
        ValueError: a tile that its overlaps use up, or less than one frame of sound.
    """
    overlap = encode_overlap(vae.config) if work.overlap is None else work.overlap
    hop = vae.config.hop
    frames = wave.shape[-1] // hop
    latents = torch.empty(2, len(wave), vae.config.decoder_input_channels, frames)

    def samples(part: Tile) -> int:
        return (wave.shape[-1] if part.end == frames else part.end * hop) - part.start * hop

    for batch in _batches(len(wave), tiles(frames, work.tile, overlap), work, samples):
        windows = [wave[item : item + 1, :, part.start * hop :][..., : samples(part)] for item, part in batch]
        both = torch.stack(vae.posterior(_together(windows, work)))  # [2, n, 64, tile]
        for index, (item, part) in enumerate(batch):
            kept = both[:, index, :, part.keep - part.start : part.keep_end - part.start]
            latents[:, item, :, part.keep : part.keep_end] = kept  # copies to the CPU, in fp32
    mean, std = check_finite("VAE encode", latents)
    return mean, std


def _batches(
    items: int, parts: list[Tile], work: Work, length: Callable[[Tile], int]
) -> Iterator[list[tuple[int, Tile]]]:
    """Every tile of every item in order, as many together as `work` allows and have one length.

    Progress is reported after each batch, and the cancel button heard before it.
    """
    done, total = 0, items * len(parts)

    for _, alike in groupby(product(range(items), parts), lambda one: length(one[1])):
        queue = list(alike)
        for first in range(0, len(queue), work.at_once):
            work.runtime.check_cancelled()
            batch = queue[first : first + work.at_once]
            yield batch
            done += len(batch)
            work.runtime.progress(done, total)


def _together(windows: list[Tensor], work: Work) -> Tensor:
    """Windows [1, C, N] of one shape as one batch [n, C, N] where the VAE computes."""
    return torch.cat([window.to(work.device, work.dtype) for window in windows])


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
