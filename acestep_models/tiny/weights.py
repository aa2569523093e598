"""Random weights that keep activations of order one, each tensor drawn by its own name and so in any order."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Shape = tuple[int, ...]
Draw = Callable[[Tensor], Tensor]  # standard normal values of the tensor's shape -> the tensor


def random_state(part: str, shapes: Mapping[str, Shape], seed: int) -> dict[str, Tensor]:
    """A float32 tensor for every raw key of a part (`raw_shapes`); the same for the same seed, part, key and shape."""
    return {key: _tensor(part, key, shape, seed) for key, shape in shapes.items()}


def raw_shapes(part: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shapes of a module -> shapes of a file: the VAE's weights split into weight_g and weight_v."""
    if part != "vae":
        return dict(shapes)
    raw: dict[str, Shape] = {}
    for key, shape in shapes.items():
        if key.endswith(".weight"):
            raw |= {f"{key}_g": (shape[0], 1, 1), f"{key}_v": shape}
        else:
            raw[key] = shape
    return raw


def _tensor(part: str, key: str, shape: Shape, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{part}/{key}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "little"))
    normal = torch.randn(shape, generator=generator, dtype=torch.float32)
    draw = next(draw for pattern, draw in RULES if re.fullmatch(pattern, f"{part}/{key}"))
    return draw(normal)


def _around(centre: float, spread: float) -> Draw:
    return lambda normal: centre + spread * normal


def _fan_in(axes: tuple[int, ...]) -> Draw:
    """Unit variance out for unit variance in; `axes` are those that are summed over."""
    return lambda normal: normal / math.sqrt(math.prod(normal.shape[axis] for axis in axes))


# First match counts. VAE gains are norms of whole filters, so 1 keeps the variance.
RULES: tuple[tuple[str, Draw], ...] = (
    (r"vae/.*(alpha|beta)", _around(0.0, 0.2)),
    (r"vae/.*res_unit\d\.conv2\.weight_g", _around(0.3, 0.05)),
    (r"vae/decoder\.conv1\.weight_g", _around(0.7, 0.05)),
    (r"vae/decoder\.block\..*conv_t1\.weight_g", _around(2.0, 0.2)),
    (r"vae/decoder\.conv2\.weight_g", _around(0.016, 0.002)),  # latents of order 1 -> sound within about +-1
    (r"vae/encoder\.conv1\.weight_g", _around(4.0, 0.4)),  # sound is quieter than 1
    (r"vae/encoder\.conv2\.weight_g", _around(0.5, 0.05)),
    (r"vae/.*weight_g", _around(1.0, 0.1)),
    (r"vae/.*weight_v", _around(0.0, 1.0)),
    (r".*norm\.weight|.*norm_out\.weight", _around(1.0, 0.2)),
    (r".*\.bias", _around(0.0, 0.1)),
    (r".*scale_shift_table", _around(0.0, 0.3)),
    (r".*special_tokens?|.*null_condition_emb", _around(0.0, 1.0)),
    (r"text_encoder/embed_tokens\.weight", _around(0.0, 1.0)),
    (r"lm/embed_tokens\.weight", _around(0.0, 0.2)),  # it is the head as well: scores of a few units
    (r"decoder/proj_in\.1\.weight", _fan_in((1, 2))),
    (r"decoder/proj_out\.1\.weight", _fan_in((0,))),
    (r".*\.weight", _fan_in((1,))),
)
