"""Tiny networks, ours and diffusers', with the same random weights (spec/audio.md §9.1)."""

from __future__ import annotations

import re
from dataclasses import asdict, replace

import pytest
import torch

from acestep_models.dit.config import DiTConfig

LAYER = dict(head_dim=16, rope_theta=1e6, sliding_window=4, rms_norm_eps=1e-6)
TINY_XL = DiTConfig(
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    encoder_hidden_size=32,
    encoder_intermediate_size=64,
    encoder_num_attention_heads=2,
    encoder_num_key_value_heads=1,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    text_hidden_dim=24,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=2,
    timbre_fix_frame=30,
    fsq_dim=32,
    **LAYER,
)
TINY_2B = replace(TINY_XL, encoder_hidden_size=48, fsq_dim=48)

# diffusers -> ours, in the order in which they are tried
ATTENTION = ((r"\.to_([qkv])\.", r".\1_proj."), (r"\.to_out\.0\.", ".o_proj."), (r"\.norm_([qk])\.", r".\1_norm."))
DECODER = ((r"^proj_(in|out)_conv\.", r"proj_\1.1."),)


@pytest.fixture(scope="session", params=[TINY_2B, TINY_XL], ids=["2b", "xl"])
def tiny(request):
    """The config of a tiny network, once of each family."""
    return request.param


@pytest.fixture(scope="session")
def tiny_2b():
    return TINY_2B


@pytest.fixture(scope="session")
def tiny_xl():
    return TINY_XL


@pytest.fixture(scope="session")
def adopt():
    """adopt(ours, oracle): give our network the oracle's weights, each of them and nothing else."""

    def load(ours, oracle):
        state = {}
        for key, value in oracle.state_dict().items():
            for pattern, target in ATTENTION + DECODER:
                key = re.sub(pattern, target, key)
            state[key] = value
        state.pop("silence_latent", None)
        ours.load_state_dict(state, strict=True)
        return ours.eval()

    return load


def encoder_arguments(config):
    """What the condition encoder, tokenizer and detokenizer of diffusers share."""
    names = ("head_dim", "rope_theta", "sliding_window", "rms_norm_eps")
    return {name: asdict(config)[name] for name in names} | dict(
        hidden_size=config.encoder_hidden_size,
        intermediate_size=config.encoder_intermediate_size,
        num_attention_heads=config.encoder_num_attention_heads,
        num_key_value_heads=config.encoder_num_key_value_heads,
    )


@pytest.fixture(scope="session")
def oracle_decoder(perturb):
    """oracle_decoder(config) -> a perturbed AceStepTransformer1DModel."""

    def build(config, seed=1):
        from diffusers import AceStepTransformer1DModel

        names = AceStepTransformer1DModel.__init__.__wrapped__.__code__.co_varnames
        arguments = {k: v for k, v in asdict(config).items() if k in names and k not in ("is_turbo", "model_version")}
        torch.manual_seed(seed)
        return perturb(AceStepTransformer1DModel(**arguments), seed)

    return build


@pytest.fixture(scope="session")
def oracle_condition(perturb):
    """oracle_condition(config) -> a perturbed AceStepConditionEncoder."""

    def build(config, seed=2):
        from diffusers.pipelines.ace_step import AceStepConditionEncoder

        torch.manual_seed(seed)
        oracle = AceStepConditionEncoder(
            text_hidden_dim=config.text_hidden_dim,
            timbre_hidden_dim=config.audio_acoustic_hidden_dim,
            num_lyric_encoder_hidden_layers=config.num_lyric_encoder_hidden_layers,
            num_timbre_encoder_hidden_layers=config.num_timbre_encoder_hidden_layers,
            **encoder_arguments(config),
        )
        return perturb(oracle, seed)

    return build


@pytest.fixture(scope="session")
def oracle_codes(perturb):
    """oracle_codes(config) -> perturbed AceStepAudioTokenizer and AceStepAudioTokenDetokenizer."""

    def build(config, seed=3):
        from diffusers.pipelines.ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer

        shared = encoder_arguments(config) | dict(
            audio_acoustic_hidden_dim=config.audio_acoustic_hidden_dim,
            pool_window_size=config.pool_window_size,
            num_attention_pooler_hidden_layers=config.num_attention_pooler_hidden_layers,
        )
        torch.manual_seed(seed)
        tokenizer = AceStepAudioTokenizer(
            fsq_dim=config.fsq_dim, fsq_input_levels=list(config.fsq_input_levels), **shared
        )
        return perturb(tokenizer, seed), perturb(AceStepAudioTokenDetokenizer(**shared), seed + 1)

    return build
