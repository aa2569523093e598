"""SpanMask, the samplers that honour it, and Morph, in a real host."""

from __future__ import annotations

import prompts as p
import pytest
import torch
from safetensors.torch import load_file
from sounds import SOUND

SONG, MASK, SOUND_NODE, HEARD, OLD, KEPT = "50", "51", "40", "41", "42", "43"
FRAMES, SPANS = 250, "2-4, 7-8.2"
OPEN = torch.zeros(FRAMES, dtype=torch.bool)
OPEN[50:100] = OPEN[175:205] = True


def mask(**values):
    """SpanMask of the first song."""
    auto = {"feather": 0.0, "bpm": -1.0, "time_signature": "auto"}
    return p.node("ACEStepSpanMask", **{"latent": [SONG, 0], "spans": SPANS, "unit": "seconds", **auto, **values})


def masked(prompt, **values):
    """The prompt's sampler makes a part of a song of seed 1 anew."""
    first = p.song(seed=1)[p.SAMPLE]
    sample = dict(prompt[p.SAMPLE]["inputs"])
    sample["latent" if prompt[p.SAMPLE]["class_type"].startswith("ACEStep") else "latent_image"] = [MASK, 0]
    kind = prompt[p.SAMPLE]["class_type"]
    return {**prompt, SONG: first, MASK: mask(**values), p.SAMPLE: p.node(kind, **sample)}


def sampled(host, prompt, sample=p.SAMPLE):
    """(latents that a node made, the run)."""
    save = p.node("SaveLatent", samples=[sample, 0], filename_prefix="latents/masked")
    kept = {key: value for key, value in prompt.items() if key not in (p.DECODE, p.LOUDNESS, p.SAVE)}
    run = host.run({**kept, p.SAVE: save})
    assert run.ok, run.message
    saved = run.outputs[p.SAVE]["latents"][0]
    return load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"], run


@pytest.fixture(scope="module")
def first(host):
    """The song of which a part is made anew."""
    return sampled(host, p.song(seed=1, loader={"precision": "fp32"}))[0]


@pytest.fixture(scope="module")
def anew(host):
    """anew(sampler, ...) are the latents of a prompt of seed 3 with the mask."""

    def run(sampler=dict, **values):
        return sampled(host, masked(sampler(p.song(seed=3, loader={"precision": "fp32"})), **values))[0]

    return run


def test_dit_sample_and_the_hosts_samplers_honour_one_mask(first, anew, relative_error):
    ours, theirs, custom = anew(), anew(p.ksampler), anew(p.sampler_custom)
    assert torch.equal(ours[..., ~OPEN], first[..., ~OPEN])
    for other in (theirs, custom):
        assert torch.equal(other[..., ~OPEN], first[..., ~OPEN])
        assert relative_error(ours, other) < 1e-5
    assert relative_error(ours[..., OPEN], first[..., OPEN]) > 0.1


def test_a_feather_is_the_same_in_both(first, anew, relative_error):
    ours, theirs = (anew(sampler, feather=0.2) for sampler in (dict, p.ksampler))
    assert relative_error(ours, theirs) < 1e-5
    outside = ~OPEN
    outside[45:105] = outside[170:210] = False
    assert torch.equal(ours[..., outside], first[..., outside])
    assert not torch.equal(ours[..., 45:50], first[..., 45:50])


def test_bars_of_the_song_as_it_was_made(host, first):
    """120 bpm, 4/4: bar 2 is the seconds from 2 to 4; the latent knows it, although no blueprint is connected."""
    prompt = masked(p.song(seed=3, loader={"precision": "fp32"}, bpm=120, time_signature="4/4"), spans="2", unit="bars")
    latents, run = sampled(host, prompt)
    assert "made anew: 2 to 4 s" in run.text(MASK)
    assert "mask: 2 of 10 s made anew" in run.text(p.SAMPLE)
    made, _ = sampled(host, prompt, SONG)
    assert torch.equal(latents[..., :50], made[..., :50]) and torch.equal(latents[..., 100:], made[..., 100:])
    assert not torch.equal(latents[..., 50:100], made[..., 50:100])


def test_a_blueprint_without_a_length_takes_that_of_the_latent(host):
    prompt = masked(p.song(seed=3, loader={"precision": "fp32"}))
    prompt["52"] = p.node("ACEStepBlueprint", **{**p.SHORT, "seconds": -1.0, "songs": 2})
    prompt[p.SAMPLE]["inputs"]["blueprint"] = ["52", 0]
    latents, _ = sampled(host, prompt)
    assert latents.shape == (2, 64, FRAMES)
    assert torch.equal(latents[0][..., ~OPEN], latents[1][..., ~OPEN])
    assert not torch.equal(latents[0][..., OPEN], latents[1][..., OPEN])


def with_length(seconds):
    prompt = masked(p.song(seed=3))
    prompt["52"] = p.node("ACEStepBlueprint", **{**p.SHORT, "seconds": seconds})
    prompt[p.SAMPLE]["inputs"]["blueprint"] = ["52", 0]
    return prompt


def without_mask():
    prompt = masked(p.song(seed=3))
    prompt[p.SAMPLE]["inputs"]["latent"] = [SONG, 0]
    return prompt


BAD = {
    "no mask": (without_mask, ("no mask", "put SpanMask between")),
    "another length": (lambda: with_length(20.0), ("250 frames (10 s)", "500 (20 s)")),
    "past the end": (lambda: masked(p.song(seed=3), spans="8-12"), ("8 to 12 s", "0 to 10 s")),
    "before the start": (lambda: masked(p.song(seed=3), spans="-2-1"), ("-2 to 1 s", "0 to 10 s")),
    "end before start": (lambda: masked(p.song(seed=3), spans="6-2"), ("'6-2' ends at or before its start",)),
    "bars of nothing": (lambda: masked(p.song(seed=3), spans="2", unit="bars"), ("tempo",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_masks_are_refused(host, case):
    prompt, words = BAD[case][0](), BAD[case][1]
    run = host.run(p.latent_only(prompt, "never"))
    assert not run.ok and all(word in run.message for word in words), run.message


def morph(sampling=None, **values):
    """A prompt that turns a sound of 10.08 s."""
    wires = {"model": [p.LOAD, 0], "conditioner": [p.LOAD, 1], "source": [HEARD, 0]}
    papers = {"source_blueprint": [OLD, 0], "blueprint": [p.PLAN, 0]}
    knobs = {"seed": 5, "structure": "text", "window_start": 0.0, "window_end": 1.0, "averaging": 1}
    options = {"sampling": [p.OPTIONS, 0]} if sampling else {}
    return {
        p.LOAD: p.load(precision="fp32"),
        SOUND_NODE: p.node("LoadAudio", audio=SOUND),
        HEARD: p.node("ACEStepEncodeSource", vae=[p.LOAD, 2], audio=[SOUND_NODE, 0], tiled="auto", song=1),
        OLD: p.node("ACEStepBlueprint", **{**p.SHORT, "caption": "two tones"}),
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, "caption": "loud brass", "lyrics": "[Verse]\nla la"}),
        p.OPTIONS: p.node("ACEStepSamplingOptions", **{**p.UNSET, **(sampling or {})}),
        p.SAMPLE: p.node("ACEStepMorph", **{**wires, **papers, **knobs, **options, **values}),
    }


def test_a_morph_turns_a_song_and_says_how_far(host, relative_error):
    made = {}
    for structure in ("text", "codes", "faithful"):
        made[structure], run = sampled(host, morph(structure=structure, window_start=0.25, window_end=0.75))
        said = run.text(p.SAMPLE)
        assert "source: 10.1 s, 252 latent frames" in said
        assert f"structure: {structure}, window 0.25 to 0.75" in said
        assert "turned in 4 of 8 steps, from t 0.900; the last 2 steps only by the new text" in said
        assert made[structure].shape == (1, 64, 252) and made[structure].isfinite().all()
    assert relative_error(made["codes"], made["text"]) > 1e-3
    assert relative_error(made["faithful"], made["codes"]) > 1e-3


def test_a_text_morphed_to_itself_is_the_source(host):
    """Its own latents: neither seed nor steps leave a trace, whatever there is to see in between."""
    models = {key: morph()[key] for key in (p.LOAD, SOUND_NODE, HEARD)}
    run = host.run({**models, KEPT: p.node("KeepSource", source=[HEARD, 0], name="morphed")})
    assert run.ok, run.message
    source = load_file(run.outputs[KEPT]["text"][0])["latents"]
    plain, _ = sampled(host, morph(blueprint=[OLD, 0]))
    other, _ = sampled(host, morph({"steps": 3}, blueprint=[OLD, 0], seed=9, averaging=2))
    turned, _ = sampled(host, morph())
    assert plain.shape == source.shape == (1, 64, 252)
    assert float((plain - source).abs().max()) < 1e-4
    assert float((other - source).abs().max()) < 1e-4
    assert float((turned - source).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (lambda: morph({"solver": "heun"}), ("Euler", "heun")),
        (lambda: morph({"dcw": "low"}), ("dcw", "low")),
        (lambda: morph(window_start=0.6, window_end=0.4), ("window_start, window_end", "0.6 and 0.4")),
        (lambda: morph(window_start=0.5, window_end=0.55), ("window_start, window_end", "none lies between")),
        (lambda: morph(averaging=20), ("averaging", "got 20")),
    ],
    ids=["heun", "dcw", "end before start", "no step", "averaging"],
)
def test_bad_morphs_are_refused(host, prompt, words):
    run = host.run(p.latent_only(prompt(), "never"))
    assert not run.ok and all(word in run.message for word in words), run.message
