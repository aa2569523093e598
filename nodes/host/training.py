"""Training beside ComfyUI's own models: a decoder of its own out of a MODEL wire, and room for it on the device.

Nothing of the host is shared with a run: the decoder is a copy of plain torch layers, made outside of the inference
mode that the host runs every prompt in (spec/lora.md §4.2).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
import folder_paths
import torch
from torch import Tensor, nn

from ...acestep_models.dit.transformer import DiT
from ...acestep_models.ops import META
from .adapters import DECODER
from .models import SongModel, song_model
from .save_lora import check_name
from .weights import DecoderWeights

RUNS = "acestep_lora"
_PLAIN = (torch.float32, torch.bfloat16, torch.float16)


def training_device() -> torch.device:
    """Where the host computes."""
    device: torch.device = management.get_torch_device()
    return device


def check_trainable(model: Any) -> SongModel:
    """The network of a MODEL wire, if an adapter can be trained on it.

    Raises:
        ValueError: for another model, or one whose weights are quantised.
    """
    network = song_model(model)
    odd = {
        f"{name} ({_kind(weight)})"
        for name, weight in network.diffusion_model.decoder.named_parameters()
        if weight.dtype not in _PLAIN or type(weight) not in (Tensor, nn.Parameter)
    }
    if odd:
        raise ValueError(
            f"model: its weights are quantised, among them {min(odd)}; gradients through them would be wrong. Load the "
            "bf16 or fp32 model with Load DiT, and put the LoRA on the quantised one afterwards"
        )
    return network


def _kind(weight: Tensor) -> str:
    plain = type(weight) in (Tensor, nn.Parameter)
    return str(weight.dtype).removeprefix("torch.") if plain else type(weight).__name__


def training_dtype(network: SongModel) -> torch.dtype:
    """What the frozen decoder computes in: what Load DiT chose, bf16 on cards that are good at it, else fp32."""
    return torch.bfloat16 if network.compute_dtype == torch.bfloat16 else torch.float32


def own_decoder(model: Any, device: torch.device) -> DiT:
    """A decoder of plain layers on `device` with the weights that a MODEL plays with, every patch in them.

    Must be called outside of inference mode: what is made inside cannot be trained through.

    Raises:
        ValueError: for another model, or one whose weights are quantised.
    """
    network = check_trainable(model)
    dtype = training_dtype(network)
    decoder = DiT(network.config, device=META, dtype=dtype)
    weights = DecoderWeights(model, device)
    with torch.no_grad():
        state = {name: _normal(weights[name], device, dtype) for name in decoder.state_dict()}
    decoder.load_state_dict(state, strict=True, assign=True)
    return decoder.requires_grad_(False)


def _normal(weight: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy that autograd may keep; a weight that no patch touched comes as the host's own copy."""
    moved = weight.to(device, dtype)
    return moved.clone() if moved.is_inference() else moved


def source_name(model: Any) -> str:
    """The file or folder that a MODEL came from, by its name; "" where that is not known."""
    made = getattr(model, "cached_patcher_init", None)
    name = Path(made[1][0]).name if made else ""
    changed = any(key.startswith(DECODER) for key in model.patches)
    return f"{name or 'a model'} with patches" if changed else name


@contextmanager
def seat(need: int, device: torch.device) -> Iterator[int]:
    """A time in which `need` bytes of a device are for training; gives how many bytes are free there.

    The host's models go off it as far as that takes, and it is told, where it wants to know, that gradients are made.
    """
    before = getattr(management, "in_training", None)
    management.free_memory(need + management.minimum_inference_memory(), device)
    management.soft_empty_cache()
    if before is not None:
        management.in_training = True
    try:
        yield int(management.get_free_memory(device))
    finally:
        if before is not None:
            management.in_training = before
        gc.collect()
        management.soft_empty_cache()


def run_folder(name: str, anew: bool) -> Path:
    """Where a run of that name lies in ComfyUI's output folder; `anew` takes the first number that is free.

    Raises:
        ValueError: for a name that is none.
    """
    root = Path(folder_paths.get_output_directory()) / RUNS
    plain = check_name(name)
    folder, number = root / plain, 2
    while anew and folder.exists():
        folder, number = root / f"{plain}_{number}", number + 1
    return folder


def shown_picture(path: Path) -> dict[str, str]:
    """A picture of the output folder as nodes show it under themselves."""
    below = path.relative_to(folder_paths.get_output_directory())
    return {"filename": below.name, "subfolder": below.parent.as_posix(), "type": "output"}
