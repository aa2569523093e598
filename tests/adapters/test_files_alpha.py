"""The alpha matrix: every family at its right strength (spec/lora.md §3.3; test 10 of §6)."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).resolve().parents[1] / "oracles"))

import adapter_zoo as zoo

from acestep_models.adapters.files import read_adapter
from acestep_models.adapters.write import write_adapter

RANK = 4
Q, UP = "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"
MODULES = {Q: (32, 32), UP: (64, 32)}
NO_ALPHA = "no alpha in the file"

# What a config says -> the scale of Q and of UP.
CONFIGS = {
    "alpha = r": ({"r": RANK, "lora_alpha": RANK}, 1.0, 1.0),
    "alpha = 2 r": ({"r": RANK, "lora_alpha": 2 * RANK}, 2.0, 2.0),
    "no alpha": ({"r": RANK}, 1.0, 1.0),
    "a fraction": ({"r": RANK, "lora_alpha": 1.5}, 0.375, 0.375),
    "rsLoRA": ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 4.0, 4.0),
    "rsLoRA off": ({"r": RANK, "lora_alpha": 8, "use_rslora": False}, 2.0, 2.0),
    "r is read off the shapes": ({"r": 64, "lora_alpha": 8}, 2.0, 2.0),
    "rank pattern": ({"r": 64, "lora_alpha": 8, "rank_pattern": {"q_proj": RANK, "up_proj": RANK}}, 2.0, 2.0),
    "alpha pattern, the end of a name": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 16}}, 4.0, 2.0),
    "alpha pattern, a whole name": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {UP: 2}}, 2.0, 0.5),
    "alpha pattern, an expression": (
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {r"^layers\.\d+\.mlp\..*": 1}},
        2.0,
        0.25,
    ),
    "alpha pattern, no part of a word": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"proj": 1}}, 2.0, 2.0),
    "patterns with rsLoRA": ({"r": 4, "lora_alpha": 8, "alpha_pattern": {UP: 2}, "use_rslora": True}, 4.0, 1.0),
}


def scales(adapter):
    return tuple(adapter.deltas[module].scale for module in (Q, UP))


def noted(adapter):
    return any(note.startswith(NO_ALPHA) for note in adapter.facts.notes)


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_config_beside_a_file(family, case, tmp_path):
    config, q, up = CONFIGS[case]
    adapter = read_adapter(zoo.save_peft(tmp_path, zoo.spelled(family, zoo.low_rank(RANK, MODULES)), **config))
    assert scales(adapter) == (q, up)
    assert noted(adapter) == (case == "no alpha")


@pytest.mark.parametrize("stored", [torch.tensor(8.0), torch.tensor([8.0]), torch.tensor(8), torch.tensor([[8.0]])])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_tensor_comes_first(family, stored, tmp_path):
    tensors = {**zoo.spelled(family, zoo.low_rank(RANK, MODULES)), **zoo.alphas(family, MODULES, stored)}
    folder = zoo.save_peft(tmp_path, tensors, r=RANK, lora_alpha=64, use_rslora=True)
    for given in (None, 128):
        adapter = read_adapter(folder, alpha=given)
        assert (scales(adapter), adapter.facts.alphas) == ((2.0, 2.0), (8.0,))
        assert [note.startswith("the alpha that was given (128)") for note in adapter.facts.notes] == [True] * bool(
            given
        )


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_without_any_alpha_the_user_is_asked(family, tmp_path):
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled(family, zoo.low_rank(RANK, MODULES)))
    silent, told = read_adapter(path), read_adapter(path, alpha=8)
    assert scales(silent) == (1.0, 1.0)
    assert "give alpha = 2 x rank" in silent.facts.notes[0]
    assert (scales(told), told.facts.alphas, told.facts.notes) == ((2.0, 2.0), (8.0,), ())


def test_a_config_comes_before_the_user(tmp_path):
    folder = zoo.save_peft(tmp_path, zoo.spelled("peft", zoo.low_rank(RANK, MODULES)), r=RANK, lora_alpha=RANK)
    assert scales(read_adapter(folder, alpha=128)) == (1.0, 1.0)


def test_ranks_may_differ(tmp_path):
    factors = {**zoo.low_rank(2, {Q: MODULES[Q]}), **zoo.low_rank(8, {UP: MODULES[UP]})}
    folder = zoo.save_peft(tmp_path, zoo.spelled("peft", factors), r=2, lora_alpha=8, rank_pattern={UP: 8})
    adapter = read_adapter(folder)
    assert scales(adapter) == (4.0, 1.0)
    assert adapter.facts.ranks == (2, 8)


def test_some_modules_without_an_alpha_are_worth_a_note(tmp_path):
    tensors = {**zoo.spelled("comfyui", zoo.low_rank(RANK, MODULES)), **zoo.alphas("comfyui", [Q], torch.tensor(8.0))}
    adapter = read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))
    assert scales(adapter) == (2.0, 1.0)
    assert noted(adapter)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_diffusers_says_it_in_the_header(prefix, tmp_path):
    config = {"r": RANK, "lora_alpha": 8, "alpha_pattern": {"layers.0.self_attn.to_q": 2}}
    metadata = {"lora_adapter_metadata": json.dumps({f"{prefix}{key}": value for key, value in config.items()})}
    tensors = zoo.spelled("diffusers", zoo.low_rank(RANK, MODULES))
    assert scales(read_adapter(zoo.save(tmp_path / "a.safetensors", tensors, metadata))) == (0.5, 2.0)


@pytest.mark.parametrize("whole", [(), ("w1",), ("w2",), ("w1", "w2")])
@pytest.mark.parametrize("source", ["tensor", "header", "user", "none"])
def test_lokr(whole, source, tmp_path):
    """Where nothing is factored LyCORIS forces alpha = rank: the scale is 1 whatever a file says."""
    tensors, _ = zoo.lokr("lycoris_layers_0_self_attn_q_proj", (32, 32), 2, whole)
    if source == "tensor":
        tensors["lycoris_layers_0_self_attn_q_proj.alpha"] = torch.tensor(8.0)
    header = {"lokr_config": json.dumps({"linear_dim": 2, "linear_alpha": 8})} if source == "header" else None
    path = zoo.save(tmp_path / "lokr_weights.safetensors", tensors, header)
    adapter = read_adapter(path, alpha=8 if source == "user" else None)
    assert adapter.deltas[Q].scale == (1.0 if source == "none" or len(whole) == 2 else 4.0)
    assert noted(adapter) == (source == "none" and len(whole) < 2)


@pytest.mark.parametrize(("whole", "scale"), [((), 4.0), (("w1", "w2"), 2.0)])
def test_pefts_lokr_divides_by_the_rank_it_was_asked_for(whole, scale, tmp_path):
    tensors, _ = zoo.lokr(f"base_model.model.{Q}", (32, 32), 2, whole)
    folder = zoo.save_peft(tmp_path, tensors, peft_type="LOKR", r=4, alpha=8)
    assert read_adapter(folder).deltas[Q].scale == scale


def test_loha(tmp_path):
    tensors, _ = zoo.loha("lycoris_layers_0_self_attn_q_proj", (32, 32), 2)
    tensors["lycoris_layers_0_self_attn_q_proj.alpha"] = torch.tensor([3.0])
    assert read_adapter(zoo.save(tmp_path / "a.safetensors", tensors)).deltas[Q].scale == 1.5


@pytest.mark.slow  # importing peft takes seconds
@pytest.mark.parametrize("kind", ["LOKR", "LOHA", "DORA"])
def test_peft_agrees(kind, tmp_path, rng):
    """What PEFT saves, with patterns, adds what PEFT's own merge adds."""
    peft = pytest.importorskip("peft")
    base = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict()})])})
    base["layers"][0]["mlp"]["up_proj"] = torch.nn.Linear(32, 64, bias=False)
    base["layers"][0]["mlp"]["down_proj"] = torch.nn.Linear(64, 32, bias=False)
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    common = {"r": 4, "target_modules": ["up_proj", "down_proj"], "rank_pattern": {"down_proj": 2}}
    config = {
        "LOKR": lambda: peft.LoKrConfig(alpha=8, alpha_pattern={"down_proj": 5}, **common),
        "LOHA": lambda: peft.LoHaConfig(alpha=8, alpha_pattern={"down_proj": 5}, **common),
        "DORA": lambda: peft.LoraConfig(
            lora_alpha=8, alpha_pattern={"down_proj": 5}, use_dora=True, use_rslora=True, **common
        ),
    }[kind]()
    model = peft.PeftModel(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(len(name))))
    model.save_pretrained(tmp_path / "peft")
    adapter = read_adapter(tmp_path / "peft")
    merged = model.merge_and_unload().state_dict()
    assert sorted(adapter.deltas) == ["layers.0.mlp.down_proj", "layers.0.mlp.up_proj"]
    for name, delta in adapter.deltas.items():
        weight = weights[f"{name}.weight"]
        torch.testing.assert_close(delta.added_to(weight, 1.0), merged[f"{name}.weight"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [0.0, -1.0, math.nan, math.inf])
def test_a_users_alpha_is_a_strength(given, tmp_path):
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled("bare", zoo.low_rank(RANK, MODULES)))
    with pytest.raises(ValueError, match="alpha is .*, expected a number above 0"):
        read_adapter(path, alpha=given)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora_alpha": "8"}, "lora_alpha is '8', expected a number"),
        ({"lora_alpha": True}, "lora_alpha is True, expected a number"),
        ({"lora_alpha": 8, "alpha_pattern": {"(": 8}}, "has the key '\\(', which is no regular expression"),
        (
            {"lora_alpha": 8, "alpha_pattern": {"q_proj": None}},
            "alpha_pattern\\['q_proj'\\] is None, expected a number",
        ),
        ({"lora_alpha": 8, "alpha_pattern": {"(?=q)q_proj": 8}}, "a group of the form"),
        ({"lora_alpha": 8, "alpha_pattern": {"(q)_\\1": 8}}, "refers back"),
        ({"lora_alpha": 8, "alpha_pattern": {"x" * 201: 8}}, "is longer than 200 characters"),
        ({"lora_alpha": 8, "alpha_pattern": [8]}, "alpha_pattern is \\[8\\], expected an object"),
    ],
)
def test_a_config_that_makes_no_sense(config, message, tmp_path):
    folder = zoo.save_peft(tmp_path, zoo.spelled("peft", zoo.low_rank(RANK, MODULES)), r=RANK, **config)
    with pytest.raises(ValueError, match=message):
        read_adapter(folder)


@pytest.mark.parametrize("stored", [torch.tensor([1.0, 2.0]), torch.tensor(math.nan)])
def test_an_alpha_is_one_number(stored, tmp_path):
    tensors = {**zoo.spelled("bare", zoo.low_rank(RANK, MODULES)), f"{Q}.alpha": stored}
    with pytest.raises(ValueError, match="its alpha is .*, expected one number"):
        read_adapter(zoo.save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize("kind", ["tensor", "config"])
@pytest.mark.parametrize(("alpha", "note"), [(0.0, "alpha 0: no effect"), (-8.0, "alpha below 0: it turns the")])
def test_an_odd_alpha_is_said(kind, alpha, note, tmp_path):
    tensors = zoo.spelled("peft", zoo.low_rank(RANK, MODULES))
    if kind == "tensor":
        tensors |= zoo.alphas("peft", MODULES, torch.tensor(alpha))
    adapter = read_adapter(zoo.save_peft(tmp_path, tensors, r=RANK, lora_alpha=alpha if kind == "config" else 8))
    assert scales(adapter) == (alpha / RANK, alpha / RANK)
    assert [one.startswith(note) and one.endswith("(in 2 of 2 modules)") for one in adapter.facts.notes] == [True]


@pytest.mark.parametrize("family", ["peft", "single", "kohya", "diffusers"])
def test_a_guess_stays_a_guess_in_the_files_that_are_written(family, tmp_path):
    path = zoo.save(tmp_path / "a.safetensors", zoo.spelled("bare", zoo.low_rank(RANK, MODULES)))
    silent = read_adapter(path)
    assert silent.facts.alpha_guessed and not read_adapter(path, alpha=8).facts.alpha_guessed
    new = write_adapter(silent, tmp_path / ("song" if family == "peft" else "song.safetensors"), family)
    again = read_adapter(new)
    assert again.facts.alpha_guessed and again.facts.notes == silent.facts.notes
    assert again.facts.metadata["alpha_guessed"] == "true"
    told = read_adapter(new, alpha=8)
    assert (scales(told), told.facts.alphas, told.facts.notes) == ((2.0, 2.0), (8.0,), ())
    last = read_adapter(write_adapter(told, tmp_path / "last.safetensors", "single"))
    assert (scales(last), last.facts.alpha_guessed, "alpha_guessed" in last.facts.metadata) == (
        (2.0, 2.0),
        False,
        False,
    )


# LoHa's configs say alpha, LoRA's lora_alpha; DoRA's scale is that of its LoRA.
KINDS_ALPHA = {
    "alpha = r": ({"alpha": 2}, 1.0),
    "alpha = 2 r": ({"alpha": 4}, 2.0),
    "a pattern": ({"alpha": 4, "alpha_pattern": {"q_proj": 1}}, 0.5),
    "no alpha": ({}, 1.0),
}


@pytest.mark.parametrize("case", KINDS_ALPHA)
@pytest.mark.parametrize("kind", ["loha", "dora"])
def test_the_config_of_loha_and_dora(kind, case, tmp_path):
    config, scale = KINDS_ALPHA[case]
    prefix = f"base_model.model.{Q}"
    if kind == "loha":
        tensors, unscaled = zoo.loha(prefix, (32, 32), 2)
        named = {"peft_type": "LOHA", "r": 2, **config}
    else:
        factors = zoo.low_rank(2, {Q: (32, 32)})
        unscaled = zoo.product(factors)[Q]
        tensors = {**zoo.spelled("peft", factors), f"{prefix}.lora_magnitude_vector": torch.ones(32)}
        named = {"r": 2, "use_dora": True, **{key.replace("alpha", "lora_alpha", key == "alpha"): value
                                              for key, value in config.items()}}  # fmt: skip
    adapter = read_adapter(zoo.save_peft(tmp_path, tensors, **named))
    assert adapter.deltas[Q].kind == kind and noted(adapter) == (case == "no alpha")
    torch.testing.assert_close(adapter.deltas[Q].matrix().double(), scale * unscaled.double(), rtol=1e-5, atol=1e-5)


def test_a_config_of_other_weights_is_named_and_an_alpha_overrules_it(tmp_path):
    """Somebody cut the weights to rank 4 and left the config of rank 64: alpha 128 would act 16 times too strong."""
    tensors = {f"base_model.model.{UP}.lora_{half}.weight": torch.ones(4, 4) for half in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 64, "lora_alpha": 128, "peft_type": "LORA"}))
    guessed = read_adapter(tmp_path)
    assert next(iter(guessed.deltas.values())).scale == 32
    assert any(
        "the config says rank 64 and the weights have another (in 1 of 1" in note for note in guessed.facts.notes
    )
    told = read_adapter(tmp_path, alpha=8)
    assert next(iter(told.deltas.values())).scale == 2 and not told.facts.notes
