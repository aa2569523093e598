"""Blueprints in the user's hands, in a real host: edited, locked, saved, loaded; their codes heard."""

from __future__ import annotations

import array
import json
import wave

import prompts as p
import pytest
import torch
from safetensors.torch import load_file
from sounds import SOUND as FILE

EDIT, LOAD_PLAN, SAVE_PLAN, VALUES, SHOW, SOUND, SOURCE = "40", "41", "42", "43", "44", "45", "46"
KEEP = dict.fromkeys(
    ("caption", "lyrics", "key", "time_signature", "language", "codes", "song_seed", "genres", "sentence"), ""
) | {"song": 0, "bpm": 0, "seconds": 0.0, "lock": "", "unlock": ""}
CODES = [(7919 * k) % 64_000 for k in range(50)]
WORDS = {"caption": "calm piano", "bpm": 90, "keyscale": "Am"}


def load(text="", file="none"):
    return p.node("ACEStepLoadBlueprint", file=file, json=text)


def edit(source, **changes):
    return p.node("ACEStepEditBlueprint", blueprint=[source, 0], **{**KEEP, **changes})


def save(source, prefix="blueprints/song"):
    return p.node("ACEStepSaveBlueprint", blueprint=[source, 0], filename_prefix=prefix)


def saved_path(host, run):
    """The file that SaveBlueprint says it wrote."""
    (line,) = [line for line in run.text(SAVE_PLAN).splitlines() if line.startswith("saved: ")]
    path = host.base / line.removeprefix("saved: ")
    assert path.is_file() and path.is_relative_to(host.base / "output")
    return path


def sampled(host, text, name, **changes):
    """Latents of the songs of a JSON text, and what was said on the way."""
    prompt = p.latent_only(p.song(seed=11, loader={"precision": "fp32"}), name)
    prompt |= {p.PLAN: load(text), EDIT: edit(p.PLAN, **changes)}
    prompt[p.SAMPLE]["inputs"]["blueprint"] = [EDIT, 0]
    run = host.run(prompt)
    assert run.ok, run.message
    file = run.outputs[p.SAVE]["latents"][0]
    return load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"], run


def test_edited_locked_saved_and_loaded_again(host):
    text = json.dumps({**WORDS, "duration": 10, "audio_codes": CODES, "from_elsewhere": {"x": [1]}})
    changes = {"key": "C# minor", "lyrics": "la", "lock": "bpm, lyrics", "song_seed": "5"}
    run = host.run({LOAD_PLAN: load(text), EDIT: edit(LOAD_PLAN, **changes), SAVE_PLAN: save(EDIT)})
    assert run.ok, run.message
    said = run.text(EDIT).splitlines()
    assert "plan: 50 codes" in said and "locked: lyrics, bpm" in said and "noise seeds: 5" in said
    path = saved_path(host, run)
    data = json.loads(path.read_text(encoding="utf-8"))
    expected = {"keyscale": "C# minor", "lyrics": "la", "locked": ["bpm", "lyrics"], "from_elsewhere": {"x": [1]}}
    assert {name: data[name] for name in expected} == expected
    assert data["songs"][0]["audio_codes"] == ",".join(map(str, CODES))

    name = f"{path.relative_to(host.base / 'output').as_posix()} [output]"
    assert (
        name
        in host.get("/object_info/ACEStepLoadBlueprint")["ACEStepLoadBlueprint"]["input"]["required"]["file"][1][
            "options"
        ]
    )
    again = host.run({LOAD_PLAN: load(file=name), SAVE_PLAN: save(LOAD_PLAN)})
    assert again.ok, again.message
    assert saved_path(host, again) != path
    assert saved_path(host, again).read_bytes() == path.read_bytes()


def test_a_changed_file_is_read_again(host):
    file = host.base / "input" / "changing.json"
    prompt = {LOAD_PLAN: load(file=file.name), SAVE_PLAN: save(LOAD_PLAN, "changing")}
    for bpm in (90, 100):
        file.write_text(json.dumps({"bpm": bpm}))
        run = host.run(prompt)
        assert run.ok, run.message
        assert json.loads(saved_path(host, run).read_text())["bpm"] == bpm
    assert host.run(prompt).cached >= {LOAD_PLAN, SAVE_PLAN}


def test_a_tempo_is_wired_into_both_kinds_of_number(host):
    """Blueprint has a whole number, CutSong a decimal one; at 90 in 4/4 two bars are 5.33 s."""
    values = p.node("ACEStepBlueprintValues", blueprint=[LOAD_PLAN, 0], song=1)
    cut = {"spans": "1-2", "unit": "bars", "mode": "keep", "crossfade": 0.0, "curve": "linear"}
    cut |= {"bpm": [VALUES, 2], "time_signature": "4/4", "audio": [SOUND, 0]}
    prompt = {
        LOAD_PLAN: load(json.dumps(WORDS)),
        VALUES: values,
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, "bpm": [VALUES, 2]}),
        SOUND: p.node("LoadAudio", audio=FILE),
        EDIT: p.node("ACEStepCutSong", **cut),
        SHOW: p.node("PreviewAudio", audio=[EDIT, 0]),
    }
    run = host.run({**prompt, SAVE_PLAN: save(p.PLAN)})
    assert run.ok, run.message
    assert json.loads(saved_path(host, run).read_text())["bpm"] == 90
    assert run.text(EDIT).startswith("kept: 0.00 to 5.33 s of")


def test_values_are_wired_into_other_nodes(host):
    text = json.dumps({**WORDS, "audio_codes": CODES})
    prompt = {LOAD_PLAN: load(text), VALUES: p.node("ACEStepBlueprintValues", blueprint=[LOAD_PLAN, 0], song=1)}
    names = ("caption", "lyrics", "bpm", "key", "time_signature", "seconds", "language", "codes")
    wires = {name: [VALUES, place] for place, name in enumerate(names) if name not in ("lyrics", "time_signature")}
    prompt |= {SHOW: load("{}"), EDIT: edit(SHOW, **wires), SAVE_PLAN: save(EDIT)}
    run = host.run(prompt)
    assert run.ok, run.message
    data = json.loads(saved_path(host, run).read_text())
    assert (data["caption"], data["bpm"], data["keyscale"], data["duration"]) == ("calm piano", 90, "A minor", 10)
    assert data["songs"][0]["n_codes"] == 50


@pytest.mark.parametrize(
    ("data", "key", "meter", "language"),
    [
        ({"keyscale": "Am", "timesignature": "6", "language": "en"}, "A minor", "6/8", "en"),
        ({}, "auto", "auto", "auto"),
    ],
)
def test_words_are_wired_into_lists_and_into_texts(host, data, key, meter, language):
    """The lists of Blueprint and PlanSong, and the texts of EditBlueprint; unset is auto everywhere."""
    values = p.node("ACEStepBlueprintValues", blueprint=[LOAD_PLAN, 0], song=1)
    wires = {"key": [VALUES, 3], "time_signature": [VALUES, 4], "language": [VALUES, 6]}
    draft = p.node("ACEStepBlueprint", **{**p.SHORT, **wires})
    prompt = {
        LOAD_PLAN: load(json.dumps({"caption": "a", **data})),
        VALUES: values,
        p.PLAN: draft,
        EDIT: edit(p.PLAN, **wires),
    }
    run = host.run({**prompt, SAVE_PLAN: save(EDIT), "99": save(p.PLAN, "draft")})
    assert run.ok, run.message
    assert f"key: {key}, " in run.text(p.PLAN) and f"language: {language}" in run.text(p.PLAN)
    said = json.loads(saved_path(host, run).read_text())
    assert (said["keyscale"], said["timesignature"], said["vocal_language"]) == (
        (key, meter[0], language) if data else (None, None, None)
    )
    plan = p.plan_song(mode="simple", language=[VALUES, 6], seconds=10.0)
    planned = host.run({**prompt, p.LM: p.load_lm(), p.PLAN_SONG: plan, SAVE_PLAN: save(p.PLAN_SONG)})
    assert planned.ok, planned.message
    assert not data or json.loads(saved_path(host, planned).read_text())["vocal_language"] == "en"


@pytest.fixture(scope="module")
def plain_models(tiny_2b_split):
    from acestep_models.pipelines.load import open_models

    return open_models(tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae, "turbo")


def test_pasted_codes_are_heard(host, plain_models, relative_error):
    """Another song than without, and the one of the pipeline; without seconds the codes say the length."""
    from acestep_models.blueprint import Blueprint
    from acestep_models.pipelines.generate import generate
    from acestep_models.runtime import PlainRuntime
    from acestep_models.sampling.schedule import SamplingOptions

    text = json.dumps({**WORDS, "duration": 10})
    pasted = "".join(f"<|audio_code_{code}|>" for code in CODES)
    with_codes, run = sampled(host, text, "codes", codes=pasted)
    assert "plan: 50 codes" in run.text(p.SAMPLE)
    without, run = sampled(host, text, "no_codes")
    assert "plan:" not in run.text(p.SAMPLE)
    by_length, _ = sampled(host, json.dumps(WORDS), "length", codes=pasted)
    assert relative_error(with_codes, without) > 1e-2
    assert torch.equal(with_codes, by_length)
    song = Blueprint(caption="calm piano", bpm=90, key="Am", seconds=10, codes=CODES)
    ours = generate(PlainRuntime(), plain_models.decoder, plain_models.conditioner, [song], SamplingOptions(), 11)
    assert relative_error(with_codes, ours.latents) < 1e-5


def test_ksampler_hears_the_same_codes(host, relative_error):
    text = json.dumps({**WORDS, "audio_codes": CODES})
    direct, _ = sampled(host, text, "direct")
    prompt = p.latent_only(p.ksampler(p.song(seed=11, loader={"precision": "fp32"})), "ksampler") | {p.PLAN: load(text)}
    run = host.run(prompt)
    assert run.ok, run.message
    assert "plan: 50 codes" in run.text(p.ENCODE)
    file = run.outputs[p.SAVE]["latents"][0]
    through_host = load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"]
    assert relative_error(through_host, direct) < 1e-4


def test_songs_with_and_without_codes_in_one_batch(host):
    text = json.dumps({**WORDS, "duration": 10, "songs": [{"audio_codes": CODES}, {}]})
    latents, run = sampled(host, text, "mixed")
    assert latents.shape == (2, 64, 250)
    assert "plan: song 1 50 codes, song 2 none" in run.text(p.SAMPLE)


REFUSED = {
    "not JSON": ({LOAD_PLAN: load("{bpm: 90}")}, ("not JSON", "paste the whole text")),
    "neither": ({LOAD_PLAN: load()}, ("file and json", "neither")),
    "version": ({LOAD_PLAN: load('{"version": 2}')}, ('"version": 1', "got 2", "update")),
    "code in a file": ({LOAD_PLAN: load('{"audio_codes": [1, 64000]}')}, ("64000 as number 2 of 2", "0 to 63999")),
    "out and up": (
        {LOAD_PLAN: load(file="../x.json")},
        ("expected a .json file inside of the input folder", "../x.json"),
    ),
    "code": ({EDIT: edit(LOAD_PLAN, codes="1,2,-3")}, ("codes", "'-3' as number 3 of 3")),
    "length": ({EDIT: edit(LOAD_PLAN, codes="1,2,3", seconds=10.0)}, ("10 s has 50 codes, got 3",)),
    "lock": ({EDIT: edit(LOAD_PLAN, lock="tempo")}, ("lock: tempo is not a field", "caption, lyrics")),
    "song": ({EDIT: edit(LOAD_PLAN, song=2)}, ("song", "0 (all) to 1", "got 2")),
    "not a blueprint": (
        {EDIT: p.node("ACEStepEditBlueprint", **KEEP, blueprint="a song")},
        ("blueprint: expected songs on paper", "got 'a song'"),
    ),
    "long name": ({SAVE_PLAN: save(LOAD_PLAN, "n" * 300)}, ("filename_prefix", "at most 200 bytes", "shorten")),
    "save outside": ({SAVE_PLAN: save(LOAD_PLAN, "../../song")}, ("filename_prefix", "inside of the output folder")),
    "save elsewhere": ({SAVE_PLAN: save(LOAD_PLAN, "/tmp/song")}, ("filename_prefix", "inside of the output folder")),
}


@pytest.mark.parametrize(("nodes", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_named(host, nodes, words):
    prompt = {LOAD_PLAN: load("{}"), **nodes}
    run = host.run(prompt | {"99": save(EDIT if EDIT in nodes else LOAD_PLAN, "refused/song")})
    assert not run.ok
    for word in words:
        assert word.lower() in run.message.lower(), f"{word!r} is not in: {run.message}"


def encoded(kind, **inputs):
    """A sound through EncodeSource, and its end in something that the host runs."""
    return {
        p.LOAD: p.load(),
        SOUND: p.node(kind, **inputs),
        SOURCE: p.node("ACEStepEncodeSource", vae=[p.LOAD, 2], audio=[SOUND, 0], tiled="auto", song=1),
        SHOW: p.node("PreviewAny", source=[SOURCE, 0]),
    }


def test_a_source_is_encoded(host):
    with wave.open(str(host.base / "input" / "mono.wav"), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(array.array("h", [20_000 * (k // 100 % 2) - 10_000 for k in range(48_510)]).tobytes())
    run = host.run(encoded("LoadAudio", audio="mono.wav"))
    assert run.ok, run.message
    assert run.text(SOURCE).splitlines() == [
        "1.1 s, 52800 samples, 27 latent frames",
        "changed: 1 channel to stereo, 44100 Hz to 48000 Hz",
        "as codes: 6, which are 1.2 s",
    ]


def test_a_silent_source_is_refused(host):
    run = host.run(encoded("EmptyAudio", duration=2.0, sample_rate=44_100, channels=2))
    assert not run.ok and "2 seconds of silence" in run.message
