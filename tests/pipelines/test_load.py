"""Models opened without ComfyUI."""

import pytest
import torch

from acestep_models.loading import probe
from acestep_models.pipelines.load import open_models
from acestep_models.tasks import VARIANTS


def test_the_variant_sets_the_defaults(tiny_2b_split):
    models = open_models(tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae, "turbo-shift1")
    assert (models.decoder.variant, models.decoder.shift) == (VARIANTS["turbo-shift1"], 1.0)


def test_silence_is_the_same_in_every_precision(tiny_2b_split, tiny_models):
    paths = tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae
    coarse = open_models(*paths, "turbo", torch.bfloat16)
    assert coarse.vae.dtype == torch.bfloat16
    assert torch.equal(coarse.conditioner.silence.frames, tiny_models.conditioner.silence.frames)


def test_a_planner_is_no_text_encoder(tiny_2b_split):
    with pytest.raises(ValueError, match="has no text_encoder, only lm"):
        open_models(tiny_2b_split.model, tiny_2b_split.lm, tiny_2b_split.vae, "turbo")


def test_files_without_a_tokenizer_say_what_to_do(tiny_2b_split, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(tiny_2b_split.text_encoder, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "tokenizer.json"}
    save_file(load_file(tiny_2b_split.text_encoder), tmp_path / "bare.safetensors", metadata)
    paths = tiny_2b_split.model, tmp_path / "bare.safetensors", tiny_2b_split.vae
    with pytest.raises(ValueError, match="bare.safetensors: carries no tokenizer; give the path of its tokenizer.json"):
        open_models(*paths, "turbo")
    (tmp_path / "tokenizer.json").write_text(probe(tiny_2b_split.text_encoder).tokenizer_source())
    assert open_models(*paths, "turbo", tokenizer=tmp_path / "tokenizer.json").conditioner.tokenizer.size == 630
