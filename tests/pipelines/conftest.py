"""A tiny set, loaded the way the nodes load it but without ComfyUI."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def load_song_models():
    """load_song_models(tiny set) -> decoder, conditioner and VAE in float32 on the CPU."""
    from acestep_models.pipelines.load import open_models

    return lambda tiny: open_models(tiny.model, tiny.text_encoder, tiny.vae, "turbo")


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
