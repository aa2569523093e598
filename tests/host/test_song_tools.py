"""Cut, loop and join in a real host: sound and latents of a song stay in step, and what is refused."""

from __future__ import annotations

import prompts as p
import pytest
import torch
from safetensors.torch import load_file
from sounds import SECONDS, SOUND

HEARD, CUT, OTHER, KEEP = "40", "41", "42", "45"
SAMPLES, FRAMES = round(SECONDS * 48_000), 250
BAR = 96_000  # samples at 120 quarter notes a minute in 4/4
BARS = {"unit": "bars", "bpm": 120.0, "time_signature": "4/4", "crossfade": 0.0, "curve": "linear"}


def cut(**values):
    """CutSong of the loaded sound, in bars of 2 s, cut hard."""
    return p.node("ACEStepCutSong", **{"spans": "1-2", "mode": "keep", **BARS, "audio": [HEARD, 0], **values})


def loop(**values):
    """LoopSong of the loaded sound."""
    return p.node("ACEStepLoopSong", **{"span": "1-2", "times": 3, **BARS, "audio": [HEARD, 0], **values})


def join(**values):
    """JoinSongs of the cut sound and the loaded one."""
    wires = {"audio_1": [CUT, 0], "audio_2": [HEARD, 0]}
    return p.node("ACEStepJoinSongs", **{**BARS, "unit": "seconds", "crossfade": 0.5, **wires, **values})


def heard(host, wire=None, **nodes):
    """(waveform [C, N] of a wire, run)."""
    sound = {HEARD: p.node("LoadAudio", audio=SOUND)}
    keeper = p.node("KeepSounds", audio=wire or [CUT, 0], name="song_tools")
    run = host.run({**sound, **nodes, KEEP: keeper})
    assert run.ok, run.message
    return load_file(run.outputs[KEEP]["text"][0])["0"][0], run


def made_song(**blueprint):
    """A song of 10 s as latents, and its sound."""
    song = p.song(**blueprint)
    return {key: song[key] for key in (p.LOAD, p.PLAN, p.SAMPLE, p.DECODE)}


def saved(host, wire, **nodes):
    """(latents of a wire, run)."""
    run = host.run({**nodes, p.SAVE: p.node("SaveLatent", samples=wire, filename_prefix="latents/song_tools")})
    assert run.ok, run.message
    file = run.outputs[p.SAVE]["latents"][0]
    return load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"], run


@pytest.fixture(scope="module")
def source(host):
    """The loaded sound, bit by bit."""
    wave, _ = heard(host, [HEARD, 0])
    assert wave.shape == (2, SAMPLES)
    return wave


def test_bars_are_rearranged_to_the_sample(host, source):
    wave, run = heard(host, **{CUT: cut(spans="3-4, 1")})
    assert torch.equal(wave, torch.cat([source[:, 2 * BAR : 4 * BAR], source[:, :BAR]], dim=-1))
    assert run.text(CUT) == "kept: 4.00 to 8.00 s, 0.00 to 2.00 s of 10.1 s\nresult: 6 s"
    wave, _ = heard(host, **{CUT: cut(spans="1, 3-end", mode="remove")})
    assert torch.equal(wave, source[:, BAR : 2 * BAR])


def test_a_loop_is_in_time_and_a_join_overlaps(host, source):
    looped, _ = heard(host, **{CUT: loop(span="2", crossfade=0.1)})
    assert looped.shape[-1] == 3 * BAR
    assert torch.equal(looped[:, BAR + 2_400 : 2 * BAR - 2_400], source[:, BAR + 2_400 : 2 * BAR - 2_400])
    joined, run = heard(host, [OTHER, 0], **{CUT: loop(span="2"), OTHER: join()})
    assert joined.shape[-1] == 3 * BAR + SAMPLES - 24_000
    assert torch.equal(joined[:, 3 * BAR :], source[:, 24_000:])
    assert "6 s and 10.1 s, overlapping for 0.5 s" in run.text(OTHER)


def test_sound_and_latents_of_a_song_stay_in_step(host):
    """120 quarter notes a minute and 4/4 come from the blueprint; a cut of both is as long as one of the other."""
    song = made_song(bpm=120, time_signature="4/4")
    auto = {"bpm": -1.0, "time_signature": "auto", "blueprint": [p.PLAN, 0]}
    both = {**song, CUT: cut(spans="4-5, 2", audio=[p.DECODE, 0], latent=[p.SAMPLE, 0], **auto)}
    rows, run = saved(host, [CUT, 1], **both)
    whole, _ = saved(host, [p.SAMPLE, 0], **song)
    assert whole.shape[-1] == FRAMES
    assert torch.equal(rows, torch.cat([whole[..., 150:250], whole[..., 50:100]], dim=-1))
    assert "in step on the grid of 0.04 s" in run.text(CUT)
    wave, _ = heard(host, **both)
    plain, _ = heard(host, [p.DECODE, 0], **song)
    assert torch.equal(wave, torch.cat([plain[:, 3 * BAR :], plain[:, BAR : 2 * BAR]], dim=-1))


def test_cut_latents_are_decoded_and_sampled_on(host):
    """A cut latent without its sound goes through DecodeAudio and a host sampler."""
    song = made_song()
    song[CUT] = cut(spans="1-3", audio=[p.DECODE, 0], latent=[p.SAMPLE, 0])
    del song[CUT]["inputs"]["audio"]
    song[p.DECODE]["inputs"]["latent"] = [CUT, 1]
    wave, _ = heard(host, [p.DECODE, 0], **song)
    assert wave.shape == (2, 3 * BAR)
    song[p.PLAN]["inputs"]["seconds"] = 10.0
    sampler = p.ksampler(song)
    sampler[p.SAMPLE]["inputs"]["denoise"] = 0.5
    del song[p.SAMPLE], song[p.DECODE]
    first = p.song()[p.SAMPLE]
    again = {**sampler, "46": first, CUT: {**song[CUT], "inputs": {**song[CUT]["inputs"], "latent": ["46", 0]}}}
    again[p.SAMPLE]["inputs"]["latent_image"] = [CUT, 1]
    again[CUT]["inputs"]["spans"] = "1-5"
    kept = {key: again[key] for key in (p.LOAD, p.PLAN, p.ENCODE, "46", CUT, p.SAMPLE)}
    rows, _ = saved(host, [p.SAMPLE, 0], **kept)
    assert rows.shape == (1, 64, FRAMES) and rows.isfinite().all()


def test_an_output_without_its_input_says_so_where_it_is_used(host):
    prompt = {
        HEARD: p.node("LoadAudio", audio=SOUND),
        CUT: cut(),
        p.SAVE: p.node("SaveLatent", samples=[CUT, 1], filename_prefix="latents/none"),
    }
    run = host.run(prompt)
    blocked = [event["data"] for event in run.events if event["type"] == "execution_error"]
    assert (
        blocked and "no latent came into the node before; connect its latent input" in blocked[0]["exception_message"]
    )
    assert p.SAVE not in run.outputs and CUT in run.outputs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"spans": "8-5"}, "ends at or before its start"),
        ({"spans": ""}, "expected at least one span"),
        ({"spans": "the chorus"}, "is no span in bars"),
        ({"spans": "5-7"}, "is not within the song, which goes from 0 to 10.1 s"),
        ({"spans": "0"}, "is not within the song"),
        ({"spans": "1-6", "mode": "remove"}, "is not within the song"),
        ({"spans": "1-end", "mode": "remove"}, "nothing would be left"),
        ({"bpm": -1.0}, "bpm: bars need the song's tempo"),
        ({"time_signature": "auto"}, "time_signature: bars need the song's meter"),
        ({"unit": "beats"}, "unit"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(host, values, words):
    prompt = {HEARD: p.node("LoadAudio", audio=SOUND), CUT: cut(**values)}
    run = host.run({**prompt, KEEP: p.node("KeepSounds", audio=[CUT, 0], name="none")})
    assert not run.ok and words in run.message, run.message


def test_sound_and_latents_of_two_songs_are_refused(host):
    song = made_song()
    song[HEARD] = p.node("LoadAudio", audio=SOUND)
    song[OTHER] = p.node("TrimAudioDuration", audio=[HEARD, 0], start_index=0.0, duration=5.0)
    song[CUT] = cut(spans="1", audio=[OTHER, 0], latent=[p.SAMPLE, 0])
    run = host.run({**song, KEEP: p.node("KeepSounds", audio=[CUT, 0], name="none")})
    assert not run.ok and "latent: 250 frames are 10 s, the audio has 5 s" in run.message


def test_the_splice_of_nothing_is_refused(host):
    song = made_song()
    song[p.DECODE]["inputs"]["splice"] = [p.PLAN, 0]  # wires of another kind do not even start
    run = host.run({**song, KEEP: p.node("KeepSounds", audio=[p.DECODE, 0], name="none")})
    assert not run.ok and "splice" in run.message.lower()
