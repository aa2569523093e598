"""The estimate against what autograd really keeps, and the presets' arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acestep_models.dit.config import XL, DiTConfig
from acestep_models.dit.transformer import DiT
from acestep_models.training.checkpointed import recompute
from acestep_models.training.memory import decoder_numbers, estimate, kept_bytes, trained_numbers
from acestep_models.training.options import TrainOptions
from acestep_models.training.presets import PRESETS, duration, seconds_a_step
from acestep_models.training.trainable import inject

SMALL = dict(num_attention_heads=4, num_key_value_heads=2, encoder_hidden_size=64, fsq_dim=64, sliding_window=16)
TINY = DiTConfig(hidden_size=64, intermediate_size=192, num_hidden_layers=2, head_dim=16, **SMALL)
MEDIUM = DiTConfig(hidden_size=256, intermediate_size=768, num_hidden_layers=4, head_dim=64, **SMALL)
MLP = ("self_attention", "cross_attention", "mlp")
HALF = torch.bfloat16


def options(**changes):
    return TrainOptions(**{"rank": 8, "recompute": "off", **changes})


def really_kept(config, wish, frames, tokens, dtype):
    """Bytes of every storage that the graph of one pass holds, but for the decoder's weights."""
    decoder = DiT(config, dtype=dtype).train()
    inject(decoder, wish.kind, wish.rank, wish.alpha, wish.dropout, wish.targets, wish.factor)
    recompute(decoder, wish.recompute == "on")
    weights = {value.untyped_storage().data_ptr() for value in decoder.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage
        return tensor

    channels, size = config.audio_acoustic_hidden_dim, dict(dtype=dtype)
    x, context = (
        torch.randn(wish.batch, frames, channels, **size),
        torch.randn(wish.batch, frames, 2 * channels, **size),
    )
    told = torch.randn(wish.batch, tokens, config.encoder_hidden_size, **size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(x, context, told, torch.full((wish.batch,), 0.5)).square().mean()
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("config", [TINY, MEDIUM])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(
    "wish",
    [
        options(),
        options(targets=MLP),
        options(targets=("self_attention",)),
        options(kind="lokr", targets=MLP),
        options(batch=2),
        options(dropout=0.1, targets=MLP),
    ],
    ids=["attention", "mlp", "self", "lokr", "batch", "dropout"],
)
def test_what_autograd_keeps_is_the_formula(wish, dtype, config):
    really = really_kept(config, wish, 400, 60, dtype)
    band = 2 * 13 * 16 * 48 * dtype.itemsize  # two heads of a group, 13 blocks of 16, each before 3 of them
    casts = trained_numbers(config, wish) * dtype.itemsize if dtype == HALF else 0
    # what is left: modulations, positions, the ends of the decoder
    assert kept_bytes(config, wish, 400, 60, dtype) + band + casts == pytest.approx(really, rel=0.1)


def test_lean_layers_keep_little():
    """Not more than spec/lora.md §5.1's lower bound of 115 KB a token and layer at the real width."""
    a, b = (kept_bytes(DiTConfig(), options(rank=64), frames, 400, HALF) for frames in (3000, 6000))
    assert (b - a) / 1500 / 24 < 90e3


def test_recomputation_keeps_the_inputs_of_the_layers():
    wish = options(recompute="on")
    really = really_kept(MEDIUM, wish, 400, 60, HALF)
    assert MEDIUM.num_hidden_layers * 200 * 256 * 2 == pytest.approx(really, rel=0.6)
    assert really < 0.2 * really_kept(MEDIUM, options(), 400, 60, HALF)


def total(frames=3000, tokens=400, config=None, dtype=HALF, **changes):
    return estimate(config or DiTConfig(), options(**{"rank": 64, **changes}), frames, tokens, dtype)


def test_the_estimate_grows_with_everything():
    for low, high in [
        (total(frames=1500), total(frames=3000)),
        (total(tokens=100), total(tokens=800)),
        (total(rank=8), total(rank=16)),
        (total(targets=("self_attention",)), total()),
        (total(), total(targets=MLP)),
        (total(recompute="on"), total()),
        (total(batch=1), total(batch=2)),
        (total(optimizer="adamw8bit"), total(optimizer="adamw")),
        (total(optimizer="adamw"), total(optimizer="prodigy")),
        (total(), total(ema=0.99)),
        (total(), total(dropout=0.1)),
        (total(), total(config=XL)),
        (total(), total(dtype=torch.float32)),
    ]:
        assert low.total < high.total
    found = total()
    assert found.total == found.base + found.adapter + found.optimizer + found.activations == found.base + found.growth


def test_the_numbers_of_the_real_decoder_are_the_specs():
    """spec/lora.md §0, §3.2."""
    assert decoder_numbers(DiTConfig()) == pytest.approx(1.575e9, rel=0.01)
    assert trained_numbers(DiTConfig(), options(rank=64)) == 64 * 688_128
    assert trained_numbers(DiTConfig(), options(rank=64, targets=MLP)) == 64 * (688_128 + 589_824)
    found = total()
    assert (found.adapter, found.optimizer) == (64 * 688_128 * 8, 64 * 688_128 * 8)


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_counted_is_what_is_injected(kind):
    wish = options(kind=kind, targets=MLP)
    trainable = inject(DiT(TINY), kind, wish.rank, None, 0.0, MLP)
    assert sum(value.numel() for value in trainable.parameters()) == trained_numbers(TINY, wish)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_cards(name):
    """Whole songs of 240 s; "auto" is off where that fits."""
    row = dict(PRESETS[name])
    fitting = {**row, "recompute": "on" if row["recompute"] == "on" else "off"}
    wish = replace(TrainOptions(), **fitting)
    assert estimate(DiTConfig(), wish, 6000, 600, HALF).total + (1 << 30) < 0.92 * int(name.split()[0]) * 2**30
    TrainOptions(**row)


def test_the_hour_on_twelve_gigabytes():
    hour = duration("12 GB")
    assert hour.training == pytest.approx(600 * 4 * 33.6 / 30)
    assert hour.total == pytest.approx(2688 + 13 * 8 * 10.5 / 30 + 8 * 10 + 8 * 60)
    assert hour.total <= 3600
    assert hour.lines[-1].endswith("minutes (computed for a 3090)")


def test_seconds_a_step_are_the_specs():
    for seconds, plain, again in [(60, 0.17, 0.25), (120, 0.35, 0.51), (180, 0.54, 0.80), (240, 0.76, 1.12)]:
        assert seconds_a_step(seconds, False) == pytest.approx(plain, abs=0.006)
        assert seconds_a_step(seconds, True) == pytest.approx(again, abs=0.006)
    assert seconds_a_step(60, True, "16-core CPU") == pytest.approx(15, rel=0.02)
    assert seconds_a_step(300, False) > seconds_a_step(240, False) and seconds_a_step(10, False) == 0.1
    with pytest.raises(ValueError, match="card: expected one of 3090"):
        seconds_a_step(60, False, "abacus")


def test_wrong_wishes_are_refused():
    from types import SimpleNamespace

    wrong = SimpleNamespace(**{**vars(options()), "optimizer": "sgd"})
    with pytest.raises(ValueError, match="optimizer: expected one of adamw"):
        estimate(TINY, wrong, 100, 10, HALF)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_only_what_memory_and_time_depend_on(name):
    """kind, optimizer and accumulation are the user's."""
    assert set(PRESETS[name]) <= {"rank", "steps", "batch", "recompute", "targets"}
    assert ("targets" in PRESETS[name]) == (name == "24 GB")
