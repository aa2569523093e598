"""Repaint in a real host, on audio that the tests synthesise: what is kept, again and again, and bad input."""

from __future__ import annotations

import prompts as p
import pytest
import torch
from test_audio_tasks import KEEP, SOUND_NODE, WHOLE, loaded, refused, sampled, sounds, task

AGAIN, SECOND, DECODED, OTHER = "70", "71", "72", "73"
RATE, SAMPLES, FRAMES = 48_000, 484_800, 252  # 252.5 frames
KNOBS = {"injection": -1.0, "latent_crossfade": -1, "crossfade": -1.0}


def repainted(**values):
    """Repaint of 4 to 7 s as it comes."""
    auto = {"source": [WHOLE, 0], "spans": "4-7", "unit": "seconds", "bpm": -1.0, "time_signature": "auto"}
    auto |= {"mode": "balanced", "strength": 0.5}
    return task("ACEStepRepaint", **{**auto, **KNOBS, **values})


def decoded(of=p.SAMPLE, **values):
    """Decode Audio of a repaint, with its splice."""
    return p.node("ACEStepDecodeAudio", vae=[p.LOAD, 2], **{"latent": [of, 0], "splice": [of, 1], **values})


def latent_source(**values):
    """LatentSource of the first repaint and its sound."""
    wires = {"latent": [p.SAMPLE, 0], "audio": [p.DECODE, 0], "song": 1}
    return p.node("ACEStepLatentSource", vae=[p.LOAD, 2], **{**wires, **values})


def heard(host, repaint, prompt=None):
    """(the sound of a repaint [songs], the sound of the source, what Repaint and Decode Audio said)."""
    nodes = {**(prompt or loaded()), p.SAMPLE: repaint, p.DECODE: decoded()}
    (new, (source,)), run = sounds(host, [[p.DECODE, 0], [SOUND_NODE, 0]], nodes)
    said = [run.text(key) if key in run.outputs else "" for key in (p.SAMPLE, p.DECODE)]
    return new, source[0], said


def test_the_rest_is_the_source_bit_for_bit(host, relative_error):
    (new,), source, said = heard(host, repainted())
    assert new.shape == (1, 2, SAMPLES)
    fade = 1_200  # balanced at 0.5: 0.025 s
    assert torch.equal(new[0, :, : 4 * RATE - fade], source[:, : 4 * RATE - fade])
    assert torch.equal(new[0, :, 7 * RATE + fade :], source[:, 7 * RATE + fade :])
    inside = slice(4 * RATE, 7 * RATE)
    assert relative_error(new[0, :, inside], source[:, inside]) > 0.1
    assert "new: 4 to 7 s of 10.1 s, 484800 samples" in said[0]
    assert "kept part put back after 2 of 4 steps, latent crossfade 12 frames, crossfade 0.025 s" in said[0]
    assert "kept bit for bit: 0.00 to 3.98 s, 7.03 to 10.10 s" in said[1]


def test_modes_and_knobs_change_only_what_is_new(host, relative_error):
    prompt = loaded()
    made = {mode: sampled(host, repainted(mode=mode), prompt)[0] for mode in ("balanced", "conservative", "aggressive")}
    source, _ = sampled(host, repainted(mode="conservative", spans="0-0.04"), prompt)
    for mode, room in {"balanced": 12, "conservative": 25, "aggressive": 0}.items():
        latents = made[mode]
        assert latents.shape == (1, 64, FRAMES)
        assert torch.equal(latents[..., 40 : 100 - room], source[..., 40 : 100 - room])  # from the source in both
        assert torch.equal(latents[..., 175 + room :], source[..., 175 + room :])
    assert all(relative_error(made[one], made[two]) > 1e-4 for one in made for two in made if one < two)
    knobs = {"injection": 1.0, "latent_crossfade": 25, "crossfade": 0.05}
    same, _ = sampled(host, repainted(mode="aggressive", **knobs), prompt)
    assert torch.equal(same, made["conservative"])


def test_spans_before_in_and_behind_a_song_in_bars(host):
    """120 bpm in 4/4: a bar is 2 s; the bar before the song, bar 3, and from bar 6 (10 s) to 14 s."""
    prompt = loaded()
    prompt[p.PLAN]["inputs"].update(bpm=120, time_signature="4/4", songs=2)
    new, source, said = heard(host, repainted(spans="0, 3\n6-7", unit="bars", mode="conservative"), prompt)
    left, fade = 2 * RATE, 2_400
    assert [one.shape for one in new] == [(2, 2, left + 14 * RATE)]
    for one in new[0]:
        for first, last in ((0, 4), (6, 10)):
            begin, end = first * RATE + fade, last * RATE - fade
            assert torch.equal(one[:, left + begin : left + end], source[:, begin:end])
    assert not torch.equal(new[0][0], new[0][1])
    assert "new: 0 to 2 s, 6 to 8 s, 12 to 16 s of 16 s" in said[0] and "the source begins at 2 s" in said[0]


def test_bars_of_the_widgets_go_before_those_of_the_blueprint(host):
    """A bar of 4/4 at 240 is 1 s; the blueprint would say 2 s."""
    prompt = loaded()
    prompt[p.PLAN]["inputs"].update(bpm=120, time_signature="4/4")
    _, said = sampled(host, repainted(spans="2-3", unit="bars", bpm=240.0), prompt)
    assert "new: 1 to 3 s of 10.1 s" in said


def test_a_repaint_after_a_repaint(host):
    """The second one takes latents and sound of the first: what both keep is the source, to the end of the song."""
    prompt = {
        **loaded(),
        p.SAMPLE: repainted(spans="9-12.01"),
        p.DECODE: decoded(),
        AGAIN: latent_source(),
        SECOND: repainted(source=[AGAIN, 0], spans="2-3", seed=8),
        DECODED: decoded(SECOND),
    }
    (first, last, source), run = sounds(host, [[p.DECODE, 0], [DECODED, 0], [SOUND_NODE, 0]], prompt)
    first, last, source, fade = first[0][0], last[0][0], source[0][0], 1_200
    assert first.shape == last.shape == (2, 576_480)  # 12.01 s, 300.25 frames
    assert torch.equal(last[:, 3 * RATE + fade :], first[:, 3 * RATE + fade :])
    assert torch.equal(last[:, : 2 * RATE - fade], source[:, : 2 * RATE - fade])
    assert torch.equal(last[:, 3 * RATE + fade : 9 * RATE - fade], source[:, 3 * RATE + fade : 9 * RATE - fade])
    assert not torch.equal(last[:, 2 * RATE : 3 * RATE], source[:, 2 * RATE : 3 * RATE])
    assert "12.01 s, 576480 samples, 301 latent frames" in run.text(AGAIN) and "as it came" in run.text(AGAIN)


def test_a_latent_is_a_source_without_its_sound(host):
    prompt = {**loaded(), p.SAMPLE: task("ACEStepDiTSample"), AGAIN: latent_source()}
    del prompt[AGAIN]["inputs"]["audio"]
    prompt |= {
        SECOND: repainted(source=[AGAIN, 0], spans="2-3"),
        DECODED: decoded(SECOND),
        p.DECODE: p.node("ACEStepDecodeAudio", vae=[p.LOAD, 2], latent=[p.SAMPLE, 0]),
    }
    (plain, new), run = sounds(host, [[p.DECODE, 0], [DECODED, 0]], prompt)
    assert torch.equal(new[0][..., 4 * RATE :], plain[0][..., 4 * RATE :]) and not torch.equal(new[0], plain[0])
    assert "sound: decoded from the latent" in run.text(AGAIN)


def stepped(run):
    """Nodes of which a step was seen."""
    return {event["node"] for event in run.of("progress")}


BAD = {
    "end before start": (lambda: repainted(spans="7-4"), ("ends at or before its start",)),
    "no span": (lambda: repainted(spans=" , "), ("spans: expected at least one",)),
    "no number": (lambda: repainted(spans="from 2"), ("is no span in seconds",)),
    "the whole song": (lambda: repainted(spans="0-11"), ("covers the whole song of 10.1 s", "DiTSample")),
    "longer than the song": (lambda: repainted(spans="-1 to 20"), ("covers the whole song",)),
    "a hole": (lambda: repainted(spans="12-15"), ("12 to 15 s lies outside",)),
    "all of it in crossfades": (lambda: repainted(spans="0.3-9.9", crossfade=1.0), ("crossfade", "leaves 0.5 s")),
    "too long": (lambda: repainted(spans="5-601"), ("601 s long", "600 s is the most")),
    "bars without a tempo": (lambda: repainted(spans="2-3", unit="bars"), ("bpm", "auto")),
    "injection": (lambda: repainted(injection=-0.5), ("injection: expected 0 to 1", "-0.5")),
    "mode": (lambda: repainted(mode="bold"), ("bold",)),
    "latent as source": (lambda: repainted(source=[p.SAMPLE, 0]), ("ACESTEP_SOURCE",)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_spans_are_refused_before_anything_is_sampled(host, case):
    make, words = BAD[case]
    nodes = {**loaded(), p.SAMPLE: repainted(), SECOND: make()}
    save = p.node("SaveLatent", samples=[SECOND, 0], filename_prefix="never")
    run = refused(host, {**nodes, p.SAVE: save}, *words)
    assert SECOND not in stepped(run)


def test_a_good_repaint_is_seen_stepping(host):
    """What the test above looks for is there when something is sampled."""
    save = p.node("SaveLatent", samples=[SECOND, 0], filename_prefix="latents/stepping")
    run = host.run({**loaded(), SECOND: repainted(seed=77), p.SAVE: save})
    assert run.ok and SECOND in stepped(run), run.message


def test_sound_of_another_length_is_no_sound_of_the_latent(host):
    nodes = {**loaded(), p.SAMPLE: repainted(spans="9-13"), AGAIN: latent_source(audio=[SOUND_NODE, 0])}
    save = p.node("PreviewAny", source=[AGAIN, 0])
    assert not refused(host, {**nodes, p.SAVE: save}, "the latent has 325 frames (13 s), the sound 10.1 s").ok


def test_a_splice_of_another_song_is_refused(host):
    nodes = {**loaded(), p.SAMPLE: repainted(), OTHER: repainted(spans="1-2"), p.DECODE: decoded(splice=[OTHER, 1])}
    keep = p.node("KeepSounds", audio=[p.DECODE, 0], name="never")
    assert not refused(host, {**nodes, KEEP: keep}, "splice", "another song").ok


def test_the_splice_of_a_song_is_refused_once_its_parts_are_rearranged(host):
    """The cut latent is as long as the whole one."""
    bars = {"unit": "seconds", "bpm": -1.0, "time_signature": "auto", "crossfade": 0.0, "curve": "linear"}
    cut = p.node("ACEStepCutSong", spans="5.04-10.08,0-5.04", mode="keep", latent=[p.SAMPLE, 0], **bars)
    nodes = {**loaded(), p.SAMPLE: repainted(), OTHER: cut}
    nodes[p.DECODE] = decoded(latent=[OTHER, 1])
    keep = p.node("KeepSounds", audio=[p.DECODE, 0], name="never")
    assert not refused(host, {**nodes, KEEP: keep}, "splice", "belongs to another song").ok
