"""Which variant a decoder is taken for."""

from __future__ import annotations

import asyncio

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
    ("choice", "is_turbo", "version", "doubt"),
    [
        ("base", True, "turbo", "the file says turbo"),
        ("sft", True, None, "the file says turbo"),
        ("turbo", False, "base", "the file says base"),
        ("turbo", False, None, "the file says that it is no turbo model"),
        ("turbo-shift1", True, "turbo", ""),
        ("base", False, "base", ""),
        ("base", None, None, ""),
        ("auto", True, "turbo", ""),
    ],
)
def test_a_choice_against_the_file_is_doubted(pack, core, choice, is_turbo, version, doubt):
    config = core("dit.config").DiTConfig(is_turbo=is_turbo, model_version=version)
    assert pack("variant").choose_variant(choice, config, "mine.safetensors").doubt == doubt


def test_load_dit_tells_of_a_choice_against_the_file(pack, loaded, tiny_2b_split, caplog):
    """The widgets as the user sets them; the tiny file says turbo."""
    widgets = dict.fromkeys(("conditioner", "text_encoder", "vae"), "auto") | {"precision": "fp32", "download": False}
    made = asyncio.run(pack("load").LoadDiT.execute(model=tiny_2b_split.model.name, variant="base", **widgets))
    line = "variant: base (chosen), but the file says turbo: 50 steps, shift 1, guidance 7"
    assert line in made.ui["text"][0].splitlines()
    assert [r.levelname for r in caplog.records if r.getMessage().endswith(line)] == ["WARNING"]
    model, conditioner = made.args[0], made.args[1]
    told = "the file says turbo; chosen base: if the file is right, lego comes out badly"
    assert pack("work").check_model("lego", model) == told and pack("work").check_model("cover", model) == ""
    assert pack("work").doubt_line("lego", conditioner.variant, conditioner.config) == told


@pytest.mark.parametrize(
    ("task", "version", "variant", "told"),
    [("lego", "base", "sft", False), ("lego", "sft", "base", True), ("cover", "turbo", "base", False)],
)
def test_doubt_is_only_told_where_it_matters(pack, core, task, version, variant, told):
    config = core("dit.config").DiTConfig(is_turbo=version == "turbo", model_version=version)
    assert bool(pack("work").doubt_line(task, variant, config)) == told


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


@pytest.mark.parametrize(
    ("trained", "variant", "differs"),
    [
        ("turbo", "turbo", False),
        ("acestep-v15-turbo", "turbo", False),
        ("acestep-v15-xl-base", "base", False),
        ("ACE-Step/acestep-v15-base", "turbo", True),
        ("turbo", "turbo-shift3", False),
        ("turbo-shift3", "turbo", False),
        ("turbo-shift1", "turbo-shift3", True),
        ("sft", "turbo", True),
        ("my own mix", "turbo", False),
        ("base_sft_mix", "turbo", False),
        ("", "turbo", False),
    ],
)
def test_words_that_tell_of_another_variant(pack, trained, variant, differs):
    assert pack("variant").differs(trained, variant) is differs
