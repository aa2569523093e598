"""Guidance, and the host's own machinery: Guider, Schedule, merge, save, LoRA, shift and compile in a real ComfyUI."""

from __future__ import annotations

import prompts as p
import pytest
import torch
from hostlib import MODEL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BASE = {"variant": "base", "precision": "fp32"}
OTHER, MIXED, LORA = "acestep_tiny_other_turbo.safetensors", "acestep_tiny_mixed_turbo.safetensors", "tiny.safetensors"
RATIO, SECOND = 0.25, "31"
SAMPLERS = pytest.mark.parametrize("sampler", [dict, p.ksampler], ids=["DiTSample", "KSampler"])


@pytest.fixture(scope="module")
def latents(host):
    """latents(prompt, name) are the latents that a prompt's sampler makes."""

    def run(prompt, name):
        done = host.run(p.latent_only(prompt, name), timeout=400)
        assert done.ok, done.message
        saved = done.outputs[p.SAVE]["latents"][0]
        return load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]

    return run


@pytest.fixture(scope="module")
def mixed(models, base, tiny_2b_split, write_tiny, tmp_path_factory):
    """A second model, the mix of both as a file of its own, and a LoRA, where the host looks for them."""
    other = write_tiny(tmp_path_factory.mktemp("other"), seed=1).model
    folder = models / "diffusion_models"
    (folder / OTHER).symlink_to(other)
    mine, theirs = load_file(tiny_2b_split.model), load_file(other)
    blend = {k: RATIO * v + (1 - RATIO) * theirs[k] if _of_decoder(k) else v for k, v in mine.items()}
    with safe_open(tiny_2b_split.model, framework="pt") as file:
        save_file(blend, folder / MIXED, dict(file.metadata()))
    (base / "models/loras").mkdir(parents=True, exist_ok=True)
    save_file(_lora(mine), base / "models/loras" / LORA)


def _of_decoder(key):
    return key.startswith("decoder.") or ".decoder." in key


def _lora(weights, rank=2, scale=0.3):
    """A LoRA for two projections, under the names that the host knows for any model."""
    generator, made = torch.Generator().manual_seed(7), {}
    for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"):
        rows, columns = next(v for k, v in weights.items() if k.endswith(f"decoder.{name}.weight")).shape
        stem = f"diffusion_model.decoder.{name}"
        made[f"{stem}.lora_A.weight"] = scale * torch.randn(rank, columns, generator=generator)
        made[f"{stem}.lora_B.weight"] = scale * torch.randn(rows, rank, generator=generator)
    return made


@pytest.mark.parametrize("scale", [1.0, 7.0])
@pytest.mark.parametrize("steps", [8, 9, 27, 50])
def test_guider_and_schedule_make_the_song_of_dit_sample(latents, relative_error, steps, scale):
    song = p.with_options(p.song(seed=3, loader=BASE), steps=steps, scale=scale)
    ours = latents(song, f"dit{steps}")
    theirs = latents(p.guided_custom(song), f"custom{steps}")
    assert float(ours.std()) > 0.05
    assert relative_error(theirs, ours) < 1e-5


OPTIONS = {
    "auto": {"steps": 9},
    "cfg": {"steps": 9, "guidance": "cfg", "scale": 3.0},
    "adg": {"steps": 9, "guidance": "adg", "scale": 4.0},
    "interval": {"steps": 10, "interval_start": 0.3, "interval_end": 0.7},
    "clamp, ema": {"steps": 9, "clamp": 1.5, "ema": 0.2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_guider_takes_every_option(latents, relative_error, options):
    song = p.with_options(p.song(seed=3, loader=BASE), **options)
    assert relative_error(latents(p.guided_custom(song), "custom"), latents(song, "dit")) < 1e-5


def test_guider_and_schedule_without_options_are_the_variants_defaults(host, latents, relative_error):
    song = p.song(seed=3, loader=BASE)
    custom = p.guided_custom(song)
    assert relative_error(latents(custom, "custom"), latents(song, "dit")) < 1e-5
    run = host.run(p.latent_only({**custom, p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, "bpm": 99})}, "said"))
    assert run.text("21").startswith("50 steps, shift 1, euler\n1.000, 0.980, ")
    assert run.text("23").startswith("guidance: apg, scale 7")


def test_plain_guidance_is_the_hosts_cfg(latents, relative_error):
    ours = latents(p.with_options(p.song(seed=3, loader=BASE), steps=8, guidance="cfg", scale=3.0), "ours")
    theirs = latents(p.ksampler(p.song(seed=3, loader=BASE), cfg=3.0), "theirs")
    assert relative_error(theirs, ours) < 1e-5


@pytest.mark.parametrize("options", [{"solver": "heun"}, {"solver": "sde"}, {"dcw": "double"}], ids=str)
def test_solvers_and_correction_run(host, latents, relative_error, options):
    song = p.with_options(p.song(seed=3, loader=BASE), steps=8, **options)
    made = latents(song, "solver")
    plain = latents(p.with_options(p.song(seed=3, loader=BASE), steps=8), "euler")
    assert made.isfinite().all() and relative_error(made, plain) > 1e-4
    assert torch.equal(latents({**song, p.LOAD: p.load(**BASE, vae="ace_1.5_vae.safetensors")}, "again"), made)


SAID = {
    "few steps": ({"variant": "base"}, {"steps": 8}, "8 steps are few; this variant is used to 50"),
    "unguided": ({"variant": "sft"}, {"scale": 1.0, "steps": 20}, "made without guidance; this variant is used to 7"),
    "guided turbo": ({}, {"scale": 7.0}, "guidance is not used: a turbo decoder has it built in"),
    "shift": ({"variant": "turbo-shift1"}, {"shift": 3.0}, "shift 3; this variant was made for 1"),
    "many steps": ({}, {"steps": 30}, "30 steps are more than the 20"),
    "what it did": ({"variant": "base"}, {"steps": 20}, "20 steps, shift 1, euler\nguidance: apg, scale 7"),
}


@pytest.mark.parametrize(("loader", "options", "text"), SAID.values(), ids=SAID)
def test_dit_sample_says_what_it_used_and_what_does_not_fit(host, loader, options, text):
    run = host.run(p.latent_only(p.with_options(p.song(seed=11, loader=loader), **options), "said"))
    assert run.ok, run.message
    assert text in run.text(p.SAMPLE)


def test_guider_says_what_only_dit_sample_does(host):
    song = p.with_options(p.song(seed=12), solver="heun", dcw="low")
    run = host.run(p.latent_only(p.guided_custom(song), "unused"))
    assert "not done here: solver heun and dcw" in run.text("23")


@SAMPLERS
def test_merged_models_are_the_merge_of_their_weights(latents, relative_error, mixed, sampler):
    merged = latents(_merged(sampler(p.song(seed=3, loader={"precision": "fp32"}))), "merged")
    written = latents(sampler(p.song(seed=3, loader={"model": MIXED, "precision": "fp32"})), "written")
    assert relative_error(merged, written) < 1e-5
    assert relative_error(merged, latents(sampler(p.song(seed=3)), "first")) > 1e-3


def _merged(prompt):
    """The same with ModelMergeSimple of its model and another between the loader and the sampler."""
    both = p.node("ModelMergeSimple", model1=[p.LOAD, 0], model2=[SECOND, 0], ratio=RATIO)
    return {**p.patched(prompt, "ModelMergeSimple"), p.PATCH: both, SECOND: p.load(model=OTHER, precision="fp32")}


def test_a_saved_merge_loads_again(host, latents, mixed, relative_error):
    merge = _merged(p.song(seed=3, loader={"precision": "fp32"}))
    made = latents(merge, "merge")
    keep = {key: merge[key] for key in (p.LOAD, SECOND, p.PATCH)}
    run = host.run({**keep, "50": p.node("ModelSave", model=[p.PATCH, 0], filename_prefix="diffusion_models/kept")})
    assert run.ok, run.message
    (file,) = (host.base / "output/diffusion_models").glob("kept_*.safetensors")
    with safe_open(file, framework="pt") as saved:
        assert all(key.startswith("model.diffusion_model.decoder.") for key in saved.keys())  # noqa: SIM118
    loader = {"model": file.name, "conditioner": MODEL, "variant": "turbo", "precision": "fp32"}
    # Not to the bit: a file's weights are mapped where they lie, and some kernels add up in another order there.
    assert relative_error(latents(p.song(seed=3, loader=loader), "again"), made) < 1e-6


PATCHES = {
    "shift": ("ModelSamplingAuraFlow", {"shift": 1.5}),
    "LoRA": ("LoraLoaderModelOnly", {"lora_name": LORA, "strength_model": 1.0}),
}


@pytest.mark.parametrize(("kind", "inputs"), PATCHES.values(), ids=PATCHES)
def test_patches_change_both_samplers_alike(latents, relative_error, mixed, kind, inputs):
    plain = latents(p.song(seed=3), "plain")
    ours = latents(p.patched(p.song(seed=3), kind, **inputs), "ours")
    theirs = latents(p.patched(p.ksampler(p.song(seed=3)), kind, **inputs), "theirs")
    custom = latents(p.patched(p.guided_custom(p.song(seed=3)), kind, **inputs), "custom")
    assert relative_error(ours, plain) > 1e-3
    assert relative_error(theirs, ours) < 1e-5 and relative_error(custom, ours) < 1e-5


@pytest.mark.slow
def test_compiled_models_make_the_same_song_in_both_samplers(latents, relative_error):
    """The first run takes as long as inductor does."""
    compiled = {"kind": "TorchCompileModel", "backend": "inductor"}
    ours = latents(p.patched(p.song(seed=3), **compiled), "ours")
    theirs = latents(p.patched(p.ksampler(p.song(seed=3)), **compiled), "theirs")
    assert relative_error(theirs, ours) < 1e-5
    assert relative_error(ours, latents(p.song(seed=3), "plain")) < 1e-4


def test_released_models_are_not_fetched_by_themselves(host):
    run = host.run(p.song(loader={"model": "acestep-v15-sft (download)"}))
    assert not run.ok
    for word in ("acestep-v15-sft is not here", "GB", "https://huggingface.co/", "Switch download on"):
        assert word in run.message
