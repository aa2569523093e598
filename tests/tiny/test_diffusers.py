"""Our folders read by diffusers, and diffusers' folders read by us: equal outputs both ways (float32, CPU)."""

from __future__ import annotations

import warnings

import pytest
import torch

from acestep_models.loading import build_part, probe
from acestep_models.loading.keymaps import DIT_PARTS
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.tiny.sizes import DECODERS

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LIMIT = 1e-4
PARTS = (*DIT_PARTS, "vae", "text_encoder")


def ours_of(path):
    checkpoint = probe(path)
    return {part: build_part(checkpoint, part, dtype=torch.float32) for part in PARTS}


@pytest.fixture(scope="module")
def theirs(tiny_2b_diffusers):
    return diffusers.AceStepPipeline.from_pretrained(tiny_2b_diffusers.model)


@pytest.fixture(scope="module")
def saved_by_diffusers(tmp_path_factory, perturb, tiny_2b_diffusers):
    """Modules that diffusers made and diffusers saved; nothing in the folder was written by us."""
    from diffusers.pipelines.ace_step import (
        AceStepAudioTokenDetokenizer,
        AceStepAudioTokenizer,
        AceStepConditionEncoder,
    )

    torch.manual_seed(0)
    encoder = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    encoder |= {"head_dim": 16, "sliding_window": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers uses torch's older weight norm
        vae = diffusers.AutoencoderOobleck(
            downsampling_ratios=[2, 4, 4, 6, 10],
            channel_multiples=[1, 1, 1, 1, 2],
            decoder_channels=4,
            sampling_rate=48_000,
        )
    text = transformers.Qwen3Config(
        vocab_size=630, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    pipeline = diffusers.AceStepPipeline(
        vae=perturb(vae, 1, 0.05),
        text_encoder=perturb(transformers.Qwen3Model(text), 2),
        tokenizer=transformers.PreTrainedTokenizerFast.from_pretrained(tiny_2b_diffusers.model / "tokenizer"),
        transformer=perturb(diffusers.AceStepTransformer1DModel(**encoder, num_hidden_layers=4), 3),
        condition_encoder=perturb(
            AceStepConditionEncoder(
                **encoder, text_hidden_dim=32, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=2
            ),
            4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        audio_tokenizer=perturb(AceStepAudioTokenizer(**encoder, fsq_dim=64), 5),
        audio_token_detokenizer=perturb(AceStepAudioTokenDetokenizer(**encoder), 6),
    )
    folder = tmp_path_factory.mktemp("saved_by_diffusers")
    pipeline.save_pretrained(folder)
    return pipeline, folder


def check_decoder(ours, theirs, rng, relative_error):
    draw = rng(0)
    x, context = torch.randn(2, 41, 64, generator=draw), torch.randn(2, 41, 128, generator=draw)
    tokens, t = torch.randn(2, 17, 64, generator=draw), torch.tensor([0.9, 0.3])
    expected = theirs(x, t, t, tokens, context, return_dict=False)[0]
    assert relative_error(ours(x, context, tokens, t), expected) < LIMIT


def check_condition(ours, theirs, rng, relative_error):
    draw = rng(1)
    text, lyrics = torch.randn(1, 9, 32, generator=draw), torch.randn(1, 23, 32, generator=draw)
    references = torch.randn(2, 40, 64, generator=draw)
    masks = torch.ones(1, 9, dtype=torch.long), torch.ones(1, 23, dtype=torch.long)
    expected, _ = theirs(text, masks[0], lyrics, masks[1], references, torch.zeros(2, dtype=torch.long))
    assert relative_error(ours(text, lyrics, references), expected) < LIMIT
    assert torch.equal(ours.null_tokens(1, torch.zeros(1)), theirs.null_condition_emb)


def check_codes(ours, theirs, rng, relative_error):
    """`ours` and `theirs` are (tokenizer, detokenizer)."""
    draw = rng(2)
    latents, silence = torch.randn(2, 23, 64, generator=draw), torch.randn(1, 5, 64, generator=draw)
    quantized, indices = ours[0](latents, silence)
    expected, expected_indices = theirs[0].tokenize(latents, silence)
    assert torch.equal(indices, expected_indices[..., 0])
    assert relative_error(quantized, expected) < LIMIT
    assert relative_error(ours[1](quantized), theirs[1](expected)) < LIMIT


def check_vae(ours, theirs, rng, relative_error):
    draw = rng(3)
    latents, wave = torch.randn(1, 64, 12, generator=draw), 0.3 * torch.randn(1, 2, 1920 * 4, generator=draw)
    assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < LIMIT
    assert relative_error(ours.encode_mean(wave), theirs.encode(wave).latent_dist.mean) < LIMIT


def check_text(ours, theirs, rng, relative_error):
    ids = torch.randint(0, 600, (1, 31), generator=rng(4))
    assert relative_error(ours(ids), theirs(ids).last_hidden_state) < LIMIT
    assert torch.equal(ours.embed(ids), theirs.embed_tokens(ids))


def check_all(ours, pipeline, rng, relative_error):
    with torch.inference_mode():
        check_decoder(ours["decoder"], pipeline.transformer, rng, relative_error)
        check_condition(ours["condition"], pipeline.condition_encoder, rng, relative_error)
        codes = (pipeline.audio_tokenizer, pipeline.audio_token_detokenizer)
        check_codes((ours["tokenizer"], ours["detokenizer"]), codes, rng, relative_error)
        check_vae(ours["vae"], pipeline.vae, rng, relative_error)
        check_text(ours["text_encoder"], pipeline.text_encoder, rng, relative_error)


def test_diffusers_reads_our_folder(theirs, tiny_2b_diffusers, rng, relative_error):
    check_all(ours_of(tiny_2b_diffusers.model), theirs, rng, relative_error)


def test_diffusers_agrees_with_our_split_files(theirs, tiny_2b_split, rng, relative_error):
    files = (tiny_2b_split.model, tiny_2b_split.vae, tiny_2b_split.text_encoder)
    checkpoints = [probe(path) for path in files]
    ours = {part: build_part(c, part, dtype=torch.float32) for c in checkpoints for part in c.parts}
    check_all(ours, theirs, rng, relative_error)


def test_we_read_a_folder_that_diffusers_wrote(saved_by_diffusers, rng, relative_error):
    pipeline, folder = saved_by_diffusers
    check_all(ours_of(folder), pipeline, rng, relative_error)
    checkpoint = probe(folder)
    assert checkpoint.given["_class_name"] == "AceStepTransformer1DModel"
    assert checkpoint.config("decoder").sliding_window == 8
    assert checkpoint.silence_tensor().shape == (1, 64, 15_000)


def test_xl_decoder_and_codes_agree(tmp_path, write_tiny, rng, relative_error):
    """The timbre encoder of XL is left out: diffusers forgets its special token (spec/audio.md §2.4)."""
    found = write_tiny(tmp_path, layout="diffusers", family="xl")
    pipeline, ours = diffusers.AceStepPipeline.from_pretrained(found.model), ours_of(found.model)
    assert probe(found.model).config("decoder") == DECODERS["xl"]
    with torch.inference_mode():
        check_decoder(ours["decoder"], pipeline.transformer, rng, relative_error)
        codes = (pipeline.audio_tokenizer, pipeline.audio_token_detokenizer)
        check_codes((ours["tokenizer"], ours["detokenizer"]), codes, rng, relative_error)


def test_transformers_reads_our_planner_and_tokenizers(tiny_2b_diffusers, tiny_2b_split, rng, relative_error):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_2b_diffusers.lm)
    ours = build_part(probe(tiny_2b_split.lm), "lm", dtype=torch.float32)
    ids = torch.randint(0, 64_000, (1, 31), generator=rng(5))
    with torch.inference_mode():
        assert relative_error(ours.logits(ours(ids)), theirs(ids).logits) < LIMIT
    text = "[verse]\nWarm light <|audio_code_7|> ünï\n"
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(tiny_2b_diffusers.lm)
    tokenizer = Tokenizer.from_file(tiny_2b_diffusers.lm / "tokenizer.json")
    assert tokenizer.encode(text) == fast(text, add_special_tokens=False)["input_ids"]


def test_a_song_through_diffusers_is_finite(theirs):
    audio = theirs(
        prompt="warm jazz", lyrics="[verse]\nla la", audio_duration=2.0, num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).audios  # fmt: skip
    assert bool(torch.isfinite(torch.as_tensor(audio[0])).all())
