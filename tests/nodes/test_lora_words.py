"""What the LoRA nodes say and refuse, and when they run again."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

NAME = "layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(core):
    """adapter(delta, **facts) -> an adapter with one module."""
    kinds = core("adapters.adapter")
    return lambda delta, **facts: kinds.Adapter({NAME: delta}, kinds.AdapterFacts("PEFT", **facts))


@pytest.fixture
def low(core):
    kinds = core("adapters.delta")
    return lambda up=1.0, scale=1.0: kinds.LowRank(torch.ones(2, 4), up * torch.ones(4, 2), scale)


def test_what_was_deleted_is_made_again_once(pack, tmp_path):
    made, file = pack("lora_made").MadeFiles(), tmp_path / "voice_00001_.safetensors"
    values = {"lora": "a", "name": "voice", "rank": 0}
    linked = {**values, "lora": None}
    assert made.gone("Convert", values) == 0
    file.touch()
    made.add("Convert", values, file)
    assert made.gone("Convert", values) == made.gone("Convert", linked) == 0
    file.unlink()
    others = ("Merge", values), ("Convert", {**values, "rank": 2})
    assert made.gone("Convert", linked) == made.gone("Convert", values) == 1
    assert [made.gone(*other) for other in others] == [0, 0]
    file.touch()  # the number is free again
    made.add("Convert", values, file)
    assert made.gone("Convert", values) == 1
    file.unlink()
    assert made.gone("Convert", values) == 2


def test_a_lora_that_changes_nothing_is_said(pack, core, adapter, low):
    say, kinds = pack("lora_report").describe_adapter, core("adapters.delta")
    words = "this LoRA changes nothing"
    for delta, nothing in (
        (low(), False),
        (low(up=0.0), True),
        (low(scale=0.0), True),
        (kinds.Full(torch.zeros(2, 2)), True),
        (kinds.Full(torch.ones(2, 2)), False),
        (kinds.DoRA(low(up=0.0), torch.ones(4)), False),
    ):
        assert (words in "\n".join(say("x", adapter(delta)))) == nothing, delta


def test_one_module_and_words_of_one_line(pack, core, adapter, low):
    one = adapter(low(), trigger="paper\nboats", trigger_position="pre\npend")
    report, found = pack("lora_report"), core("adapters.match").Match({NAME: low()}, ())
    lines = report.describe_adapter("x", one)
    assert lines[0] == "lora: x: LoRA for 1 module, PEFT" and "trigger: paper boats (pre pend)" in lines
    lines = report.describe_match(one, found, found.deltas, 1.0)
    assert lines == ("matched: 1 of 1 module", "strength: 1")
    lines = report.describe_match(one, found, {}, 1.0)
    assert lines[-1] == "nothing of it is left by multipliers and layers"
    two = replace(one, deltas={**one.deltas, "layers.1.mlp.up_proj": low()})
    assert report.describe_match(two, found, found.deltas, 1.0)[0] == "matched: 1 of 2 modules"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(pack, number):
    usual = {"self_attention": 1.0, "cross_attention": 1.0, "mlp": 1.0, "other": 1.0}
    hook = pack("lora").HookLoRA.execute
    for name in ("strength", *usual):
        given = {"strength": 1.0, **usual, name: number}
        with pytest.raises(ValueError, match=f"^{name}: expected a number from -2 to 2, got"):
            hook(lora="x", layers="", alpha=-1.0, **given)
    with pytest.raises(ValueError, match="^strength_2: expected a number"):
        pack("lora_tools").MergeLoRAs.execute("a", 1.0, "b", number, "single", "x", 0, -1.0)


def test_at_strength_0_no_file_is_read(pack, monkeypatch):
    monkeypatch.setattr(pack("host.loras"), "load_lora", lambda *given: pytest.fail("was read"))
    monkeypatch.setattr(pack("lora"), "song_model", lambda model: model)
    given = ("x", 0.0, 1.0, 1.0, 1.0, 1.0, "", -1.0)
    model = object()
    made = pack("lora").ApplyLoRA.execute(model, *given)
    assert made.args[0] is model and "off: the model is passed on" in made.ui["text"][0]
    made = pack("lora").HookLoRA.execute(*given)
    assert len(made.args[0]) == 1 and made.args[0].hooks[0]._strength_model == 0


@pytest.mark.parametrize("entry", [5, 1.5, {}, []])
def test_an_entry_that_is_no_text_is_refused(pack, entry):
    words = "lora: expected the name of a LoRA as text, got"
    for node in (pack("lora").ApplyLoRA, pack("lora").HookLoRA, pack("lora_tools").InspectLoRA):
        assert str(node.validate_inputs(lora=entry)).startswith(words)
    with pytest.raises(TypeError, match=f"^{words} None"):
        pack("host.loras").load_lora(None)


def test_of_many_loras_the_nearest_are_named(pack, monkeypatch):
    loras = pack("host.loras")
    names = [*(f"other_{number}.safetensors" for number in range(50)), "jazz.safetensors"]
    monkeypatch.setattr(loras, "lora_names", lambda: names)
    with pytest.raises(ValueError, match=r"51 are there, nearest: jazz\.safetensors, [^,]*, [^,]*\); put") as caught:
        loras.lora_path("jaz.safetensors")
    assert len(str(caught.value)) < 500


def test_an_en_dash_is_a_range(core):
    assert core("adapters.select").parse_layers("0\u20132, 5") == {0, 1, 2, 5}
