"""EditBlueprint, LoadBlueprint, SaveBlueprint and BlueprintValues as functions; tests/host runs them in ComfyUI."""

from __future__ import annotations

import json

import pytest

KEEP = dict.fromkeys(
    ("caption", "lyrics", "key", "time_signature", "language", "codes", "song_seed", "genres", "sentence"), ""
) | {"song": 0, "bpm": 0, "seconds": 0.0, "lock": "", "unlock": ""}


@pytest.fixture
def song(core):
    """song(...) is a blueprint of the pack."""
    return core("blueprint").Blueprint


@pytest.fixture
def edit(pack):
    """edit(songs, **changes) -> the songs and what the node says."""

    def run(songs, **changes):
        output = pack("edit_blueprint").EditBlueprint.execute(songs, **{**KEEP, **changes})
        return output.args[0], output.ui["text"][0]

    return run


def test_nothing_changes_by_itself(edit, song):
    songs = (song(caption="a", bpm=90, codes=range(60), score=0.5, filled={"bpm"}), song(lyrics="la"))
    assert edit(songs)[0] == songs


def test_every_field_can_be_set(edit, song):
    changes = dict(caption="a", lyrics="la", bpm=90, key="am", time_signature="3/4", seconds=12.0, language="EN")
    rest = dict(
        codes=",".join("7" * 60), song_seed=" 5 ", genres="pop", sentence="s", lock="bpm, keyscale", unlock="all"
    )
    with pytest.raises(ValueError, match="lock and unlock: bpm, key cannot be in both"):
        edit((song(),), **changes, **rest)
    (one,), text = edit((song(locked={"codes"}),), **changes, **rest | {"unlock": "codes"})
    assert one == song(
        **dict(caption="a", lyrics="la", bpm=90, key="A minor", time_signature="3", seconds=12, language="en"),
        **dict(codes=(7,) * 60, seed=5, genres="pop", sentence="s", locked={"bpm", "key"}),
    )
    assert "plan: 60 codes" in text and "locked: bpm, key" in text and "noise seeds: 5" in text


def test_every_field_can_be_unset(edit, song):
    full = song(
        **dict(caption="a", lyrics="la", bpm=90, key="A minor", time_signature="3", seconds=12, language="en"),
        **dict(codes=(7,) * 60, seed=5, genres="pop", sentence="s"),
    )
    auto = {name: "auto" for name, kept in KEEP.items() if kept == "" and name not in ("lock", "unlock")}
    (one,), text = edit((full,), **auto, bpm=-1, seconds=-1.0)
    assert one == song()
    assert "codes of song 1 dropped" in text


def test_one_song_of_several(edit, song):
    songs = (song(bpm=90),) * 3
    assert [one.bpm for one in edit(songs, song=2, bpm=100)[0]] == [90, 100, 90]
    assert [one.bpm for one in edit(songs, bpm=100)[0]] == [100] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"song": 2}, r"song: expected 0 \(all\) to 1.*got 2"),
        ({"bpm": 20}, r"bpm: expected 30 to 300.*got 20 \(-1 is auto, 0 keeps it\)"),
        ({"seconds": 5.0}, r"seconds: expected 10 to 600.*got 5 \(-1 is auto, 0 keeps it\)"),
        ({"key": "H"}, "key: expected a note"),
        ({"codes": "1,64000"}, "got '64000' as number 2 of 2"),
        ({"codes": "1,2", "seconds": 12.0}, "a song of 12 s has 60 codes, got 2"),
        ({"song_seed": "-1"}, "song_seed: expected a whole number"),
        ({"song_seed": "9" * 20}, "^song_seed: expected 0 to 18446744073709551615"),
        ({"lock": "tempo"}, "lock: tempo is not a field; expected all, or some of caption, lyrics"),
        ({"unlock": "bpm tempo"}, "unlock: tempo is not a field"),
        ({"lock": "all tempo"}, "lock: tempo is not a field"),
        ({"lock": "lm_seed"}, "lock: lm_seed is not a field"),
    ],
)
def test_bad_changes_are_named(edit, song, changes, message):
    with pytest.raises(ValueError, match=message):
        edit((song(),), **changes)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all bpm", None),
        ("all; bpm", None),
        ("ALL", None),
        ("bpm;key\nLyrics,\tcaption", {"bpm", "key", "lyrics", "caption"}),
        ("Time Signature, key", {"time_signature", "key"}),
        ("bpm time signature key scale; song seed", {"bpm", "time_signature", "key", "seed"}),
        ("duration audio codes", {"seconds", "codes"}),
        (" ;, ", set()),
    ],
)
def test_names_of_fields_are_read_as_people_write_them(edit, song, core, text, names):
    everything = set(core("blueprint").PLANNED)
    (one,), _ = edit((song(),), lock=text)
    assert one.locked == (everything if names is None else names)
    (one,), _ = edit((song(locked=everything),), unlock=text)
    assert one.locked == (set() if names is None else everything - names)


def test_codes_of_other_words_are_pointed_out(edit, song):
    songs = (song(caption="a", bpm=90, codes=range(60)), song(caption="a"))
    for changes in ({"caption": "b"}, {"lyrics": "la"}, {"bpm": 100}, {"key": "Am"}, {"time_signature": "3/4"}):
        text = edit(songs, **changes)[1]
        assert "song 1: the codes were written for the words before; run WriteCodes" in text.splitlines()
    for changes in ({"genres": "pop"}, {"song_seed": "1"}, {"caption": "a"}, {"bpm": 100, "codes": "1,2"}):
        assert "WriteCodes" not in edit(songs, **changes)[1]


def test_one_noise_seed_for_several_songs_is_pointed_out(edit, song):
    songs, words = (song(),) * 3, "song_seed: one seed for 3 songs, so their takes will be alike"
    assert words in edit(songs, song_seed="5")[1].splitlines() and words in edit(songs, song_seed="0")[1]
    for given, changes in ((songs, {"song": 2, "song_seed": "5"}), (songs, {"song_seed": "auto"}), (songs[:1], {})):
        assert "alike" not in edit(given, **changes)[1]


def test_time_signatures_are_shown_as_they_are_written(edit, song):
    for given, shown in (("4", "4/4 (yours)"), ("6", "6/8 (yours)"), (None, "auto")):
        text = edit((song(time_signature=given, lyrics="time signature: 4"),))[1].splitlines()
        assert f"time signature: {shown}" in text and "lyrics (yours):" in "".join(text)


def test_what_is_no_blueprint_is_said(pack, edit):
    tools = pack("blueprint_tools")
    for run in (
        lambda: edit("a song"),
        lambda: tools.SaveBlueprint.execute("a song", "song"),
        lambda: tools.BlueprintValues.execute("a song", 1),
        lambda: tools.BlueprintValues.execute(("a", "b"), 1),
    ):
        with pytest.raises(TypeError, match="^blueprint: expected songs on paper from .*, got .*; connect a Blueprint"):
            run()


def test_what_a_file_says_to_nobody_is_listed(pack):
    load = pack("blueprint_tools").LoadBlueprint.execute
    text = load("none", '{"captoin": "calm", "bpm": 90, "songs": [{"x": 1}, {"x": 2}]}').ui["text"][0]
    assert text.splitlines()[0] == "unknown fields, kept: captoin, x" and "nothing is set" not in text
    for empty in ("{}", '{"songs": []}', '{"captoin": "calm"}', '{"bpm": -1}'):
        assert "nothing is set: no field that" in load("none", empty).ui["text"][0]
    text = load("none", '[{"bpm": 90}, {}]').ui["text"][0]
    assert text.splitlines()[0] == "nothing is set in song 2: no field that this node knows"


def test_values_are_those_that_other_nodes_take(pack, core, song):
    values = pack("blueprint_tools").BlueprintValues.execute
    one = song(caption="a", lyrics="la", bpm=90, key="Am", time_signature="6", language="en", codes=(5, 6))
    *plain, text = values((song(), one), 2).args
    assert plain == ["a", "la", 90, "A minor", "6/8", 0.4, "en", "5,6"]
    assert core("blueprint_json").read_plan(text) == (one,)
    assert values((song(),), 1).args[:-1] == ("", "", -1, "auto", "auto", -1.0, "auto", "")
    for songs, number, numbers in (
        (1, 0, "1, for one song is"),
        (1, 2, "1, for one song is"),
        (3, 4, "1 to 3, for so"),
    ):
        with pytest.raises(ValueError, match=f"^song: expected {numbers} .*got {number}$"):
            values((one,) * songs, number)


def test_a_text_or_a_file(pack, song):
    load = pack("blueprint_tools").LoadBlueprint
    output = load.execute("none", '{"caption": "calm", "duration": 30, "audio_codes": []}')
    assert output.args[0] == (song(caption="calm", seconds=30),)
    assert "calm" in output.ui["text"][0]
    for file, text in (("none", " "), ("a.json", "{}")):
        with pytest.raises(ValueError, match="file and json: expected one of them"):
            load.execute(file, text)


def test_the_fingerprint_is_that_of_the_content(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    mark = pack("blueprint_tools").LoadBlueprint.fingerprint_inputs
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{}")
    first = mark("a.json", "")
    assert first == mark("b.json", "") and first != mark("none", "x") != mark("none", "y")
    (tmp_path / "a.json").write_text('{"bpm": 90}')
    assert mark("a.json", "") != first
    assert mark(None, None) and mark("gone.json", "") and mark("../a.json", "\ud800")


def test_a_saved_blueprint_is_loaded_again(pack, tmp_path, monkeypatch, song):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    tools = pack("blueprint_tools")
    songs = (song(caption="a", codes=range(50), codes_seed=3), song(caption="b", seed=4))
    output = tools.SaveBlueprint.execute(songs, "blueprints/song")
    path = tmp_path / "blueprints/song_00001_.json"
    assert output.args[0] is songs
    assert (
        output.ui["text"][0]
        == f"saved: {tmp_path.name}/blueprints/song_00001_.json\nsongs: 2\nplan: song 1 50 codes, song 2 none"
    )
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == "acestep-blueprint"
    assert tools.LoadBlueprint.execute("blueprints/song_00001_.json [output]", "").args[0] == songs


def test_a_source_says_what_it_heard(pack, loaded, core):
    import torch

    wave = torch.rand(2, 1, 44_100 + 441, generator=torch.Generator().manual_seed(1)) - 0.5
    node = pack("source").EncodeSource
    output = node.execute(loaded.vae, {"waveform": wave, "sample_rate": 44_100}, "auto", 2)
    source = output.args[0]
    assert isinstance(source, core("pipelines.listen").Source) and source.latents.shape == (1, 64, 25)
    text = output.ui["text"][0].splitlines()
    assert text[0] == "1.01 s, 48480 samples, 25 latent frames"
    assert text[1] == "changed: 1 channel to stereo, 44100 Hz to 48000 Hz"
    assert text[2] == "as codes: 5, which are 1 s"
    for song, tiled, message in (
        (3, "auto", "song: expected 1 to 2"),
        (1, "huge", "tiled: expected one of auto, small"),
    ):
        with pytest.raises(ValueError, match=message):
            node.execute(loaded.vae, {"waveform": wave, "sample_rate": 44_100}, tiled, song)
    with pytest.raises(ValueError, match="^song: expected 1, for one sound comes on audio; got 2"):
        node.execute(loaded.vae, {"waveform": wave[:1], "sample_rate": 44_100}, "auto", 2)
