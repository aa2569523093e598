"""Trained layers in a decoder: nothing changes at first, only they learn, and the plain ones come back."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from peft.tuners.lokr.layer import factorization

from acestep_models.adapters.delta import merge_into
from acestep_models.adapters.facts import AdapterFacts
from acestep_models.adapters.files import read_adapter
from acestep_models.adapters.peft_folder import factors
from acestep_models.adapters.write import write_adapter
from acestep_models.dit.transformer import DiT
from acestep_models.layers import FeedForward
from acestep_models.training.checkpointed import recompute
from acestep_models.training.trainable import inject
from acestep_models.training.trainable.lean import LeanFeedForward, LeanNorm

ALL = ("self_attention", "cross_attention", "mlp")
FACTS = AdapterFacts("trained here", width=64, base_variant="turbo")
KINDS = [("lora", 4), ("lokr", 2), ("lokr", 64)]  # the last leaves both factors whole


def gradient(decoder, song):
    """Of the input, which goes through every layer."""
    x = song["x"].clone().requires_grad_(True)
    decoder(**{**song, "x": x}).square().sum().backward()
    return x.grad


def train(decoder, trainable, song, steps=3):
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (decoder(**song) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_a_fresh_adapter_changes_no_bit_and_is_taken_out_again(kind, rank, decoder, song):
    modules = [(name, type(module)) for name, module in decoder.named_modules()]
    weights = {key: value.clone() for key, value in decoder.state_dict().items()}
    with torch.no_grad():
        before = decoder(**song)
        trainable = inject(decoder, kind, rank, targets=ALL)
        assert torch.equal(decoder(**song), before)
    assert weights.keys() <= decoder.state_dict().keys()
    for _ in range(2):
        trainable.remove()
        assert [(name, type(module)) for name, module in decoder.named_modules()] == modules
        assert {key: torch.equal(value, weights[key]) for key, value in decoder.state_dict().items()} == dict.fromkeys(
            weights, True
        )


def test_lean_layers_give_the_gradient_of_the_plain_ones(decoder, song, relative_error):
    plain = gradient(decoder, song)
    inject(decoder, "lora", 4)
    assert relative_error(gradient(decoder, song), plain) < 2e-6


@pytest.mark.parametrize("lean", [LeanNorm, LeanFeedForward])
def test_lean_layers_are_as_exact_as_plain_ones_in_bf16(lean, rng, relative_error):
    plain = torch.nn.RMSNorm(64, eps=1e-6) if lean is LeanNorm else FeedForward(64, 96)
    with torch.no_grad():
        for weight in plain.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=rng(1)))
    plain.requires_grad_(False)
    half, x, grad = copy.deepcopy(plain).bfloat16(), *torch.randn(2, 5, 7, 64, generator=rng(2))

    def run(layer, x):
        x = x.clone().requires_grad_(True)
        out = layer(x)
        return out, *torch.autograd.grad(out, x, grad.to(x.dtype))

    for got, torchs, exact in zip(run(lean(half), x.bfloat16()), run(half, x.bfloat16()), run(plain, x), strict=True):
        assert relative_error(got, exact) < max(0.01, 1.2 * relative_error(torchs, exact))


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_only_the_adapter_learns_and_all_of_it(kind, rank, decoder, song):
    trainable = inject(decoder, kind, rank, targets=ALL)
    named = trainable.named()
    base = {key: value.clone() for key, value in decoder.state_dict().items() if key not in named}
    start = {name: value.detach().clone() for name, value in named.items()}
    assert len(trainable.layers) == 2 * (4 + 4 + 3)
    assert all(value.dtype == torch.float32 for value in named.values())
    assert {name for name, value in decoder.named_parameters() if value.requires_grad} == named.keys()
    train(decoder, trainable, song, steps=1)
    first = {name for name in named if float(named[name].grad.abs().sum()) > 0}
    assert first == {name for name in named if name.endswith(("up", "w2", "w2_b"))}
    train(decoder, trainable, song, steps=1)
    assert all(float(value.grad.abs().sum()) > 0 for value in named.values())
    assert all(torch.equal(value, base[key]) for key, value in decoder.state_dict().items() if key in base)
    assert all(not torch.equal(value, start[name]) for name, value in named.items() if name in first)


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_the_branch_is_what_merging_adds(kind, rank, decoder, song, shake, relative_error):
    trainable = shake(inject(decoder, kind, rank, alpha=1.5 * rank, targets=ALL))
    adapter = trainable.adapter(FACTS)
    with torch.no_grad():
        branched = decoder(**song)
        trainable.remove()
        plain = decoder(**song)
        for name, delta in adapter.deltas.items():
            weight = decoder.get_submodule(name).weight
            weight.copy_(merge_into(weight, delta, 1.0))
        assert relative_error(branched, decoder(**song)) < 1e-5
    assert relative_error(branched, plain) > 0.01


def test_the_same_seed_starts_the_same_and_layers_differ(decoder):
    first = inject(decoder, "lora", 4, seed=5)
    values = {name: value.detach().clone() for name, value in first.named().items()}
    first.remove()
    again = inject(decoder, "lora", 4, seed=5).named()
    assert all(torch.equal(values[name], again[name]) for name in values)
    one, other = (values[f"layers.{i}.self_attn.q_proj.down"] for i in range(2))
    assert not torch.equal(one, other)
    assert float(one.abs().max()) <= 64**-0.5 and float(one.abs().max()) > 0.9 * 64**-0.5


def test_recomputation_gives_the_same_gradients_with_dropout_and_is_switched_off(decoder, song, shake):
    trainable = shake(inject(decoder, "lora", 4, dropout=0.3, targets=ALL))
    decoder.train()

    def gradients():
        torch.manual_seed(1)
        for value in trainable.parameters():
            value.grad = None
        decoder(**song).square().mean().backward()
        return [value.grad for value in trainable.parameters()]

    plain = gradients()
    recompute(decoder, True)
    recompute(decoder, True)  # twice is once
    assert all("forward" in vars(layer) for layer in decoder.layers)
    for a, b in zip(gradients(), plain, strict=True):
        assert float((a - b).abs().max()) <= 1e-6 * float(b.abs().max())
    recompute(decoder, False)
    assert all("forward" not in vars(layer) for layer in decoder.layers)


FILES = [(family, *row) for family in ("peft", "single", "kohya") for row in KINDS]


@pytest.mark.parametrize(("family", "kind", "rank"), [*FILES, ("diffusers", "lora", 4)])
def test_every_file_gives_the_same_adapter_back(family, kind, rank, decoder, shake, tmp_path):
    trainable = shake(inject(decoder, kind, rank, alpha=2.0 * rank, targets=ALL))
    path = tmp_path / ("folder" if family == "peft" else "song.safetensors")
    got = read_adapter(write_adapter(trainable.adapter(FACTS), path, family))
    wanted = trainable.adapter(FACTS)
    assert got.deltas.keys() == wanted.deltas.keys() and got.facts.base_variant == "turbo"
    for name, delta in wanted.deltas.items():
        assert torch.equal(got.deltas[name].matrix(), delta.matrix())
    if family == "peft":
        held = {name: value.detach().clone() for name, value in trainable.named().items()}
        shake(trainable, 2).load(got)
        assert all(torch.equal(value, held[name]) for name, value in trainable.named().items())


@pytest.mark.parametrize(("kind", "rank"), KINDS)
def test_peft_gives_the_same_output_from_our_folder(kind, rank, decoder, song, shake, tmp_path, relative_error):
    import peft

    trainable = shake(inject(decoder, kind, rank, alpha=2.0 * rank, targets=ALL))
    folder = write_adapter(trainable.adapter(FACTS), tmp_path / "folder", "peft")
    with torch.no_grad():
        ours = decoder(**song)
        trainable.remove()
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(decoder), folder).eval()
        assert relative_error(theirs(**song), ours) < 1e-6


def test_what_peft_trained_is_taken_over(decoder, song, tmp_path, relative_error):
    import peft

    names = [
        name for name, module in decoder.named_modules() if name.endswith(("q_proj", "v_proj", "k_proj", "o_proj"))
    ]
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=names, init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(decoder), config).eval()
    theirs.save_pretrained(tmp_path)
    trainable = inject(decoder, "lora", 4)
    trainable.load(read_adapter(tmp_path))
    with torch.no_grad():
        assert relative_error(decoder(**song), theirs(**song)) < 1e-6


def test_given_values_are_written_instead_of_the_parameters(decoder, shake):
    trainable = shake(inject(decoder, "lora", 4))
    halves = {name: value.detach() / 2 for name, value in trainable.named().items()}
    name = "layers.1.cross_attn.o_proj"
    whole, half = trainable.adapter(FACTS).deltas[name], trainable.adapter(FACTS, halves).deltas[name]
    assert torch.equal(half.matrix() * 4, whole.matrix())
    facts = trainable.adapter(FACTS).facts
    assert (facts.ranks, facts.alphas) == ((4,), (4.0,))
    with torch.no_grad():
        trainable.parameters()[0].zero_()
    assert float(whole.matrix().abs().sum()) > 0  # a copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("layers.0.self_attn.q_proj.up"), "q_proj.up is missing"),
        (lambda values: values.update({"layers.9.self_attn.q_proj.up": torch.ones(1)}), "is not trained here"),
        (lambda values: values.update({"layers.0.self_attn.q_proj.up": torch.ones(64, 3)}), r"\[64, 3\], expected"),
    ],
)
def test_other_values_are_refused(change, message, decoder):
    trainable = inject(decoder, "lora", 4)
    values = dict(trainable.named())
    change(values)
    with pytest.raises(ValueError, match=message):
        trainable.load(values)


def test_another_adapter_is_refused(decoder):
    first = inject(decoder, "lora", 4, alpha=4)
    adapter = first.adapter(FACTS)
    first.remove()
    with pytest.raises(ValueError, match="scale 1, expected 2"):
        inject(decoder, "lora", 4, alpha=8).load(adapter)
    with pytest.raises(ValueError, match="already"):
        inject(decoder, "lora", 4)
    other = DiT(decoder.config)
    with pytest.raises(ValueError, match="is a lora, which is not trained there"):
        inject(other, "lokr", 4).load(adapter)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(kind="loha"), "expected one of lora, lokr, got 'loha'"),
        (dict(rank=0), "above 0, got 0"),
        (dict(dropout=1.0), "dropout: expected"),
        (dict(factor=0), "factor: expected"),
        (dict(targets=()), "targets: expected some of self_attention"),
        (dict(targets=("mlp", "mlp")), "each once"),
    ],
)
def test_wrong_wishes_are_refused_and_leave_the_decoder_alone(wrong, message, decoder):
    with pytest.raises(ValueError, match=message):
        inject(decoder, **{"kind": "lora", "rank": 4, **wrong})
    assert all(type(module).__module__.startswith(("torch", "acestep_models.dit", "acestep_models.layers"))
               for module in decoder.modules())  # fmt: skip


def test_inference_mode_is_refused(decoder):
    with torch.inference_mode():
        with pytest.raises(ValueError, match="inference_mode"):
            inject(decoder, "lora", 4)
        inside = DiT(decoder.config)
    with pytest.raises(ValueError, match="inference_mode"):
        inject(inside, "lora", 4)


@pytest.mark.slow
def test_three_rounds_leave_nothing_behind(decoder, song):
    left = []
    for _ in range(3):
        trainable = inject(decoder, "lora", 4)
        left += [weakref.ref(layer) for layer in trainable.layers.values()]
        recompute(decoder, True)
        train(decoder, trainable, song, steps=1)
        recompute(decoder, False)
        trainable.remove()
        del trainable
    gc.collect()
    assert len(left) == 3 * 16 and not any(ref() for ref in left)


@pytest.mark.parametrize("factor", [-1, 4, 7, 16])
def test_factors_are_pefts(factor):
    for size in (1, 2, 6, 64, 127, 360, 1024, 2048, 2560, 6144, 9728):
        assert factors(size, factor) == factorization(size, factor)
