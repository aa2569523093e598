"""Longer songs in a real host: three times by thirty seconds, intros, codes that go on, and bad input."""

from __future__ import annotations

import json

import prompts as p
import pytest
import torch
from hostlib import ROOT
from safetensors.torch import load_file
from sounds import SOUND

from acestep_models.blueprint_json import read_plan
from acestep_models.loading import probe
from acestep_models.qwen3.tokenizer import Tokenizer

SOUND_NODE, TRIM, HEARD, WHOLE, KEEP, SPY = "40", "41", "42", "43", "44", "45"
EXTEND, DECODE, AGAIN = "5{}", "6{}", "7{}"  # the steps of a chain
RATE, SAMPLES, FADE = 48_000, 484_800, 2_400  # the sound has 252.5 latent frames
PART = {"caption": "calm piano", "lyrics": "[Verse]\nla la la"}


def loaded(seconds=30.0, steps=2):
    """Models, the new part on paper, and the sound: whole, and its first ten seconds."""
    heard = {"vae": [p.LOAD, 2], "tiled": "auto", "song": 1}
    return {
        p.LOAD: p.load(precision="fp32"),
        p.PLAN: p.node("ACEStepBlueprint", **{**p.SHORT, **PART, "seconds": seconds}),
        p.OPTIONS: p.node("ACEStepSamplingOptions", **{**p.UNSET, "steps": steps}),
        SOUND_NODE: p.node("LoadAudio", audio=SOUND),
        TRIM: p.node("TrimAudioDuration", audio=[SOUND_NODE, 0], start_index=0.0, duration=10.0),
        HEARD: p.node("ACEStepEncodeSource", audio=[TRIM, 0], **heard),
        WHOLE: p.node("ACEStepEncodeSource", audio=[SOUND_NODE, 0], **heard),
    }


def extend(**values):
    """Extend of the whole sound as long as the blueprint says."""
    wires = {"model": [p.LOAD, 0], "conditioner": [p.LOAD, 1], "blueprint": [p.PLAN, 0], "sampling": [p.OPTIONS, 0]}
    plain = {"source": [WHOLE, 0], "seconds": -1.0, "where": "end", "context": 2.0, "crossfade": 0.05, "seed": 5}
    return p.node("ACEStepExtend", **{**wires, **plain, **values})


def decode(step, **values):
    """DecodeAudio of a step of a chain, with its splice."""
    made = EXTEND.format(step)
    return p.node("ACEStepDecodeAudio", **{"vae": [p.LOAD, 2], "latent": [made, 0], "splice": [made, 1], **values})


def chain(steps, **values):
    """Extensions one behind the other, each of the latent and the sound of the one before."""
    nodes = {}
    for step in range(steps):
        source = [AGAIN.format(step - 1), 0] if step else [WHOLE, 0]
        nodes[EXTEND.format(step)] = extend(source=source, seed=5 + step, **values)
        nodes[DECODE.format(step)] = decode(step)
        latent, sound = [EXTEND.format(step), 0], [DECODE.format(step), 0]
        nodes[AGAIN.format(step)] = p.node("ACEStepLatentSource", vae=[p.LOAD, 2], latent=latent, audio=sound, song=1)
    return nodes


def sounds(host, wires, prompt):
    """(waveforms [1, 2, N], run) of sound outputs, bit by bit."""
    keepers = {
        f"{KEEP}{place}": p.node("KeepSounds", audio=wire, name=f"extend_{place}") for place, wire in enumerate(wires)
    }
    run = host.run({**prompt, **keepers}, timeout=300)
    assert run.ok, run.message
    return [load_file(run.outputs[key]["text"][0])["0"] for key in keepers], run


def check_refused(host, prompt, *words):
    """That the run fails with all of these words."""
    run = host.run(prompt)
    assert not run.ok
    assert all(word.lower() in run.message.lower() for word in words), run.message


def on_paper(host, prompt, wire):
    """(first song of a blueprint output, run)."""
    run = host.run({**prompt, p.PAPER: p.node("ACEStepSaveBlueprint", blueprint=wire, filename_prefix="blueprints/x")})
    assert run.ok, run.message
    path = run.text(p.PAPER).splitlines()[0].removeprefix("saved: ")
    return read_plan((host.base / path).read_text(encoding="utf-8"))[0], run


def test_three_times_thirty_seconds(host):
    """What was there stays bit for bit, 0.05 s before each new part apart, and every length is exact."""
    wires = [[SOUND_NODE, 0], *([DECODE.format(step), 0] for step in range(3))]
    (before, *made), run = sounds(host, wires, {**loaded(), **chain(3)})
    for step, wave in enumerate(made):
        kept = before.shape[-1] - FADE
        assert wave.shape == (1, 2, SAMPLES + (step + 1) * 30 * RATE)
        assert torch.equal(wave[..., :kept], before[..., :kept])
        assert not torch.equal(wave[..., kept : kept + FADE], before[..., kept:])
        assert float(wave[..., kept + FADE :].abs().max()) > 1e-3
        before = wave
    assert "new: 10.1 to 40.1 s, 40.1 s in all" in run.text(EXTEND.format(0))
    assert "new: 70.1 to 100.1 s, 100.1 s in all" in run.text(EXTEND.format(2))
    assert "hears the last 2 s" in run.text(EXTEND.format(1)) and "without codes" in run.text(EXTEND.format(1))


def test_an_intro(host):
    prompt = {**loaded(10.0), **chain(1, where="start")}
    (before, wave), run = sounds(host, [[SOUND_NODE, 0], [DECODE.format(0), 0]], prompt)
    assert wave.shape[-1] == SAMPLES + 10 * RATE
    assert torch.equal(wave[..., 10 * RATE + FADE :], before[..., FADE:])
    assert "new: 0 to 10 s" in run.text(EXTEND.format(0)) and "hears the first 2 s" in run.text(EXTEND.format(0))


def test_the_planner_and_the_decoder_go_on_from_the_codes_of_the_source(host, tiny_2b_split):
    """Ten seconds are 50 codes: the planner reads them behind its prompt and behind the negative one."""
    lm = {p.LM: p.load_lm(), SPY: p.node("SpyOnLM", lm=[p.LM, 0])}
    listen = {"conditioner": [p.LOAD, 1], "seed": 1, **p.DRAWING, "source": [HEARD, 0]}
    hear = p.node("ACEStepUnderstandAudio", lm=[p.LM, 0], **listen)
    heard, _ = on_paper(host, {**loaded(), **lm, p.HEAR: hear}, [p.HEAR, 0])
    written = host.base / "output" / "ids_read_by_the_planner.jsonl"
    written.unlink(missing_ok=True)
    more = {"after": [HEARD, 0], "conditioner": [p.LOAD, 1], "context": 60.0}
    write = p.write_codes(blueprint=[p.PLAN, 0], **more)
    write["inputs"]["lm"] = [SPY, 0]
    prompt = {**loaded(12.4), **lm, p.WRITE_CODES: write}
    song, run = on_paper(host, prompt, [p.WRITE_CODES, 0])
    assert "goes on from 50 codes, the last 10 s of after" in run.text(p.WRITE_CODES)
    assert len(song.codes) == 62 and song.seconds == 12.4
    tokenizer = Tokenizer.from_source(probe(tiny_2b_split.lm).tokenizer_source("lm"))
    start = tokenizer.token_id("<|audio_code_0|>")
    read = [token for line in written.open() for token in torch.tensor(json.loads(line)).flatten().tolist()]
    kept = [start + code for code in heard.codes]
    places = [at for at in range(len(read)) if read[at : at + 49] == kept[:-1]]
    assert len(kept) == 50 and len(places) == 2
    assert read[places[1] + 49 :][:2] == kept[-1:] * 2  # the last one is read with the first step
    texts = [tokenizer.decode(read[:at])[-40:] for at in places]
    assert any("duration: 22\n" in text for text in texts) and all(text.endswith("</think>\n\n") for text in texts)
    step = {EXTEND.format(0): extend(blueprint=[p.WRITE_CODES, 0], source=[HEARD, 0]), DECODE.format(0): decode(0)}
    (before, wave), run = sounds(host, [[TRIM, 0], [DECODE.format(0), 0]], {**prompt, **step})
    assert wave.shape[-1] == before.shape[-1] + 595_200  # 12.4 s
    assert torch.equal(wave[..., : before.shape[-1] - FADE], before[..., :-FADE])
    assert "follows 62 codes beside 10 of the source" in run.text(EXTEND.format(0))
    assert "codes: written after 50 of a source, 10 are heard here" in run.text(EXTEND.format(0))


def saved(**nodes):
    """A prompt whose extension is saved as latents."""
    return {**nodes, p.SAVE: p.node("SaveLatent", samples=[EXTEND.format(0), 0], filename_prefix="never")}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seconds": 595.0}, ("seconds: 595 s of new music", "600 s is the most", "at most 589.8 s")),
        ({"seconds": 0.0}, ("seconds", "0.2 to 600", "got 0")),
        ({"where": "middle"}, ("where", "middle")),
        ({"context": 1.0}, ("context: expected 2 to 600 s",)),
        ({"crossfade": 3.0}, ("crossfade: expected 0 to 2 s",)),
        ({"source": [p.PLAN, 0]}, ("source", "ACESTEP_SOURCE")),
    ],
    ids=["too long", "nothing new", "nowhere", "little context", "long crossfade", "no source"],
)
def test_bad_input(host, values, words):
    check_refused(host, saved(**loaded(), **{EXTEND.format(0): extend(**values)}), *words)


def test_codes_of_another_length_are_refused(host):
    edit = {key: "" for key in ("caption", "lyrics", "key", "time_signature", "language", "song_seed", "genres")}
    edit |= {"sentence": "", "lock": "", "unlock": "", "song": 0, "bpm": 0, "seconds": 0.0}
    codes = p.node("ACEStepEditBlueprint", blueprint=[p.PLAN, 0], codes=",".join(["7"] * 50), **edit)
    nodes = {**loaded(10.0), p.EDIT: codes, EXTEND.format(0): extend(blueprint=[p.EDIT, 0], seconds=20.0)}
    check_refused(host, saved(**nodes), "20 s has 100 codes", "holds 50", "10 s")


def test_codes_cannot_go_on_from_what_nobody_reads(host):
    write = p.write_codes(blueprint=[p.PLAN, 0], after=[HEARD, 0])
    check_refused(
        host, p.on_paper({**loaded(), p.WRITE_CODES: write}, p.WRITE_CODES), "conditioner", "after", "Load DiT"
    )


@pytest.mark.parametrize("other", [{"seconds": 30.2}, {"where": "start"}], ids=["length", "place"])
def test_a_splice_of_another_song_is_refused(host, other):
    """Of another length, and of the same length with another part that is new."""
    steps = {EXTEND.format(0): extend(source=[HEARD, 0]), EXTEND.format(1): extend(source=[HEARD, 0], **other)}
    mixed = decode(0, splice=[EXTEND.format(1), 1])
    save = p.node("SaveAudio", audio=[DECODE.format(0), 0], filename_prefix="audio/never")
    check_refused(host, {**loaded(10.0), **steps, DECODE.format(0): mixed, p.SAVE: save}, "splice")


def test_the_workflow_has_the_same_context_in_both_nodes():
    """Else the planner and the decoder would go on from other codes."""
    nodes = json.loads((ROOT / "workflows/api/extend.json").read_text()).values()
    assert len({node["inputs"]["context"] for node in nodes if "context" in node["inputs"]}) == 1
