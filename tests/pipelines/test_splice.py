"""A splice through the VAE: what is new is decoded, what is kept is the source, and a foreign splice is refused."""

from __future__ import annotations

import pytest
import torch

from acestep_models.audio.splice import Splice
from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.decode import check_song, decode
from acestep_models.pipelines.generate import SongMeta
from acestep_models.pipelines.told import told
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.schedule import SamplingOptions, resolve
from acestep_models.tasks import VARIANTS
from acestep_models.vae.oobleck import Oobleck

FRAMES = 12
NEW = (5_000, 9_000)


def a_splice(rng, samples, song="one"):
    return Splice(torch.randn(1, 2, samples, generator=rng(1)), (NEW,), 100, FRAMES, song)


@pytest.mark.parametrize("samples", [FRAMES * 1920, FRAMES * 1920 - 77, FRAMES * 1920 + 1919])
def test_spans_are_decoded_and_the_rest_is_the_source(tiny_models, rng, samples):
    latents = torch.randn(2, 64, FRAMES, generator=rng(2))
    splice = a_splice(rng, samples)
    plain = decode(PlainRuntime(), tiny_models.vae, latents)
    made = decode(PlainRuntime(), tiny_models.vae, latents, splice)
    assert plain.shape == (2, 2, FRAMES * 1920) and made.shape == (2, 2, samples)
    assert torch.equal(made[..., slice(*NEW)], plain[..., slice(*NEW)])
    for kept in (slice(0, NEW[0] - 100), slice(NEW[1] + 100, None)):
        assert torch.equal(made[..., kept], splice.waveform[..., kept].expand(2, -1, -1))
    assert splice.kept == ((0.0, 4_900 / 48_000), (9_100 / 48_000, samples / 48_000))


def test_latents_of_another_length_are_refused_before_anything_is_decoded(rng):
    with pytest.raises(ValueError, match="splice: belongs to a song of 12 latent frames, the latent has 13"):
        decode(PlainRuntime(), None, torch.zeros(1, 64, 13), a_splice(rng, FRAMES * 1920))


def test_the_splice_of_another_song_is_refused(rng):
    splice = a_splice(rng, FRAMES * 1920)
    schedule = resolve(SamplingOptions(), VARIANTS["turbo"], 3.0)
    facts = ((Blueprint(),), (0,), FRAMES, schedule)
    check_song(splice, SongMeta(*facts, task="repaint", song="one"), FRAMES)
    check_song(splice, None, FRAMES)
    check_song(splice, {"of": "another pack"}, FRAMES)
    with pytest.raises(ValueError, match=r"splice: belongs to another song \(the latent is of repaint\)"):
        check_song(splice, SongMeta(*facts, task="repaint", song="two"), FRAMES)
    with pytest.raises(ValueError, match=r"splice: belongs to another song \(the latent is of text2music\)"):
        check_song(splice, SongMeta(*facts), FRAMES)


def test_a_history_of_another_length_is_left_out_with_a_line_in_the_log(rng, caplog):
    schedule = resolve(SamplingOptions(), VARIANTS["turbo"], 3.0)
    meta = SongMeta((Blueprint(),), (0,), FRAMES + 8, schedule, task="repaint", song="two")
    check_song(a_splice(rng, FRAMES * 1920), meta, FRAMES)
    assert [record.getMessage() for record in caplog.records] == [
        "ACE-Step 1.5: the latent has 12 frames, its history is of 20 and is left out; another node made it longer or "
        "shorter"
    ]
    caplog.clear()
    assert told(meta, FRAMES + 8) is meta and told(None, FRAMES) is None and not caplog.records


def counted(monkeypatch):
    """Frames of every call of a VAE's decoder, in order; tiles have 512."""
    calls, plain = [], Oobleck.decode
    monkeypatch.setattr(
        "acestep_models.vae.room.place", lambda _, vae, __, frames, limit: (vae.module, min(frames, limit))
    )
    monkeypatch.setattr(Oobleck, "decode", lambda self, x: calls.append(x.shape[-1]) or plain(self, x))
    return calls


def test_only_what_a_splice_needs_is_decoded(tiny_models, rng, monkeypatch):
    """120 s in tiles of 512 frames that give 494 each: up to frames 503, 997, ... 2973, 3000."""
    calls, frames, runtime = counted(monkeypatch), 3000, PlainRuntime()
    latents = torch.randn(1, 64, frames, generator=rng(2))
    song = torch.randn(1, 2, frames * 1920, generator=rng(1))
    plain = decode(runtime, tiny_models.vae, latents)
    assert calls == [512] * 7
    for start, end, tiles in ((1000, 1075, 1), (985, 1060, 2), (2925, 3000, 2)):
        splice = Splice(song, ((start * 1920, end * 1920),), 2400, frames, "one")
        calls.clear()
        found = decode(runtime, tiny_models.vae, latents, splice)
        assert calls == [512] * tiles and runtime.last_progress == (tiles, tiles)
        assert torch.equal(found.view(torch.int32), splice.apply(plain).view(torch.int32))


def test_the_fade_is_decoded_too(tiny_models, rng, monkeypatch):
    """The span ends where the first tile gives its last frame, 503, its fade lies in the second."""
    calls, frames = counted(monkeypatch), 560
    latents = torch.randn(1, 64, frames, generator=rng(2))
    song = torch.randn(1, 2, frames * 1920 + 77, generator=rng(1))
    plain = decode(PlainRuntime(), tiny_models.vae, latents)
    for fade, tiles in ((0, 1), (1, 2)):
        splice = Splice(song, ((400 * 1920, 503 * 1920),), fade, frames, "one")
        calls.clear()
        found = decode(PlainRuntime(), tiny_models.vae, latents, splice)
        assert calls == [512] * tiles
        assert torch.equal(found.view(torch.int32), splice.apply(plain).view(torch.int32))
