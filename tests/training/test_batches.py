"""What every item of a run is: order, crops, hints and dropped conditions, all by its number alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from acestep_models.training.batches import collate, make_draws
from acestep_models.training.examples import Example, Prepared
from acestep_models.training.options import TrainOptions
from acestep_models.training.times import times_for


def ramp(length, width, start):
    """[length, width] whose rows are start, start + 1, ...: a row says where it is from."""
    return (start + torch.arange(length, dtype=torch.float32))[:, None].expand(length, width)


def songs(*lengths, repeat=1):
    made = tuple(
        Example(
            f"{n}.wav",
            ramp(length, 8, 1000 * n),
            ramp(5, 4, 10 * n),
            ramp(6, 4, -10 * n - 1),
            ramp(length, 8, -1000),
            repeat,
        )
        for n, length in enumerate(lengths)
    )
    return Prepared(made, torch.full((1, 4), 77.0), ramp(max(lengths), 8, 0.5), "f", {})


def draws(data, variant="base", **values):
    options = TrainOptions(**values)
    return make_draws(data, options, times_for(options, variant))


def test_every_epoch_has_every_song_as_often_as_it_repeats():
    data = songs(20, 20, 20)
    data = replace(data, examples=(replace(data.examples[0], repeat=3), *data.examples[1:]))
    made = draws(data)
    epochs = [[made.example(epoch * 5 + place).name for place in range(5)] for epoch in range(6)]
    assert all(Counter(names) == {"0.wav": 3, "1.wav": 1, "2.wav": 1} for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


def test_an_item_is_the_same_whenever_it_is_asked_for():
    one, two = draws(songs(40, 60), crop_seconds=0.8), draws(songs(40, 60), crop_seconds=0.8)
    for number in (9, 3, 17):
        first, second = one.item(number), two.item(number)
        assert torch.equal(first.noise, second.noise)
        assert torch.equal(first.clean, second.clean)
        assert torch.equal(first.t, second.t)
    other = draws(songs(40, 60), crop_seconds=0.8, seed=1)
    assert not torch.equal(other.item(3).noise, one.item(3).noise)


def test_crops_begin_on_a_code_and_a_patch_with_silence_from_its_start_and_hints_from_theirs():
    made = draws(songs(207), crop_seconds=2.0, hint_share=0.5, condition_dropout=0.0)
    starts = set()
    for number in range(200):
        item = made.item(number)
        start = int(item.clean[0, 0])
        starts.add(start)
        assert item.clean.shape == (50, 8)
        assert torch.equal(item.clean, ramp(207, 8, 0)[start : start + 50])
        hinted = item.source[0, 0] < 0
        expected = ramp(207, 8, -1000)[start : start + 50] if hinted else ramp(207, 8, 0.5)[:50]
        assert torch.equal(item.source, expected)
        assert len(item.tokens) == (6 if hinted else 5)
    assert starts == set(range(0, 151, 10))  # 207 frames: what is over at the end is never seen


def test_whole_songs_lose_what_is_over():
    assert len(draws(songs(47)).item(0).clean) == 40


def test_shares_of_dropped_conditions_and_hints():
    """Within three sigma of 2000 draws; a dropped condition is the null token at every place."""
    made = draws(songs(20), hint_share=0.4, condition_dropout=0.15)
    items = [made.item(number) for number in range(2000)]
    dropped = sum(bool((item.tokens == 77).all()) for item in items)
    hinted = sum(bool(item.source[0, 0] < 0) for item in items)
    assert abs(dropped - 300) < 3 * (2000 * 0.15 * 0.85) ** 0.5
    assert abs(hinted - 800) < 3 * (2000 * 0.4 * 0.6) ** 0.5
    assert {len(item.tokens) for item in items if (item.tokens == 77).all()} == {5, 6}


@pytest.mark.parametrize(("variant", "share"), [("base", 0.15), ("turbo", 0.0)])
def test_conditions_are_dropped_as_the_variant_was_trained(variant, share):
    assert draws(songs(20), variant).dropped == share


def test_songs_that_are_held_out_are_only_validated():
    made = draws(songs(20, 20, 20, 20), validation_songs=1, validation_points=4)
    assert len(made.trained) == 3
    assert set(made.trained) | set(made.validated) == {0, 1, 2, 3}
    held = made.validated[0]
    assert {int(item.clean[0, 0]) for item in made.grid()} == {1000 * held}
    with pytest.raises(ValueError, match="validation_songs is 4 and the dataset has 4"):
        draws(songs(20, 20, 20, 20), validation_songs=4)


def test_the_grid_is_fixed_and_plain():
    made = draws(songs(20, 40), "turbo", hint_share=1.0, condition_dropout=1.0, validation_points=8)
    grid, again = made.grid(), made.grid()
    assert [float(item.t) for item in grid] == pytest.approx(
        [1, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3], abs=1e-6
    )
    assert all(torch.equal(one.noise, two.noise) for one, two in zip(grid, again, strict=True))
    assert all(float(item.source[0, 0]) == 0.5 and float(item.tokens[0, 0]) in (0, 10) for item in grid)
    assert {len(item.clean) for item in grid} == {20, 40}


def test_a_batch_is_filled_up_and_says_where():
    made = draws(songs(20, 40), hint_share=0.0, condition_dropout=0.0)
    items = [made.item(0), made.item(1)]
    batch = collate(items)
    assert batch.context.shape == (2, 40, 16)
    assert bool((batch.context[..., 8:] == 1).all())
    assert sorted(batch.frames.sum(dim=1).tolist()) == [20, 40]
    assert batch.seen is None  # both conditions have five tokens
    assert collate(items[:1]).frames is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(9, 8)}, r"0.wav: 9 latent frames are too short, at least 10 \(0.4 s\)"),
        ({"plain": torch.full((5, 4), float("nan"))}, "0.wav: its plain hold NaN or infinity"),
        ({"plain": torch.zeros(5, 3)}, r"0.wav: its plain are \[5, 3\], expected \[length, 4\]"),
        ({"hints": torch.zeros(10, 8)}, "hints for 10 of 20 frames"),
    ],
)
def test_songs_that_cannot_be_trained_on(change, message):
    data = songs(20)
    with pytest.raises(ValueError, match=message):
        draws(replace(data, examples=(replace(data.examples[0], **change),)))


@pytest.mark.parametrize(("count", "points"), [(8, 16), (4, 16), (2, 16), (8, 64)])
def test_songs_meet_other_times_in_every_round_of_the_grid(count, points):
    """Eight times: a song meets as many of them as it has points, and each time is met as often as the others."""
    grid = draws(songs(*[20] * count), "turbo", validation_points=points).grid()
    met = {}
    for item in grid:
        met.setdefault(int(item.clean[0, 0]), []).append(round(float(item.t), 6))
    assert len(met) == count and all(len(set(times)) == points // count for times in met.values())
    assert set(Counter(time for times in met.values() for time in times).values()) == {points // 8}
