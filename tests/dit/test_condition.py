"""The condition encoder against diffusers, one song at a time."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.condition import ConditionEncoder

LYRICS, TEXT, FRAMES = (12, 7), (8, 5), 30


@pytest.fixture
def songs(rng):
    """Two songs in one padded batch: the first has two references, the second one."""

    def make(config):
        generator = rng(5)

        def noise(*shape):
            return torch.randn(*shape, generator=generator)

        def mask(lengths):
            return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()

        return dict(
            text_hidden_states=noise(2, max(TEXT), config.text_hidden_dim),
            text_attention_mask=mask(TEXT),
            lyric_hidden_states=noise(2, max(LYRICS), config.text_hidden_dim),
            lyric_attention_mask=mask(LYRICS),
            refer_audio_acoustic_hidden_states_packed=noise(3, FRAMES, config.audio_acoustic_hidden_dim),
            refer_audio_order_mask=torch.tensor([0, 0, 1]),
        )

    return make


def put_special_token_first(oracle):
    """XL's timbre encoder, which diffusers lacks: the token goes before the embedded frames (spec/audio.md §9.3)."""
    timbre = oracle.timbre_encoder

    def prepend(module, arguments, embedded):
        return torch.cat([timbre.special_token.expand(len(embedded), -1, -1), embedded], dim=1)

    timbre.embed_tokens.register_forward_hook(prepend)
    return oracle


@pytest.fixture
def pair(oracle_condition, adopt):
    """pair(config) -> our encoder and the oracle with the same weights."""

    def build(config):
        oracle = oracle_condition(config)
        ours = adopt(ConditionEncoder(config), oracle)
        return ours, put_special_token_first(oracle) if config.timbre_special_token else oracle

    return build


def encode_alone(ours, given, item):
    """One item of the padded batch as our encoder takes it."""
    return ours(
        given["text_hidden_states"][item : item + 1, : TEXT[item]],
        given["lyric_hidden_states"][item : item + 1, : LYRICS[item]],
        given["refer_audio_acoustic_hidden_states_packed"][given["refer_audio_order_mask"] == item],
    )


def test_matches_the_valid_tokens_of_diffusers(tiny, pair, songs, relative_error):
    (ours, oracle), given = pair(tiny), songs(tiny)
    with torch.no_grad():
        expected, mask = oracle(**given)
        for item, references in enumerate((2, 1)):
            got = encode_alone(ours, given, item)
            assert got.shape == (1, LYRICS[item] + references + TEXT[item], tiny.encoder_hidden_size)
            assert int(mask[item].sum()) == got.shape[1]
            assert relative_error(got[0], expected[item, : got.shape[1]]) < 1e-5


def test_the_special_token_is_heard_in_xl_only(tiny, pair, songs, relative_error):
    (ours, _), given = pair(tiny), songs(tiny)
    with torch.no_grad():
        before = encode_alone(ours, given, 0)
        ours.timbre_encoder.special_token.add_(1.0)
        after = encode_alone(ours, given, 0)
    timbre = slice(LYRICS[0], LYRICS[0] + 2)
    heard = relative_error(after[:, timbre], before[:, timbre])
    assert heard > 1e-2 if tiny.timbre_special_token else heard == 0
    assert torch.equal(after[:, : LYRICS[0]], before[:, : LYRICS[0]])


def test_order_is_lyrics_references_caption(tiny_2b, pair, songs):
    (ours, _), given = pair(tiny_2b), songs(tiny_2b)
    text = given["text_hidden_states"][:1]
    with torch.no_grad():
        tokens = encode_alone(ours, given, 0)
        assert torch.equal(tokens[:, -TEXT[0] :], ours.text_projector(text))
        assert torch.equal(tokens[:, : LYRICS[0]], ours.lyric_encoder(given["lyric_hidden_states"][:1]))
        reference = given["refer_audio_acoustic_hidden_states_packed"][1:2]
        # one reference alone goes through other kernels than two
        torch.testing.assert_close(tokens[:, LYRICS[0] + 1], ours.timbre_encoder(reference), rtol=1e-5, atol=1e-5)


def test_null_tokens_repeat_one_vector(tiny, pair):
    ours, oracle = pair(tiny)
    null = ours.null_tokens(7, torch.zeros(1))
    assert torch.equal(null, oracle.null_condition_emb.expand(1, 7, -1))


@pytest.mark.parametrize("wrong", ["text", "lyrics", "references"])
def test_batches_and_missing_references_are_refused(tiny_2b, wrong):
    ours = ConditionEncoder(tiny_2b)
    given = dict(text=torch.zeros(1, 4, 24), lyrics=torch.zeros(1, 4, 24), references=torch.zeros(1, 30, 8))
    given[wrong] = given[wrong][:0] if wrong == "references" else given[wrong].repeat(2, 1, 1)
    with pytest.raises(ValueError, match="one song and at least one reference"):
        ours(**given)
