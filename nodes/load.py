"""Load DiT: the model's files become wires."""

from __future__ import annotations

import logging
from typing import Any

from ..acestep_models.tasks import VARIANTS, variant_named
from .host import folders
from .host.loader import NAMES, PRECISIONS, Loaded, load
from .host.schema import io, out, report, schema, socket
from .host.sources import Sources, decoder_config, find_sources, stamp_sources
from .types import Conditioner, Vae
from .variant import Guess, choose_variant
from .widgets import choice, per_variant


class LoadDiT(io.ComfyNode):
    """Node "ACEStepLoadDiT"."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Files from ComfyUI's folders; all choices but the model may stay on auto."""
        return schema(
            node_id="ACEStepLoadDiT",
            display_name="ACE-Step 1.5 Load DiT",
            description="Loads an ACE-Step 1.5 music model with the text encoder and the VAE that belong to it.",
            search_aliases=["ace step loader", "music model", "checkpoint", "audio model"],
            inputs=_inputs(),
            outputs=[
                out(io.Model, "model", "The decoder, for DiTSample or ComfyUI's own samplers, LoRA and merge nodes."),
                out(Conditioner, "conditioner", "What reads captions and lyrics, for DiTSample and EncodeSong."),
                out(Vae, "vae", "The 48 kHz VAE, for DecodeAudio."),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, model: Any = None, variant: Any = None, text_encoder: Any = None, vae: Any = None, precision: Any = None
    ) -> str:
        """Load again when a file was replaced, or when auto may choose another one. What is linked arrives as None."""
        return f"{stamp_sources(model, text_encoder, vae)}|{variant}|{precision}"

    @classmethod
    def execute(cls, model: str, variant: str, text_encoder: str, vae: str, precision: str) -> io.NodeOutput:
        """Find the files, say which, load them."""
        sources = find_sources(model, text_encoder, vae)
        guess = choose_variant(variant, decoder_config(sources.decoder), model)
        loaded = load(sources, guess.name, precision)
        text = _describe(sources, guess, loaded)
        logging.info("ACE-Step 1.5: %s", "; ".join(text))
        return io.NodeOutput(loaded.model, loaded.conditioner, loaded.vae, ui=report(*text))


def _inputs() -> list[Any]:
    """The model, and four choices that auto can make."""
    return [
        socket(
            io.Combo,
            "model",
            options=folders.model_names(),
            tooltip="A file from models/diffusion_models, or a diffusers folder from models/diffusers.",
        ),
        choice(
            "variant",
            VARIANTS,
            "Which training the model had; it sets the defaults. auto reads the file, then its name. "
            f"Steps: {per_variant(lambda v: v.steps)}. Shift: {per_variant(lambda v: v.shift)}.",
        ),
        choice(
            "text_encoder",
            folders.weight_names("text_encoders"),
            "What reads the caption (Qwen3 0.6B). auto: the model folder's own, else the one in "
            "models/text_encoders that fits.",
        ),
        choice(
            "vae",
            folders.weight_names("vae"),
            "What turns latents into 48 kHz sound. auto: the model folder's own, else the one in models/vae that fits.",
        ),
        choice(
            "precision",
            PRECISIONS,
            "auto: bf16 where the graphics card is good at it, else fp32. fp32 is exact and slower.",
            advanced=True,
        ),
    ]


def _describe(sources: Sources, guess: Guess, loaded: Loaded) -> tuple[str, ...]:
    """The values really used, one line each."""
    defaults, config = variant_named(guess.name), loaded.conditioner.config
    return (
        f"model: {sources.decoder.path.name} ({config.num_hidden_layers} layers of width {config.hidden_size})",
        f"variant: {guess.name} ({guess.why}): {defaults.steps} steps, shift {defaults.shift:g}, "
        f"guidance {defaults.guidance:g}",
        f"precision: {NAMES[loaded.dtype]} on {loaded.device}, VAE {NAMES[loaded.vae.dtype]}",
        f"text encoder: {sources.text_encoder.path.name}",
        f"VAE: {sources.vae.path.name}",
    )
