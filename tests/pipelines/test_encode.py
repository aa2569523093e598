"""What the decoder reads of a song, for one song and for batches."""

from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.encode import encode_song, encode_songs, song_frames
from acestep_models.prompts import caption_prompt, lyric_prompt
from acestep_models.runtime import PlainRuntime

SHORT = Blueprint(caption="piano", lyrics="la", seconds=10.2)
LONG = Blueprint(caption="a long description of a song", lyrics="[Verse]\n" + "la la\n" * 40, bpm=99, seconds=10.2)


def test_length_is_shared_or_sixty_seconds():
    assert song_frames([Blueprint(caption="a")]) == 1500
    assert song_frames([Blueprint(caption="a", seconds=10.2), Blueprint(caption="b")]) == 255
    with pytest.raises(ValueError, match=r"one length, got \[10.0, 20.0\]"):
        song_frames([Blueprint(seconds=10), Blueprint(seconds=20)])


@pytest.mark.parametrize("songs", [0, 9])
def test_one_to_eight_songs(songs):
    with pytest.raises(ValueError, match=f"expected 1 to 8 in a batch, got {songs}"):
        song_frames([SHORT] * songs)


def test_tokens_are_lyrics_then_timbre_then_caption(tiny_models):
    song = encode_song(PlainRuntime(), tiny_models.conditioner, SHORT, 255)
    tokenizer = tiny_models.conditioner.tokenizer
    lyrics = len(tokenizer.encode_prompt(lyric_prompt(SHORT)))
    caption = len(tokenizer.encode_prompt(caption_prompt(SHORT, 10.2)))
    assert song.tokens.shape[1] == lyrics + 1 + caption
    sung_otherwise = replace(SHORT, lyrics="lo")
    other = encode_song(PlainRuntime(), tiny_models.conditioner, sung_otherwise, 255)
    assert torch.equal(song.tokens[:, lyrics:], other.tokens[:, lyrics:])
    assert not torch.equal(song.tokens[:, :lyrics], other.tokens[:, :lyrics])


def test_context_is_silence_and_a_mask_of_ones(tiny_models):
    song = encode_song(PlainRuntime(), tiny_models.conditioner, SHORT, 255)
    assert torch.equal(song.context[..., :64], tiny_models.conditioner.silence.take(255))
    assert bool((song.context[..., 64:] == 1).all()) and song.context.shape == (1, 255, 128)


def test_conditions_of_a_batch_are_those_of_single_runs(tiny_models):
    runtime, models = PlainRuntime(), tiny_models.conditioner
    batch = encode_songs(runtime, models, [SHORT, LONG, SHORT], 255)
    singles = [encode_song(runtime, models, song, 255) for song in (SHORT, LONG, SHORT)]
    for k, single in enumerate(singles):
        length = single.tokens.shape[1]
        assert torch.equal(batch.tokens[k : k + 1, :length], single.tokens)
        assert torch.equal(batch.context[k : k + 1], single.context)
        assert batch.mask[k].tolist() == [True] * length + [False] * (batch.tokens.shape[1] - length)


def test_equal_songs_are_encoded_once_and_need_no_mask(tiny_models, monkeypatch):
    calls = []
    original = type(tiny_models.conditioner.condition.module).forward
    monkeypatch.setattr(
        type(tiny_models.conditioner.condition.module), "forward", lambda *a: calls.append(1) or original(*a)
    )
    assert encode_songs(PlainRuntime(), tiny_models.conditioner, [SHORT] * 8, 255).mask is None
    assert len(calls) == 1


def test_text_that_the_encoder_cannot_read_is_refused(tiny_models):
    with pytest.raises(ValueError, match="lyric prompt has .* tokens, the model reads at most 2048"):
        encode_song(PlainRuntime(), tiny_models.conditioner, Blueprint(lyrics="漢" * 3000), 250)
    with pytest.raises(ValueError, match="caption prompt has .* tokens, the model reads at most 256"):
        encode_song(PlainRuntime(), tiny_models.conditioner, Blueprint(caption="漢" * 500), 250)


def test_an_empty_song_is_refused_before_any_network_moves(tiny_models):
    with pytest.raises(ValueError, match="caption and lyrics are both empty"):
        encode_song(None, tiny_models.conditioner, Blueprint(), 250)
