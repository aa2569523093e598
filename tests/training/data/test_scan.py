"""A folder of songs: whose word counts, and what is unclear (spec/lora.md §1.1, §6 test 21)."""

from __future__ import annotations

import json

import pytest

from acestep_models.training.data.scan import scan


def only(folder):
    """The one song of a folder."""
    (clip,) = scan(folder).clips
    return clip


def test_songs_are_sorted_by_path_and_measured(make):
    folder = make(
        {"b/song.wav": None, "a.wav": None, "A/x.wav": None, ".hidden/y.wav": None, "._a.wav": b"", "n.pdf": ""}
    )
    dataset = scan(folder)
    assert [clip.name for clip in dataset.clips] == ["A/x.wav", "a.wav", "b/song.wav"]
    assert [clip.seconds for clip in dataset.clips] == [1.2] * 3
    assert dataset.name == "set"
    assert dataset.notes == ()
    assert all(clip.blueprint.caption == clip.blueprint.lyrics == "" for clip in dataset.clips)


def test_plain_text_is_the_lyrics(make):
    clip = only(make({"a.wav": None, "a.txt": "[Verse]\nla la: la\n"}))
    assert clip.blueprint.lyrics == "[Verse]\nla la: la"
    assert clip.blueprint.caption == ""
    assert clip.read == ("lyrics: a.txt (lyrics)",)


def test_plain_text_beside_lyrics_is_the_caption(make):
    clip = only(make({"a.wav": None, "a.lyrics.txt": "la", "a.txt": "soft  piano, été"}))
    assert (clip.blueprint.lyrics, clip.blueprint.caption) == ("la", "soft  piano, été")
    assert clip.read == ("lyrics: a.lyrics.txt (lyrics)", "caption: a.txt (caption)")


STRUCTURED = """Caption: calm piano: slow
Tempo: 92.6
Scale: Am
sig: 3/4
Lang: EN
trigger: zx9
genre: jazz
prompt_override: Genre
repeat: 3
duration: 200
Lyrics:
[Verse]
bpm: stays a word
end
"""


def test_structured_text_with_its_aliases(make):
    clip = only(make({"a.wav": None, "a.txt": STRUCTURED}))
    song = clip.blueprint
    assert (song.caption, song.bpm, song.key, song.time_signature, song.language) == (
        "calm piano: slow",
        92,
        "A minor",
        "3",
        "en",
    )
    assert song.lyrics == "[Verse]\nbpm: stays a word\nend"
    assert (clip.tag, clip.genre, clip.prompt_override, clip.repeat, clip.labelled) == (
        "zx9",
        "jazz",
        "genre",
        3,
        False,
    )
    assert song.seconds is None


@pytest.mark.parametrize(
    ("text", "caption", "lyrics"),
    [
        ("genre: pop\n\n[Verse]\nbpm: la\nla", "", "[Verse]\nbpm: la\nla"),
        ("caption: one\ntwo: three\nbpm: 90\n[Verse]\nla", "one\ntwo: three", "[Verse]\nla"),
        ("caption: one\n[Verse]\nla", "one", "[Verse]\nla"),
        ("caption: one\ntwo\n \nla\nbpm: la", "one\ntwo", "la\nbpm: la"),
        ("caption: one\n\nbpm: 90\n\nla\n\nla", "one", "la\n\nla"),
        ("caption:\n\none\n\nla", "one", "la"),
        ("caption: one\n\ntwo: three\n\nfour\nbpm: 90\nlyrics:\nla", "one\n\ntwo: three\n\nfour", "la"),
        ("bpm: 90\nartist: me\nVerse 1:\nla", "", "Verse 1:\nla"),
        ("Verse 1:\nbpm: 90", "", "Verse 1:\nbpm: 90"),
    ],
)
def test_lines_of_no_field(make, text, caption, lyrics):
    clip = only(make({"a.wav": None, "a.txt": text}))
    assert (clip.blueprint.caption, clip.blueprint.lyrics) == (caption, lyrics)
    assert ("a.txt (fields): artist is no field, not used" in clip.read) == ("artist" in text)
    first = lyrics.split("\n")[0]
    guess = f"a.txt (fields): lyrics without a line \"lyrics:\" before them: taken from '{first}' on"
    assert (guess in clip.read) == ("lyrics:" not in text and "lyrics: a.txt (fields)" in clip.read)


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"w.lyrics.txt": "la", "w.txt": "c" * 4_097}, r"w.txt \(caption\)"),
        ({"w.txt": "bpm: 90\ncaption: " + "c" * 4_097}, r"w.txt \(fields\)"),
        ({"w.txt": "la", "w.json": json.dumps({"caption": "c" * 4_097})}, "w.json"),
        ({"data.csv": f"File,Caption\nw.wav,{'c' * 4_097}\n"}, "data.csv line 2"),
    ],
)
def test_a_text_that_is_too_long_is_named(make, files, source):
    with pytest.raises(ValueError, match=f"^w.wav: {source}: caption: at most 4096 characters, got 4097"):
        scan(make({"w.wav": None, **files}))


@pytest.mark.parametrize("field", ["is_instrumental", "labeled", "language_said", "no_tag"])
def test_flags_that_are_not_understood_are_told(make, field):
    about = {"lyrics": "la", "caption": "c", "language": "de", "custom_tag": "zx", field: "maybe"}
    clip = only(make({"a.wav": None, "a.json": json.dumps(about)}))
    song = clip.blueprint
    assert (song.lyrics, song.caption, song.language, clip.tag, clip.labelled) == ("la", "c", "de", "zx", False)
    name = {"is_instrumental": "instrumental", "labeled": "labelled"}.get(field, field)
    doubts = [line for line in clip.read if line.endswith("left unset")]
    assert doubts == [f"a.json: {name}: expected true or false, got 'maybe'; left unset"]


def test_precedence_field_by_field(make):
    files = {
        "a.wav": None,
        "a.lyrics.txt": "sung",
        "a.txt": "bpm: 101\nlyrics: other",
        "a.json": json.dumps({"bpm": 102, "caption": "json", "genre": "g-json", "is_instrumental": True}),
        "data.csv": "File,BPM,Key,Caption\na.wav,103,C major,csv\n",
        "set.json": json.dumps(
            {
                "metadata": {"name": "mine", "custom_tag": "zx", "tag_position": "append", "genre_ratio": 40},
                "samples": [{"audio_path": "a.wav", "bpm": 104, "keyscale": "D major", "language": "de"}],
            }
        ),
    }
    dataset = scan(make(files))
    (clip,) = dataset.clips
    song = clip.blueprint
    assert (song.lyrics, song.bpm, song.caption, song.key, song.language) == ("sung", 101, "json", "C major", "de")
    assert clip.genre == "g-json"
    assert clip.labelled  # a caption of a CSV says so
    assert (dataset.name, dataset.tag, dataset.tag_position, dataset.genre_ratio) == ("mine", "zx", "append", 40)
    assert "lyrics: what a.txt (fields) says is not used" in clip.read
    assert "lyrics: what a.json says is not used" in clip.read
    assert "bpm: what set.json sample 1 says is not used" in clip.read
    assert "key: data.csv line 2" in clip.read


@pytest.mark.parametrize(
    "content",
    [
        "\ufefflyrics one\r\nline two\r\n".encode(),
        b"lyrics one\rline two",
        b"\n\nlyrics one\nline two\n\n",
    ],
)
def test_marks_and_line_ends(make, content):
    assert only(make({"ünïcode 歌.wav": None, "ünïcode 歌.TXT": content})).blueprint.lyrics == "lyrics one\nline two"


@pytest.mark.parametrize("text", ["", " \n", "\ufeff"])
def test_empty_texts_say_nothing(make, text):
    assert only(make({"a.wav": None, "a.txt": text})).read == ()


def test_instrumental_marks(make):
    for text in ("[instrumental]\n", "is_instrumental: yes", "instrumental: true\nlyrics:"):
        assert only(make({"a.wav": None, "a.txt": text})).blueprint.lyrics == "[Instrumental]"
    clip = only(make({"a.wav": None, "a.txt": "instrumental: true\nlyrics: la"}))
    assert clip.blueprint.lyrics == "la"
    assert "a.txt (fields): says instrumental, but has lyrics; the lyrics count" in clip.read


def test_what_is_not_understood_is_told_and_left_unset(make):
    clip = only(make({"a.wav": None, "a.txt": "bpm: fast\nkey: H dur\ncaption: c\nrepeat: 0\nlanguage: klingon"}))
    song = clip.blueprint
    assert (song.bpm, song.key, song.language, clip.repeat, song.caption) == (None, None, None, 1, "c")
    assert [line.split(":")[1].strip() for line in clip.read if line.endswith("left unset")] == [
        "bpm",
        "key",
        "language",
        "repeat",
    ]
    assert "a.txt (fields): bpm: expected a number, got 'fast'; left unset" in clip.read


@pytest.mark.parametrize("word", ["N/A", "unknown", "", "-1", "auto"])
def test_words_for_nothing(make, word):
    song = only(make({"a.wav": None, "a.txt": f"caption: c\nbpm: {word}\nkey: {word}\nlanguage: {word}"})).blueprint
    assert (song.bpm, song.key, song.language) == (None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "file;bpm;CAPTION\n{};90;one, two\n",
        "BPM\tFile\tCaption\n90\t{}\tone, two\n",
        'File,BPM,Caption\n{},90.7,"one, two"\n',
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a", "x\\a.wav", "/old/x/a.wav"])
def test_csv_kinds_and_names(make, text, name):
    song = only(make({"x/a.wav": None, "data.csv": "\ufeff" + text.format(name)})).blueprint
    assert (song.bpm, song.caption) == (90, "one, two")


def test_csv_counts_in_the_root_only(make):
    assert only(make({"x/a.wav": None, "x/data.csv": "File,BPM\na.wav,90\n"})).blueprint.bpm is None


def test_csv_that_is_about_nothing_is_noted(make):
    dataset = scan(make({"a.wav": None, "bare.csv": "a.wav,90\n", "data.csv": "File,BPM\ngone.wav,90\n\n"}))
    assert dataset.notes == (
        "bare.csv: its first line has no column File, not used",
        "data.csv line 2: there is no gone.wav, not used",
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,1\na.wav,2\n", "data.csv line 2 and data.csv line 3 are both about a.wav; remove one"),
        ("a.wav,90,more\n", "line 2: 3 values under 2 columns; put text with commas into quotes"),
        (",90\n", "line 2: no file is named"),
    ],
)
def test_csv_that_is_not_clear(make, row, message):
    with pytest.raises(ValueError, match=message):
        scan(make({"a.wav": None, "data.csv": f"File,BPM\n{row}"}))


def test_a_row_that_fits_two_songs(make):
    files = {"x/a.wav": None, "y/a.wav": None}
    with pytest.raises(ValueError, match=r"line 2: a.wav fits x/a.wav and y/a.wav; write the path below the folder"):
        scan(make({**files, "data.csv": "File,BPM\na.wav,90\n"}))
    clips = scan(make({**files, "data.csv": "File,BPM\ny/a.wav,90\n"})).clips
    assert [clip.blueprint.bpm for clip in clips] == [None, 90]


def test_two_songs_of_one_name(make):
    with pytest.raises(ValueError, match=r"x/a.mp3 and x/a.wav are two songs of one name: x/a.txt would be about both"):
        scan(make({"x/a.wav": None, "x/a.mp3": None}))


def test_same_name_in_two_folders_is_fine(make):
    clips = scan(make({"x/a.wav": None, "y/a.wav": None, "y/a.txt": "la"})).clips
    assert [clip.blueprint.lyrics for clip in clips] == ["", "la"]


@pytest.mark.parametrize("files", [{}, {"a.txt": "la"}, {"a.wav.part": "la"}])
def test_an_empty_folder(make, tmp_path, files):
    (tmp_path / "set").mkdir()
    make(files)
    with pytest.raises(ValueError, match=r"folder: there is no sound file \(.wav .mp3 .* in .*set or below"):
        scan(tmp_path / "set")


def test_a_broken_sound_is_left_out_and_named(make):
    dataset = scan(make({"a.wav": None, "b/bad.mp3": b"nonsense" * 99, "c.wav": None, "b/bad.txt": "la"}))
    assert [clip.name for clip in dataset.clips] == ["a.wav", "c.wav"]
    assert dataset.notes == ("left out: b/bad.mp3: cannot be read as sound (Invalid data found when processing input)",)


def test_nothing_but_broken_sounds(make):
    with pytest.raises(
        ValueError, match=r"no sound file in .* can be read. left out: bad.wav: cannot be read as sound"
    ):
        scan(make({"bad.wav": b"nonsense"}))


def test_texts_that_are_no_text(make):
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 text .*; save it as UTF-8"):
        scan(make({"a.wav": None, "a.txt": "é".encode("latin-1")}))
    with pytest.raises(ValueError, match=r"a.json: this is not JSON"):
        scan(make({"a.wav": None, "a.txt": "", "a.json": "{"}))


def test_texts_without_a_song_and_other_json_are_noted(make):
    manifest = json.dumps({"samples": ["tensors/one.pt"]})
    dataset = scan(make({"a.wav": None, "b.txt": "la", "list.json": manifest, "other.json": '{"x": 1}'}))
    assert dataset.notes == (
        "list.json: a list of tensors; give its own path to train on them, not used",
        "other.json: no dataset of sounds, not used",
        "b.txt: there is no song of this name, not used",
    )


def test_cancel_ends_the_search(make):
    class Stop(BaseException):
        pass

    def stop():
        raise Stop

    with pytest.raises(Stop):
        scan(make({"a.wav": None}), stop)
