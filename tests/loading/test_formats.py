"""What `probe` says of files that are not quite ours: each message names the file, the finding and the way out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from acestep_models.loading.formats import probe, recognise

ONE = (4, 4)


def ask(fake_files, keys, **options):
    table = keys if isinstance(keys, dict) else dict.fromkeys(keys, ONE)
    return recognise(Path("some.safetensors"), fake_files(table, path="some.safetensors", **options))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["base_model.model.layers.0.self_attn.q_proj.lora_A.weight"], r"a LoRA for ACE-Step 1\.5.*models/loras"),
        (["diffusion_model.decoder.layers.0.cross_attn.o_proj.lora_up.weight"], r"a LoRA for ACE-Step 1\.5"),
        (["lycoris_layers_0_self_attn_q_proj.lokr_w1"], r"a LoRA for ACE-Step 1\.5"),
        (["transformer.layers.0.self_attn.to_q.lora_A.weight"], r"a LoRA for ACE-Step 1\.5"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA of another model"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA of another model"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a Stable Diffusion UNet or checkpoint"),
        (["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "Stable Diffusion UNet in diffusers"),
        (["double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["transformer_blocks.0.attn.to_q.weight", "speaker_embedder.weight"], r"ACE-Step 1\.0"),
        (["dcae.decoder.conv_in.weight", "vocoder.head.conv_pre.weight"], r"sound decoder of ACE-Step 1\.0"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "VAE of an image or video model"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "a T5 text encoder"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a CLIP text encoder"),
        (["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"], "language model that is not Qwen3"),
        (["pretransform.model.decoder.layers.0.weight_v"], "Stable Audio checkpoint"),
        (["foo.weight", "bar.weight"], r"not a file of ACE-Step 1\.5\. It begins with bar\.weight, foo\.weight"),
    ],
)
def test_other_models_are_named(fake_files, keys, message):
    with pytest.raises(ValueError, match=rf"some\.safetensors: .*{message}"):
        ask(fake_files, keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.diffusion_model.extra": ONE}, r"1 tensors do not belong to ACE-Step 1\.5 \(upstream"),
        ({"first_stage_model.decoder.weight": ONE}, "belong to no part of an all-in-one.*first_stage_model"),
        ({"text_encoders.umt5base.shared.weight": ONE}, "belong to no part of an all-in-one.*umt5base"),
        ({"vae.foo": ONE}, r"1 tensors do not belong to VAE with ComfyUI names"),
        ({"text_encoders.qwen3_4b.transformer.foo.weight": ONE}, r"not a file.* under text_encoders\.qwen3_4b\."),
    ],
)
def test_strangers_in_an_all_in_one_checkpoint(fake_files, committed, change, message):
    with pytest.raises(ValueError, match=rf"some\.safetensors: .*{message}"):
        ask(fake_files, committed("aio_2b") | change)


def test_planner_in_the_place_of_the_text_encoder(fake_files, committed):
    place = "text_encoders.qwen3_06b.transformer."
    table = {key: shape for key, shape in committed("aio_2b").items() if not key.startswith(place)}
    table |= {place + key: shape for key, shape in committed("lm_06b").items()}
    with pytest.raises(ValueError, match=rf"under {place} it holds lm, expected text_encoder, each once"):
        ask(fake_files, table)


def test_two_planners_in_one_file(fake_files, committed):
    more = {f"text_encoders.qwen3_4b.transformer.{key}": shape for key, shape in committed("lm_4b").items()}
    with pytest.raises(ValueError, match=r"under text_encoders\.qwen3_4b\.transformer\. it holds lm.*each once"):
        ask(fake_files, committed("aio_2b") | more)


def test_a_checkpoint_with_a_lora_in_it_is_named(fake_files, committed):
    table = committed("split_2b") | {"decoder.layers.0.self_attn.q_proj.lora_A.weight": (8, 2048)}
    with pytest.raises(ValueError, match=r"this is a LoRA for ACE-Step 1\.5.*beside the keys of ACE-Step 1\.5"):
        ask(fake_files, table)


def test_a_decoder_of_another_size_is_not_completed(fake_files, committed):
    alone = {f"model.diffusion_model.{k}": s for k, s in committed("split_xl").items() if k.startswith("decoder.")}
    saved, whole = ask(fake_files, alone), ask(fake_files, committed("split_2b"))
    match = "decoder of width 2560 with 32 layers, reading width 2048, but .* width 2048 with 24 layers, reading"
    with pytest.raises(ValueError, match=match):
        saved.completed(whole)


def test_a_completed_decoder_keeps_its_own_words_and_no_variant_of_the_other(fake_files, committed):
    alone = {f"model.diffusion_model.{k}": s for k, s in committed("split_2b").items() if k.startswith("decoder.")}
    given = {"sliding_window": 64, "rms_norm_eps": 1e-5, "is_turbo": True, "model_version": "turbo"}
    whole = ask(fake_files, committed("split_2b"), given=given)
    config = ask(fake_files, alone, given={"rms_norm_eps": 1e-4}).completed(whole).config("decoder")
    assert (config.sliding_window, config.rms_norm_eps) == (64, 1e-4)
    assert config.is_turbo is None and config.model_version is None


def test_unknown_keys_are_listed_with_the_closest_known(fake_files, committed):
    table = committed("split_2b") | {"decoder.layers.0.self_attn.q_proj.bias": (2048,), "decoder.extra": (1,)}
    match = r"2 tensors do not belong.*decoder\.extra, decoder\.layers\.0\.self_attn\.q_proj\.bias \(closest known: dec"
    with pytest.raises(ValueError, match=match):
        ask(fake_files, table)


@pytest.mark.parametrize("dtype", ["F8_E5M2", "U8"])
def test_quantised_files_are_refused_with_the_dtypes_that_are_read(fake_files, committed, dtype):
    with pytest.raises(ValueError, match=rf"not read: {dtype} \(.*quantised file.*BF16, F16, F32"):
        ask(fake_files, committed("split_2b"), dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {
                "encoder.layers.4.layers.4.weight_v": (1024, 512, 16),
                "encoder.layers.5.layers.4.weight_v": (2048, 1024, 16),
            },
            r"44\.1 kHz VAE of Stable Audio: 2048 samples a frame",
        ),
        ({"decoder.layers.0.weight_v": (2048, 32, 7)}, "VAE of another family: 1920 samples a frame, 32 latent"),
        ({"encoder.layers.0.weight_v": (128, 1, 7)}, "64 latent channels, 1 audio channels"),
    ],
)
def test_oobleck_of_another_family(fake_files, committed, change, message):
    with pytest.raises(ValueError, match=rf"some\.safetensors: this looks like .*{message}.*ace_1\.5_vae"):
        ask(fake_files, committed("vae_comfyui") | change)


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [
        (151936, 2048, "width 2048 with 151936 tokens.*plain Qwen3"),
        (151936, 1024, "width 1024 with 151936 tokens.*plain Qwen3"),
        (151669, 2560, "width 2560 with 151669 tokens"),
    ],
)
def test_qwen3_that_is_neither_encoder_nor_planner(fake_files, committed, rows, width, message):
    table = committed("text_encoder") | {"model.embed_tokens.weight": (rows, width)}
    with pytest.raises(ValueError, match=rf"{message}.*Qwen3-Embedding-0\.6B.*acestep-5Hz-lm"):
        ask(fake_files, table)


def test_the_parts_tell_a_planner_from_a_text_encoder(fake_files, committed):
    assert ask(fake_files, committed("lm_06b")).parts == {"lm"}
    encoder = ask(fake_files, committed("text_encoder"))
    assert encoder.parts == {"text_encoder"}
    with pytest.raises(ValueError, match=r"some\.safetensors: has no lm, only text_encoder"):
        encoder.config("lm")


def test_ignored_keys_do_not_disturb(fake_files, committed):
    table = committed("lm_06b") | {
        "lm_head.weight": (217204, 1024),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (64,),
    }
    assert ask(fake_files, table).parts == {"lm"}


def test_encoders_without_a_decoder_are_refused(fake_files, committed):
    with pytest.raises(ValueError, match="holds condition without a decoder, so nothing tells 2B from XL"):
        ask(fake_files, committed("diffusers_2b_condition_encoder"))


def test_a_lone_decoder_is_a_checkpoint(fake_files, committed):
    checkpoint = ask(fake_files, committed("diffusers_xl_transformer"))
    assert checkpoint.parts == {"decoder"} and checkpoint.config("decoder").timbre_special_token


def test_config_that_contradicts_the_weights(fake_files, committed):
    with pytest.raises(ValueError, match="config says hidden_size = 2560, its weights say 2048: the files of two"):
        ask(fake_files, committed("split_2b"), given={"hidden_size": 2560})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fsq_input_levels": [8, 5, 5, 5]}, "quantizer has 6 dimensions, but there are 4"),
        ({"layer_types": ["full_attention"] * 24}, "sliding and full attention by turns"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "'yarn', only 'default'"),
    ],
)
def test_config_that_this_code_does_not_do(fake_files, committed, given, message):
    with pytest.raises(ValueError, match=message):
        ask(fake_files, committed("split_2b"), given=given)


def test_what_shapes_do_not_show_comes_from_the_config(fake_files, committed):
    given = {"sliding_window": 64, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "unknown": 1}
    checkpoint = ask(fake_files, committed("split_2b"), given={**given, "model_version": "sft", "is_turbo": False})
    config = checkpoint.config("decoder")
    assert (config.sliding_window, config.rope_theta, config.model_version) == (64, 5e5, "sft")
    assert config.is_turbo is False and checkpoint.given["unknown"] == 1


def test_config_json_counts_beside_standard_names_only(write_file, tmp_path):
    table = {"proj_in_conv.weight": (64, 192, 2)}
    (tmp_path / "config.json").write_text(json.dumps({"model_version": "base"}))
    for name, given in (("diffusion_pytorch_model.safetensors", {"model_version": "base"}), ("mine.safetensors", {})):
        assert probe(write_file(table, name)).given == given


def test_folders_without_a_model(tmp_path, write_file):
    with pytest.raises(ValueError, match=r"no \.safetensors file in this folder"):
        probe(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        write_file({"x": (1,)}, name)
    with pytest.raises(ValueError, match=r"holds 2 models \(a\.safetensors, b\.safetensors\)"):
        probe(tmp_path)


def test_silence_beside_an_upstream_file(write_file, tmp_path):
    path = write_file({"decoder.proj_in.1.weight": (64, 192, 2)}, "model.safetensors")
    assert probe(path).silence_tensor() is None
    stored = torch.randn(1, 64, 30)
    torch.save(stored, tmp_path / "silence_latent.pt")
    assert torch.equal(probe(path).silence_tensor(), stored)
    torch.save(torch.zeros(1, 30, 64), tmp_path / "silence_latent.pt")
    with pytest.raises(ValueError, match=r"silence_latent\.pt: .*shape \[1, 30, 64\], expected \[1, 64, frames\]"):
        probe(path).silence_tensor()


class Bomb:
    """A pickle of this makes a file when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_the_pickle_of_silence_is_never_run(write_file, tmp_path, how):
    path = write_file({"decoder.proj_in.1.weight": (64, 192, 2)}, "model.safetensors")
    mark, pickled = tmp_path / "it_ran", tmp_path / "silence_latent.pt"
    if how == "torch":
        torch.save(Bomb(str(mark)), pickled)
    else:
        pickled.write_bytes(pickle.dumps(Bomb(str(mark))))
    with pytest.raises(ValueError, match=r"silence_latent\.pt: this pickle .*can run code and are not read.*delete it"):
        probe(path).silence_tensor()
    assert not mark.exists()
    torch.load(pickled, weights_only=False) if how == "torch" else pickle.loads(pickled.read_bytes())
    assert mark.exists()  # the bomb was live


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"<html>404</html>"])
def test_a_damaged_pickle_of_silence_is_an_error(write_file, tmp_path, content):
    path = write_file({"decoder.proj_in.1.weight": (64, 192, 2)}, "model.safetensors")
    (tmp_path / "silence_latent.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"silence_latent\.pt: this pickle is damaged"):
        probe(path).silence_tensor()


def test_a_pickle_of_something_else_is_an_error(write_file, tmp_path):
    path = write_file({"decoder.proj_in.1.weight": (64, 192, 2)}, "model.safetensors")
    torch.save({"silence": torch.zeros(1, 64, 3)}, tmp_path / "silence_latent.pt")
    with pytest.raises(ValueError, match="holds dict, not the latents of silence"):
        probe(path).silence_tensor()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.safetensors", "b.safetensors"], r"1 of 2 parts are missing \(b\.safetensors\): fetch them"),
        (["a.safetensors", "../outside.safetensors"], r"names a file outside of its folder \('\.\./outside"),
        ([], "the index names no files"),
    ],
)
def test_an_index_that_names_what_is_not_there(write_file, tmp_path, names, message):
    write_file({"decoder.proj_in.1.weight": (64, 192, 2)}, "a.safetensors")
    index = {"weight_map": {str(number): name for number, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        probe(tmp_path)
