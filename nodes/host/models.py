"""The decoder as a ComfyUI MODEL: runs in the host's samplers, with its LoRA, merge, shift and compile nodes.

No registration and no patch of the host: a config, a latent format and a `BaseModel` of our own, built directly
(spec/host.md §3).
"""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_sampling
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...acestep_models.dit.config import DiTConfig, activation_bytes
from ...acestep_models.dit.speed import Speed, recording_bytes
from ...acestep_models.dit.told import Told, ToldStore
from ...acestep_models.dit.transformer import DiT
from ...acestep_models.loading.packed import unpacking_bytes
from ...acestep_models.tasks import VARIANTS, Variant
from ...acestep_models.units import FRAME_RATE, HOP, LATENT_CHANNELS
from .ops import host_ops

CONTEXT, TOKEN_MASK, NULL = "acestep_context", "acestep_token_mask", "acestep_null"
TOLD_STORE = "told_store"
SPEED = "acestep_speed"  # key of transformer_options: the `Speed` that a user wants of a MODEL
PREVIEW_WIDTH = (128, 512)
USUAL_TOKENS = 1024


class SongLatent(comfy.latent_formats.LatentFormat):
    """64 channels at 25 frames a second, used as they are.

    The preview shows time to the right and channels downwards, positive values warm and negative ones cold.
    """

    latent_channels = LATENT_CHANNELS
    latent_dimensions = 1
    temporal_downscale_ratio = HOP  # newer hosts stretch an empty latent of another rate by this
    latent_rgb_factors = [[0.8, 0.45, 0.1], [0.1, 0.4, 0.8]]
    latent_rgb_factors_bias = [-1.0, -1.0, -1.0]

    def latent_rgb_factors_reshape(self, x: Tensor) -> Tensor:
        """Latents [B, 64, T] as one two-channel picture [1, 2, 128, width]."""
        width = min(max(x.shape[-1], PREVIEW_WIDTH[0]), PREVIEW_WIDTH[1])
        picture = torch.cat([x[:1].clamp(min=0), x[:1].neg().clamp(min=0)])[None].float()  # [1, 2, 64, T]
        return F.interpolate(picture, size=(2 * LATENT_CHANNELS, width), mode="nearest")


class SongConfig(comfy.supported_models_base.BASE):
    """What `BaseModel` wants to know."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    latent_format = SongLatent
    memory_usage_factor = 1.0
    supported_inference_dtypes = [torch.bfloat16, torch.float32]

    def __init__(self, config: DiTConfig, shift: float) -> None:
        super().__init__({"config": config})
        self.sampling_settings = {"multiplier": 1.0, "shift": shift}

    def inpaint_model(self) -> bool:
        """Repainting is the pack's own affair."""
        return False


class SongDecoder(nn.Module):
    """The network behind `diffusion_model`: the host's signature and channel order around our `decoder`."""

    def __init__(self, config: DiTConfig, dtype: torch.dtype, device: Any = None, operations: Any = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.decoder = DiT(config, host_ops(operations), device=device, dtype=dtype)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        song_context: Tensor,
        token_mask: Tensor | None = None,
        told_store: ToldStore | None = None,
        transformer_options: dict[str, Any] | None = None,
        **ignored: Any,
    ) -> Tensor:
        """Velocity [B, 64, T] at x [B, 64, T]; context [B, L, E], song_context [B, 128, T], token_mask int [B, L].

        `told_store` belongs to the run, if its weights stay as they are; only then can steps be sped up.
        """
        mask, frames = None if token_mask is None else token_mask.bool(), x.shape[-1]
        x, song_context = x.transpose(1, 2), song_context.transpose(1, 2)
        looked_up = not (torch.is_grad_enabled() or torch.compiler.is_compiling())  # by content: no part of a graph
        v: Tensor
        if told_store is None or not looked_up:
            v = self.decoder(x, song_context, context, timestep, token_mask=mask)
            return v.transpose(1, 2)
        told = self._told(told_store, context, frames, mask)
        speed: Speed | None = (transformer_options or {}).get(SPEED)
        if speed is None:
            v = self.decoder(x, song_context, told, timestep)
        else:
            v = speed.steps_of(told_store).velocity(self.decoder, x, song_context, told, timestep)
        return v.transpose(1, 2)

    def _told(self, store: ToldStore, tokens: Tensor, frames: int, mask: Tensor | None) -> Told:
        return store.find(lambda new, hidden: self.decoder.tell(new, frames, hidden), tokens, mask, frames)


class StoreCond(comfy.conds.CONDConstant):
    """Brings the `ToldStore` of a run to the network; the host lets go of it with the conditions of the run."""

    def can_concat(self, other: Any) -> bool:
        """Every batch may share one: a store finds by content."""
        return True


def share_store(conds: dict[str, list[dict[str, Any]]]) -> None:
    """Give all conditions of a run the store of the first: with guidance or without, it then holds one set."""
    holders = [given["model_conds"] for several in conds.values() for given in several]
    stores = [holder[TOLD_STORE] for holder in holders if TOLD_STORE in holder]
    for holder in holders:
        if TOLD_STORE in holder:
            holder[TOLD_STORE] = stores[0]


class SongModel(comfy.model_base.BaseModel):
    """The decoder of one variant inside the host's sampling machinery."""

    def __init__(self, config: DiTConfig, variant: str, dtype: torch.dtype, compute: torch.dtype) -> None:
        settings = SongConfig(config, VARIANTS[variant].shift)
        settings.set_inference_dtype(dtype, None if dtype == compute else compute)
        super().__init__(settings, comfy.model_base.ModelType.FLOW, device=torch.device("meta"), unet_model=SongDecoder)
        self.device = management.unet_offload_device()
        self.config, self.compute_dtype, self.variant_name = config, compute, variant
        self.memory_usage_factor_conds = ("c_crossattn",)

    @property
    def variant(self) -> Variant:
        """What this decoder was trained for."""
        return VARIANTS[self.variant_name]

    def process_timestep(self, timestep: Tensor, **given: Any) -> Tensor:
        """t in 0 .. 1, as the decoder was trained, whatever multiple a ModelSampling node hands out (SD3's: 1000)."""
        return timestep / getattr(self.model_sampling, "multiplier", 1.0)

    def extra_conds(self, **given: Any) -> dict[str, Any]:
        """The conditioning of EncodeSong as the decoder's arguments."""
        flow_shift(self.model_sampling)  # this is the first that is asked before a run
        tokens, context = read_conditioning(given)
        check_length(context, given["noise"])
        conds = {
            "c_crossattn": comfy.conds.CONDRegular(tokens),
            "song_context": comfy.conds.CONDRegular(context),
        }
        changing = getattr(getattr(self, "current_patcher", None), "weight_wrapper_patches", None)
        if given.get("hooks") is None and not changing:  # hooks and wrappers change weights within a run
            conds[TOLD_STORE] = StoreCond(ToldStore())
        mask = given.get(TOKEN_MASK)
        if mask is not None:
            check_mask(mask, tokens)
            conds["token_mask"] = comfy.conds.CONDRegular(mask.long())  # bool would be cast to the model's dtype
        return conds

    def extra_conds_shapes(self, **given: Any) -> dict[str, list[int]]:
        """What `memory_required` is told of a conditioning before it is used."""
        tokens = given.get("cross_attn")
        return {} if tokens is None else {"c_crossattn": list(tokens.shape)}

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Bytes that a call for latents of `input_shape` [B, 64, T] needs beside the weights."""
        shapes = (cond_shapes or {}).get("c_crossattn") or []
        tokens = max((shape[1] for shape in shapes), default=USUAL_TOKENS)
        sizes = self.config, input_shape[0], input_shape[-1], tokens, self.compute_dtype
        unpacking = unpacking_bytes(self.diffusion_model, self.compute_dtype)
        return float(activation_bytes(*sizes) + unpacking + (recording_bytes(*sizes) if self._is_recorded() else 0))

    def _is_recorded(self) -> bool:
        """Whether the run that is prepared or goes on records its steps."""
        patcher = self.current_patcher
        speed: Speed | None = None if patcher is None else patcher.model_options["transformer_options"].get(SPEED)
        return speed is not None and speed.graphs is not None and speed.graphs.work_on(patcher.load_device)


def flow_shift(sampling: Any) -> float:
    """The shift of a model's sampling, read off its middle: ModelSamplingFlux keeps the logarithm of it.

    Raises:
        ValueError: for a sampling that is no rectified flow, or a shift that no times can be made of.
    """
    if not isinstance(sampling, comfy.model_sampling.CONST) or not hasattr(sampling, "shift"):
        kind = " with ".join(base.__name__ for base in type(sampling).__bases__)
        raise ValueError(
            f"model: a node before this one made its sampling {kind}, but ACE-Step 1.5 is a rectified flow and would "
            "make noise; take that node out. To change the shift use ModelSamplingAuraFlow or SamplingOptions"
        )
    middle = float(sampling.percent_to_sigma(0.5))  # s / (s + 1)
    if not 0.0 < middle < 1.0:
        raise ValueError(
            f"model: a ModelSampling node gave it the shift {float(sampling.shift):g}, which leaves no time between "
            "noise and music; set one like 3 there"
        )
    return middle / (1.0 - middle)


def read_conditioning(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Tokens [B, L, E] and context [B, 128, T] out of a conditioning.

    All-zero tokens are what ConditioningZeroOut leaves of ours: the learned null token stands for them.

    Raises:
        ValueError: for the conditioning of another model.
    """
    tokens, context = given.get("cross_attn"), given.get(CONTEXT)
    if tokens is None or context is None:
        raise ValueError(
            "conditioning: it holds no ACE-Step 1.5 context, so another model's text encoder made it; "
            "connect the positive and negative outputs of EncodeSong"
        )
    null = given.get(NULL)
    if null is not None and not torch.count_nonzero(tokens):
        tokens = null.to(tokens).expand(*tokens.shape[:2], -1)
    return tokens, context


def check_length(context: Tensor, noise: Tensor) -> None:
    """Raises a ValueError unless context [B, 128, T] and noise [B, 64, T] are of one length."""
    if context.shape[-1] != noise.shape[-1]:
        raise ValueError(
            f"latent: it has {noise.shape[-1]} frames ({noise.shape[-1] / FRAME_RATE:g} s), but the conditioning was "
            f"made for {context.shape[-1]} ({context.shape[-1] / FRAME_RATE:g} s); connect the latent output of the "
            "EncodeSong node that made the conditioning"
        )


def check_mask(mask: Tensor, tokens: Tensor) -> None:
    """Raises a ValueError unless mask [B, L] and tokens [B, L, E] belong together."""
    if mask.shape[-1] != tokens.shape[1]:
        raise ValueError(
            f"conditioning: {tokens.shape[1]} tokens, but a mask of {mask.shape[-1]}; it was joined with another "
            "conditioning after EncodeSong. Join songs by their blueprints instead"
        )


def song_model(model: Any) -> SongModel:
    """The network of a MODEL wire, if it is ours.

    Raises:
        ValueError: names what the wire holds instead.
    """
    if model is None:
        raise ValueError(
            "model: nothing arrives, for the node before this one (SpeedUp?) has no model connected; connect one there"
        )
    inner = getattr(model, "model", None)
    if not isinstance(inner, SongModel):
        raise ValueError(
            f"model: expected an ACE-Step 1.5 decoder, got {type(inner).__name__}; "
            "connect the model output of the pack's own Load DiT node"
        )
    return inner
