"""What latents say of themselves, where it is still true."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from torch import Tensor

from .generate import SongMeta

LOG = logging.getLogger(__name__)


def told(meta: object, frames: int) -> SongMeta | None:
    """The history of latents of `frames` frames; None where there is none, or only that of another length.

    Nodes of other packs cut latents and pass everything else on: such a history is left out, with a line in the log.
    """
    if not isinstance(meta, SongMeta):
        return None
    if meta.frames == frames:
        return meta
    LOG.warning(
        "ACE-Step 1.5: the latent has %d frames, its history is of %d and is left out; another node made it longer or "
        "shorter",
        frames,
        meta.frames,
    )
    return None


def rearranged(latents: Tensor, *metas: SongMeta | None) -> SongMeta | None:
    """The history of latents [B, 64, T] that were put together from parts of songs; None where none of them has one.

    It is that of the first that tells of B songs, else that of one song for all of them, with a new identity: no splice
    belongs to what was made. Tempo and meter are only told where all of the histories agree.
    """
    known = [meta for meta in metas if meta is not None]
    if not known:
        return None
    count = len(latents)
    meta = next((meta for meta in known if len(meta.blueprints) == count), known[0])
    if len(meta.blueprints) != count:
        times = count if len(meta.blueprints) == 1 else 0
        meta = replace(meta, blueprints=meta.blueprints * times, seeds=meta.seeds[:1] * times)
    if len({(song.bpm, song.time_signature) for one in known for song in one.blueprints}) > 1 < len(known):
        meta = replace(meta, blueprints=tuple(song.edit(bpm=None, time_signature=None) for song in meta.blueprints))
    digest = hashlib.sha256(latents.detach().float().cpu().contiguous().numpy().data)
    return replace(meta, frames=latents.shape[-1], song=digest.hexdigest()[:16])
