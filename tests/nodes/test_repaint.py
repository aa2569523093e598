"""Repaint and LatentSource: what auto means, what is said, and what is refused before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from acestep_models.pipelines.listen import Source


@pytest.mark.parametrize(
    ("mode", "strength", "knobs", "values"),
    [
        ("balanced", 0.5, (-1.0, -1, -1.0), (0.5, 12, 0.025)),
        ("conservative", 0.5, (-1.0, -1, -1.0), (1.0, 25, 0.05)),
        ("aggressive", 0.5, (-1.0, -1, -1.0), (0.0, 0, 0.01)),
        ("aggressive", 0.5, (0.0, 0, 0.0), (0.0, 0, 0.0)),  # 0 is a value of its own, not auto
        ("conservative", 0.5, (0.25, -1, 1.5), (0.25, 25, 1.5)),
        ("balanced", 1.0, (-1.0, 250, -1.0), (0.0, 250, 0.01)),
    ],
)
def test_knobs_go_before_the_mode(pack, mode, strength, knobs, values):
    found = pack("repaint").read_settings(mode, strength, knobs)
    assert (found.injection, found.latent_crossfade, found.crossfade) == pytest.approx(values)


@pytest.mark.parametrize(
    ("mode", "knobs", "message"),
    [
        ("bold", (-1.0, -1, -1.0), "mode: expected one of balanced, conservative, aggressive; got 'bold'"),
        ("balanced", (-0.5, -1, -1.0), "injection: expected 0 to 1, got -0.5"),
        ("balanced", (-1.0, 300, -1.0), "latent_crossfade: expected 0 to 250, got 300"),
        ("balanced", (-1.0, -1, 11.0), "crossfade: expected 0 to 10, got 11"),
    ],
)
def test_wrong_knobs_are_refused(pack, mode, knobs, message):
    with pytest.raises(ValueError, match=message):
        pack("repaint").read_settings(mode, 0.5, knobs)


@pytest.mark.parametrize(
    ("spans", "unit", "answer"),
    [
        ("10-20", "seconds", True),
        ("-5 to 3, 1:05-end", "seconds", True),
        ("0, 5-8", "bars", True),
        (None, "seconds", True),
        ("10-20", None, True),
        ("", "seconds", "spans: expected at least one"),
        ("20-10", "seconds", "ends at or before its start"),
        ("1.5-2", "bars", "is no span in bars"),
    ],
)
def test_spans_are_read_before_anything_runs(pack, spans, unit, answer):
    found = pack("repaint").Repaint.validate_inputs(spans=spans, unit=unit)
    assert found is True if answer is True else answer in found


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, None),
        ({"mode": "aggressive", "strength": None, "injection": None, "crossfade": 10.0}, None),
        ({"strength": 1.5}, "strength: expected 0 to 1, got 1.5"),
        ({"mode": "bold"}, "mode: expected one of balanced, conservative, aggressive; got 'bold'"),
        ({"injection": 1.1}, "injection: expected 0 to 1, got 1.1"),
        ({"latent_crossfade": 251}, "latent_crossfade: expected 0 to 250, got 251"),
        ({"crossfade": -0.5}, "crossfade: expected 0 to 10, got -0.5"),
        ({"spans": "7-4", "unit": "seconds", "mode": "bold"}, "spans: '7-4' ends at or before its start"),
    ],
)
def test_values_are_checked_before_anything_runs(pack, values, complaint):
    found = pack("repaint").Repaint.validate_inputs(**values)
    assert found is True if complaint is None else found.startswith(complaint)


def test_it_says_where_the_new_is_and_what_was_rounded(pack):
    repaint, spans = pack("repaint"), pack("repaint").Span
    source = pack("source").Source(torch.zeros(1, 64, 252), torch.randn(1, 2, 484_800))
    places = (spans(-1.03, 0.5), spans(9.0, 12.0))
    lines = repaint.canvas_lines(repaint.lay_out(source, places), places)
    assert lines[0] == "new: 0 to 1.54 s, 10.04 to 13.04 s of 13.04 s, 625920 samples"
    assert lines[1] == "the source begins at 1.04 s, asked for 1.03 s: an intro is whole latent frames of 0.04 s"
    places = (spans(-1.0, 0.5),)
    assert repaint.canvas_lines(repaint.lay_out(source, places), places)[1] == "the source begins at 1 s"
    places = (spans(1.0, 2.0),)
    assert repaint.canvas_lines(repaint.lay_out(source, places), places)[1] == ""


def latent(songs=1, frames=30):
    return {"samples": torch.randn(songs, 64, frames, generator=torch.Generator("cpu").manual_seed(0))}


def audio(songs=1, samples=57_600, rate=48_000):
    wave = 0.1 * torch.randn(songs, 2, samples, generator=torch.Generator("cpu").manual_seed(1))
    return {"waveform": wave, "sample_rate": rate}


@pytest.mark.parametrize("song", [1, 3])
def test_one_song_is_paired_with_its_sound(pack, song):
    kind, songs, sound = pack("source").LatentSource, latent(3), audio(3)
    made = kind.execute(SimpleNamespace(), songs, sound, song)
    source = made.args[0]
    assert torch.equal(source.latents, songs["samples"][song - 1 : song])
    assert torch.equal(source.waveform, sound["waveform"][song - 1 : song])
    assert made.ui["text"] == ("1.2 s, 57600 samples, 30 latent frames\nsound: as it came",)
    assert set(vars(source)) == set(Source.__dataclass_fields__)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent": latent(), "audio": audio(), "song": 2}, "song: expected 1, for one song comes on latent; got 2"),
        ({"latent": latent(2), "audio": audio(2), "song": 0}, "for so many songs come on latent; got 0"),
        ({"latent": latent(2), "audio": audio()}, "as many sounds as there are songs in latent, 2; got 1"),
        ({"latent": latent(), "audio": audio(samples=96_000)}, "the latent has 30 frames"),
        ({"latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent: expected samples of shape"),
    ],
)
def test_what_does_not_belong_together_is_refused(pack, values, message):
    with pytest.raises(ValueError, match=message):
        pack("source").LatentSource.execute(SimpleNamespace(), **values)
