"""Marks: short texts that are others where what they stand for is another, wherever it lies."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import Handle
from .data.clip import Clip
from .examples import Example

_ENDS = 64  # numbers of each end of a weight that are looked at, and of those between, evenly taken
_BLOCK = 2**20  # bytes


def mark(*parts: object) -> str:
    """32 hex digits of the parts' texts; parts that only run together differently have other ones."""
    digest = hashlib.sha256()
    for part in parts:
        text = str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()[:32]


def number(*parts: object) -> int:
    """A seed of 0 to 2^60 - 1 out of the parts."""
    return int(mark(*parts)[:15], 16)


def tensor_mark(tensor: Tensor) -> str:
    """Of shape, type and every bit of a tensor."""
    whole = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(_bytes(whole))
    return mark(tuple(whole.shape), whole.dtype, digest.hexdigest())


def clip_mark(clip: Clip) -> str:
    """Of what a clip sounds like: the bytes of its file, or the sound that was handed over.

    Raises:
        ValueError: where its file cannot be read.
    """
    if clip.sound is not None:
        sound, rate = clip.sound
        return mark("sound", tensor_mark(sound), rate)
    path = clip.tensors or clip.path
    if path is None:
        raise ValueError(f"{clip.name}: has neither a file nor a sound; build the dataset again")
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{clip.name}: cannot be read ({error}); build the dataset again") from error
    return mark("file", digest.hexdigest())


def network_mark(handle: Handle[Any]) -> str:
    """Of a network: what it computes in, and its weights."""
    return mark(handle.dtype, weights_mark(handle.module))


def weights_mark(module: nn.Module) -> str:
    """Of names and shapes of all weights, and of both ends of each and some between.

    Reading gigabytes whole would take longer than a song; whoever trains a network further changes these too.
    """
    return mark(*(f"{name} {tuple(one.shape)} {_some(one)}" for name, one in sorted(module.state_dict().items())))


def song_mark(example: Example) -> str:
    """Of a prepared song: what it sounds like, what is said of it, and how often an epoch has it."""
    tensors = (example.latents, example.plain, example.hinted, example.hints)
    return mark(*(None if tensor is None else tensor_mark(tensor) for tensor in tensors), example.repeat)


def _some(weight: Tensor) -> str:
    flat = weight.detach().reshape(-1)
    between = flat[:: max(1, len(flat) // _ENDS)][:_ENDS]
    some = torch.cat([flat[:_ENDS], between, flat[-_ENDS:]]).float().cpu()
    return hashlib.sha256(_bytes(some)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
