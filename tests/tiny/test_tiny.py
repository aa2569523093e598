"""The tiny sets: real layouts, one set of weights, sound of order one."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from acestep_models.loading import build_part, load_state, probe
from acestep_models.loading.keymaps import DIT_PARTS
from acestep_models.loading.shapes import count
from acestep_models.qwen3.tokenizer import Tokenizer, check_vocabulary

pytestmark = pytest.mark.slow  # seven sets are written
PARTS = (*DIT_PARTS, "vae", "text_encoder", "lm")
KEYS = Path(__file__).resolve().parents[1] / "oracles" / "keys"
FILES = {**dict.fromkeys(DIT_PARTS, "model"), "vae": "vae", "text_encoder": "text_encoder", "lm": "lm"}


KINDS = ("split", "diffusers", "upstream", "aio", "xl", "xl upstream", "xl aio")


@pytest.fixture(scope="module")
def sets(tmp_path_factory, write_tiny, tiny_2b_split, tiny_2b_diffusers, tiny_xl_split):
    ready = {"split": tiny_2b_split, "diffusers": tiny_2b_diffusers, "xl": tiny_xl_split}
    for kind in ("upstream", "aio"):
        ready[kind] = write_tiny(tmp_path_factory.mktemp(kind), layout=kind)
        ready[f"xl {kind}"] = write_tiny(tmp_path_factory.mktemp(kind), layout=kind, family="xl")
    return ready


def opened(found, part):
    return probe(getattr(found, FILES[part]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_every_file_loads(sets, kind, part):
    checkpoint = opened(sets[kind], part)
    module = build_part(checkpoint, part, dtype=torch.float32)
    assert part in checkpoint.parts and all(bool(value.isfinite().all()) for value in module.state_dict().values())
    folder = {"diffusers": part != "lm", "upstream": part in DIT_PARTS, "aio": True}
    layout = kind.split()[-1]
    assert checkpoint.layout == (layout if folder.get(layout) else "split")


@pytest.mark.parametrize("kind", KINDS[1:4] + KINDS[5:])
@pytest.mark.parametrize("part", PARTS)
def test_layouts_hold_the_same_weights(sets, part, kind):
    reference = opened(sets["xl" if kind.startswith("xl") else "split"], part)
    first, second = (load_state(file, part, torch.float32) for file in (reference, opened(sets[kind], part)))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    wanted, got = reference.config(part), opened(sets[kind], part).config(part)
    if kind == "upstream" and part in DIT_PARTS:  # upstream names the encoder's sizes only where they are its own
        names = [name for name in vars(wanted) if not name.startswith("encoder_")]
        assert [getattr(wanted, name) for name in names] == [getattr(got, name) for name in names]
    else:
        assert wanted == got


def test_keys_of_the_new_layouts_are_the_real_ones(sets, keys_by_layer):
    assert keys_by_layer(load_file(sets["upstream"].model / "model.safetensors")) == keys_by_layer("split_2b")
    shards = {key for file in sets["xl upstream"].model.glob("*-of-*.safetensors") for key in load_file(file)}
    assert len(list(sets["xl upstream"].model.glob("*-of-*.safetensors"))) == 3
    assert keys_by_layer(shards) == keys_by_layer("split_xl")
    stored, real = sorted(load_file(sets["aio"].model)), (KEYS / "aio_2b.txt").read_text(encoding="utf-8").splitlines()
    general = [
        {re.sub(r"\blayers\.\d+\.", "layers.N.", key) for key in keys}
        for keys in (stored, (r.split()[0] for r in real))
    ]
    assert general[0] == general[1]


def test_silence_of_upstream_is_a_pickle_of_its_own(sets):
    file = sets["upstream"].model / "silence_latent.pt"
    assert torch.load(file, weights_only=True).shape == (1, 64, 15_000)
    stored = probe(sets["upstream"].model).silence_tensor()
    assert torch.equal(stored, probe(sets["diffusers"].model).silence_tensor())


def test_seed_decides_the_weights(tmp_path, write_tiny, tiny_2b_split):
    again, other = write_tiny(tmp_path / "again", seed=0), write_tiny(tmp_path / "other", seed=1)
    first = load_file(tiny_2b_split.model)
    assert all(torch.equal(value, first[key]) for key, value in load_file(again.model).items())
    assert all(not torch.equal(value, first[key]) for key, value in load_file(other.model).items())


def test_both_layouts_together_take_less_than_ten_seconds(tmp_path, write_tiny):
    start = time.process_time()
    write_tiny(tmp_path, layout="split")
    write_tiny(tmp_path, layout="diffusers")
    assert time.process_time() - start < 10


def test_contract_numbers_are_real(sets):
    for kind, heads_wider in (("split", False), ("xl", True)):
        config, vae = probe(sets[kind].model).config("decoder"), probe(sets[kind].vae).config("vae")
        assert (config.in_channels, config.audio_acoustic_hidden_dim, config.patch_size) == (192, 64, 2)
        assert (config.pool_window_size, config.fsq_input_levels) == (5, (8, 8, 8, 5, 5, 5))
        assert (config.timbre_fix_frame, config.model_version, config.is_turbo) == (750, "turbo", True)
        assert (vae.hop, vae.sampling_rate, vae.audio_channels) == (1920, 48_000, 2)
        assert config.timbre_special_token is heads_wider
        assert (config.num_attention_heads * config.head_dim != config.hidden_size) is heads_wider


@pytest.mark.parametrize(("kind", "table"), [("split", "split_2b"), ("xl", "split_xl")])
def test_keys_of_the_decoder_file_are_the_real_ones(sets, keys_by_layer, kind, table):
    assert keys_by_layer(load_file(sets[kind].model)) == keys_by_layer(table)


@pytest.mark.parametrize(
    ("field", "table"), [("vae", "vae_comfyui"), ("text_encoder", "text_encoder"), ("lm", "lm_06b")]
)
def test_keys_of_the_other_files_are_the_real_ones(sets, keys_by_layer, field, table):
    assert keys_by_layer(load_file(getattr(sets["split"], field))) == keys_by_layer(table)


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("transformer", "diffusers_2b_transformer"),
        ("condition_encoder", "diffusers_2b_condition_encoder"),
        ("audio_tokenizer", "diffusers_2b_audio_tokenizer"),
        ("audio_token_detokenizer", "diffusers_2b_audio_token_detokenizer"),
        ("vae", "vae_diffusers"),
    ],
)
def test_keys_of_the_folders_are_the_real_ones(sets, keys_by_layer, folder, table):
    stored = load_file(sets["diffusers"].model / folder / "diffusion_pytorch_model.safetensors")
    assert keys_by_layer(stored) == keys_by_layer(table)
    assert keys_by_layer(load_file(sets["diffusers"].lm / "model.safetensors")) == keys_by_layer("lm_17b")


@pytest.mark.parametrize("kind", ["split", "xl"])
def test_values_stay_of_order_one(sets, rng, kind):
    model = probe(sets[kind].model)
    decoder, condition, tokenizer, detokenizer = (build_part(model, part, dtype=torch.float32) for part in DIT_PARTS)
    text = build_part(probe(sets[kind].text_encoder), "text_encoder", dtype=torch.float32)
    draw = rng(0)
    with torch.inference_mode():
        ids = torch.randint(0, 400, (1, 40), generator=draw)
        tokens = condition(text(ids), text.embed(ids), torch.randn(1, 750, 64, generator=draw))
        x, context = torch.randn(1, 60, 64, generator=draw), torch.randn(1, 60, 128, generator=draw)
        velocity = decoder(x, context, tokens, torch.tensor([0.7]))
        other = decoder(x, context, condition.null_tokens(tokens.shape[1], tokens), torch.tensor([0.7]))
        quantized, indices = tokenizer(x, torch.zeros(1, 5, 64))
        hints = detokenizer(quantized)
    for values in (tokens, velocity, velocity - other, quantized, hints):
        assert 0.3 < float(values.std()) < 3 and float(values.abs().max()) < 12
    assert len(set(indices.flatten().tolist())) == 12


def test_sound_stays_within_range(sets, rng):
    vae = build_part(probe(sets["split"].vae), "vae", dtype=torch.float32)
    with torch.inference_mode():
        sound = vae.decode(torch.randn(1, 64, 125, generator=rng(0)))
        silence, noise = vae.encode_mean(torch.zeros(1, 2, 9600)), 0.2 * torch.randn(1, 2, 9600, generator=rng(1))
        latents = vae.encode_mean(noise)
    assert 0.05 < float(sound.std()) < 0.5 and float(sound.abs().max()) < 2
    assert 0.3 < float(silence.std()) < 2 and 0.3 < float((latents - silence).std()) < 3


def test_silence_of_the_folder_is_the_one_of_the_vae(sets):
    assert probe(sets["split"].model).silence_tensor() is None
    stored = probe(sets["diffusers"].model).silence_tensor()
    vae = build_part(probe(sets["split"].vae), "vae", dtype=torch.float32)
    with torch.inference_mode():
        made = vae.encode_mean(torch.zeros(1, 2, 1920 * 32))
    assert stored.shape == (1, 64, 15_000)
    assert torch.allclose(stored[:, :, :20], made[:, :, :20], atol=1e-5)
    assert torch.equal(stored[:, :, 8], stored[:, :, -1])


@pytest.mark.parametrize("kind", ["split", "diffusers", "upstream", "aio"])
def test_tokenizers_fit_their_models(sets, kind):
    for part, last in (("text_encoder", "</think>"), ("lm", "<|audio_code_63999|>")):
        checkpoint = opened(sets[kind], part)
        source = checkpoint.tokenizer_source(part)
        tokenizer = Tokenizer.from_json(source) if isinstance(source, str) else Tokenizer.from_file(source)
        check_vocabulary(tokenizer, checkpoint.config(part).vocab_size)
        assert tokenizer.size == checkpoint.config(part).vocab_size
        assert tokenizer.token_id(last) == tokenizer.size - 1


def test_wrong_arguments_are_refused(tmp_path, write_tiny):
    with pytest.raises(ValueError, match="layout must be one of split, diffusers, upstream, aio, got 'onnx'"):
        write_tiny(tmp_path, layout="onnx")
    with pytest.raises(ValueError, match="family must be one of 2b, xl, got '7b'"):
        write_tiny(tmp_path, family="7b")
    assert list(tmp_path.iterdir()) == []


def test_layers_are_counted_as_written(sets):
    shapes = probe(sets["split"].model).shapes("decoder")
    assert count("layers.")(shapes) == 4
