"""The planner in a real host: what is kept between runs, many songs, listening, Cancel, and bad input."""

from __future__ import annotations

import json
import wave

import prompts as p
import pytest
import torch
from hostlib import PLANNER, RELEASED
from sounds import SOUND

from acestep_models.blueprint_json import read_plan
from acestep_models.loading import probe
from acestep_models.pipelines.load import song_silence
from acestep_models.qwen3.tokenizer import Tokenizer

SPY, TEXT = "17", 3  # the host's kind of binary message for words under a node
SONG = {"caption": "calm piano", "lyrics": "[Verse]\nla la la", "seconds": 10.0}


def songs_on_paper(host, prompt, timeout=120):
    """The blueprints that a prompt saves."""
    run = host.run(prompt, timeout=timeout)
    assert run.ok, run.message
    path = run.text(p.PAPER).splitlines()[0].removeprefix("saved: ")
    return run, read_plan((host.base / path).read_text(encoding="utf-8"))


def test_only_what_changed_is_made_again(host):
    """Other codes keep the plan; another take keeps plan and codes, so that it comes at once."""
    assert host.run(p.planned(p.song(seed=400, **SONG), write={"seed": 40})).ok
    codes = host.run(p.planned(p.song(seed=400, **SONG), write={"seed": 41}))
    assert codes.ok and codes.cached == {p.LOAD, p.LM, p.PLAN, p.PLAN_SONG}
    take = host.run(p.planned(p.song(seed=401, **SONG), write={"seed": 41}))
    assert take.ok and take.cached == {p.LOAD, p.LM, p.PLAN, p.PLAN_SONG, p.WRITE_CODES}
    steps = p.with_options(p.planned(p.song(seed=401, **SONG), write={"seed": 41}), steps=4)
    run = host.run(steps)
    assert run.ok and {p.PLAN_SONG, p.WRITE_CODES} <= run.cached and p.SAMPLE not in run.cached
    plan = host.run(p.planned(p.song(seed=401, **SONG), plan={"seed": 2}, write={"seed": 41}))
    assert plan.ok and plan.cached == {p.LOAD, p.LM, p.PLAN}


def test_eight_songs_in_one_run(host):
    run = host.run(p.planned(p.song(seed=5, **SONG), plan={"songs": 8}, write={"seed": 7}), timeout=300)
    assert run.ok, run.message
    files = host.files(run, p.SAVE)
    assert len(files) == 8 and len({file.read_bytes() for file in files}) == 8
    assert run.text(p.WRITE_CODES).startswith("50 codes a song, seed 7, 8, 9, 10, 11, 12, 13, 14")
    assert "8 song(s) of 10 s" in run.text(p.SAMPLE)


def test_songs_may_have_a_plan_each_of_one_length(host):
    draft = p.node("ACEStepBlueprint", **{**p.SHORT, "seconds": -1.0})
    plan = p.plan_song(blueprint=[p.PLAN, 0], songs=3, different_plans=True, seed=12)
    run, songs = songs_on_paper(host, p.on_paper({p.PLAN: draft, p.PLAN_SONG: plan}, p.PLAN_SONG))
    assert len({(song.bpm, song.key, song.language) for song in songs}) == 3
    assert len({song.seconds for song in songs}) == 1 and songs[0].seconds is not None
    assert all(f"song {number}:" in run.text(p.PLAN_SONG) for number in (1, 2, 3))


def test_nodes_say_what_they_filled_in(host):
    run = host.run({**p.planned(p.song(seed=6, **SONG, bpm=90)), p.LM: p.load_lm(precision="bf16")})
    assert run.ok, run.message
    text = run.text(p.PLAN_SONG)
    assert "bpm: 90 (yours)" in text and "seconds: 10 (yours)" in text and "caption (yours): calm piano" in text
    for name in ("key", "time signature", "language"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}: ")]
        assert line.endswith(" (filled in)") and "auto" not in line
    assert f"planner: {PLANNER.removesuffix('.safetensors')}" in text and "tokens/s" in text
    assert "length: 10 s" in run.text(p.WRITE_CODES) and "tokens/s" in run.text(p.WRITE_CODES)
    loaded = run.text(p.LM)
    assert f"planner: {PLANNER} (" in loaded and "precision: bf16 on cpu\ntokenizer: of the file" in loaded


def test_speed_and_progress_are_shown_while_it_writes(host):
    """240 s: 1200 codes; words come about twice a second, under the node that writes."""
    draft = p.node("ACEStepBlueprint", **{**p.SHORT, **SONG, "seconds": 240.0})
    run = host.run(p.on_paper({p.PLAN: draft, p.WRITE_CODES: p.write_codes(blueprint=[p.PLAN, 0])}, p.WRITE_CODES), 600)
    assert run.ok, run.message
    said = [event["body"][8:].decode() for event in run.events if event["type"] == "binary" and event["kind"] == TEXT]
    assert said and all(text.startswith(p.WRITE_CODES) for text in said)
    assert "codes 1200 of 1200" in said[-1] and "tokens/s" in said[-1]
    progress = [event for event in run.of("progress") if event["node"] == p.WRITE_CODES]
    assert progress[-1]["value"] == progress[-1]["max"] == 1200
    assert run.text(p.WRITE_CODES).startswith("1200 codes a song")


def test_an_empty_sentence_is_a_random_song(host):
    plan = {p.PLAN_SONG: p.plan_song(mode="simple", seconds=12.0, seed=3)}
    run, (song,) = songs_on_paper(host, p.on_paper(plan, p.PLAN_SONG))
    assert song.caption and song.bpm and song.key and song.seconds == 12.0
    assert {"caption", "lyrics", "bpm", "key", "time_signature", "language"} <= song.filled
    assert "seconds" not in song.filled
    assert "caption (filled in): " in run.text(p.PLAN_SONG)


def test_four_thousand_chinese_characters(host):
    plan = {p.PLAN_SONG: p.plan_song(mode="simple", sentence="夜" * 4096, instrumental=True, seconds=10.0)}
    _, (song,) = songs_on_paper(host, p.on_paper(plan, p.PLAN_SONG))
    assert song.caption and song.bpm and song.sentence == "夜" * 4096


def codes_of_diffusers(folder, sound):
    """What diffusers' VAE and tokenizer make of a sound."""
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.AceStepPipeline.from_pretrained(folder)
    with wave.open(str(sound)) as file:
        raw = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
    waveform = raw.view(-1, 2).T[None].float() / 32768  # [1, 2, N]
    checkpoint = probe(folder)
    with torch.no_grad():
        mean = pipeline.vae.encode(waveform).latent_dist.mean
        silence = song_silence(checkpoint, checkpoint).take(10)
        _, codes = pipeline.audio_tokenizer.tokenize(mean.transpose(1, 2), silence)
    return codes.flatten().tolist()


def hear(**more):
    """Load both, the sound, UnderstandAudio behind a spy on the planner, and the paper."""
    return {
        p.LM: p.load_lm(precision="fp32"),
        p.LOAD: p.load(precision="fp32"),
        "20": p.node("LoadAudio", audio=SOUND),
        "21": p.node("ACEStepEncodeSource", vae=[p.LOAD, 2], audio=["20", 0], tiled="auto", song=1),
        SPY: p.node("SpyOnLM", lm=[p.LM, 0]),
        p.HEAR: p.node(
            "ACEStepUnderstandAudio",
            **{"lm": [SPY, 0], "conditioner": [p.LOAD, 1], "seed": 1, **p.DRAWING, "source": ["21", 0], **more},
        ),
        p.PAPER: p.node("ACEStepSaveBlueprint", blueprint=[p.HEAR, 0], filename_prefix="blueprints/heard"),
    }


def test_the_planner_hears_what_diffusers_hears(host, base, tiny_2b_diffusers, tiny_2b_split):
    """Every id that reaches the embedding is written down: those between the two turns are the codes of diffusers."""
    draft = p.node("ACEStepBlueprint", **{**p.SHORT, "caption": "", "bpm": 91, "key": "F# minor", "seconds": -1.0})
    locked = p.node("ACEStepEditBlueprint", blueprint=[p.PLAN, 0], **{**NO_CHANGE, "lock": "bpm genres"})
    prompt = {**hear(blueprint=[p.EDIT, 0]), p.PLAN: draft, p.EDIT: locked}
    written = host.base / "output" / "ids_read_by_the_planner.jsonl"
    written.unlink(missing_ok=True)
    run, (song,) = songs_on_paper(host, prompt, 300)
    read = [token for line in written.open() for token in torch.tensor(json.loads(line)).flatten().tolist()]
    tokenizer = Tokenizer.from_source(probe(tiny_2b_split.lm).tokenizer_source("lm"))
    start = tokenizer.token_id("<|audio_code_0|>")
    expected = codes_of_diffusers(tiny_2b_diffusers.model, base / "input" / SOUND)
    codes = [token - start for token in read if token >= start]
    assert codes == expected and len(codes) == 51
    first = read.index(start + codes[0])
    assert read[first : first + 51] == [start + code for code in codes]
    assert tokenizer.decode(read[:first]).endswith("<|im_start|>user\n")
    assert tokenizer.decode(read[first + 51 :]).startswith("<|im_end|>\n<|im_start|>assistant\n")
    # what it filled in, and what it left alone
    assert song.codes == tuple(codes) and song.seconds == 10.2
    assert (song.bpm, song.key, song.genres) == (91, "F# minor", "")
    assert song.filled >= {"caption", "lyrics", "time_signature", "language"}
    assert not song.filled & {"bpm", "key", "genres"}
    text = run.text(p.HEAR)
    assert "read: 51 codes of the source" in text and "seconds: 10.2 (filled in)" in text
    assert "bpm: 91 (yours, locked)" in text and "key: F# minor (yours)" in text and "language: " in text


def test_codes_of_a_blueprint_are_read_without_a_source(host):
    codes = ",".join(str(code) for code in range(100, 150))
    edit = p.node("ACEStepEditBlueprint", blueprint=[p.PLAN, 0], **{**NO_CHANGE, "codes": codes})
    nodes = {k: v for k, v in hear(blueprint=[p.EDIT, 0]).items() if k not in ("20", "21", SPY)}
    nodes[p.HEAR]["inputs"]["lm"] = [p.LM, 0]
    del nodes[p.HEAR]["inputs"]["source"]
    nodes |= {p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, "seconds": -1.0}), p.EDIT: edit}
    run, (song,) = songs_on_paper(host, nodes)
    assert song.codes == tuple(range(100, 150)) and song.caption == "calm piano"
    assert "read: 50 codes of the blueprint" in run.text(p.HEAR)


NO_CHANGE = {
    **dict.fromkeys(("caption", "lyrics", "key", "time_signature", "language", "codes", "song_seed"), ""),
    **dict.fromkeys(("genres", "sentence", "lock", "unlock"), ""),
    **{"song": 0, "bpm": 0, "seconds": 0.0},
}


LONG = {"seconds": 600.0}
WORKING = {
    "PlanSong": (p.PLAN_SONG, {p.PLAN_SONG: p.plan_song(mode="simple", seed=77, **LONG)}),
    "WriteCodes": (
        p.WRITE_CODES,
        {
            p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **SONG, **LONG}),
            p.WRITE_CODES: p.write_codes(blueprint=[p.PLAN, 0], seed=78),
        },
    ),
}


@pytest.mark.parametrize(("writer", "nodes"), WORKING.values(), ids=WORKING)
def test_cancel_ends_at_once_and_the_next_run_works(host, writer, nodes):
    pressed = []

    def press(running, event):
        if event["type"] == "progress" and event["data"]["node"] == writer and event["data"]["value"] >= 20:
            if not pressed:
                pressed.append((event["data"]["value"], event["at"]))
                running.post("/interrupt", {})

    run = host.run(p.on_paper(nodes, writer), timeout=300, on_event=press)
    assert run.status == 200 and not run.ok
    assert run.events[-1]["type"] == "execution_interrupted"
    assert run.events[-1]["at"] - pressed[0][1] < 3.0
    last = [event for event in run.of("progress") if event["node"] == writer][-1]
    assert last["value"] < last["max"]
    again = host.run(p.planned(p.song(seed=500 + len(writer), **SONG), plan={"seed": 500}, write={"seed": 501}))
    assert again.ok, again.message


def refused(host, prompt):
    run = host.run(prompt)
    assert not run.ok
    return run.message


CHOICES = {
    "a text encoder as LM": (
        {"model": RELEASED["text_encoder"][1]},
        ("qwen_0.6b_ace15", "text encoder", "217204", "qwen_1.7b_ace15.safetensors"),
    ),
    "LM is gone": ({"model": "gone.safetensors"}, ("gone.safetensors", "text_encoders", "Comfy-Org")),
    "LM not fetched": ({"model": "acestep-5Hz-lm-4B (download)"}, ("acestep-5Hz-lm-4B", "8.4 GB", "download on")),
    "precision": ({"precision": "fp16"}, ("precision", "fp16", "bf16")),
}


@pytest.mark.parametrize(("choice", "words"), CHOICES.values(), ids=CHOICES)
def test_bad_planner_is_named(host, choice, words):
    prompt = {**p.on_paper({p.PLAN_SONG: p.plan_song(mode="simple")}, p.PLAN_SONG), p.LM: p.load_lm(**choice)}
    message = refused(host, prompt)
    assert all(word.lower() in message.lower() for word in words), message


PLANS = {
    "language off the list": ({"language": "klingon"}, {}, ("language", "klingon", "yue", "auto")),
    "601 s": ({"seconds": 601.0}, {}, ("seconds", "10 to 600", "601")),
    "5 s": ({"seconds": 5.0}, {}, ("seconds", "10 to 600", "got 5", "-1 means auto")),
    "mode": ({"mode": "dream"}, {}, ("mode", "simple", "dream")),
    "two lengths": ({"seconds": 20.0}, {}, ("seconds", "20", "10", "auto")),
    "two languages": ({"language": "fr"}, {"language": "de"}, ("language", "fr", "de", "auto")),
    "instrumental with lyrics": ({"instrumental": True}, {}, ("instrumental", "lyrics", "la la")),
    "two counts": ({"songs": 3}, {"songs": 2}, ("songs", "3", "2")),
    "9 songs": ({"songs": 9}, {}, ("songs", "bigger than max")),
    "too hot": ({"temperature": 3.0}, {}, ("temperature", "bigger than max")),
    "nothing to plan from": ({"mode": "plan"}, {"caption": "", "lyrics": ""}, ("caption", "sentence", "simple")),
}


@pytest.mark.parametrize(("plan", "draft", "words"), PLANS.values(), ids=PLANS)
def test_bad_wish_is_named(host, plan, draft, words):
    nodes = {
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **SONG, **draft}),
        p.PLAN_SONG: p.plan_song(**{"blueprint": [p.PLAN, 0], **plan}),
    }
    message = refused(host, p.on_paper(nodes, p.PLAN_SONG))
    assert all(word.lower() in message.lower() for word in words), message


def test_a_complaint_comes_once(host):
    """The host repeats it for every input that validate_inputs names."""
    nodes = {p.PLAN_SONG: p.plan_song(mode="simple", seconds=5.0)}
    message = refused(host, p.on_paper(nodes, p.PLAN_SONG))
    assert message.count("expected 10 to 600 seconds") == 1, message


def test_equal_wishes_agree(host):
    nodes = {
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **SONG, "language": "de"}),
        p.PLAN_SONG: p.plan_song(blueprint=[p.PLAN, 0], seconds=10.0, language="de"),
    }
    _, (song,) = songs_on_paper(host, p.on_paper(nodes, p.PLAN_SONG))
    assert (song.seconds, song.language) == (10.0, "de")


EDITS = {
    "codes out of range": ({"codes": ",".join(["64000"] * 50)}, {}, ("codes", "63999", "64000")),
    "codes of another length": ({"codes": "1,2,3"}, {}, ("codes", "50", "3")),
    "length locked and open": ({"lock": "seconds"}, {"seconds": -1.0}, ("seconds", "locked", "unlock")),
    "codes locked and none": ({"lock": "codes"}, {}, ("codes", "locked", "unlock")),
    "locked and freed": ({"lock": "bpm", "unlock": "bpm"}, {}, ("lock", "unlock", "bpm")),
}


@pytest.mark.parametrize(("edit", "draft", "words"), EDITS.values(), ids=EDITS)
def test_contradictory_blueprint_is_named(host, edit, draft, words):
    nodes = {
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **SONG, **draft}),
        p.EDIT: p.node("ACEStepEditBlueprint", blueprint=[p.PLAN, 0], **{**NO_CHANGE, **edit}),
        p.WRITE_CODES: p.write_codes(blueprint=[p.EDIT, 0]),
    }
    message = refused(host, p.on_paper(nodes, p.WRITE_CODES))
    assert all(word.lower() in message.lower() for word in words), message


def test_nothing_to_listen_to_is_said(host):
    nodes = {k: v for k, v in hear().items() if k not in ("20", "21", SPY)}
    nodes[p.HEAR]["inputs"]["lm"] = [p.LM, 0]
    del nodes[p.HEAR]["inputs"]["source"]
    message = refused(host, nodes)
    assert all(word in message for word in ("source", "EncodeSource", "codes"))
