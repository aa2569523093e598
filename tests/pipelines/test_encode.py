"""What the decoder reads of a song, for one song and for batches."""

from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError
from acestep_models.pipelines.encode import encode_song, encode_songs, read_codes, song_frames
from acestep_models.prompts import caption_prompt, lyric_prompt
from acestep_models.runtime import PlainRuntime
from acestep_models.tasks import TASKS

SHORT = Blueprint(caption="piano", lyrics="la", seconds=10.2)
LONG = Blueprint(caption="a long description of a song", lyrics="[Verse]\n" + "la la\n" * 40, bpm=99, seconds=10.2)


def test_length_is_shared_or_sixty_seconds():
    assert song_frames([Blueprint(caption="a")]) == 1500
    assert song_frames([Blueprint(caption="a", seconds=10.2), Blueprint(caption="b")]) == 255
    with pytest.raises(ValueError, match=r"one length, got songs of 10, 20 s; .*json goes into LoadBlueprint"):
        song_frames([Blueprint(seconds=10), Blueprint(seconds=20)])


def test_codes_say_the_length_where_seconds_do_not():
    assert song_frames([replace(SHORT, seconds=None, codes=range(51)), SHORT]) == 255
    assert song_frames([Blueprint(codes=range(3))]) == 15
    with pytest.raises(ValueError, match=r"one length, got songs of 10, 10\.2 s"):
        song_frames([Blueprint(codes=range(50)), SHORT])


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


CODED = replace(SHORT, codes=tuple(range(100, 151)))


def test_codes_become_context_and_instruction(tiny_models):
    models = tiny_models.conditioner
    plain, song = (encode_song(PlainRuntime(), models, b, 255) for b in (SHORT, CODED))
    assert torch.equal(song.context[..., :64], read_codes(PlainRuntime(), models, CODED.codes))
    assert bool((song.context[..., 64:] == 1).all()) and song.context.shape == (1, 255, 128)
    assert not torch.equal(song.context, plain.context)
    lyrics = len(models.tokenizer.encode_prompt(lyric_prompt(SHORT)))
    assert torch.equal(song.tokens[:, : lyrics + 1], plain.tokens[:, : lyrics + 1])  # lyrics and timbre
    instruction = TASKS["text2music+codes"].instruction
    assert instruction == "Generate audio semantic tokens based on the given conditions:"
    caption = models.tokenizer.encode_prompt(caption_prompt(SHORT, 10.2, instruction))
    assert song.tokens.shape[1] == lyrics + 1 + len(caption)
    assert not torch.equal(song.tokens[:, -5:], plain.tokens[:, -5:])


def test_hints_of_codes_are_those_of_diffusers(tiny_models, diffusers_pipeline, relative_error):
    codes = (0, 63_999, 12_345, 5)
    quantizer, detokenizer = diffusers_pipeline.audio_tokenizer.quantizer, diffusers_pipeline.audio_token_detokenizer
    with torch.no_grad():
        expected = detokenizer(quantizer.get_output_from_indices(torch.tensor(codes)[None, :, None]))
    got = read_codes(PlainRuntime(), tiny_models.conditioner, codes)
    assert got.shape == (1, 20, 64) and relative_error(got, expected) < 1e-5


def test_codes_of_another_length_are_refused(tiny_models):
    song = Blueprint(caption="a", codes=range(50))
    with pytest.raises(ValueError, match="a song of 12 s has 60 codes, got 50; write the codes again"):
        encode_song(PlainRuntime(), tiny_models.conditioner, song, 300)


def test_a_song_with_codes_beside_one_without(tiny_models):
    runtime, models, songs = PlainRuntime(), tiny_models.conditioner, [CODED, SHORT, replace(CODED, codes=range(51))]
    batch = encode_songs(runtime, models, songs, 255)
    for k, song in enumerate(songs):
        single = encode_song(runtime, models, song, 255)
        assert torch.equal(batch.context[k : k + 1], single.context)
        assert torch.equal(batch.tokens[k : k + 1, : single.tokens.shape[1]], single.tokens)


def test_songs_that_read_the_same_are_encoded_once(tiny_models, monkeypatch):
    """What is there for people and for the planner changes nothing."""
    kind, calls = type(tiny_models.conditioner.condition.module), []
    original = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *a: calls.append(1) or original(*a))
    notes = dict(score=0.5, codes_seed=3, filled={"caption"}, locked={"bpm"}, sentence="s", genres="g", seed=9)
    remarks = dict(user_caption="u", lm=(("a", 1),), extra=(("x", "1"),))
    encode_songs(PlainRuntime(), tiny_models.conditioner, [CODED, replace(CODED, **notes, **remarks)], 255)
    assert len(calls) == 1
    for name, value in (("caption", "c"), ("lyrics", "l"), ("bpm", 99), ("key", "C"), ("time_signature", "3")):
        encode_songs(PlainRuntime(), tiny_models.conditioner, [CODED, replace(CODED, **{name: value})], 255)
    assert len(calls) == 11


def test_hints_that_are_not_finite_name_their_stage(tiny_models):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x * float("nan")

    detokenizer = replace(tiny_models.conditioner.detokenizer, module=Broken())
    broken = replace(tiny_models.conditioner, detokenizer=detokenizer)
    with pytest.raises(ACEStepError, match="^audio detokenizer .*not finite"):
        encode_song(PlainRuntime(), broken, CODED, 255)
