"""Bad input: each gets an error that names what, what was expected and what to do, and the host goes on."""

from __future__ import annotations

import math
from contextlib import contextmanager

import prompts as p
import pytest
from badfiles import write_bad_files
from hostlib import MODEL, RELEASED


@pytest.fixture(scope="module", autouse=True)
def bad_files(base, tiny_2b_split):
    """Wrong files in the host's own models folder, until this module is done."""
    write_bad_files(base / "models", tiny_2b_split)
    yield
    for file in (base / "models").rglob("bad_*.safetensors"):
        file.unlink()


@pytest.fixture(scope="module", autouse=True)
def healthy_in_the_end(host):
    """After all of it a good song runs, and the host has not printed an unknown failure."""
    yield
    run = host.run(p.song(seed=987))
    assert run.ok, run.message


def check_refused(host, prompt, *words, kind=None):
    """The prompt fails, and its message has every one of `words`."""
    run = host.run(prompt)
    assert not run.ok
    for word in words:
        assert word.lower() in run.message.lower(), f"{word!r} is not in: {run.message}"
    assert len(run.message) < 6000
    if run.status == 200:
        error = run.of("execution_error")[0]
        assert kind is None or error["exception_type"].endswith(kind), error["exception_type"]
    return run


def loaded(**choice):
    """A short song from another choice of files; only one seed, so what is good comes from the cache."""
    return p.song(loader=choice)


BAD_FILES = {
    "truncated": ({"model": "bad_turbo_truncated.safetensors"}, ("bad_turbo_truncated", "bytes", "again")),
    "other model": ({"model": "bad_other_model.safetensors"}, ("bad_other_model", "Stable Diffusion")),
    "model is gone": ({"model": "gone.safetensors"}, ("gone.safetensors", "diffusion_models", "Comfy-Org")),
    "variant unknown": ({"model": "bad_nameless.safetensors"}, ("bad_nameless", "choose the variant", "turbo")),
    "variant wrong": ({"variant": "warp"}, ("variant", "warp", "turbo")),
    "not fetched": ({"model": "acestep-v15-xl-base (download)"}, ("xl-base", "GB", "switch download on")),
    "conditioner is gone": ({"conditioner": "gone.safetensors"}, ("conditioner", "gone.safetensors")),
    "precision wrong": ({"precision": "fp16"}, ("precision", "fp16", "bf16", "fp32")),
    "image VAE": ({"vae": "bad_image_vae.safetensors"}, ("bad_image_vae", "image", "ace_1.5_vae")),
    "44.1 kHz VAE": ({"vae": "bad_44100_vae.safetensors"}, ("bad_44100_vae", "44.1 kHz")),
    "text encoder too wide": ({"text_encoder": "bad_wide_text.safetensors"}, ("48", "32", "qwen_0.6b_ace15")),
    "T5": ({"text_encoder": "bad_t5.safetensors"}, ("bad_t5", "T5", "Qwen3")),
    "VAE is gone": ({"vae": "gone.safetensors"}, ("gone.safetensors", "Comfy-Org")),
}


@pytest.mark.parametrize(("choice", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_named(host, choice, words):
    check_refused(host, loaded(**choice), *words)


def test_variant_can_be_chosen_where_it_is_unknown(host):
    run = host.run(loaded(model="bad_nameless.safetensors", variant="turbo-shift1"))
    assert run.ok, run.message
    assert "variant: turbo-shift1 (chosen): 8 steps, shift 1" in run.text(p.LOAD)
    assert run.text(p.SAMPLE).startswith("8 steps, shift 1,")


@contextmanager
def without(*files):
    """These files out of the host's sight."""
    try:
        for file in files:
            file.rename(file.with_suffix(".off"))
        yield
    finally:
        for file in files:
            file.with_suffix(".off").rename(file)


def test_missing_text_encoder_says_what_to_fetch_and_where_to_put_it(host, base, models):
    folders = [base / "models/text_encoders", models / "text_encoders"]
    with without(folders[0] / "bad_nan_text.safetensors", folders[1] / RELEASED["text_encoder"][1]):
        words = (*map(str, folders), "text_encoder", "qwen_0.6b_ace15.safetensors", "ace_step_1.5_ComfyUI_files")
        check_refused(host, loaded(precision="fp32", variant="turbo-shift3"), *words)


def test_several_text_encoders_are_a_question(host, base, models, tiny_2b_split):
    other = base / "models/text_encoders/another.safetensors"
    other.symlink_to(tiny_2b_split.text_encoder)
    try:
        with without(models / "text_encoders" / RELEASED["text_encoder"][1]):
            words = ("text_encoder", "several", "another.safetensors", "bad_nan_text.safetensors", "by hand")
            check_refused(host, loaded(precision="fp32", variant="turbo-continuous"), *words)
    finally:
        other.unlink()


VALUES = {
    "seconds 0": ({"seconds": 0.0}, ("seconds", "10 to 600", "got 0")),
    "seconds 9": ({"seconds": 9.0}, ("seconds", "10 to 600", "got 9", "-1 means auto")),
    "seconds 601": ({"seconds": 601.0}, ("seconds", "10 to 600", "got 601")),
    "seconds NaN": ({"seconds": math.nan}, ("seconds", "10 to 600", "got nan")),
    "bpm 20": ({"bpm": 20}, ("bpm", "30 to 300", "got 20", "-1 means auto")),
    "bpm 400": ({"bpm": 400}, ("bpm", "30 to 300", "got 400")),
    "key": ({"key": "H major"}, ("key", "A to G", "H major")),
    "time signature": ({"time_signature": "5/4"}, ("time_signature", "3/4", "5/4")),
    "language": ({"language": "klingon"}, ("language", "klingon")),
    "9 songs": ({"songs": 9}, ("songs", "9", "8")),
    "lyrics": ({"lyrics": "la " * 33_334}, ("lyrics", "16384", "100002", "shorten")),
    "lyrics of many tokens": ({"lyrics": "äöü€ " * 3_000}, ("lyric", "2048", "shorten")),
    "caption": ({"caption": "la " * 20_000}, ("caption", "4096", "60000", "shorten")),
    "nothing said": ({"caption": " ", "lyrics": ""}, ("caption and lyrics are both empty",)),
}


@pytest.mark.parametrize(("changes", "words"), VALUES.values(), ids=VALUES)
def test_bad_value_is_named(host, changes, words):
    check_refused(host, p.song(**changes), *words)


OPTIONS = {
    "steps 0": ({"steps": 0}, ("steps", "1 to 200", "got 0")),
    "shift 0": ({"shift": 0.0}, ("shift", "above 0", "got 0")),
    "times": ({"times": "0.9, high"}, ("times", "numbers", "high")),
    "times rise": ({"times": "0.3, 0.9"}, ("times", "smaller", "0.9")),
    "solver": ({"solver": "warp"}, ("solver", "euler", "warp")),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS)
def test_bad_sampling_option_is_named(host, options, words):
    check_refused(host, p.with_options(p.song(), **options), *words)


STAGES = {
    "decoder": ({"model": "bad_turbo_nan.safetensors"}, "decoder (DiT), step 1 of 8"),
    "condition encoder": ({"model": "bad_turbo_condition_nan.safetensors"}, "condition encoder"),
    "text encoder": ({"text_encoder": "bad_nan_text.safetensors"}, "text encoder"),
    "VAE": ({"vae": "bad_nan_vae.safetensors"}, "VAE decode"),
}


@pytest.mark.parametrize(("choice", "stage"), STAGES.values(), ids=STAGES)
def test_weights_with_nan_name_the_stage(host, choice, stage):
    check_refused(host, loaded(**choice), stage, "not finite", "fp32", kind="ACEStepError")


OTHER_MODELS = "rectified flow", "ModelSamplingAuraFlow", "SamplingOptions"
EDM = {"sigma_max": 120.0, "sigma_min": 0.002}
SAMPLINGS = {
    "eps": ("Discrete", {"sampling": "eps", "zsnr": False}, ("ModelSamplingDiscrete with EPS", *OTHER_MODELS)),
    "v": ("Discrete", {"sampling": "v_prediction", "zsnr": False}, ("with V_PREDICTION", *OTHER_MODELS)),
    "edm": ("ContinuousEDM", {"sampling": "edm", **EDM}, ("ModelSamplingContinuousEDM with EDM", *OTHER_MODELS)),
    "cascade": ("StableCascade", {"shift": 2.0}, ("StableCascadeSampling with EPS", *OTHER_MODELS)),
    "shift 0": ("AuraFlow", {"shift": 0.0}, ("ModelSampling", "shift 0", "like 3")),
}


@pytest.mark.parametrize("sampler", [dict, p.ksampler], ids=["DiTSample", "KSampler"])
@pytest.mark.parametrize(("node", "inputs", "words"), SAMPLINGS.values(), ids=SAMPLINGS)
def test_sampling_of_another_kind_of_model_is_refused(host, node, inputs, words, sampler):
    prompt = p.patched(sampler(p.song()), f"ModelSampling{node}", **inputs)
    check_refused(host, prompt, *words, kind="ValueError")


LEVELS = {
    "target NaN": ({"target": math.nan}, ("target_lufs", "-50 to 0 LUFS", "got nan")),
    "ceiling inf": ({"ceiling": math.inf}, ("ceiling", "bigger than max")),
    "fade": ({"fade_out": -5.0}, ("fade_out", "smaller than min")),
}


@pytest.mark.parametrize(("settings", "words"), LEVELS.values(), ids=LEVELS)
def test_bad_level_is_named(host, settings, words):
    prompt = p.song()
    prompt[p.LOUDNESS]["inputs"].update(settings)
    check_refused(host, prompt, *words)


def test_a_saved_decoder_lists_the_models_that_have_the_rest(host, base):
    saved = {**p.latent_only(p.song(), "x"), "60": p.node("ModelSave", model=[p.LOAD, 0], filename_prefix="bad_saved")}
    assert host.run(saved, targets=["60"]).ok
    (file,) = (base / "output").glob("bad_saved*.safetensors")
    file.rename(base / "models/diffusion_models/bad_saved.safetensors")
    words = ("bad_saved.safetensors", "decoder and nothing else", "Several models fit", MODEL, "choose")
    check_refused(host, loaded(model="bad_saved.safetensors", variant="turbo"), *words)
    run = host.run(loaded(model="bad_saved.safetensors", variant="turbo", conditioner=MODEL))
    assert run.ok, run.message
    assert f"conditioner: {MODEL}" in run.text(p.LOAD)


def test_latent_of_another_length_is_refused(host):
    prompt = p.ksampler(p.song())
    prompt["50"] = p.node("EmptyLatentAudio", seconds=20.0, batch_size=1)
    prompt[p.SAMPLE]["inputs"]["latent_image"] = ["50", 0]
    check_refused(host, prompt, "430 frames", "250", "10 s", "EncodeSong", kind="ValueError")


def test_picture_latents_are_refused(host):
    prompt = p.song()
    prompt["50"] = p.node("EmptyLatentImage", width=64, height=64, batch_size=1)
    prompt[p.DECODE]["inputs"]["latent"] = ["50", 0]
    check_refused(host, prompt, "[songs, 64, frames]", "[1, 4, 8, 8]", "DiTSample", kind="ValueError")
