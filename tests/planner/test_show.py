"""A small share of `make show-4`: random weights under the grammar, through the real loops."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "show_4.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("show_4", TOOL)
    sys.modules["show_4"] = module = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def test_blocks_of_random_weights_parse(tool, tiny_lm):
    count = tool.show_blocks(tiny_lm, 16)
    assert count.checked > 100 and count.faults == []


@pytest.mark.slow
def test_songs_of_random_weights_are_whole(tool, tiny_lm):
    count = tool.show_songs(tiny_lm, 16)
    assert count.checked > 120 and count.faults == []


def test_a_fault_is_counted(tool, tiny_lm):
    """The tool would notice: a wrong count of codes, a value that is not the user's, a field that was not written."""
    from acestep_models.blueprint import Blueprint
    from acestep_models.planner.grammar import Field, Outline

    count = tool.Count()
    tool.check_codes(count, Blueprint(seconds=10))
    ids = tiny_lm.tokenizer.encode("<think>\nbpm: 91\n")
    tool.check_block(count, tiny_lm, Outline((Field("bpm", 90),)), Blueprint(bpm=90), ids)
    tool.check_block(count, tiny_lm, Outline((Field("language"),)), Blueprint(), ids)
    assert count.faults == [
        "0 codes for 10.0 s",
        "bpm should be 90, came out as 91",
        "free ['language'], written ['bpm']",
    ]
