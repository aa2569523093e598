"""CutSong, LoopSong and JoinSongs inside this process: what is read of widgets and wires."""

from __future__ import annotations

import pytest
import torch

CUT = {"unit": "seconds", "mode": "keep", "bpm": -1.0, "time_signature": "auto", "crossfade": 0.0, "curve": "linear"}
LOOP = {name: value for name, value in CUT.items() if name != "mode"}
JOIN = {name: value for name, value in LOOP.items() if name != "crossfade"}


@pytest.fixture
def tools(pack):
    return pack("song_tools")


def sound(seconds=10.0, rate=44_100, channels=1):
    return {
        "waveform": torch.arange(round(seconds * rate), dtype=torch.float32).expand(1, channels, -1),
        "sample_rate": rate,
    }


def rows(frames=250, **extra):
    return {"samples": torch.arange(float(frames)).expand(1, 64, -1), "type": "audio", **extra}


def test_bars_are_those_of_the_widgets_else_of_the_blueprint(tools, core):
    song = core("blueprint").Blueprint(bpm=120, time_signature="4")  # a bar is 2 s
    cut = tools.CutSong.execute(spans="2-3", **{**CUT, "unit": "bars"}, latent=rows(), blueprint=(song, song))
    assert cut.result[1]["samples"][0, 0].tolist() == list(range(50, 150))
    faster = {**CUT, "unit": "bars", "bpm": 180.0, "time_signature": "3/4"}  # a bar is 1 s
    cut = tools.CutSong.execute(spans="2-3", **faster, latent=rows(), blueprint=(song,))
    assert cut.result[1]["samples"][0, 0].tolist() == list(range(25, 75))
    cut = tools.CutSong.execute(spans="5", **{**faster, "time_signature": "auto"}, latent=rows(), blueprint=(song,))
    assert cut.result[1]["samples"][0, 0, 0] == round(4 * 4 * 60 / 180 * 25)


def test_bars_may_be_those_of_what_the_latent_was_made_of(tools, core):
    """As in SpanMask: where no blueprint is connected, and only while the latent is as long as it was."""
    schedule = core("sampling.schedule").Schedule((1.0, 0.0), None)
    paper = core("blueprint").Blueprint(bpm=120, time_signature="4")  # a bar is 2 s
    meta = core("pipelines.generate").SongMeta((paper,), (0,), 250, schedule)
    cut = tools.CutSong.execute(spans="2", **{**CUT, "unit": "bars"}, latent=rows(acestep=meta))
    assert cut.result[1]["samples"][0, 0].tolist() == list(range(50, 100))
    looped = tools.LoopSong.execute(span="2", times=2, **{**LOOP, "unit": "bars"}, latent=rows(acestep=meta))
    assert looped.result[1]["samples"][0, 0].tolist() == [*range(50, 100)] * 2
    slower = (core("blueprint").Blueprint(bpm=60, time_signature="4"),)
    cut = tools.CutSong.execute(spans="2", **{**CUT, "unit": "bars"}, latent=rows(acestep=meta), blueprint=slower)
    assert cut.result[1]["samples"][0, 0].tolist() == list(range(100, 200))
    for node, text in ((tools.CutSong, {**CUT, "spans": "2"}), (tools.LoopSong, {**LOOP, "span": "2", "times": 2})):
        with pytest.raises(ValueError, match="bpm: bars need the song's tempo"):
            node.execute(**{**text, "unit": "bars"}, latent=rows(200, acestep=meta))


@pytest.mark.parametrize(
    ("values", "frames", "seconds", "told"),
    [
        ({"spans": "5-end"}, 250, 10.03, True),
        ({"spans": "5-end"}, 251, 10.03, True),  # the last frame is only begun
        ({"spans": "1-2"}, 250, 10.03, False),
        ({"spans": "1-2", "mode": "remove"}, 250, 10.03, True),
        ({"spans": "5-end", "mode": "remove"}, 250, 10.03, False),
        ({"spans": "5-end"}, 250, 10.0, False),
        ({"spans": "5-end"}, None, 10.03, False),
    ],
)
def test_a_pair_that_loses_its_tail_says_so(tools, values, frames, seconds, told):
    latent = {} if frames is None else {"latent": rows(frames)}
    made = tools.CutSong.execute(**{**CUT, **values}, audio=sound(seconds), **latent)
    line = "left out: the last 0.03 s of the sound, which fill no frame of 0.04 s"
    assert (line in made.ui["text"][0].split("\n")) == told


@pytest.mark.parametrize(
    ("bpm", "blueprints", "words"),
    [
        (-1.0, None, "bpm: bars need the song's tempo"),
        (-1.0, [{}], "bpm: bars need the song's tempo"),
        (120.0, None, "time_signature: bars need"),
        (-1.0, [{"bpm": 90, "time_signature": "4"}, {"bpm": 91, "time_signature": "4"}], "2 different tempos"),
        (5.0, [{"bpm": 90, "time_signature": "4"}], "bpm: expected 30 to 300, or -1"),
        (0.0, None, "bpm: expected 30 to 300, or -1"),
    ],
)
def test_bars_without_a_meter_are_refused(tools, core, bpm, blueprints, words):
    songs = blueprints and tuple(core("blueprint").Blueprint(**fields) for fields in blueprints)
    with pytest.raises(ValueError, match=words):
        tools.CutSong.execute(spans="1-2", **{**CUT, "unit": "bars", "bpm": bpm}, audio=sound(), blueprint=songs)


def test_sound_keeps_rate_and_channels_and_latents_lose_mask_and_history(tools):
    made = tools.LoopSong.execute(
        span="1-2", times=3, **LOOP, audio=sound(), latent=rows(noise_mask=torch.ones(1, 1, 250), acestep=object())
    )
    audio, latent = made.result
    assert audio["sample_rate"] == 44_100 and audio["waveform"].shape == (1, 1, 3 * 44_100)
    assert set(latent) == {"samples", "type"} and latent["samples"].shape == (1, 64, 75)
    assert made.ui["text"] == ("3 times 1.00 to 2.00 s\nresult: 3 s\nin step on the grid of 0.04 s",)


def history(core, frames, songs=1, song="a canvas", **facts):
    """What Repaint says of its latents."""
    papers = tuple(core("blueprint").Blueprint(**facts) for _ in range(songs))
    schedule = core("sampling.schedule").Schedule((1.0, 0.0), None)
    return core("pipelines.generate").SongMeta(papers, tuple(range(songs)), frames, schedule, "repaint", song=song)


def test_latents_keep_their_history_under_another_name(tools, core):
    """So that tempo stays known, and no splice of the whole song fits, not even where the length is the same."""
    given, names = rows(acestep=history(core, 250, bpm=120, time_signature="4")), set()
    for made in (
        tools.CutSong.execute(spans="5-10, 0-5", **CUT, latent=given),
        tools.CutSong.execute(spans="0-5", **CUT, latent=given),
        tools.LoopSong.execute(span="0-5", times=2, **LOOP, latent=given),
        tools.JoinSongs.execute(0.5, **JOIN, latent_1=given, latent_2=given),
    ):
        latent = made.result[1]
        meta = latent["acestep"]
        assert meta.frames == latent["samples"].shape[-1] and len(meta.song) == 16
        assert meta.blueprints == given["acestep"].blueprints and meta.seeds == (0,)
        names.add(meta.song)
    assert len(names) == 4
    again = tools.CutSong.execute(spans="2", **{**CUT, "unit": "bars"}, latent=latent)
    assert again.result[1]["samples"].shape[-1] == 50  # a bar of 2 s


def test_a_join_tells_the_tempo_that_both_have(tools, core):
    def joined(one, two):
        return tools.JoinSongs.execute(0.0, **JOIN, latent_1=one, latent_2=two).result[1].get("acestep")

    slow = rows(acestep=history(core, 250, bpm=90, time_signature="3"))
    fast = rows(acestep=history(core, 250, bpm=120, time_signature="3"))
    stale = rows(acestep=history(core, 99, bpm=120, time_signature="3"))
    assert [song.bpm for song in joined(slow, slow).blueprints] == [90]
    assert [(song.bpm, song.time_signature) for song in joined(slow, fast).blueprints] == [(None, None)]
    assert joined(rows(), stale) is None and joined(rows(), fast).blueprints[0].bpm == 120
    three = {**rows(acestep=history(core, 250, 3, bpm=90)), "samples": torch.zeros(3, 64, 250)}
    assert joined(rows(acestep=history(core, 250, bpm=90)), three).seeds == (0, 1, 2)
    plain = {"samples": torch.zeros(3, 64, 250)}
    assert [song.bpm for song in joined(slow, plain).blueprints] == [90, 90, 90]


def test_an_overlap_is_told_as_long_as_it_was_made(tools):
    made = tools.JoinSongs.execute(0.5, **JOIN, latent_1=rows(), latent_2=rows())
    assert made.ui["text"][0].startswith("10 s and 10 s, overlapping for 0.52 s")
    assert made.result[1]["samples"].shape[-1] == 500 - 13
    with pytest.raises(ValueError, match="^crossfade: 11 s is longer than one of the songs, which have 10 and 10 s"):
        tools.JoinSongs.execute(11.0, **JOIN, latent_1=rows(), latent_2=rows())
    with pytest.raises(ValueError, match="^bpm: .*set bpm, or unit to seconds$"):
        tools.JoinSongs.execute(1.0, **{**JOIN, "unit": "bars"}, latent_1=rows(), latent_2=rows())


def test_an_output_that_was_not_made_says_so(tools):
    audio, latent = tools.CutSong.execute(spans="1-2", **CUT, audio=sound()).result
    assert audio["waveform"].shape[-1] == 44_100
    assert latent.message == "no latent came into the node before; connect its latent input, or use its other output"
    audio, latent = tools.CutSong.execute(spans="1-2", **{**CUT, "mode": "remove"}, latent=rows()).result
    assert "no audio came" in audio.message and latent["samples"].shape[-1] == 225


def test_nothing_connected_is_refused(tools):
    with pytest.raises(ValueError, match="audio, latent: expected at least one"):
        tools.CutSong.execute(spans="1-2", **CUT)
    with pytest.raises(ValueError, match="audio_2, latent_2: nothing is connected"):
        tools.JoinSongs.execute(0.5, **JOIN, audio_1=sound())
    with pytest.raises(ValueError, match="mode: expected one of keep, remove; got 'drop'"):
        tools.CutSong.execute(spans="1-2", **{**CUT, "mode": "drop"}, audio=sound())
    with pytest.raises(ValueError, match="a loop is of one part, got 2; CutSong joins several"):
        tools.LoopSong.execute(span="1-2, 3-4", times=2, **LOOP, audio=sound())


def test_validation_reads_the_text_before_anything_runs(tools):
    for check in (tools.CutSong.validate_inputs, tools.LoopSong.validate_inputs):
        assert check("1-8, 5-end", "bars") is True
        assert check(None, "bars") is True
        assert check("x", None) is True
        assert "is no span in bars" in check("1.5-8", "bars")
        assert "unit: expected one of" in check("1-8", "beats")


def test_a_join_says_what_it_changed(tools):
    made = tools.JoinSongs.execute(
        0.5, **{**JOIN, "curve": "equal power"}, audio_1=sound(2.0), audio_2=sound(2.0, 48_000, 2)
    )
    assert made.result[0]["sample_rate"] == 48_000 and made.result[0]["waveform"].shape == (1, 2, 3.5 * 48_000)
    said = made.ui["text"][0].split("\n")
    assert said[0] == "2 s and 2 s, overlapping for 0.5 s" and said[-1] == "result: 3.5 s"
    assert said[1] == "changed: 44100 Hz with 1 channel(s), 48000 Hz with 2 channel(s) to 48000 Hz stereo"


def test_a_crossfade_of_a_bar(tools, core):
    """3/4 at 90: a bar is 2 s."""
    songs = (core("blueprint").Blueprint(bpm=90, time_signature="3"),)
    made = tools.JoinSongs.execute(
        1.0, **{**JOIN, "unit": "bars"}, audio_1=sound(3.0), audio_2=sound(4.0), blueprint=songs
    )
    assert made.result[0]["waveform"].shape[-1] == 5 * 44_100
    assert made.ui["text"][0].startswith("3 s and 4 s, overlapping for 2 s")
    with pytest.raises(ValueError, match="bpm: bars need the song's tempo"):
        tools.JoinSongs.execute(1.0, **{**JOIN, "unit": "bars"}, audio_1=sound(), audio_2=sound())
