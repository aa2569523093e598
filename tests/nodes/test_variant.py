"""Which variant a decoder is taken for."""

from __future__ import annotations

import pytest

CASES = [
    # choice, is_turbo, model_version, name -> variant, why
    ("auto", True, "turbo", "acestep_v1.5_turbo.safetensors", "turbo", "from the file and its name"),
    ("auto", True, None, "model.safetensors", "turbo", "from the file"),
    ("auto", True, "turbo", "acestep-v15-turbo-shift1", "turbo-shift1", "from the file and its name"),
    ("auto", None, None, "acestep_v1.5_turbo_shift3.safetensors", "turbo-shift3", "from the name"),
    ("auto", None, None, "acestep_v1.5_xl_base_bf16.safetensors", "base", "from the name"),
    ("auto", False, "sft", "mine.safetensors", "sft", "from the file"),
    ("auto", False, "base", "acestep_sft.safetensors", "base", "from the file"),
    ("auto", None, None, "folder/acestep-v15-turbo-continuous", "turbo-continuous", "from the name"),
    ("auto", None, None, "acestep-v15-base", "base", "from the name"),
    ("auto", None, None, "acestep-v15-sft", "sft", "from the name"),
    ("auto", None, None, "acestep-v15-turbo", "turbo", "from the name"),
    ("auto", None, None, "acestep-v15-turbo-shift1", "turbo-shift1", "from the name"),
    ("auto", None, None, "acestep-v15-turbo-shift3", "turbo-shift3", "from the name"),
    ("auto", None, None, "acestep-v15-xl-base", "base", "from the name"),
    ("auto", None, None, "acestep-v15-xl-sft", "sft", "from the name"),
    ("auto", None, None, "acestep-v15-xl-turbo", "turbo", "from the name"),
    ("auto", None, None, "acestep-v15-xl-turbo-diffusers", "turbo", "from the name"),
    ("auto", None, None, "acestep_v1.5_xl_turbo_bf16.safetensors", "turbo", "from the name"),
    ("auto", None, None, "acestep_v1.5_xl_sft_bf16.safetensors", "sft", "from the name"),
    ("auto", None, None, "acestep_v1.5_sft.safetensors", "sft", "from the name"),
    ("auto", None, None, "acestep_v1.5_base.safetensors", "base", "from the name"),
    ("auto", None, None, "checkpoints/ace_step_1.5_turbo_aio.safetensors", "turbo", "from the name"),
    ("auto", None, None, "turbo/acestep_v1.5_base.safetensors", "base", "from the name"),
    ("auto", None, None, "acestep-v15-turbo\\model.safetensors", "turbo", "from the name"),
    ("auto", None, None, "my_base.sft", "base", "from the name"),
    ("auto", False, None, "acestep-v15-xl-sft", "sft", "from the name"),
    ("auto", True, "turbo", "acestep-v15-turbo-continuous", "turbo-continuous", "from the file and its name"),
    ("sft", True, "turbo", "acestep_v1.5_turbo.safetensors", "sft", "chosen"),
]


@pytest.mark.parametrize(("choice", "is_turbo", "version", "name", "variant", "why"), CASES)
def test_guess(pack, core, choice, is_turbo, version, name, variant, why):
    config = core("dit.config").DiTConfig(is_turbo=is_turbo, model_version=version)
    guess = pack("variant").choose_variant(choice, config, name)
    assert (guess.name, guess.why) == (variant, why)


@pytest.mark.parametrize(
    ("is_turbo", "name"),
    [
        (None, "database_song.safetensors"),
        (None, "model.safetensors"),
        (False, "my_turbo.sft"),
        (None, "mine.sft"),
        (None, "base_turbo_merge.safetensors"),
    ],
)
def test_no_guess_is_a_question(pack, core, is_turbo, name):
    config = core("dit.config").DiTConfig(is_turbo=is_turbo)
    with pytest.raises(ValueError, match=r"choose the variant \(one of base, sft, turbo"):
        pack("variant").choose_variant("auto", config, name)


def test_unknown_choice(pack, core):
    with pytest.raises(ValueError, match="expected one of base, sft, turbo.*got 'warp'"):
        pack("variant").choose_variant("warp", core("dit.config").DiTConfig(), "x")


@pytest.mark.parametrize(
    ("name", "version", "variant"),
    [
        ("ComfyUI_00001_.safetensors", "turbo", "turbo"),
        ("my_sft.safetensors", "turbo", "sft"),
        ("mine", "base", "base"),
    ],
)
def test_a_decoder_saved_alone_is_what_its_name_says_else_what_its_conditioner_is(pack, core, name, version, variant):
    config = core("dit.config").DiTConfig
    whole = config(is_turbo=version == "turbo", model_version=version)
    guess = pack("variant").choose_variant("auto", config(), name, whole)
    assert guess.name == variant and ("conditioner" in guess.why) == (variant == version)
