"""Expressions of a PEFT config: read as PEFT reads them, and never for long."""

from __future__ import annotations

import re
import time

import pytest

from acestep_models.adapters.patterns import Patterns

Q, UP = "layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+x", "repeats a group"),
        ("((.*)*)*x", "repeats a group"),
        ("(a|a)*x", "repeats a group"),
        (r"([a-z]+_?){1,50}x", "repeats a group"),
        ("(?:a|a)(b)+" + "(?:l|l)" * 20 + "x", "too many"),
        (".*" * 60 + "x", "too many"),
        ("l?" * 60 + "x", "too many"),
        ("(" * 40 + "a?" + ")?" * 40, "too many"),
    ],
)
@pytest.mark.parametrize("table", ["alpha_pattern", "rank_pattern"])
def test_no_expression_of_a_file_can_hang(pattern, reason, table):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=reason) as caught:
        Patterns().matches(table, pattern, "a" * 60)
    assert repr(pattern) in str(caught.value) and table in str(caught.value)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("pattern", [r".*\..*\..*x", r"\w+\w+\w+x", r"(a|a)?(a|a).*.*x", ".*" * 3 + "x"])
def test_the_slowest_that_is_taken_is_quick(pattern):
    started = time.perf_counter()
    for name in (".a" * 20, "a" * 40, "layers.10.self_attn.q_proj", "." * 100_000):
        assert not Patterns().matches("alpha_pattern", pattern, name)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.0.self_attn.q_proj",
        r"layers\.\d+\.self_attn\.q_proj",
        r"^layers\.[0-9]+\.(self|cross)_attn\.(q|k|v|o)_proj",
        r".*\.(?:q_proj|k_proj)",
        r"(model\.)?layers\.\d{1,2}\..*",
        r"[a-z_]+\.[^.]+",
    ],
)
def test_what_people_write_is_read_as_peft_reads_it(pattern):
    for name in (Q, UP, "layers.0.cross_attn.o_proj", "condition_embedder", "xq_proj"):
        assert Patterns().matches("alpha_pattern", pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name))
