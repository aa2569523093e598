"""LabelDataset: what it asks of the core, what it says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

WISHES = {"lyrics": "keep", "which": "unlabelled", "seed": 7, "temperature": 0.7, "top_p": 0.9, "top_k": 3}


@pytest.fixture
def parts(core):
    """Wires of the right kinds, with nothing behind them."""
    tokenizer = core("qwen3.tokenizer").Tokenizer.from_json(core("tiny.tokens").planner_json(64))
    clip, blueprint = core("training.data.clip"), core("blueprint").Blueprint
    clips = tuple(
        clip.Clip(name, blueprint(caption=said), sound=(torch.ones(2, 48_000), 48_000), seconds=1.0)
        for name, said in (("a.wav", ""), ("b.wav", "mine"))
    )
    conditioner = core("pipelines.encode").ConditionerModels
    return {
        "lm": core("planner.lm").LM(None, tokenizer, "tiny"),
        "conditioner": conditioner(*[None] * 7),
        "vae": core("runtime").Handle(None, torch.float32),
        "dataset": clip.Dataset("songs", clips),
    }


@pytest.fixture
def run(pack, parts, monkeypatch):
    """run(**changes) -> (what the core was asked, the node's output); the core labels the first song."""
    node, seen = pack("label_dataset"), SimpleNamespace()

    def label(runtime, lm, conditioner, vae, dataset, options):
        seen.options = options
        first = dataset.clips[0]
        heard = replace(first, blueprint=first.blueprint.fill(caption="heard"), read=("caption: heard by tiny",))
        return replace(dataset, clips=(heard, *dataset.clips[1:]), notes=("b.wav: not labelled: silence",))

    monkeypatch.setattr(node, "label", label)
    return lambda **changes: (seen, node.LabelDataset.execute(**{**parts, **WISHES, **changes}))


def test_widgets_become_options(run, core, pack):
    seen, _ = run(lyrics="transcribe", which="all")
    options = core("training.labels").LabelOptions
    understand = core("planner.understand").UnderstandOptions(7, core("planner.sampling").TokenSampling(0.7, 0.9, 3))
    kept = pack("host.label_files").labels_folder()
    assert seen.options == options("transcribe", "all", understand, kept)
    assert kept.parts[-2:] == ("acestep_datasets", "labels")


def test_it_says_what_was_heard(run):
    _, made = run()
    dataset, text = made.result
    assert [clip.blueprint.caption for clip in dataset.clips] == ["heard", "mine"]
    lines = text.splitlines()
    assert lines[0] == "labelled: 1 of 2 songs" and made.ui == {"text": (text,)}
    assert "note: b.wav: not labelled: silence" in lines and "  caption: heard by tiny" in lines
    assert lines[-1] == "planner: tiny"


@pytest.mark.parametrize(
    ("name", "origin"),
    [("lm", "Load LM"), ("conditioner", "Load DiT"), ("vae", "Load DiT"), ("dataset", "Build Dataset")],
)
def test_another_wire_is_refused(run, name, origin):
    with pytest.raises(TypeError, match=f"^{name}: expected the {name} output of {origin}, got int"):
        run(**{name: 3})


@pytest.mark.parametrize("name", ["lyrics", "which"])
def test_a_word_out_of_the_list_is_refused(run, name):
    with pytest.raises(ValueError, match=f"^{name}: expected one of .*; got 'some'"):
        run(**{name: "some"})
