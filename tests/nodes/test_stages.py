"""A 240 s song at real sizes on a small card: what lies there at each stage, and whether what is reserved is enough."""

from __future__ import annotations

import pytest
from songstages import CARDS, LARGE, ORDER, SMALL, Stages


@pytest.fixture
def stages(pack, core, fake_gpu, monkeypatch):
    """See `Stages`."""
    return Stages(pack, core, fake_gpu, monkeypatch.setattr)


@pytest.mark.parametrize("card", CARDS)
def test_a_long_song_stays_within_a_small_card(stages, card):
    """Weights, buffers and reservation at every stage; what ran once is gone before the decoder lacks room."""
    table, _, _ = stages(*CARDS[card])
    print(card, *table, sep="\n")
    assert [stage.network for stage in table] == [*ORDER]
    assert max(stage.total for stage in table) <= CARDS[card][0]
    share = {stage.network: stage.share for stage in table}
    assert (share["decoder"] < 1.0) == (card != "3.5-GB"), "streamed"
    assert (share["condition"] < 1.0) == (card == "1-GB"), "streamed"
    decoder = next(stage for stage in table if stage.network == "decoder")
    assert share["decoder"] == 1.0 or decoder.others == 0, "the decoder waits for weights while others lie there"


def test_nothing_leaves_a_card_that_holds_all(stages):
    table, left, _ = stages(LARGE)
    assert set(left) == set(ORDER) and min(stage.share for stage in table) == 1.0
    assert all(later.weights > before.weights for before, later in zip(table, table[1:], strict=False))


def test_the_vae_takes_shorter_tiles_before_others_leave(stages):
    """Room for everything and a tile of a few seconds: nobody has to go for a longer one."""
    whole, _, seen = stages(LARGE)
    weights = whole[-1].weights
    table, left, short = stages(int(weights + 0.45e9))
    assert set(left) == set(ORDER) and min(stage.share for stage in table) == 1.0
    assert 128 <= short["vae"][0][-1] < seen["vae"][0][-1]
    assert table[-1].reserve < whole[-1].reserve


def test_reservations_cover_what_lives_at_once(stages):
    """Each against the largest sum of live activations of the same network on the same shapes, on meta."""
    table, _, seen = stages(SMALL)
    reserved = {stage.network: stage.reserve for stage in table}
    for name, true in stages.live(seen):
        print(f"{name:12} {true / 1e6:7.1f} MB live, {reserved[name] / 1e6:7.1f} MB reserved")
        assert true <= reserved[name]
