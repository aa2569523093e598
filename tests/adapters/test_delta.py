"""Merged weights against PEFT's forward and against formulas written here."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from acestep_models.adapters.delta import DoRA, Full, LoHa, LoKr, LowRank, merge_into
from acestep_models.adapters.files import read_adapter

TARGETS = ["q_proj", "v_proj", "o_proj", "up_proj", "condition_embedder"]
LORA = dict(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False)
CONFIGS = {
    "lora": peft.LoraConfig(**LORA),
    "rslora": peft.LoraConfig(**LORA, use_rslora=True),
    "patterns": peft.LoraConfig(**LORA, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 16}),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False),
    "lokr both": peft.LoKrConfig(r=1, alpha=3, target_modules=TARGETS, init_weights=False, decompose_both=True),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False),
}


def perturb_magnitudes(model):
    """PEFT starts magnitudes at the norms, where DoRA would not show."""
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data.mul_(torch.linspace(0.5, 1.5, parameter.numel()))


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_weights_play_what_pefts_forward_plays(name, decoder, song, play, peft_model, tmp_path, relative_error):
    model = peft_model(decoder, CONFIGS[name])
    perturb_magnitudes(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected, plain = model(**song), decoder(**song)
    adapter = read_adapter(tmp_path)
    assert len(adapter.deltas) == 2 * (2 * 3 + 1) + 1  # q, v, o twice and up in each of two layers, one embedder
    assert relative_error(plain, expected) > 0.01
    assert relative_error(play((adapter.deltas, 1.0)), expected) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_deltas_are_pefts_own(name, decoder, peft_model, tmp_path):
    """What PEFT writes is read back as what it adds, every module to 1e-6 of its largest number."""
    model = peft_model(decoder, CONFIGS[name])
    perturb_magnitudes(model)
    model.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path)
    for module, delta in adapter.deltas.items():
        expected = model.base_model.model.get_submodule(module).get_delta_weight("default").detach().flatten(1)
        assert float((delta.matrix() - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_untrained_adapter_changes_nothing(dora, decoder, play, song, peft_model, tmp_path):
    """PEFT starts with B = 0 and, for DoRA, the lengths of the weight's own rows."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=dora)
    peft_model(decoder, config).save_pretrained(tmp_path)
    deltas = read_adapter(tmp_path).deltas
    assert {delta.kind for delta in deltas.values()} == {"dora" if dora else "lora"}
    state = decoder.state_dict()
    for name, delta in deltas.items():
        weight = state[f"{name}.weight"]
        assert torch.equal(merge_into(weight, delta, 1.0), weight)
    with torch.no_grad():
        assert torch.equal(play((deltas, 1.0)), decoder(**song))


@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.5, 2.0])
def test_a_strength_is_pefts_scale(strength, decoder, song, play, peft_model, tmp_path, relative_error):
    model = peft_model(decoder, CONFIGS["lora"])
    model.save_pretrained(tmp_path)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", strength)
    with torch.no_grad():
        expected = model(**song)
    assert relative_error(play((read_adapter(tmp_path).deltas, strength)), expected) < 1e-5


@pytest.mark.parametrize("kind", ["lora", "lokr", "loha", "full", "dora"])
def test_every_kind_is_linear_in_the_strength(kind, make_delta, relative_error):
    weight = torch.randn(8, 6)
    delta = make_delta(kind, (8, 6), seed=1)
    step = merge_into(weight, delta, 1.0) - weight
    assert torch.equal(merge_into(weight, delta, 0.0), weight)
    for strength in (-1.0, 0.5, 2.0):
        assert relative_error(merge_into(weight, delta, strength), weight + strength * step) < 2e-6
        assert relative_error(merge_into(weight, delta.scaled(strength), 1.0), weight + strength * step) < 2e-6


def test_two_adapters_commute(play, make_adapter, relative_error):
    one, other = make_adapter(seed=1).deltas, make_adapter("loha", seed=2).deltas
    assert relative_error(play((one, 0.5), (other, -1.0)), play((other, -1.0), (one, 0.5))) < 1e-5


def test_low_rank_is_up_times_down_times_scale():
    down, up = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0], [-1.0]])
    delta = LowRank(down, up, 0.5)
    assert (delta.shape, delta.rank) == ((2, 3), 1)
    assert delta.matrix().tolist() == [[1.0, 2.0, 3.0], [-0.5, -1.0, -1.5]]
    assert merge_into(torch.ones(2, 3), delta, 2.0).tolist() == [[3.0, 5.0, 7.0], [0.0, -1.0, -2.0]]


def test_lokr_is_the_kronecker_product_of_its_sides(make_delta):
    left, first, second = torch.randn(2, 3), torch.randn(4, 2), torch.randn(2, 5)
    right = first @ second
    expected = torch.stack([left[i // 4, j // 5] * right[i % 4, j % 5] for i in range(8) for j in range(15)])
    delta = LoKr((left,), (first, second), 0.25)
    assert (delta.shape, delta.rank) == ((8, 15), 2)
    torch.testing.assert_close(delta.matrix(), 0.25 * expected.reshape(8, 15), rtol=1e-6, atol=1e-6)
    whole = LoKr((left,), (right,), 0.25)
    assert (whole.shape, whole.rank) == ((8, 15), None)
    torch.testing.assert_close(whole.matrix(), delta.matrix())


def test_loha_is_the_product_of_two_products_element_by_element():
    first, second = (torch.randn(4, 2), torch.randn(2, 5)), (torch.randn(4, 2), torch.randn(2, 5))
    delta = LoHa(first, second, 0.25)
    assert (delta.shape, delta.rank) == ((4, 5), 2)
    expected = torch.tensor(
        [
            [0.25 * float(first[0][i] @ first[1][:, j]) * float(second[0][i] @ second[1][:, j]) for j in range(5)]
            for i in range(4)
        ]
    )
    torch.testing.assert_close(delta.matrix(), expected, rtol=1e-5, atol=1e-6)


def convolution_delta(kind, held, scale):
    """A delta of PEFT's parameters of one module."""
    if kind == "LoKrConfig":
        right = (held["lokr_w2_a"], held["lokr_w2_b"]) if "lokr_w2_a" in held else (held["lokr_w2"],)
        return LoKr((held["lokr_w1"],), right, scale, held.get("lokr_t2"))
    cores = (held["hada_t1"], held["hada_t2"]) if "hada_t1" in held else None
    first, second = ((held[f"hada_{side}_a"], held[f"hada_{side}_b"]) for side in ("w1", "w2"))
    return LoHa(first, second, scale, cores)


@pytest.mark.parametrize("effective", [False, True], ids=["plain", "tucker"])
@pytest.mark.parametrize("kind", ["LoKrConfig", "LoHaConfig"])
def test_a_convolution_takes_what_peft_merges(kind, effective, relative_error):
    config = getattr(peft, kind)(r=2, alpha=3, target_modules=["0"], init_weights=False, use_effective_conv2d=effective)
    wrapped = peft.get_peft_model(nn.Sequential(nn.Conv1d(12, 18, 3)), config).base_model.model[0]
    held = {name.split(".")[0]: value.data for name, value in wrapped.named_parameters() if name.endswith(".default")}
    assert any(name.endswith(("t1", "t2")) for name in held) == effective
    weight = wrapped.base_layer.weight.data.clone()
    delta = convolution_delta(kind, held, 1.5)
    wrapped.merge()
    assert delta.shape == (18, 36)
    assert relative_error(merge_into(weight, delta, 1.0), wrapped.base_layer.weight.data) < 1e-6
    assert relative_error(weight, wrapped.base_layer.weight.data) > 1e-3


def test_dora_sets_the_length_of_every_row_of_a_square_weight():
    """Magnitudes as columns would pass on shape and be wrong in every number."""
    weight, delta = torch.randn(5, 5), LowRank(torch.randn(2, 5), torch.randn(5, 2), 0.5)
    lengths = torch.linspace(0.5, 3.0, 5)
    merged = merge_into(weight, DoRA(delta, lengths), 1.0)
    torch.testing.assert_close(merged.norm(dim=1), lengths)
    turned = weight + delta.matrix()
    torch.testing.assert_close(merged / lengths[:, None], turned / turned.norm(dim=1, keepdim=True))
    empty = merge_into(torch.zeros(5, 5), DoRA(Full(torch.zeros(5, 5)), lengths), 1.0)
    assert torch.equal(empty, torch.zeros(5, 5))


def test_the_weight_is_left_alone_and_the_sum_is_made_in_float32():
    weight = torch.randn(4, 6, dtype=torch.bfloat16)
    before = weight.clone()
    delta = LowRank(torch.full((1, 6), 1e-3), torch.full((4, 1), 1e-3))
    merged = merge_into(weight, delta, 1.0)
    assert merged.dtype == torch.float32 and torch.equal(weight, before)
    torch.testing.assert_close(merged - before.float(), torch.full((4, 6), 1e-6), rtol=0.1, atol=0)


def test_a_vector_takes_a_whole_difference():
    assert merge_into(torch.ones(3), Full(torch.tensor([1.0, 2.0, 3.0])), 0.5).tolist() == [1.5, 2.0, 2.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(torch.ones(2, 4), torch.ones(4, 3)), r"down is \[2, 4\] and up is \[4, 3\]"),
        (lambda: LoKr((torch.ones(2, 2),), (torch.ones(4, 2), torch.ones(3, 4))), "factors of a LoKr"),
        (lambda: LoHa((torch.ones(4, 2), torch.ones(2, 4)), (torch.ones(3, 2), torch.ones(2, 4))), "of a LoHa"),
        (lambda: LowRank(torch.ones(2, 4), torch.ones(4, 1, 2)), r"up is \[4, 1, 2\]"),
        (lambda: LowRank(torch.tensor(1.0), torch.ones(4, 1)), r"down is \[\]"),
        (lambda: LoKr((torch.ones(2, 2, 2),), (torch.ones(4, 2),)), "factors of a LoKr"),
        (lambda: LoKr((torch.ones(2, 2),), (torch.ones(4),)), "factors of a LoKr"),
        (lambda: LoKr((torch.ones(2, 2),), (torch.ones(4, 2),), 1.0, torch.ones(4, 4, 3)), r"around t2 \[4, 4, 3\]"),
        (
            lambda: LoKr((torch.ones(2, 2),), (torch.ones(3, 2), torch.ones(3, 2)), 1.0, torch.ones(3, 4, 3)),
            r"around t2 \[3, 4, 3\]",
        ),
        (lambda: LoHa((torch.ones(4, 2), torch.ones(2, 4)), (torch.ones(4, 2), torch.ones(2, 1))), "of one size"),
        (
            lambda: LoHa(
                (torch.ones(2, 4), torch.ones(2, 4)),
                (torch.ones(2, 4), torch.ones(2, 4)),
                1.0,
                (torch.ones(2, 2, 3), torch.ones(2, 2, 1)),
            ),
            r"around t1 and t2 \[\[2, 2, 3\], \[2, 2, 1\]\]",
        ),
        (lambda: Full(torch.tensor(1.0)), "one number"),
        (lambda: DoRA(LowRank(torch.ones(2, 4), torch.ones(5, 2)), torch.ones(4)), r"\[4\], expected \[5\]"),
        (
            lambda: merge_into(torch.ones(4, 4), Full(torch.ones(4, 5)), 1.0),
            r"an adapter for a weight of \[4, 5\] cannot be added to one of \[4, 4\]: it was made for another model$",
        ),
    ],
)
def test_what_does_not_belong_together_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
