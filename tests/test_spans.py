"""Spans as they are written, against seconds that were worked out by hand."""

from __future__ import annotations

import math

import pytest

from acestep_models.spans import Meter, Span, check_reach, check_spans, merge, meter, parse_spans

WALTZ = Meter(90.0, 3.0)  # a bar is 3 * 60 / 90 = 2 s


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("12-20.5", [(12, 20.5)]),
        ("1:05-1:20", [(65, 80)]),
        ("0:07.25 - 10:00", [(7.25, 600)]),
        ("-5 to 3", [(-5, 3)]),
        ("-5-3", [(-5, 3)]),
        ("-10--5", [(-10, -5)]),
        ("-1:05-0", [(-65, 0)]),
        ("20..30", [(20, 30)]),
        ("20 – 30", [(20, 30)]),
        ("−2 — 3", [(-2, 3)]),
        ("3s-4.5 s", [(3, 4.5)]),
        (".5-1", [(0.5, 1)]),
        ("20-end", [(20, 60)]),
        ("20 to End", [(20, 60)]),
        ("30-40, 1-2;5-6\n8-9\n", [(30, 40), (1, 2), (5, 6), (8, 9)]),
        ("55-70", [(55, 70)]),
    ],
)
def test_seconds(text, spans):
    assert [(span.start, span.end) for span in parse_spans(text, "seconds", length=60.0)] == spans


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("5-8", [(8, 16)]),
        ("5", [(8, 10)]),
        ("1", [(0, 2)]),
        ("0", [(-2, 0)]),
        ("-3-0", [(-8, 0)]),
        ("-3", [(-8, -6)]),
        ("-3--1", [(-8, -2)]),
        ("5-end", [(8, 61)]),
        ("9-12, 1 to 4", [(16, 24), (0, 8)]),
    ],
)
def test_bars_are_counted_from_one_and_both_ends_belong(text, spans):
    assert [(span.start, span.end) for span in parse_spans(text, "bars", WALTZ, 61.0)] == spans


@pytest.mark.parametrize("unit", ["seconds", "bars"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected at least one span"),
        (" , ;\n", "expected at least one span"),
        ("20-10", "ends at or before its start"),
        ("chorus", "is no span in"),
        ("1-2-3", "is no span in"),
        ("1-", "is no span in"),
        ("end", "is no span in"),
        ("end-9", "is no span in"),
        ("nan-inf", "is no span in"),
        ("9" * 5000 + "-" + "9" * 5001, "is no span in"),
        ("90-end", "behind the end of the song at 60 s"),
    ],
)
def test_what_is_no_span_is_refused_in_words(text, words, unit):
    with pytest.raises(ValueError, match=f"spans: .*{words}"):
        parse_spans(text, unit, WALTZ, 60.0)


@pytest.mark.parametrize("text", ["5", "3-3", "1,5-3"])
def test_an_instant_is_no_span_of_seconds(text):
    with pytest.raises(ValueError, match="spans: "):
        parse_spans(text, "seconds")


@pytest.mark.parametrize("text", ["1,5-2,5", "12-20,5", "0,5-10", "3-4; 1,25-2", "1-2, 3,5-4"])
def test_a_number_with_a_comma_is_told_of_the_point(text):
    with pytest.raises(ValueError, match='spans: .* write decimals with a point: "1.5-2.5", not "1,5-2,5"'):
        parse_spans(text, "seconds", length=60.0)


def test_a_second_alone_may_be_meant_as_a_bar():
    with pytest.raises(ValueError, match="'5' is .*; in seconds write start-end, like \"12-20.5\"; for bar 5 set unit"):
        parse_spans("5", "seconds")
    with pytest.raises(ValueError, match='in seconds write start-end, like "12-20.5"$'):
        parse_spans("5.5", "seconds")
    assert parse_spans("1-2,5-6", "seconds") == (Span(1.0, 2.0), Span(5.0, 6.0))


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [
        ("33-end", "bars", "bar 33 begins at 64 s, behind the end of the song at 32 s"),
        ("17-end", "bars", "bar 17 begins at 32 s, at the end of the song at 32 s"),
        ("40-end", "seconds", "40 s is behind the end of the song at 32 s"),
    ],
)
def test_what_goes_to_an_end_before_it_is_told_where_the_end_is(text, unit, words):
    with pytest.raises(ValueError, match=f"spans: '{text}' has nothing in it: {words}"):
        parse_spans(text, unit, WALTZ, 32.0)


@pytest.mark.parametrize("unit", ["seconds", "bars"])
def test_no_text_is_told_apart_from_an_empty_one(unit):
    with pytest.raises(ValueError, match=f"at least one span in {unit}, .*there is no text"):
        parse_spans(None, unit, WALTZ)


@pytest.mark.parametrize("text", ["1.5-3", "1:05-1:20"])
def test_bars_are_whole(text):
    with pytest.raises(ValueError, match="whole bars, counted from 1"):
        parse_spans(text, "bars", WALTZ)


def test_an_end_that_is_not_known_yet_is_read_and_left_out():
    assert parse_spans("1-2, 5-end", "seconds") == (Span(1.0, 2.0),)
    assert parse_spans("5-end", "seconds") == ()
    check_spans("5-end", "bars")
    with pytest.raises(ValueError, match="is no span"):
        check_spans("5-END of it", "seconds")
    with pytest.raises(ValueError, match="unit: expected one of seconds, bars; got 'beats'"):
        check_spans("5-6", "beats")


def test_bars_need_a_meter():
    with pytest.raises(ValueError, match="need a tempo and a time signature"):
        parse_spans("5-8", "bars")
    with pytest.raises(ValueError, match="^bpm: .*set bpm"):
        meter(None, "4")
    with pytest.raises(ValueError, match="^time_signature: .*set time_signature"):
        meter(120, None)
    with pytest.raises(ValueError, match="time_signature: expected one of .*; got '5'"):
        meter(120, "5")
    for bpm in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="bpm: expected a number above 0"):
            meter(bpm, "4")


@pytest.mark.parametrize(("signature", "bar"), [("2", 1.0), ("3", 1.5), ("4", 2.0), ("6", 1.5), ("6/8", 1.5)])
def test_a_bar_has_its_quarter_notes(signature, bar):
    at_120 = meter(120, signature)
    assert at_120.bar_seconds == bar


def test_spans_that_overlap_or_touch_become_one():
    spans = [Span(30, 40), Span(1, 2), Span(2, 5), Span(38, 39), Span(-3, -1)]
    assert merge(spans) == (Span(-3, -1), Span(1, 5), Span(30, 40))
    thirds = Meter(97.0, 4.0)  # 240 / 97 s has no short binary form
    assert len(merge(parse_spans("1-7, 8-9, 10", "bars", thirds))) == 1


@pytest.mark.parametrize(
    "spans", [[(0, 10)], [(50, 60)], [(60, 70)], [(-10, 0)], [(60, 70), (70, 80)], [(-5, 3), (58, 65)]]
)
def test_spans_that_touch_the_song_and_leave_some_of_it_are_fine(spans):
    check_reach([Span(*span) for span in spans], 60.0)


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([], "expected at least one span"),
        ([(61, 70)], "lies outside of the song, which goes from 0 to 60 s"),
        ([(10, 12), (70, 71)], "70 to 71 s lies outside"),
        ([(-5, -1)], "-5 to -1 s lies outside"),
        ([(0, 60)], "covers the whole song of 60 s"),
        ([(-1, 30), (30, 61)], "-1 to 61 s covers the whole song"),
    ],
)
def test_spans_that_leave_a_hole_or_nothing_are_refused(spans, words):
    with pytest.raises(ValueError, match=f"spans: {words}|spans: .*{words}"):
        check_reach([Span(*span) for span in spans], 60.0)


@pytest.mark.parametrize("places", [(1, 1), (2, 1), (0, math.inf), (math.nan, 1), (-math.inf, 0)])
def test_a_span_ends_after_its_start(places):
    with pytest.raises(ValueError, match="the end must lie after the start"):
        Span(*places)
