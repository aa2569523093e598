"""From files to what travels on the wires: MODEL, conditioner and VAE, each network under the memory manager."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.patcher_extension
import torch
from torch import nn

from ...acestep_models.loading.build import build_part, check_state
from ...acestep_models.loading.build import fill as fill_part
from ...acestep_models.loading.formats import Checkpoint, probe
from ...acestep_models.loading.packed import Packing
from ...acestep_models.loading.sections import HOST_PREFIX
from ...acestep_models.pipelines.encode import ConditionerModels
from ...acestep_models.pipelines.load import song_silence
from ...acestep_models.qwen3.tokenizer import Tokenizer, check_vocabulary
from ...acestep_models.runtime import Handle
from ...acestep_models.vae.oobleck import Oobleck
from . import folders
from .keep import keep_closed
from .models import SongModel
from .ops import casting_ops
from .packed import HostBlockLinear, HostPackedLinear, count_patched, has_packed, packed_as, unblocked
from .runtime import handle, patcher
from .schema import AUTO
from .sources import Sources, decoder_config

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
NAMES = {dtype: name for name, dtype in PRECISIONS.items()}
INT8 = "int8"  # weights only; what is computed in is as with auto
CHOICES = (*PRECISIONS, INT8)


class FileModel(SongModel):
    """A decoder with the weights of a file; ComfyUI's ModelSave asks it for what to write."""

    def state_dict_for_saving(self, *parts: Any, **more: Any) -> dict[str, Any]:
        """The host's, with the numbers that the blocks of a GGUF file stand for."""
        return unblocked(self.diffusion_model, super().state_dict_for_saving(*parts, **more), HOST_PREFIX)


@dataclass(frozen=True, eq=False)
class Loaded:
    """Everything that LoadDiT gives out, and the precision each device computes in."""

    model: Any
    conditioner: ConditionerModels
    vae: Handle[Oobleck]
    dtype: torch.dtype
    device: torch.device


def load(sources: Sources, variant: str, precision: str) -> Loaded:
    """Build every network of a model.

    Raises:
        ValueError: for weights that do not fit their network.
    """
    device = management.get_torch_device()
    dtype = decoder_dtype(precision, device)
    conditioner = load_conditioner(sources, dtype, precision == INT8)
    vae = load_vae(sources.vae, precision)
    model = load_decoder(sources.decoder.path, sources.conditioner.path, variant, precision)
    said = model.model.config  # the conditioner's own file, where it is another one, says nothing of this decoder
    config = replace(conditioner.config, is_turbo=said.is_turbo, model_version=said.model_version)
    return Loaded(model, replace(conditioner, variant=variant, config=config), vae, dtype, device)


def decoder_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What to compute in: as chosen; for auto and int8 bf16 where the host says the device is good at it, else fp32.

    Raises:
        ValueError: for a precision that is not offered.
    """
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if precision not in (AUTO, INT8):
        raise ValueError(f"precision: expected {AUTO}, {', '.join(CHOICES)}; got {precision!r}")
    return torch.bfloat16 if management.should_use_bf16(device) else torch.float32


def told(network: nn.Module, dtype: torch.dtype) -> str:
    """How a report says what a network is kept and computed in."""
    kinds = packed_as(network)
    return f"{kinds} weights, computed in {NAMES[dtype]}" if kinds else NAMES[dtype]


def storage_dtype(compute: torch.dtype, checkpoint: Checkpoint, part: str, device: torch.device) -> torch.dtype:
    """What weights are kept in: what they compute in, but bf16 numbers stay bf16 on a card, where memory is short.

    Their layers then cast at use, and bf16 to fp32 is exact.
    """
    return torch.bfloat16 if holds_bf16(checkpoint, part) and not management.is_device_cpu(device) else compute


def holds_bf16(checkpoint: Checkpoint, part: str) -> bool:
    """Whether every weight of a part is a bf16 number.

    A table of another dtype is not, and neither is a weight norm whose halves are: their product has more digits.
    """
    return checkpoint.dtypes(part) == {torch.bfloat16} and not checkpoint.has_weight_norm(part)


def load_decoder(path: Path, whole: Path, variant: str, precision: str, disable_dynamic: bool = False) -> Any:
    """The decoder of the file at `path` as a MODEL. Newer hosts call this again where they need another copy.

    `whole` is the same path, or that of the whole model that a decoder saved alone was made from.
    """
    device = management.get_torch_device()
    checkpoint = probe(path)
    if whole != path:
        checkpoint = checkpoint.completed(probe(whole))
    compute = decoder_dtype(precision, device)
    storage = storage_dtype(compute, checkpoint, "decoder", device)
    model = FileModel(decoder_config(checkpoint), variant, storage, compute)
    packing = Packing(HostPackedLinear, compute, precision == INT8, HostBlockLinear)
    fill(model.diffusion_model.decoder, checkpoint, storage, packing)
    rest = management.unet_offload_device()
    # Newer hosts' way to bring weights one by one knows a layer's weight and bias only.
    owner = patcher(model.to(rest), device, rest, disable_dynamic or has_packed(model))
    owner.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, count_patched)
    keep_closed(owner)
    owner.cached_patcher_init = (load_decoder, (path, whole, variant, precision))
    return owner


def fill(module: nn.Module, checkpoint: Checkpoint, storage: torch.dtype, packing: Packing | None = None) -> None:
    """Give the decoder on meta its weights, mapped into memory where they need no cast.

    `packing` says which large matrices are in eight bits.

    Raises:
        ValueError: for missing, unexpected or wrongly shaped tensors.
    """
    check_state(checkpoint, "decoder")
    fill_part(module, checkpoint, "decoder", storage, packing)
    module.requires_grad_(False)


def load_vae(checkpoint: Checkpoint, precision: str) -> Handle[Oobleck]:
    """The VAE; its layers cast, so it can compute in another precision than it is kept in."""
    device = management.vae_device()
    if precision in PRECISIONS:
        dtype = PRECISIONS[precision]
    else:
        allowed = [torch.bfloat16, torch.float32]
        dtype = management.vae_dtype(device, allowed)
        dtype = dtype if dtype in allowed else torch.float32
    return handle(cast_part(checkpoint, "vae", dtype, device), dtype, device, management.vae_offload_device())


def load_conditioner(sources: Sources, dtype: torch.dtype, packed: bool = False) -> ConditionerModels:
    """Text encoder and the networks around the decoder that run once a song; `packed` keeps their matrices in int8."""
    device, rest = management.get_torch_device(), management.unet_offload_device()

    def part(name: str) -> Handle[Any]:
        module = cast_part(sources.conditioner, name, dtype, device, packed)
        return handle(module, dtype, device, rest, disable_dynamic=has_packed(module))

    text = _text_encoder(sources.text_encoder, dtype, packed)
    tokenizer = open_tokenizer(sources.text_encoder)
    check_vocabulary(tokenizer, text.module.config.vocab_size)
    return ConditionerModels(
        text=text,
        tokenizer=tokenizer,
        condition=part("condition"),
        code_tokenizer=part("tokenizer"),
        detokenizer=part("detokenizer"),
        silence=song_silence(sources.conditioner, sources.vae),
        config=decoder_config(sources.conditioner),
    )


def _text_encoder(checkpoint: Checkpoint, dtype: torch.dtype, packed: bool) -> Handle[Any]:
    device = management.text_encoder_device()
    compute = torch.float32 if management.is_device_cpu(device) else dtype
    module = cast_part(checkpoint, "text_encoder", compute, device, packed)
    return handle(module, compute, device, management.text_encoder_offload_device(), disable_dynamic=has_packed(module))


def cast_part(
    checkpoint: Checkpoint, part: str, compute: torch.dtype, device: torch.device, packed: bool = False
) -> Any:
    """A network of casting layers with its weights; `packed` keeps its large matrices in int8."""
    storage = storage_dtype(compute, checkpoint, part, device)
    packing = Packing(HostPackedLinear, compute, packed, HostBlockLinear)
    return build_part(checkpoint, part, ops=casting_ops(), dtype=storage, packing=packing)


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that came with the text encoder, else the one of the same family that ComfyUI ships."""
    return Tokenizer.from_source(checkpoint.tokenizer_source() or folders.host_tokenizer())
