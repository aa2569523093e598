"""Latents to sound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..audio.splice import Splice
from ..errors import check_finite
from ..runtime import Handle, Runtime
from ..units import LATENT_CHANNELS
from ..vae.oobleck import Oobleck
from ..vae.room import DECODING, prepare
from ..vae.tiling import Piece, decode_pieces, decode_tiled
from .told import told


def decode(runtime: Runtime, vae: Handle[Oobleck], latents: Tensor, splice: Splice | None = None) -> Tensor:
    """Waveform [B, 2, 1920 · T] of latents [B, 64, T], float32 on the CPU, level untouched.

    With a `splice` only its spans are what the latents say; around them its source stays bit for bit, and the
    waveform is as long as the splice. Only tiles that it needs are decoded.

    Raises:
        ValueError: for latents of another shape, or a splice of another length.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    _check_latents(latents)
    if splice is not None and splice.frames != latents.shape[2]:
        raise ValueError(
            f"splice: belongs to a song of {splice.frames} latent frames, the latent has {latents.shape[2]}; "
            "connect latent and splice of one node"
        )
    network, work = prepare(runtime, vae, DECODING, latents.shape[2])
    with torch.inference_mode():
        wave = decode_tiled(network, latents, work, None if splice is None else splice.heard_frames)
    return wave if splice is None else splice.apply(wave)


@torch.inference_mode()  # while a piece is made; between two of them the caller's own mode holds
def decode_stream(runtime: Runtime, vae: Handle[Oobleck], latents: Tensor) -> Iterator[Piece]:
    """The sound of latents [B, 64, T] in pieces, each as soon as it is finished; joined they are what `decode` gives.

    For whoever plays or writes a song while it is decoded: no more than one batch of tiles is held here.

    Raises:
        ValueError: for latents of another shape.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    _check_latents(latents)
    network, work = prepare(runtime, vae, DECODING, latents.shape[2])
    yield from decode_pieces(network, latents, work)


def _check_latents(latents: Tensor) -> None:
    if latents.ndim != 3 or latents.shape[1] != LATENT_CHANNELS or latents.shape[2] < 1:
        raise ValueError(
            f"latents: expected [songs, {LATENT_CHANNELS}, frames], got {list(latents.shape)}; "
            "connect a LATENT that an ACE-Step 1.5 sampler made"
        )
    check_finite("sampler (latents that reached the VAE)", latents)


def check_song(splice: Splice, meta: object, frames: int) -> bool:
    """Whether latents of `frames` frames tell of their song; if so it is the one that the splice belongs to.

    Those that tell of none take any splice of their length.

    Raises:
        ValueError: for the splice of another song.
    """
    true = told(meta, frames)
    if true is not None and true.song != splice.song:
        raise ValueError(
            f"splice: belongs to another song (the latent is of {true.task}); connect latent and splice of one node, "
            "or disconnect the splice to hear the latent alone"
        )
    return true is not None
