"""Load DiT: the model's files become wires."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..acestep_models.tasks import VARIANTS, variant_named
from .host import download as fetching
from .host import folders
from .host.ahead import read_ahead
from .host.loader import CHOICES, NAMES, Loaded, load, told
from .host.schema import io, out, report, schema, socket
from .host.sources import Sources, decoder_config, doubles, find_sources, stamp_sources
from .types import Conditioner, Vae
from .variant import Guess, choose_variant
from .widgets import choice, per_variant

MARK = " (download)"


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
        cls,
        model: Any = None,
        variant: Any = None,
        conditioner: Any = None,
        text_encoder: Any = None,
        vae: Any = None,
        precision: Any = None,
        download: Any = None,
    ) -> str:
        """Load again when a file was replaced, or when auto may choose another one. What is linked arrives as None."""
        name = model and plain_name(model)
        there = name and fetching.on_disk(name)
        if name and not there:
            return f"{name} is not there|{download}"
        return f"{stamp_sources(there, conditioner, text_encoder, vae)}|{variant}|{precision}"

    @classmethod
    async def execute(
        cls,
        model: str,
        variant: str,
        conditioner: str,
        text_encoder: str,
        vae: str,
        precision: str,
        download: bool,
    ) -> io.NodeOutput:
        """Fetch what is missing if that is allowed, find the files, say which, load them.

        ComfyUI starts such a node before others, and nodes that need nothing of it run while it waits: a planner plans
        while the files are read.
        """
        name = fetching.ready(plain_name(model), text_encoder, vae, download)
        sources = find_sources(name, conditioner, text_encoder, vae)
        whole = None if sources.conditioner is sources.decoder else decoder_config(sources.conditioner)
        guess = choose_variant(variant, decoder_config(sources.decoder), name, whole)
        read_ahead(sources.text_encoder, sources.conditioner, sources.decoder, sources.vae)
        # Networks are built here and not in a thread: while other packs load models on the host's thread, some change
        # torch for the whole process, and ours would come out without weights.
        await asyncio.sleep(0)
        return _output(sources, guess, load(sources, guess.name, precision))


def plain_name(choice: str) -> str:
    """The model that a line of the list stands for."""
    return choice.removesuffix(MARK)


def model_choices() -> list[str]:
    """What is on disk, then every released model: those stay once they are there, because workflows name them."""
    return [*folders.model_names(), *(f"{name}{MARK}" for name in fetching.zoo_names())]


def _inputs() -> list[Any]:
    """The model, and choices that auto can make."""
    return [
        socket(
            io.Combo,
            "model",
            options=model_choices(),
            tooltip="A file from models/diffusion_models or models/checkpoints, or a folder of diffusers or upstream. "
            f"Those marked{MARK} are released models: switch download on to have them fetched.",
        ),
        choice(
            "variant",
            VARIANTS,
            "Which training the model had; it sets the defaults. auto reads the file, then its name. "
            f"Steps: {per_variant(lambda v: v.steps)}. Shift: {per_variant(lambda v: v.shift)}. "
            f"Guidance: {per_variant(lambda v: v.guidance)}.",
        ),
        choice(
            "conditioner",
            folders.conditioner_names(),
            "What reads text and timbre beside the decoder. auto: the same file; for a file with a decoder only, such "
            "as ComfyUI's ModelSave writes, the one model here that has the same sizes.",
            advanced=True,
        ),
        choice(
            "text_encoder",
            folders.text_encoder_names(),
            "What reads the caption (Qwen3 0.6B). auto: the model's own, else the one in models/text_encoders that "
            "fits.",
        ),
        choice(
            "vae",
            folders.vae_names(),
            "What turns latents into 48 kHz sound. auto: the model's own, else the one in models/vae that fits.",
        ),
        choice(
            "precision",
            CHOICES,
            "auto: bf16 where the graphics card is good at it, else fp32. fp32 is exact and slower. int8: weights "
            "in half the memory of bf16 (a quantised file keeps its own), computed in what auto takes; nearly the same "
            "song.",
            advanced=True,
        ),
        socket(
            io.Boolean,
            "download",
            default=False,
            tooltip="Fetches what is missing of this model from Hugging Face, once: decoder, text encoder, VAE "
            f"({fetching.note('acestep-v15-turbo')}; {fetching.note('acestep-v15-xl-turbo')}). "
            "Off: nothing is ever fetched.",
        ),
    ]


def _variant_line(guess: Guess) -> str:
    """Which variant, why, what speaks against it, and what follows from it."""
    defaults, doubt = variant_named(guess.name), f", but {guess.doubt}" if guess.doubt else ""
    numbers = f"{defaults.steps} steps, shift {defaults.shift:g}, guidance {defaults.guidance:g}"
    return f"variant: {guess.name} ({guess.why}){doubt}: {numbers}"


def _output(sources: Sources, guess: Guess, loaded: Loaded) -> io.NodeOutput:
    """The wires, and what was loaded in words."""
    text = _describe(sources, guess, loaded)
    logging.info("ACE-Step 1.5: %s", "; ".join(filter(None, text)))
    if guess.doubt:
        logging.warning("ACE-Step 1.5: %s: %s", sources.decoder.path.name, _variant_line(guess))
    return io.NodeOutput(loaded.model, loaded.conditioner, loaded.vae, ui=report(*text))


def _describe(sources: Sources, guess: Guess, loaded: Loaded) -> tuple[str, ...]:
    """The values really used, one line each."""
    config = loaded.conditioner.config
    parts = (
        ""
        if sources.conditioner is sources.decoder
        else (f"conditioner: {sources.conditioner.path.name}; choose another one if the decoder was not made from it")
    )
    return (
        f"model: {sources.decoder.path.name} ({config.num_hidden_layers} layers of width {config.hidden_size})",
        _variant_line(guess),
        f"precision: {told(loaded.model.model, loaded.dtype)} on {loaded.device}, VAE {NAMES[loaded.vae.dtype]}",
        parts,
        f"text encoder: {sources.text_encoder.path.name}",
        *doubles(sources),
        f"VAE: {sources.vae.path.name}",
    )
