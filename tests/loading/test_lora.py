"""Files that should be LoRAs."""

from __future__ import annotations

import pytest

from acestep_models.loading.lora import read_lora_header

KEY = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_a_lora_is_read(write_file):
    assert read_lora_header(write_file({KEY: (8, 64)})).shapes == {KEY: (8, 64)}


def test_a_lora_of_another_model_is_named(write_file):
    with pytest.raises(ValueError, match="this is a LoRA of another model: it cannot be used with ACE-Step"):
        read_lora_header(write_file({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 4)}))


@pytest.mark.parametrize(("field", "parts"), [("model", "condition, decoder"), ("vae", "vae"), ("lm", "lm")])
def test_a_checkpoint_among_the_loras_is_named(tiny_2b_split, field, parts):
    with pytest.raises(ValueError, match=rf"this is no LoRA but a checkpoint \({parts}.*Load DiT"):
        read_lora_header(getattr(tiny_2b_split, field))


def test_what_is_neither_is_told_as_ever(write_file):
    with pytest.raises(ValueError, match=r"not a file of ACE-Step 1\.5\. It begins with foo"):
        read_lora_header(write_file({"foo": (2,)}))
