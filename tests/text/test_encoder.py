"""Caption states and lyric embeddings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from acestep_models.prompts import CAPTION_TOKENS, LYRIC_TOKENS
from acestep_models.qwen3.model import TEXT_ENCODER, Qwen3, Qwen3Config
from acestep_models.text.encoder import activation_bytes, caption_states, lyric_embeddings

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
IDS = [5, 9, 1, 63, 0, 2, 2]


@pytest.fixture
def model(perturb: Callable[..., nn.Module]) -> Qwen3:
    torch.manual_seed(0)
    built = perturb(Qwen3(CONFIG), 5)
    assert isinstance(built, Qwen3)
    return built


@torch.no_grad()
def test_captions_go_through_the_transformer_and_lyrics_do_not(model: Qwen3) -> None:
    states = caption_states(model, IDS)
    assert torch.equal(states, model(torch.tensor([IDS])))
    assert states.shape == (1, 7, 32)
    lyrics = lyric_embeddings(model, IDS)
    assert torch.equal(lyrics[0], model.embed_tokens.weight[IDS])
    assert torch.equal(lyrics[0, 5], lyrics[0, 6])
    assert not torch.equal(states[0, 5], states[0, 6])


@torch.no_grad()
def test_what_follows_cannot_change_what_was_read(
    model: Qwen3, relative_error: Callable[[Tensor, Tensor], float]
) -> None:
    assert relative_error(caption_states(model, [*IDS, 7, 8])[:, :7], caption_states(model, IDS)) < 1e-6


@torch.no_grad()
def test_a_compute_dtype_other_than_the_stored_one(model: Qwen3) -> None:
    lyrics = lyric_embeddings(model, IDS, dtype=torch.bfloat16)
    assert lyrics.dtype == torch.bfloat16
    assert torch.equal(lyrics, lyric_embeddings(model, IDS).to(torch.bfloat16))
    assert caption_states(model.to(torch.bfloat16), IDS).dtype == torch.bfloat16


@torch.no_grad()
def test_limits_are_errors_not_cuts(model: Qwen3) -> None:
    assert (CAPTION_TOKENS, LYRIC_TOKENS) == (256, 2048)
    assert caption_states(model, [1] * 256).shape == (1, 256, 32)
    assert lyric_embeddings(model, [1] * 2048).shape == (1, 2048, 32)
    with pytest.raises(ValueError, match=r"caption prompt has 257 tokens, the model reads at most 256\. Shorten"):
        caption_states(model, [1] * 257)
    with pytest.raises(ValueError, match=r"lyric prompt has 2049 tokens, the model reads at most 2048\. Shorten"):
        lyric_embeddings(model, [1] * 2049)
    with pytest.raises(ValueError, match=r"caption prompt has no tokens"):
        caption_states(model, [])


def test_room_for_the_longest_caption() -> None:
    assert 10e6 < activation_bytes(TEXT_ENCODER, CAPTION_TOKENS, torch.bfloat16) < 60e6
