"""SpanMask: whose bars are counted, what stays of the LATENT, and what a sampler refuses."""

from __future__ import annotations

import re

import pytest
import torch

AUTO = (-1.0, "auto")


@pytest.fixture
def mask(pack):
    """mask(latent, spans, unit, ...) -> frames that are open, of each song, as (first, one past the last)."""

    def run(latent, spans, unit="seconds", feather=0.0, bar=AUTO, blueprint=None):
        made = pack("mask").SpanMask.execute(latent, spans, unit, feather, *bar, blueprint).result[0]["noise_mask"]
        assert made.shape == (len(latent["samples"]), 1, latent["samples"].shape[-1])
        places = [row[0].nonzero().flatten().tolist() for row in made]
        assert all(place == list(range(place[0], place[-1] + 1)) for place in places)
        return [(place[0], place[-1] + 1) for place in places]

    return run


@pytest.fixture
def song(core):
    """song(bpm, time_signature) on paper."""
    return lambda bpm=None, beats=None: core("blueprint").Blueprint(caption="piano", bpm=bpm, time_signature=beats)


def latent(frames=250, songs=1, **extra):
    return {"samples": torch.zeros(songs, 64, frames), "type": "audio", **extra}


def test_everything_else_of_a_latent_stays(pack):
    given = latent(songs=3, batch_index=[4, 5, 6], noise_mask=torch.ones(1, 1, 9))
    made = pack("mask").SpanMask.execute(given, "2-4, 3-6", "seconds", 0.2, *AUTO).result[0]
    assert {key: made[key] for key in ("samples", "type", "batch_index")} == {
        key: given[key] for key in ("samples", "type", "batch_index")
    }
    assert given["noise_mask"].shape == (1, 1, 9)  # the one that came is as it was
    rows = made["noise_mask"]
    assert rows.shape == (3, 1, 250) and torch.equal(rows[0], rows[2])
    assert rows[0, 0, 50:150].eq(1).all() and 0 < float(rows[0, 0, 45]) < float(rows[0, 0, 49]) < 1


def test_a_mask_says_where_it_is_open(pack):
    said = pack("mask").SpanMask.execute(latent(), "4-6\n1-2; 5-end", "seconds", 0.2, *AUTO).ui["text"][0]
    assert said == "made anew: 1 to 2 s, 4 to 10 s\nfeather: 0.2 s"
    said = pack("mask").SpanMask.execute(latent(), "2-2.01", "seconds", 0.0, *AUTO).ui["text"][0]
    assert said == "made anew: 2 to 2.04 s"


def test_a_report_lists_eight_parts_and_counts_the_others(pack):
    many = ", ".join(f"{k}-{k}.5" for k in range(200))
    said = pack("mask").SpanMask.execute(latent(5_000), many, "seconds", 0.0, *AUTO).ui["text"][0]
    assert said.endswith("7 to 7.48 s and 192 more") and said.count(" to ") == 8
    listed = pack("measure").listed
    assert listed([(0, 1)] * 8, "{:.2f} to {:.2f} s").count("0.00 to 1.00 s") == 8
    assert listed([(0, 1)] * 8).endswith("s") and listed([]) == ""


@pytest.mark.parametrize(
    ("bar", "paper", "expected"),
    [
        ((120.0, "4/4"), None, (50, 100)),
        ((120.0, "3/4"), None, (37, 75)),
        ((120.0, "6/8"), None, (37, 75)),
        (AUTO, (60, "2/4"), (50, 100)),
        ((-1.0, "3/4"), (60, "2/4"), (75, 150)),
        ((240.0, "auto"), (60, "2/4"), (12, 25)),
    ],
)
def test_bars_are_the_widgets_or_else_the_papers(mask, song, bar, paper, expected):
    papers = (song(*paper),) if paper else None
    assert mask(latent(), "2", "bars", bar=bar, blueprint=papers) == [expected]


def test_bars_may_be_those_of_the_song_as_it_was_made(mask, song, core, caplog):
    schedule = core("sampling.schedule").Schedule((1.0, 0.0), None)
    meta = core("pipelines.generate").SongMeta((song(120, "4/4"),), (0,), 250, schedule)
    assert mask(latent(acestep=meta), "2", "bars") == [(50, 100)]
    assert mask(latent(acestep=meta), "2", "bars", blueprint=(song(60, "4/4"),)) == [(100, 200)]
    assert not caplog.records
    with pytest.raises(ValueError, match="tempo"):
        mask(latent(frames=300, acestep=meta), "2", "bars")
    assert "the latent has 300 frames, its history is of 250 and is left out" in caplog.text


@pytest.mark.parametrize(
    ("spans", "unit", "message"),
    [
        ("8-12", "seconds", "8 to 12 s is not within the latent's 0 to 10 s"),
        ("-2-3", "seconds", "-2 to 3 s is not within"),
        ("6-2", "seconds", "ends at or before its start"),
        ("", "seconds", "at least one span"),
        ("0-end", "seconds", "covers the whole song"),
        ("2", "bars", "tempo"),
        ("2-3", "beats", "unit"),
    ],
)
def test_what_cannot_be_masked_is_refused(mask, spans, unit, message):
    with pytest.raises(ValueError, match=message):
        mask(latent(), spans, unit)


@pytest.mark.parametrize(
    ("spans", "unit", "answer"),
    [
        ("2-6", "seconds", True),
        (None, "seconds", True),
        ("2-6", None, True),
        ("5-end", "bars", True),
        ("6-2", "seconds", "spans: '6-2' ends at or before its start"),
        ("1.5-2", "bars", "spans: '1.5-2' is no span in bars"),
    ],
)
def test_texts_are_checked_before_anything_runs(pack, spans, unit, answer):
    given = pack("mask").SpanMask.validate_inputs(spans=spans, unit=unit)
    assert given is True if answer is True else re.match(answer, given)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (latent(), "latent: it has no mask that says what is made anew; put SpanMask between"),
        (latent(noise_mask=torch.ones(1, 1, 1, 250)), r"noise_mask: expected the shape \[1 or 1, 1, 250\].*SpanMask"),
        (latent(noise_mask=torch.ones(1, 1, 100)), "noise_mask: expected the shape"),
        ({"samples": torch.zeros(1, 4, 8, 8)}, "latent: expected samples of shape"),
    ],
    ids=["no mask", "mask for pictures", "another length", "a picture"],
)
def test_a_latent_to_go_on_from_needs_a_mask_that_fits(pack, value, message):
    with pytest.raises(ValueError, match=message):
        pack("host.latents").held_latent(value)


def test_how_much_is_open_is_said(pack):
    line, held = pack("sample").open_line, pack("host.latents").held_latent
    some = torch.zeros(1, 1, 250)
    some[..., 50:150] = 0.5
    assert line(held(latent(noise_mask=some))) == "mask: 4 of 10 s made anew"
    assert line(held(latent(noise_mask=some * 0))) == "mask: 0 of 10 s made anew (look at SpanMask)"
