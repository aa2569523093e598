"""Songs through a real host: exact lengths, equal samplers, previews, caching, cancel."""

from __future__ import annotations

import io
import math

import av
import prompts as p
import pytest
from hostlib import MODEL
from PIL import Image
from safetensors.torch import load_file

DIFFUSERS = {"model": "acestep_tiny_diffusers", "precision": "fp32"}


def audio_facts(path):
    """(samples per channel, sample rate, channels) of a FLAC, counted frame by frame."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        samples = sum(frame.samples for frame in file.decode(stream))
        return samples, stream.rate, stream.channels


def latents(host, prompt, name):
    """The latents that a prompt's sampler makes."""
    run = host.run(p.latent_only(prompt, name))
    assert run.ok, run.message
    saved = run.outputs[p.SAVE]["latents"][0]
    return load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]


@pytest.mark.parametrize(
    ("changes", "samples"),
    [({}, 480_000), ({"seconds": 10.2}, 489_600), ({"seconds": 10.1, "songs": 2}, 489_600), ({"songs": 8}, 480_000)],
    ids=["10 s", "10.2 s", "10.1 s rounds", "8 songs"],
)
def test_song_is_exactly_as_long_as_asked(host, changes, samples):
    run = host.run(p.song(**changes))
    assert run.ok, run.message
    files = host.files(run, p.SAVE)
    assert len(files) == changes.get("songs", 1)
    assert [audio_facts(file) for file in files] == [(samples, 48_000, 2)] * len(files)


@pytest.mark.slow
def test_ten_minutes(host):
    prompt = p.song(seconds=600.0)
    del prompt[p.LOUDNESS]
    prompt[p.SAVE]["inputs"]["audio"] = [p.DECODE, 0]
    run = host.run(prompt, timeout=400)
    assert run.ok, run.message
    assert audio_facts(host.files(run, p.SAVE)[0]) == (28_800_000, 48_000, 2)


def test_auto_length_is_sixty_seconds_and_said(host):
    prompt = p.latent_only(p.song(seconds=-1.0), "auto")
    run = host.run(prompt)
    assert run.ok, run.message
    assert "auto (60 s, 1500 frames" in run.text(p.PLAN)
    assert "of 60 s" in run.text(p.SAMPLE)


def test_rounded_length_is_said(host):
    run = host.run(p.latent_only(p.song(seconds=10.1), "rounded"))
    assert "length: 10.2 s (asked for 10.1 s" in run.text(p.PLAN)


def test_nodes_say_what_they_used(host):
    run = host.run(p.song(seed=41, loader={"precision": "fp32"}))
    assert run.ok, run.message
    loaded = run.text(p.LOAD)
    assert f"model: {MODEL}" in loaded
    assert "variant: turbo (from the file and its name): 8 steps, shift 3, guidance 1" in loaded
    assert "precision: fp32 on cpu" in loaded
    assert "8 steps, shift 3, euler" in run.text(p.SAMPLE) and "seed: 41" in run.text(p.SAMPLE)
    assert "-> -14.0 LUFS" in run.text(p.LOUDNESS)


def test_both_layouts_make_the_same_song(host, relative_error):
    split = latents(host, p.song(loader={"precision": "fp32"}), "split")
    folder = latents(host, p.song(loader=DIFFUSERS), "folder")
    assert relative_error(folder, split) < 1e-5


def test_bf16_is_close_to_fp32(host, relative_error):
    run = host.run(p.song(loader={"precision": "bf16"}))
    assert run.ok, run.message
    assert "precision: bf16 on cpu, VAE bf16" in run.text(p.LOAD)
    exact = latents(host, p.song(loader={"precision": "fp32"}), "exact")
    coarse = latents(host, p.song(loader={"precision": "bf16"}), "coarse")
    assert 1e-5 < relative_error(coarse, exact) < 0.1


def test_ksampler_equals_dit_sample(host, relative_error):
    ours = latents(host, p.song(seed=3, seconds=10.2), "ours")
    theirs = latents(host, p.ksampler(p.song(seed=3, seconds=10.2)), "theirs")
    assert ours.shape == theirs.shape == (1, 64, 255)
    assert float(ours.std()) > 0.05
    assert relative_error(theirs, ours) < 1e-5


def test_sampler_custom_advanced_equals_dit_sample(host, relative_error):
    ours = latents(host, p.song(seed=3), "ours")
    theirs = latents(host, p.sampler_custom(p.song(seed=3)), "theirs")
    assert relative_error(theirs, ours) < 1e-5


def test_latents_of_the_hosts_sampler_decode_to_the_exact_length(host):
    run = host.run(p.ksampler(p.song(seconds=10.2)))
    assert run.ok, run.message
    assert audio_facts(host.files(run, p.SAVE)[0]) == (489_600, 48_000, 2)


def test_shift_node_changes_both_samplers_alike(host, relative_error):
    plain = latents(host, p.song(seed=3), "plain")
    ours = latents(host, p.shifted(p.song(seed=3), 1.5), "ours")
    theirs = latents(host, p.shifted(p.ksampler(p.song(seed=3)), 1.5), "theirs")
    assert relative_error(theirs, ours) < 1e-5
    assert relative_error(ours, plain) > 1e-3


FLUX = {"max_shift": math.log(1.5), "base_shift": math.log(1.5), "width": 1024, "height": 1024}
SHIFT_NODES = {"SD3": ("ModelSamplingSD3", {"shift": 1.5}), "Flux": ("ModelSamplingFlux", FLUX)}


@pytest.mark.parametrize("sampler", [dict, p.ksampler], ids=["DiTSample", "KSampler"])
@pytest.mark.parametrize(("kind", "inputs"), SHIFT_NODES.values(), ids=SHIFT_NODES)
def test_shift_nodes_agree(host, relative_error, kind, inputs, sampler):
    """SD3's hands out times up to 1000, and Flux's keeps the logarithm of the shift."""
    aura = latents(host, p.shifted(sampler(p.song(seed=3)), 1.5), "aura")
    other = latents(host, p.patched(sampler(p.song(seed=3)), kind, **inputs), "other")
    assert relative_error(other, aura) < 1e-5


def test_options_override_the_variant(host, relative_error):
    by_node = latents(host, p.shifted(p.song(seed=3), 1.5), "node")
    by_option = latents(host, p.with_options(p.song(seed=3), shift=1.5), "option")
    assert relative_error(by_option, by_node) < 1e-6
    run = host.run(p.latent_only(p.with_options(p.song(), steps=3, times=""), "three"))
    assert run.text(p.SAMPLE).startswith("3 steps, shift 3, euler")
    assert p.OPTIONS in run.outputs and "steps: 3" in run.text(p.OPTIONS)


def test_null_negative_guides_and_zeroed_conditioning_equals_it(host, relative_error):
    guided = p.ksampler(p.song(seed=3), cfg=3.0)
    negative = latents(host, guided, "negative")
    zeroed = {**guided, "40": p.node("ConditioningZeroOut", conditioning=[p.ENCODE, 0])}
    zeroed[p.SAMPLE] = p.node("KSampler", **{**guided[p.SAMPLE]["inputs"], "negative": ["40", 0]})
    assert relative_error(latents(host, zeroed, "zeroed"), negative) < 1e-6
    assert relative_error(negative, latents(host, p.ksampler(p.song(seed=3)), "plain")) > 1e-3


def test_a_song_of_a_batch_is_the_song_made_alone(host, relative_error):
    batch = latents(host, p.song(seed=3, songs=3), "batch")
    alone = latents(host, p.song(seed=5), "alone")
    assert relative_error(batch[2:], alone) < 1e-5
    assert relative_error(batch[1:2], batch[:1]) > 0.1


@pytest.mark.parametrize("sampler", [dict, p.ksampler], ids=["DiTSample", "KSampler"])
def test_previews_and_progress_arrive(host, sampler):
    run = host.run(p.latent_only(sampler(p.song(seed=100)), "preview"))
    pictures = [event for event in run.events if event["type"] == "binary"]
    steps = [event for event in run.of("progress") if event["node"] == p.SAMPLE]
    assert len(pictures) == 8
    body = pictures[-1]["body"]
    picture = Image.open(io.BytesIO(body[body.index(b"\xff\xd8") :]))
    assert picture.size == (512, 262)  # 250 frames to the right, 64 channels down in twos, enlarged by the host
    assert len(set(picture.convert("L").resize((32, 16)).tobytes())) > 20  # a picture, not one colour
    assert (steps[0]["max"], steps[-1]["value"]) == (8, 8)


def test_decoder_reports_progress(host):
    run = host.run(p.song(seed=101, seconds=60.0), timeout=300)
    tiles = [event for event in run.of("progress") if event["node"] == p.DECODE]
    assert tiles[-1]["value"] == tiles[-1]["max"] > 1


def test_cache_keeps_what_did_not_change(host):
    assert host.run(p.song(seed=200)).ok
    run = host.run(p.song(seed=201))
    assert run.ok and run.cached == {p.LOAD, p.PLAN}
    assert host.run(p.song(seed=201)).cached >= {p.LOAD, p.PLAN, p.SAMPLE, p.DECODE, p.LOUDNESS}


def test_cancel_ends_within_one_step(host, good_song):
    """The button is pressed when the host reports the third step, so that the fourth is under way."""
    reports = []

    def press(running, event):
        if event["type"] == "progress" and event["data"]["node"] == p.SAMPLE:
            reports.append((event["data"]["value"], event["at"]))
            if len(reports) == 3:
                running.post("/interrupt", {})

    prompt = p.latent_only(p.with_options(p.song(seed=300, seconds=600.0), steps=100), "cancelled")
    run = host.run(prompt, timeout=300, on_event=press)
    assert run.status == 200 and not run.ok
    assert run.events[-1]["type"] == "execution_interrupted"
    pressed, at = reports[2]
    step = at - reports[1][1]
    assert reports[-1][0] <= pressed + 1
    assert run.events[-1]["at"] - at < 2 * step + 0.5, f"a step takes {step:.2f} s"
    assert good_song().ok
