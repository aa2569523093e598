"""DecodeAudio with a splice: what it says, and which splices it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

FRAMES = 30


@pytest.fixture
def splice(core):
    """New from 0.25 to 0.5 s, with a crossfade of 0.05 s and a tail that no frame holds."""
    wave = torch.randn(1, 2, FRAMES * 1920 + 960, generator=torch.Generator().manual_seed(1))
    return core("audio.splice").Splice(wave, ((12_000, 24_000),), 2_400, FRAMES, "one")


@pytest.fixture
def latent():
    return {"samples": torch.randn(2, 64, FRAMES, generator=torch.Generator().manual_seed(2)), "type": "audio"}


def test_what_was_kept_is_the_source_and_is_said(pack, loaded, splice, latent):
    made = pack("decode").DecodeAudio.execute(loaded.vae, latent, splice)
    wave = made.result[0]["waveform"]
    assert wave.shape == (2, 2, FRAMES * 1920 + 960)
    assert torch.equal(wave[..., :9_600], splice.waveform[..., :9_600].expand(2, -1, -1))
    assert torch.equal(wave[..., 26_400:], splice.waveform[..., 26_400:].expand(2, -1, -1))
    assert "kept bit for bit: 0.00 to 0.20 s, 0.55 to 1.22 s" in made.ui["text"][0]


def test_a_splice_that_leaves_nothing_says_so(pack, loaded, splice, latent):
    wide = replace(splice, fade=60_000)
    wide = replace(wide, waveform=wide.waveform[..., : FRAMES * 1920])
    assert "kept bit for bit: nothing" in pack("decode").DecodeAudio.execute(loaded.vae, latent, wide).ui["text"][0]


def test_the_splice_of_another_song_is_refused(pack, core, loaded, splice, latent, caplog):
    decode, meta = pack("decode").DecodeAudio.execute, core("pipelines.generate").SongMeta
    facts = {"blueprints": (), "seeds": (), "frames": FRAMES, "schedule": None, "task": "repaint"}
    unsure = "the latent does not say which song it is: the splice was checked by its length alone"
    said = decode(loaded.vae, {**latent, "acestep": meta(**facts, song="one")}, splice).ui["text"][0]
    assert unsure not in said and unsure in decode(loaded.vae, latent, splice).ui["text"][0]
    assert unsure not in decode(loaded.vae, latent).ui["text"][0]
    with pytest.raises(ValueError, match="splice: belongs to another song"):
        decode(loaded.vae, {**latent, "acestep": meta(**facts, song="two")}, splice)
    cut = {**latent, "acestep": meta(**{**facts, "frames": 40}, song="two")}  # by a node that knows no histories
    made = decode(loaded.vae, cut, splice).result[0]["waveform"]
    assert torch.equal(made[..., :9_600], splice.waveform[..., :9_600].expand(2, -1, -1))
    assert [record.getMessage()[:62] for record in caplog.records] == [
        "ACE-Step 1.5: the latent has 30 frames, its history is of 40 a"
    ]
    with pytest.raises(ValueError, match="splice: belongs to a song of 31 latent frames, the latent has 30"):
        decode(loaded.vae, latent, replace(splice, frames=FRAMES + 1))
    with pytest.raises(TypeError, match="splice: expected the splice output of Repaint or Extend, got str"):
        decode(loaded.vae, latent, "splice")
