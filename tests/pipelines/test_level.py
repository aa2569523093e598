"""Songs at a level: what is reported, what is refused, how it ends."""

import math

import pytest
import torch

from acestep_models.audio.loudness import LevelSettings, levels
from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.pipelines.level import level
from acestep_models.runtime import PlainRuntime


@pytest.fixture
def songs(rng):
    return torch.randn(2, 2, 48_000, generator=rng(0)) * torch.tensor([0.02, 0.3])[:, None, None]


def test_every_song_reaches_the_level_and_says_what_it_was(songs):
    result = level(PlainRuntime(), songs, 48_000, LevelSettings(target_lufs=-30.0))
    for before, after, was, now in zip(songs, result.wave, result.before, result.after, strict=True):
        assert was == levels(before, 48_000)
        assert now == levels(after, 48_000)
        assert now.lufs == pytest.approx(-30.0, abs=0.05)


def test_fades_end_in_silence(songs):
    result = level(PlainRuntime(), songs, 48_000, LevelSettings(fade_in=0.1, fade_out=0.2))
    assert float(result.wave[:, :, 0].abs().max()) == float(result.wave[:, :, -1].abs().max()) == 0.0


def test_progress_counts_and_cancel_is_heard(songs):
    class CancelAtTwo(PlainRuntime):
        def progress(self, done, total):
            super().progress(done, total)
            self.cancel = done == 2

    runtime = PlainRuntime()
    level(runtime, songs, 48_000, LevelSettings())
    assert runtime.last_progress == (6, 6)
    stopping = CancelAtTwo()
    with pytest.raises(Cancelled):
        level(stopping, songs, 48_000, LevelSettings())
    assert stopping.last_progress == (2, 6)


def test_sound_that_is_not_finite_is_refused(songs):
    songs[1, 0, 5] = math.inf
    with pytest.raises(ACEStepError, match="^Loudness .the sound that came in.: 1 of 192000"):
        level(PlainRuntime(), songs, 48_000, LevelSettings())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target_lufs", math.nan, "target_lufs: expected -50 to 0 LUFS, got nan"),
        ("target_lufs", 3.0, "got 3"),
        ("ceiling_db", math.inf, "ceiling_db: expected -20 to 0 dBTP, got inf"),
        ("fade_in", -5.0, "fade_in: expected 0 to 60 seconds, got -5"),
        ("fade_out", math.nan, "fade_out: expected 0 to 60 seconds, got nan"),
    ],
)
def test_settings_out_of_range_are_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        LevelSettings(**{name: value})
