"""A tiny set, loaded the way the nodes load it but without ComfyUI."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="session")
def load_song_models():
    """load_song_models(tiny set) -> decoder, conditioner and VAE in float32 on the CPU."""
    from acestep_models.dit.silence import silence_from_file, silence_from_vae
    from acestep_models.loading.build import build_part
    from acestep_models.loading.formats import probe
    from acestep_models.pipelines.encode import ConditionerModels
    from acestep_models.pipelines.generate import PlainDecoder
    from acestep_models.qwen3.tokenizer import Tokenizer
    from acestep_models.runtime import Handle
    from acestep_models.tasks import VARIANTS

    made = {}

    def silence_of(tiny, song, vae):
        """Encoding silence takes seconds: once a file."""
        if tiny.vae not in made:
            stored = song.silence_tensor()
            with torch.inference_mode():
                made[tiny.vae] = silence_from_vae(vae.encode_mean) if stored is None else silence_from_file(stored)
        return made[tiny.vae]

    def load(tiny):
        song, text, vae = probe(tiny.model), probe(tiny.text_encoder), probe(tiny.vae)

        def handle(checkpoint, part):
            return Handle(build_part(checkpoint, part, dtype=torch.float32).eval(), torch.float32)

        vae_handle = handle(vae, "vae")
        source = text.tokenizer_source()
        tokenizer = Tokenizer.from_json(source) if isinstance(source, str) else Tokenizer.from_file(source)
        conditioner = ConditionerModels(
            text=handle(text, "text_encoder"),
            tokenizer=tokenizer,
            condition=handle(song, "condition"),
            code_tokenizer=handle(song, "tokenizer"),
            detokenizer=handle(song, "detokenizer"),
            silence=silence_of(tiny, song, vae_handle.module),
            config=song.config("condition"),
        )
        variant = VARIANTS["turbo"]
        decoder = PlainDecoder(handle(song, "decoder"), variant, variant.shift)
        return SimpleNamespace(decoder=decoder, conditioner=conditioner, vae=vae_handle)

    return load


@pytest.fixture(scope="session")
def tiny_models(load_song_models, tiny_2b_split):
    """The tiny 2B-like set."""
    return load_song_models(tiny_2b_split)


@pytest.fixture(scope="session")
def diffusers_pipeline(tiny_2b_diffusers):
    """diffusers' own pipeline on the tiny set, read by diffusers itself."""
    from diffusers import AceStepPipeline

    pipeline = AceStepPipeline.from_pretrained(tiny_2b_diffusers.model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
