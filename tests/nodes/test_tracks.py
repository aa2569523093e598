"""AddTrack and Complete: what is asked for late, and which classes are read."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize("node", ["AddTrack", "Complete"])
def test_nothing_is_encoded_for_a_model_that_is_refused(pack, loaded, node):
    kind = getattr(pack("tracks"), node)
    inputs = kind.define_schema().inputs
    assert {i.id for i in inputs if getattr(i, "lazy", None)} == {"blueprint", "source", "reference"}
    wires = {"blueprint": None, "source": None, "reference": None}
    with pytest.raises(ValueError, match="the turbo model cannot do it: load a base model"):
        kind.check_lazy_status(model=loaded.model, **wires)
    loaded.model.model.variant_name = "base"
    assert kind.check_lazy_status(model=loaded.model, **wires) == list(wires)


def test_a_part_that_ends_before_it_starts_needs_no_source(pack, loaded):
    loaded.model.model.variant_name = "base"
    with pytest.raises(ValueError, match="got 6 to 2 s"):
        pack("tracks").AddTrack.check_lazy_status(model=loaded.model, source=None, start=6.0, end=2.0)


UNREAD = "classes: only read with preset Chosen classes; empty it or choose that preset"


@pytest.mark.parametrize(
    ("preset", "classes", "answer"),
    [
        ("Vocal to song", "drums", UNREAD),
        ("Anything", "all", UNREAD),
        ("Vocal to song", " \n", True),
        ("Vocal to song", None, True),
        ("Chosen classes", "drums", True),
        ("Chosen classes", None, True),
        (None, "drums", True),
        ("Chosen classes", "", "tracks: .*got none"),
        ("Chosen classes", "kazoo", "tracks: .*got 'kazoo'"),
        ("Some", "", "preset: expected one of Vocal to song, .*; got 'Some'"),
    ],
)
def test_classes_go_with_their_preset(pack, preset, classes, answer):
    given = pack("tracks").Complete.validate_inputs(preset=preset, classes=classes)
    assert given is True if answer is True else re.match(answer, given)


def test_linked_classes_with_another_preset_are_refused_when_they_come(pack):
    with pytest.raises(ValueError, match=f"^{UNREAD}$"):
        pack("tracks").read_classes("Vocal to song", "drums")
