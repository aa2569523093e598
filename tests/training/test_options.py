"""Options of a run: defaults of the recipe, what is refused, and plain values there and back."""

from __future__ import annotations

import dataclasses
import json

import pytest

from acestep_models.training.options import FREE, TrainOptions


def test_the_recommended_recipe():
    options = TrainOptions()
    assert (options.rank, options.scale_alpha, options.rate, options.accumulation) == (64, 64.0, 1e-4, 4)
    assert (options.clip, options.dropout, options.crop_frames) == (1.0, 0.0, 0)
    assert options.targets == ("self_attention", "cross_attention")


def test_plain_values_there_and_back():
    options = TrainOptions(kind="lokr", rank=8, targets=("mlp",), alpha=3.5, warmup=7, crop_seconds=30.5)
    assert TrainOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert options.crop_frames == 760  # 762.5 frames, down to a code and a patch


def test_only_what_does_not_change_the_steps_is_free():
    assert FREE < {field.name for field in dataclasses.fields(TrainOptions)}
    assert not FREE & {"rank", "seed", "batch", "learning_rate", "times", "warmup", "validation_songs", "ema"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "dora"}, "kind must be one of lora, lokr, got 'dora'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": 2.5}, "rank must be a whole number, got 2.5"),
        ({"rank": True}, "rank must be a whole number, got True"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number, got nan"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1"),
        ({"condition_dropout": 1.1}, "condition_dropout must be from 0 to 1, got 1.1"),
        ({"targets": []}, "targets must be some of"),
        ({"targets": "mlp"}, "targets must be a list of"),
        ({"targets": ["mlp", "mlp"]}, "each once"),
        ({"factor": 0}, "factor must be -1"),
        ({"crop_seconds": 0.3}, "at least 0.4, got 0.3"),
        ({"duration": "crop"}, "crop_seconds is 0"),
        ({"steps": 10, "warmup": 10}, "warmup must be shorter than the 10 steps, got 10"),
        ({"lr": 1e-4}, "no option is called lr; there are kind, rank"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions.from_json(values)


def test_shares_may_be_whole():
    assert TrainOptions(condition_dropout=1.0, hint_share=1.0).hint_share == 1.0


def test_no_frame_of_a_crop_is_lost_to_rounding():
    """0.1 s is 2.5 frames, counted here in whole numbers; 9.2 s are 230."""
    for tenths in range(4, 3000):
        assert TrainOptions(crop_seconds=tenths / 10).crop_frames == tenths * 25 // 100 * 10, tenths


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({}, 1e-4),
        ({"optimizer": "adamw8bit"}, 1e-4),
        ({"optimizer": "prodigy"}, 1.0),
        ({"optimizer": "prodigy", "learning_rate": 0.5}, 0.5),
        ({"learning_rate": 0.0}, 0.0),
    ],
)
def test_the_usual_rate_is_the_optimizers(values, rate):
    options = TrainOptions.from_json(values)
    assert options.rate == rate and options.doubts == ()


def test_a_prodigy_that_learns_nothing_is_doubted():
    (said,) = TrainOptions(optimizer="prodigy", learning_rate=1e-4).doubts
    assert "learning_rate is 0.0001" in said and "1 is usual" in said
    assert TrainOptions(optimizer="prodigy", learning_rate=0.0).doubts == ()
