"""What a user reads while the planner writes."""

from __future__ import annotations

import pytest

from acestep_models.errors import Cancelled
from acestep_models.planner.pace import Pace, duration
from acestep_models.runtime import PlainRuntime


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def said():
    return []


def run(said, songs, steps, seconds_a_step):
    runtime, clock = PlainRuntime(), Clock()
    runtime.say = said.append
    pace = Pace(runtime, "codes", 1500, songs, clock)
    for done in range(1, steps + 1):
        clock.now += seconds_a_step
        pace.step(done)
    return pace, runtime


def test_twice_a_second_with_speed_and_time_left(said):
    run(said, 1, 110, 0.025)
    assert len(said) == 5  # in 2.75 seconds
    assert said[-1] == "codes 100 of 1500, 40 tokens/s, 35 s left"


def test_several_songs_count_together(said):
    pace, runtime = run(said, 8, 30, 0.1)
    assert said[-1] == "codes 30 of 1500 in each of 8 songs, 80 tokens/s, 2 min 27 s left"
    assert runtime.last_progress == (30, 1500)
    pace.finish(30)
    assert said[-1] == "codes 30 of 1500 in each of 8 songs, 80 tokens/s"
    assert runtime.last_progress == (1500, 1500)


def test_a_fast_card_has_no_exponent(said):
    run(said, 8, 1000, 0.001)
    assert ", 8000 tokens/s, " in said[-1]


def test_without_a_known_end_no_end_is_promised(said):
    runtime, clock = PlainRuntime(), Clock()
    pace = Pace(runtime, "text", 4608, 1, clock, open_end=True)
    clock.now += 2
    pace.step(50)
    assert runtime.last_words == "text 50, 25 tokens/s"
    assert runtime.last_progress == (50, 4608)


def test_cancel_comes_before_anything_else(said):
    pace, runtime = run(said, 1, 3, 0.1)
    runtime.cancel = True
    with pytest.raises(Cancelled):
        pace.step(4)
    assert runtime.last_progress == (3, 1500)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (32.4, "32 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (4000, "66 min 40 s")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
