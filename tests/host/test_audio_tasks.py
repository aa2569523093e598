"""Tasks that work on sound, in a real host, with the audio that tests synthesise: what they make, and bad input."""

from __future__ import annotations

import prompts as p
import pytest
import torch
from hostlib import BASE
from safetensors.torch import load_file
from sounds import SOUND

BASE_LOAD, SOUND_NODE, TRIM, HEARD, WHOLE, TIMBRE, KEEP = "9", "40", "41", "42", "43", "44", "45"
SECONDS, FRAMES = 10.0, 250
SAMPLES = 484_800  # of the sound before it is cut
PLAN = {"caption": "calm piano", "lyrics": "[Verse]\nla la la", "seconds": SECONDS}
TRACKS = "woodwinds brass fx synth strings percussion keyboard guitar bass drums backing_vocals vocals".split()


def loaded(steps=4, variant="auto"):
    """Both models, a blueprint, and a sound of 10 s, whole and as reference; always the same, so it is kept."""
    heard = {"tiled": "auto", "song": 1, "vae": [p.LOAD, 2]}
    return {
        p.LOAD: p.load(precision="fp32"),
        BASE_LOAD: p.load(model=BASE, variant=variant, precision="fp32"),
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **PLAN}),
        p.OPTIONS: p.node("ACEStepSamplingOptions", **{**p.UNSET, "steps": steps}),
        SOUND_NODE: p.node("LoadAudio", audio=SOUND),
        TRIM: p.node("TrimAudioDuration", audio=[SOUND_NODE, 0], start_index=0.0, duration=SECONDS),
        HEARD: p.node("ACEStepEncodeSource", audio=[TRIM, 0], **heard),
        WHOLE: p.node("ACEStepEncodeSource", audio=[SOUND_NODE, 0], **heard),
        TIMBRE: p.node("ACEStepEncodeReference", vae=[p.LOAD, 2], audio=[TRIM, 0]),
    }


def task(kind, **values):
    """A node that samples what `loaded` makes."""
    wires = {"model": [p.LOAD, 0], "conditioner": [p.LOAD, 1], "blueprint": [p.PLAN, 0], "sampling": [p.OPTIONS, 0]}
    return p.node(kind, **{**wires, "seed": 5, **values})


def song(**values):
    """DiTSample."""
    return task("ACEStepDiTSample", **values)


def cover(**values):
    """Cover, with everything as it comes."""
    return task(
        "ACEStepCover", **{"source": [HEARD, 0], "strength": 1.0, "start_noise": 0.0, "faithful": False, **values}
    )


def on_base(kind, **values):
    """A node that needs a base model, with the source of 10 s."""
    return task(kind, **{"model": [BASE_LOAD, 0], "conditioner": [BASE_LOAD, 1], "source": [HEARD, 0], **values})


def retake(**values):
    """Retake of seed 5."""
    return task("ACEStepRetake", **{"retake_seed": 6, "variance": 0.3, **values})


def added(**values):
    """AddTrack of drums all along."""
    return on_base("ACEStepAddTrack", **{"track": "drums", "start": -1.0, "end": -1.0, **values})


def completed(**values):
    """Complete as Vocal to song."""
    return on_base("ACEStepComplete", **{"preset": "Vocal to song", "classes": "", **values})


def stems(**values):
    """SeparateStems of two tracks."""
    return on_base("ACEStepSeparateStems", **{"vae": [p.LOAD, 2], "tracks": "vocals, Drums", **values})


def sampled(host, sample, prompt=None, **more):
    """(latents, what the node said) of a node that samples."""
    run = host.run(p.latent_only({**(prompt or loaded()), p.SAMPLE: sample, **more}, "audio_tasks"))
    assert run.ok, run.message
    saved = run.outputs[p.SAVE]["latents"][0]
    found = load_file(host.base / saved["type"] / saved["subfolder"] / saved["filename"])["latent_tensor"]
    return found, run.text(p.SAMPLE) if p.SAMPLE in run.outputs else ""


def sounds(host, wires, prompt):
    """(waveforms, run) of a node's outputs, bit by bit."""
    keepers = {
        f"{KEEP}{place}": p.node("KeepSounds", audio=wire, name=f"sound_{place}") for place, wire in enumerate(wires)
    }
    run = host.run({**prompt, **keepers})
    assert run.ok, run.message
    files = [load_file(run.outputs[key]["text"][0]) for key in keepers]
    return [[file[str(place)] for place in range(len(file))] for file in files], run


def refused(host, prompt, *words):
    """The run that fails with all of these words."""
    run = host.run(prompt)
    assert not run.ok
    assert all(word.lower() in run.message.lower() for word in words), run.message
    return run


def test_cover_without_strength_is_a_song_with_the_same_timbre(host, relative_error):
    plain, said = sampled(host, song(reference=[TIMBRE, 0]))
    assert "timbre: of 1 recording(s)" in said
    left, said = sampled(host, cover(strength=0.0, reference=[TIMBRE, 0]))
    assert "follows its audio codes in 0 of 4 steps (strength 0)" in said
    assert plain.shape == (1, 64, FRAMES) and torch.equal(left, plain)
    other, _ = sampled(host, song())
    assert relative_error(other, plain) > 1e-3


def test_cover_follows_its_source_in_each_way_of_its_own(host, relative_error):
    made = {
        "song": sampled(host, song()),
        "codes": sampled(host, cover()),
        "half": sampled(host, cover(strength=0.5)),
        "faithful": sampled(host, cover(faithful=True)),
        "start": sampled(host, cover(start_noise=0.5)),
    }
    assert "follows its audio codes in 2 of 4 steps" in made["half"][1]
    assert "follows its latents in 4 of 4 steps" in made["faithful"][1]
    assert "starts at t 0.500, half noise, half source: " in made["start"][1]
    assert all(latents.isfinite().all() for latents, _ in made.values())
    pairs = [(one, two) for one in made for two in made if one < two]
    assert all(relative_error(made[one][0], made[two][0]) > 1e-3 for one, two in pairs)


def test_a_cover_is_as_long_as_its_source_whatever_its_blueprint_says(host):
    prompt = loaded()
    prompt[p.PLAN]["inputs"]["seconds"] = 60.0
    made, said = sampled(host, cover(source=[WHOLE, 0]), prompt)
    assert made.shape == (1, 64, SAMPLES // 1920)
    assert f"source: 10.1 s, {SAMPLES // 1920} latent frames" in said


@pytest.mark.parametrize("kind", ["reference", "cover", "cover-faithful"])
def test_encode_song_reads_what_our_nodes_read(host, kind, relative_error):
    """euler, simple and cfg 1 in the host's sampler, and the pack's own node."""
    prompt = loaded(steps=8)
    reading = {"task": "text2music" if kind == "reference" else kind, "reference": [TIMBRE, 0]}
    reading |= {} if kind == "reference" else {"source": [HEARD, 0]}
    encode = p.node("ACEStepEncodeSong", conditioner=[p.LOAD, 1], blueprint=[p.PLAN, 0], **reading)
    theirs, _ = sampled(host, p.ksampler({p.SAMPLE: song()})[p.SAMPLE], prompt, **{p.ENCODE: encode})
    ours = song() if kind == "reference" else cover(faithful=kind == "cover-faithful")
    ours["inputs"]["reference"] = [TIMBRE, 0]
    assert relative_error(theirs, sampled(host, ours, prompt)[0]) < 1e-4


def test_stems_and_residual_are_the_source(host):
    prompt = {**loaded(), p.SAMPLE: stems(source=[WHOLE, 0])}
    (tracks, (rest,), (source,)), run = sounds(host, [[p.SAMPLE, 0], [p.SAMPLE, 2], [SOUND_NODE, 0]], prompt)
    assert [tuple(track.shape) for track in (*tracks, rest)] == [(1, 2, SAMPLES)] * 3
    whole = sum((track.double() for track in tracks), rest.double())
    assert float((whole - source).abs().max()) < 1e-6
    assert all(float(track.abs().max()) > 1e-3 for track in tracks) and not torch.equal(*tracks)
    said = run.text(p.SAMPLE)
    assert "vocals: peak " in said and "drums: peak " in said and "residual: peak " in said
    prompt[p.SAMPLE] = stems(tracks="drums", source=[WHOLE, 0])
    ((alone,),), _ = sounds(host, [[p.SAMPLE, 0]], prompt)
    assert torch.equal(alone, tracks[1])


def test_saved_stems_have_their_names(host):
    save = {p.SAVE: p.node("SaveAudio", audio=[p.SAMPLE, 0], filename_prefix=[p.SAMPLE, 1])}
    run = host.run({**loaded(), p.SAMPLE: stems(tracks="backing vocals\nFX"), **save})
    assert run.ok, run.message
    assert [file.name.rstrip("_.flac0123456789") for file in host.files(run, p.SAVE)] == ["backing_vocals", "fx"]


def test_a_track_is_added_where_it_is_wanted(host, relative_error):
    prompt = loaded()
    whole, said = sampled(host, added(), prompt)
    assert "drums all along" in said and whole.shape == (1, 64, FRAMES)
    part, said = sampled(host, added(start=2.0, end=6.0), prompt)
    assert "drums from 2 to 6 s" in said and relative_error(part, whole) > 1e-3
    other, _ = sampled(host, added(track="strings"), prompt)
    assert relative_error(other, whole) > 1e-3


def test_vocal_to_song_plays_all_that_is_no_voice(host, relative_error):
    prompt = loaded()
    preset, said = sampled(host, completed(), prompt)
    band = [track for track in TRACKS if "vocals" not in track]
    assert f"plays: {', '.join(band)}" in said
    chosen, _ = sampled(host, completed(preset="Chosen classes", classes="\n".join(band)), prompt)
    assert torch.equal(chosen, preset)
    sung, said = sampled(host, completed(preset="Vocals for an instrumental"), prompt)
    assert "plays: backing_vocals, vocals" in said and relative_error(sung, preset) > 1e-3


def test_retake_turns_from_one_seed_to_the_other(host, relative_error):
    ends = [sampled(host, song(seed=seed))[0] for seed in (5, 6)]
    for variance, end in zip((0.0, 1.0), ends, strict=True):
        assert torch.equal(sampled(host, retake(variance=variance))[0], end)
    between, said = sampled(host, retake(variance=0.3))
    assert "retake: variance 0.3 towards seed 6" in said
    assert all(relative_error(between, end) > 1e-3 for end in ends)


def test_latents_are_shifted_and_scaled(host):
    plain, _ = sampled(host, song())
    adjust = p.node("ACEStepAdjustLatent", latent=["50", 0], shift=0.25, rescale=0.5)
    changed, said = sampled(host, adjust, **{"50": song()})
    assert torch.equal(changed, plain * 0.5 + 0.25)
    assert "latents x 0.5 + 0.25" in said


@pytest.mark.parametrize(("name", "make"), [("extract", stems), ("lego", added), ("complete", completed)])
def test_base_only_task_is_refused_before_any_model_moves(host, name, make):
    """Neither is the source encoded nor anything sampled: of our nodes only Load DiT has run."""
    save = p.node("KeepSounds", audio=[p.SAMPLE, 0], name="never")
    if name != "extract":
        save = p.node("SaveLatent", samples=[p.SAMPLE, 0], filename_prefix="never")
    again = p.node("ACEStepEncodeSource", audio=[TRIM, 0], vae=[p.LOAD, 2], tiled="small", song=1)  # not in the cache
    sample = make(model=[p.LOAD, 0], source=["50", 0])
    prompt = {**loaded(), "50": again, p.SAMPLE: sample, p.SAVE: save}
    run = refused(host, prompt, name, "turbo", "load a base model")
    assert run.of("execution_error")[0]["node_id"] == p.SAMPLE
    assert not {event["node"] for event in run.of("executed")} & {"50", p.SAMPLE}


def test_sft_may_try_and_is_warned_of(host):
    _, said = sampled(host, added(), loaded(variant="sft"))
    assert "the sft model was not trained for it" in said


UNKNOWN = {
    "stems": (lambda: stems(tracks="kazoo"), ("kazoo", "woodwinds")),
    "no stems": (lambda: stems(tracks=" , "), ("tracks", "woodwinds")),
    "complete": (lambda: completed(preset="Chosen classes", classes="drums, kazoo"), ("kazoo", "woodwinds")),
    "nothing to complete": (lambda: completed(preset="Chosen classes"), ("tracks", "none")),
    "add": (lambda: added(track="kazoo"), ("kazoo",)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_track_is_refused_in_validation(host, case):
    make, words = UNKNOWN[case]
    save = p.node("PreviewAny", source=[p.SAMPLE, 0])
    assert refused(host, {**loaded(), p.SAMPLE: make(), p.SAVE: save}, *words).status == 400


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (lambda: added(start=20.0), ("start, end", "10 s", "20")),
        (lambda: added(start=6.0, end=2.0), ("start, end", "6 to 2 s")),
        (lambda: p.node("ACEStepAdjustLatent", latent=["60", 0], shift=0.0, rescale=1.0), ("latent", "64", "[1, 4, ")),
        (lambda: cover(source=["60", 0]), ("source", "ACESTEP_SOURCE")),
        (lambda: song(reference=["61", 0]), ("reference", "silence")),
        (lambda: cover(strength=1.5), ("strength", "1.0")),
        (lambda: retake(variance=-0.1), ("variance", "0.0")),
    ],
    ids=["behind the end", "ends before it starts", "latent of an image", "latent as source", "silence", "1.5", "-0.1"],
)
def test_bad_input(host, sample, words):
    more = {
        "60": p.node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "61": p.node("ACEStepEncodeReference", vae=[p.LOAD, 2], audio=["62", 0]),
        "62": p.node("EmptyAudio", duration=5.0, sample_rate=44100, channels=2),
    }
    save = p.node("SaveLatent", samples=[p.SAMPLE, 0], filename_prefix="never")
    assert not refused(host, {**loaded(), **more, p.SAMPLE: sample(), p.SAVE: save}, *words).ok


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": [HEARD, 0]}, ("text2music", "source")),
        ({"task": "cover"}, ("cover", "source")),
        ({"task": "lego", "source": [HEARD, 0], "tracks": "drums, bass"}, ("lego", "drums, bass")),
    ],
    ids=["source without a task", "task without a source", "two tracks"],
)
def test_encode_song_leaves_nothing_out_in_silence(host, changes, words):
    encode = p.node("ACEStepEncodeSong", conditioner=[p.LOAD, 1], blueprint=[p.PLAN, 0], **changes)
    save = p.node("SaveLatent", samples=[p.ENCODE, 2], filename_prefix="never")
    assert not refused(host, {**loaded(), p.ENCODE: encode, p.SAVE: save}, *words).ok
