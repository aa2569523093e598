"""Deterministic small models in every layout of the real ones, for tests and for a demonstration without downloads.

They make sound, not music. Needs torch, safetensors and tokenizers only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dit.silence import silence_from_vae
from ..loading.build import NETWORKS, build_part
from ..loading.formats import probe
from ..loading.keymaps import DIT_PARTS
from ..ops import META
from .sizes import FAMILIES, Sizes, sizes
from .tokens import planner_json, planner_rows, text_tokenizer
from .weights import random_state, raw_shapes
from .writer import (
    Contents,
    write_aio,
    write_comfyui_qwen3,
    write_comfyui_vae,
    write_decoder,
    write_diffusers,
    write_diffusers_vae,
    write_dit,
    write_hub_planner,
    write_hub_text_encoder,
    write_upstream,
)

__all__ = ["FAMILIES", "LAYOUTS", "TinySet", "write_saved_decoder", "write_tiny"]

STORED_SILENCE = 15_000  # frames, as in the published folders


@dataclass(frozen=True)
class TinySet:
    """Paths for `loading.probe`; in the diffusers layout the first three are one folder, in "aio" all are one file."""

    model: Path
    vae: Path
    text_encoder: Path
    lm: Path


def write_tiny(directory: Path, *, layout: str = "split", family: str = "2b", seed: int = 0) -> TinySet:
    """Write a set of small models; one seed gives the same weights in every layout.

    Args:
        directory: where the files go; made if need be. "split" and "aio" write into its folders diffusion_models, vae,
            text_encoders and checkpoints, as in ComfyUI's models folder.
        layout: "split" (ComfyUI's files), "aio" (ComfyUI's checkpoint), "upstream" (the folders of the main
            repository; XL in shards) or "diffusers" (folders).
        family: "2b" or "xl".
        seed: of the weights.

    Raises:
        ValueError: for a layout or family that there is not.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return LAYOUTS[layout](Path(directory), f"acestep_tiny{'_xl' if family == 'xl' else ''}", _contents(family, seed))


def _contents(family: str, seed: int) -> Contents:
    text = text_tokenizer()
    chosen = sizes(family, text.get_vocab_size(), planner_rows())
    states = {part: random_state(part, _shapes(part, config), seed) for part, config in _configs(chosen).items()}
    return Contents(states, chosen, {"text_encoder": text.to_str(), "lm": planner_json()})


def _configs(chosen: Sizes) -> dict[str, Any]:
    others = {"vae": chosen.vae, "text_encoder": chosen.text_encoder, "lm": chosen.lm}
    return {**dict.fromkeys(DIT_PARTS, chosen.decoder), **others}


def _shapes(part: str, config: Any) -> dict[str, tuple[int, ...]]:
    module = NETWORKS[part](config, device=META)
    return raw_shapes(part, {key: tuple(value.shape) for key, value in module.state_dict().items()})


def _write_split(directory: Path, name: str, contents: Contents) -> TinySet:
    found = TinySet(
        model=directory / "diffusion_models" / f"{name}_turbo.safetensors",
        vae=directory / "vae" / f"{name}_vae.safetensors",
        text_encoder=directory / "text_encoders" / f"{name}_text_encoder.safetensors",
        lm=directory / "text_encoders" / f"{name}_lm.safetensors",
    )
    write_dit(found.model, contents)
    write_comfyui_vae(found.vae, contents)
    write_comfyui_qwen3(found.text_encoder, contents, "text_encoder")
    write_comfyui_qwen3(found.lm, contents, "lm")
    return found


def _write_diffusers(directory: Path, name: str, contents: Contents) -> TinySet:
    folder, planner = directory / f"{name}_turbo_diffusers", directory / f"{name}_lm"
    write_diffusers(folder, contents, _silence(write_diffusers_vae(folder, contents)))
    write_hub_planner(planner, contents)
    return TinySet(model=folder, vae=folder, text_encoder=folder, lm=planner)


def _silence(vae_folder: Path) -> Tensor:
    """What loaders of the split files derive from the VAE, stored [1, 15000, 64]: both layouts give the same song."""
    vae = build_part(probe(vae_folder), "vae", dtype=torch.float32)
    with torch.inference_mode():
        return silence_from_vae(vae.encode_mean).take(STORED_SILENCE)


def _write_upstream(directory: Path, name: str, contents: Contents) -> TinySet:
    large = contents.sizes.decoder.timbre_special_token
    found = TinySet(
        model=directory / f"acestep-v15-{'xl-' if large else ''}turbo",
        vae=directory / "vae",
        text_encoder=directory / "Qwen3-Embedding-0.6B",
        lm=directory / "acestep-5Hz-lm-1.7B",
    )
    silence = _silence(write_diffusers_vae(directory, contents))
    write_upstream(found.model, contents, silence, shards=3 if large else 1)
    write_hub_text_encoder(found.text_encoder, contents)
    write_hub_planner(found.lm, contents)
    return found


def _write_aio(directory: Path, name: str, contents: Contents) -> TinySet:
    path = directory / "checkpoints" / f"{name}_turbo_aio.safetensors"
    write_aio(path, contents)
    return TinySet(path, path, path, path)


def write_saved_decoder(path: Path, *, family: str = "2b", seed: int = 0) -> None:
    """The decoder of a set alone, as ComfyUI's ModelSave writes it."""
    write_decoder(path, _contents(family, seed))


LAYOUTS: dict[str, Callable[[Path, str, Contents], TinySet]] = {
    "split": _write_split,
    "diffusers": _write_diffusers,
    "upstream": _write_upstream,
    "aio": _write_aio,
}
