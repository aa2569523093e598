"""Audio codes against diffusers and vector-quantize-pytorch, and all 64 000 of them there and back."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit.codes import FSQ, AudioDetokenizer, AudioTokenizer

LEVELS = (8, 8, 8, 5, 5, 5)


@pytest.fixture
def tokenizers(oracle_codes, adopt):
    """tokenizers(config) -> our tokenizer and detokenizer, then the oracle's."""

    def build(config):
        tokenizer, detokenizer = oracle_codes(config)
        ours = adopt(AudioTokenizer(config), tokenizer), adopt(AudioDetokenizer(config), detokenizer)
        return *ours, tokenizer, detokenizer

    return build


@pytest.fixture
def latents(rng, tiny):
    """latents(frames) -> [2, frames, C] and silence [1, 8, C]."""
    C = tiny.audio_acoustic_hidden_dim
    return lambda frames: (torch.randn(2, frames, C, generator=rng(1)), torch.randn(1, 8, C, generator=rng(2)))


@pytest.fixture
def quantizer(perturb):
    return perturb(FSQ(32, LEVELS), 4)


@pytest.mark.parametrize("frames", [100, 101, 103, 104, 3])
def test_tokenizer_matches_diffusers(tiny, tokenizers, latents, relative_error, frames):
    ours, _, oracle, _ = tokenizers(tiny)
    x, silence = latents(frames)
    with torch.no_grad():
        vectors, indices = ours(x, silence)
        expected, expected_indices = oracle.tokenize(x, silence)
    assert indices.dtype == torch.int64 and indices.shape == (2, -(-frames // 5))
    assert torch.equal(indices, expected_indices[..., 0])
    assert len(indices.unique()) > 1
    assert relative_error(vectors, expected) < 1e-5


def test_the_last_group_is_filled_with_the_first_frames_of_silence(tiny, tokenizers, latents):
    ours, *_ = tokenizers(tiny)
    x, silence = latents(23)
    with torch.no_grad():
        _, filled = ours(x, silence)
        _, whole = ours(torch.cat([x, silence[:, :2].expand(2, -1, -1)], dim=1), silence)
    assert torch.equal(filled, whole)


def test_too_little_silence_is_refused(tiny_2b):
    with pytest.raises(ValueError, match="needs 4 frames of silence"):
        AudioTokenizer(tiny_2b)(torch.zeros(1, 6, 8), torch.zeros(1, 3, 8))


def test_detokenizer_matches_diffusers(tiny, tokenizers, rng, relative_error):
    _, ours, _, oracle = tokenizers(tiny)
    vectors = torch.randn(2, 4, tiny.fsq_dim, generator=rng(3))
    with torch.no_grad():
        got, expected = ours(vectors), oracle(vectors)
        assert got.shape == (2, 20, tiny.audio_acoustic_hidden_dim)
        assert relative_error(got, expected) < 1e-5
        assert relative_error(ours(vectors[:, 2:3]), expected[:, 10:15]) < 1e-5  # every vector by itself


def test_vectors_of_indices_match_diffusers(tiny, tokenizers, relative_error):
    ours, _, oracle, _ = tokenizers(tiny)
    indices = torch.arange(64_000).reshape(2, -1)
    with torch.no_grad():
        assert relative_error(ours.vectors(indices), oracle.quantizer.get_output_from_indices(indices)) < 1e-6


def test_all_codes_there_and_back(quantizer):
    """index -> levels -> latent that has these levels -> index, through a projection that changes nothing."""
    plain = FSQ(6, LEVELS)
    index = torch.arange(plain.codes)
    with torch.no_grad():
        for layer in (plain.project_in, plain.project_out):
            layer.weight.copy_(torch.eye(6))
            layer.bias.zero_()
        code = plain.decode(index)  # the code itself, [64000, 6] in -1 .. 1
        bound = 1 + 1 / (torch.tensor(LEVELS) - 1.0)
        vectors, back = plain.encode(bound * torch.atanh(code / bound))
    assert plain.codes == quantizer.codes == 64_000
    assert torch.equal(back, index) and torch.equal(vectors, code)
    assert len(code.unique(dim=0)) == 64_000 and code.min() == -1 and code.max() == 1


def test_the_basis_counts_from_the_first_number(quantizer):
    assert quantizer.basis == (1, 8, 64, 512, 2560, 12800)
    assert quantizer.digits(torch.tensor([0, 7, 8, 512, 63_999])).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [7, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [7, 7, 7, 4, 4, 4],
    ]


def test_quantizer_matches_vector_quantize_pytorch(quantizer, rng, relative_error):
    library = pytest.importorskip("vector_quantize_pytorch")
    oracle = library.ResidualFSQ(dim=32, levels=list(LEVELS), num_quantizers=1).eval()
    oracle.load_state_dict(quantizer.state_dict(), strict=False)
    h = torch.randn(1, 20_000, 32, generator=rng(6))
    with torch.no_grad():
        expected, expected_indices = oracle(h)
        vectors, indices = quantizer.encode(h)
        assert torch.equal(indices, expected_indices[..., 0])
        assert relative_error(vectors, expected) < 1e-6
        assert relative_error(quantizer.decode(indices), oracle.get_output_from_indices(expected_indices)) < 1e-6
    assert len(indices.unique()) > 5_000  # the levels are used up to their ends


def test_low_precision_weights_are_computed_with_in_fp32(quantizer, rng):
    """The same weights, once stored in bf16 and once in fp32, give the same codes."""
    h = torch.randn(2_000, 32, generator=rng(8)).bfloat16()
    low = quantizer.bfloat16()
    with torch.no_grad():
        vectors, indices = low.encode(h)
        high = FSQ(32, LEVELS)
        high.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
        assert vectors.dtype == torch.bfloat16
        assert torch.equal(high.encode(h.float())[1], indices)
        assert low.decode(indices).dtype == torch.float32
        assert torch.equal(low.decode(indices, torch.bfloat16), vectors)


@pytest.mark.parametrize("index", [-1, 64_000])
def test_codes_that_do_not_exist_are_refused(quantizer, index):
    with pytest.raises(ValueError, match="audio codes must be 0 to 63999"):
        quantizer.decode(torch.tensor([[5, index]]))


def test_no_codes_are_no_vectors(quantizer):
    assert quantizer.decode(torch.empty(1, 0, dtype=torch.int64)).shape == (1, 0, 32)
