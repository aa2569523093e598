"""The table of tasks: sentences byte for byte, who may run what, and names that are not there."""

from __future__ import annotations

import pytest

from acestep_models.tasks import TASKS, TRACKS, VARIANTS, check_task, instruction, task_named

FILL = "Fill the audio semantic mask based on the given conditions:"
FOLLOW = "Generate audio semantic tokens based on the given conditions:"

# Copied out of spec/audio.md §4.3: task, tracks, sentence.
SENTENCES = [
    ("text2music", (), FILL),
    ("text2music+codes", (), FOLLOW),
    ("cover", (), FOLLOW),
    ("cover-faithful", (), FOLLOW),
    ("repaint", (), "Repaint the mask area based on the given conditions:"),
    ("extract", ("vocals",), "Extract the VOCALS track from the audio:"),
    ("extract", ("backing_vocals",), "Extract the BACKING_VOCALS track from the audio:"),
    ("extract", (), "Extract the track from the audio:"),
    ("lego", ("drums",), "Generate the DRUMS track based on the audio context:"),
    ("lego", (), "Generate the track based on the audio context:"),
    ("complete", ("drums",), "Complete the input track with DRUMS:"),
    ("complete", ("bass", "drums", "backing_vocals"), "Complete the input track with BASS | DRUMS | BACKING_VOCALS:"),
    ("complete", (), "Complete the input track:"),
]


@pytest.mark.parametrize(("name", "tracks", "sentence"), SENTENCES)
def test_instructions_byte_for_byte(name, tracks, sentence):
    assert instruction(name, tracks) == sentence


def test_every_task_is_among_the_sentences_with_and_without_tracks():
    for name, task in TASKS.items():
        said = {bool(tracks) for row, tracks, _ in SENTENCES if row == name}
        assert said == ({True, False} if task.most_tracks else {False})


@pytest.mark.parametrize("name", TASKS)
def test_instructions_of_every_track_are_those_of_diffusers(name):
    pipeline = pytest.importorskip("diffusers").AceStepPipeline
    kind = {"text2music+codes": "cover", "cover-faithful": "cover"}.get(name, name)
    assert instruction(name) == pipeline._get_task_instruction(kind)
    for track in TRACKS if TASKS[name].most_tracks else ():
        expected = pipeline._get_task_instruction(kind, track_name=track, complete_track_classes=[track])
        assert instruction(name, (track,)) == expected
    if TASKS[name].most_tracks > 1:
        expected = pipeline._get_task_instruction(kind, complete_track_classes=list(TRACKS))
        assert instruction(name, TRACKS) == expected


def test_tracks_are_the_twelve_of_training():
    assert " ".join(TRACKS) == (
        "woodwinds brass fx synth strings percussion keyboard guitar bass drums backing_vocals vocals"
    )


@pytest.mark.parametrize(
    ("name", "tracks", "message"),
    [
        ("extract", ("vocal",), "extract: expected tracks out of woodwinds, .*, vocals, got 'vocal'"),
        ("lego", ("VOCALS",), "got 'VOCALS'"),
        ("complete", ("bass", "lute"), "got 'lute'"),
        ("complete", ("bass", "bass"), "complete: every track once, got bass, bass"),
        ("extract", ("bass", "drums"), "extract: takes 1 track, got bass, drums; run them one by one"),
        ("cover", ("bass",), "cover: takes no track, got bass; leave them out"),
        ("remix", (), "task: expected one of text2music, .*, complete, got 'remix'"),
    ],
)
def test_wrong_tracks_and_tasks_are_refused(name, tracks, message):
    with pytest.raises(ValueError, match=message):
        instruction(name, tracks)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_who_may_run_what(name, variant):
    """Stems and added tracks: base was trained for them, sft may try, turbo cannot (spec/audio.md §1.1)."""
    if name not in {"extract", "lego", "complete"} or variant == "base":
        assert check_task(name, variant) == ""
    elif variant == "sft":
        assert check_task(name, variant) == (
            f"{name}: the sft model was not trained for it and may do it badly; base was"
        )
    else:
        example = "such as acestep_v1\\.5_base\\.safetensors, in Load DiT"
        message = f"^{name}: the {variant} model cannot do it: load a base model, {example}$"
        with pytest.raises(ValueError, match=message):
            check_task(name, variant)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="task: expected one of .*, got 'remix'"):
        check_task("remix", "base")
    with pytest.raises(ValueError, match="variant: expected one of .*, got 'large'"):
        check_task("cover", "large")
    with pytest.raises(ValueError, match="got ''"):
        task_named("")


@pytest.mark.parametrize("name", TASKS)
def test_rows_do_not_contradict_themselves(name):
    task = TASKS[name]
    assert not task.variants & task.warned and task.variants | task.warned <= set(VARIANTS)
    assert ("{tracks}" in task.instruction) == bool(task.most_tracks) and "{" not in task.bare
    assert task.instruction.endswith(":") and task.bare.endswith(":")
    assert task.needs == "source" or not (task.spans != "none" or task.most_tracks)
    assert task.spans != "none" or not task.blanks
    assert task.needs != "codes" or task.hints
