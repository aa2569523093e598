"""Labels: the user's words stay byte for byte, gaps are filled, and Cancel loses one song (spec/lora.md §1.2)."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.pipelines.listen import encode_source, source_codes
from acestep_models.pipelines.load import open_models
from acestep_models.planner.lm import LM
from acestep_models.planner.understand import UnderstandOptions, understand
from acestep_models.planner.vocabulary import Vocabulary
from acestep_models.qwen3.model import Qwen3
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.tiny.sizes import sizes
from acestep_models.tiny.tokens import planner_json, planner_rows
from acestep_models.tiny.weights import random_state
from acestep_models.training import labels
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.labels import LabelOptions, label

RATE = 48_000
ODD = "  Ünïcode – «folk»\t, banjo \r\n"
HEARD = {
    "caption": "heard caption",
    "lyrics": "[verse]\nheard",
    "bpm": 120,
    "key": "D minor",
    "time_signature": "4",
    "language": "en",
    "genres": "heard genre",
}


def tone(seconds=1.0, pitch=220.0):
    t = torch.arange(int(seconds * RATE)) / RATE
    return (0.4 * torch.sin(2 * math.pi * (pitch + 30 * t) * t)).expand(2, -1)


def clip(name="a.wav", said=None, pitch=220.0, **more):
    return Clip(name, said or Blueprint(), sound=(tone(pitch=pitch), RATE), seconds=1.0, **more)


@pytest.fixture
def asked(monkeypatch):
    """The drafts that the language model was asked about; its answer is HEARD, its networks are not there."""
    drafts = []

    def answer(runtime, lm, codes, draft, options):
        runtime.check_cancelled()
        drafts.append(draft)
        song = replace(draft, codes=tuple(codes)).fill(**HEARD)
        return replace(song, lm=(("cut_lyrics", "2000 tokens"),) if "lyrics" in song.filled else ())

    monkeypatch.setattr(labels, "understand", answer)
    monkeypatch.setattr(labels, "encode_source", lambda runtime, vae, wave, rate: wave)
    monkeypatch.setattr(labels, "source_codes", lambda runtime, models, source: (1, 2, 3, 4, 5))
    return drafts


def handle(value=1.0):
    module = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(module.weight, value)
    return Handle(module, torch.float32)


LISTENER = SimpleNamespace(model=handle(), name="tiny")
WORDS = SimpleNamespace(encode_prompt=str.split)  # a token a word
CONDITIONER = SimpleNamespace(code_tokenizer=handle(), tokenizer=WORDS)
VAE = handle()


def run(clips, runtime=None, lm=LISTENER, **options):
    dataset = clips if isinstance(clips, Dataset) else Dataset("songs", tuple(clips))
    return label(runtime or PlainRuntime(), lm, CONDITIONER, VAE, dataset, LabelOptions(**options))


def test_words_of_the_user_that_are_too_long_are_said_before_anything_is_heard(asked):
    long = Blueprint(caption="word " * 300, lyrics="la " * 3000)
    heard = replace(long, filled=frozenset({"caption", "lyrics"}))
    clips = [clip("good.wav"), clip("a.wav", long, 230.0), clip("b.wav", replace(long, caption="short"), 240.0)]
    with pytest.raises(ValueError, match="longer than the model reads") as caught:
        run(clips)
    assert [line.split(" tokens")[0].rsplit(" ", 1)[0] for line in str(caught.value).splitlines()[1:-1]] == [
        "a.wav: caption, with tag and facts:",
        "a.wav: lyrics:",
        "b.wav: lyrics:",
    ]
    assert asked == []
    run([clip("c.wav", heard)])  # nobody wrote that


def test_everything_unset_is_filled(asked):
    (song,) = run([clip()], lyrics="transcribe").clips
    assert song.blueprint == Blueprint(
        **{name: value for name, value in HEARD.items() if name != "genres"}, filled=HEARD.keys() - {"genres"}
    )
    assert song.genre == "heard genre" and song.labelled
    assert song.read == (
        "caption, lyrics, bpm, key, time_signature, language, genre: heard by tiny",
        "lyrics: the language model did not end it, so it was cut",
    )


def test_the_users_words_stay_byte_for_byte(asked):
    said = Blueprint(caption=ODD, lyrics=ODD, bpm=97, key="Am", language="de")
    dataset = Dataset("songs", (clip(said=said, genre=ODD, repeat=3, tag="t"),), tag="zyx")
    made = run(dataset, lyrics="transcribe")
    (song,) = made.clips
    for name in ("caption", "lyrics", "bpm", "key", "language"):
        assert getattr(song.blueprint, name) == getattr(said, name)
    assert song.blueprint.caption.encode() == ODD.encode() and song.genre.encode() == ODD.encode()
    assert song.blueprint.time_signature == "4" and song.blueprint.filled == {"time_signature"}
    assert (song.repeat, song.tag, song.sound, made.tag) == (3, "t", dataset.clips[0].sound, "zyx")
    assert song.blueprint.codes is song.blueprint.seconds is None
    assert (asked[0].caption, asked[0].genres) == (ODD, ODD)  # the model hears with what is known


@pytest.mark.parametrize("lyrics", ["keep", "transcribe"])
def test_an_instrumental_stays_one(asked, lyrics):
    """It has no language either."""
    (song,) = run([clip(said=Blueprint(lyrics="[instrumental]"))], lyrics=lyrics).clips
    assert (song.blueprint.lyrics, song.blueprint.language, song.blueprint.bpm) == ("[instrumental]", None, 120)


def test_lyrics_are_only_transcribed_when_wished(asked):
    (kept,), (written,) = run([clip()]).clips, run([clip()], lyrics="transcribe").clips
    assert (kept.blueprint.lyrics, kept.blueprint.language) == ("", None)
    assert (written.blueprint.lyrics, written.blueprint.language) == ("[verse]\nheard", "en")
    assert kept.blueprint.locked == frozenset() and "language" in asked[0].locked


def test_what_is_labelled_is_passed_over(asked):
    done = clip("a.wav", Blueprint(caption="mine"), labelled=True)
    empty = clip("b.wav", labelled=True)
    whole = clip(
        "c.wav", Blueprint(caption="c", lyrics="la", bpm=90, key="C", time_signature="4", language="en"), genre="g"
    )
    made = run([done, empty, whole]).clips
    assert len(asked) == 1 and made[0] is done and made[1].blueprint.caption == "heard caption" and made[2] is whole
    again = run([done, empty, whole], which="all").clips
    assert len(asked) == 3 and again[0].blueprint.caption == "mine" and again[0].blueprint.bpm == 120


def test_cancel_keeps_what_is_labelled(asked, tmp_path):
    runtime, songs = PlainRuntime(), [clip("a.wav"), clip("b.wav", pitch=330.0)]
    runtime.say = lambda text: setattr(runtime, "cancel", "b.wav" in text)
    with pytest.raises(Cancelled):
        run(songs, runtime, kept=tmp_path)
    assert len(asked) == 1 and len(list(tmp_path.iterdir())) == 1
    made = run(songs, kept=tmp_path)
    assert len(asked) == 2 and made.clips[0].blueprint == made.clips[1].blueprint == run(songs).clips[0].blueprint


def test_what_is_kept_answers_one_question_only(asked, tmp_path):
    def count(songs, lm=LISTENER, **options):
        before = len(asked)
        run(songs, lm=lm, kept=tmp_path, **options)
        return len(asked) - before

    assert (count([clip()]), count([clip()]), count([clip("other name")])) == (1, 0, 0)
    assert count([clip(pitch=221.0)]) == count([clip(said=Blueprint(bpm=90))]) == 1
    assert count([clip()], lyrics="transcribe") == count([clip()], listen=UnderstandOptions(seed=1)) == 1
    assert count([clip()], lm=SimpleNamespace(model=handle(2.0), name="tiny")) == 1
    for path in tmp_path.iterdir():
        path.write_text('{"bpm": 9000, "cut": []}')
    assert count([clip()]) == 1 and count([clip()]) == 0
    assert all(json.loads(path.read_text())["cut"] == [] for path in tmp_path.iterdir())


def test_a_kept_label_never_overwrites_the_users_words(asked, tmp_path):
    """Whatever somebody wrote into its file."""
    songs = [clip(said=Blueprint(caption=ODD), genre=ODD)]
    run(songs, kept=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text('{"caption": "x", "lyrics": "x", "genres": "x", "bpm": 77, "cut": []}')
    (song,) = run(songs, kept=tmp_path).clips
    assert (song.blueprint.caption, song.blueprint.lyrics, song.genre, song.blueprint.bpm) == (ODD, "", ODD, 77)


def test_one_that_cannot_be_heard_stays_as_it_is(asked, monkeypatch):
    real = labels.encode_source

    def deaf(runtime, vae, wave, rate):
        if wave.abs().max() == 0:
            raise ValueError("audio: 1 seconds of silence")
        return real(runtime, vae, wave, rate)

    monkeypatch.setattr(labels, "encode_source", deaf)
    quiet = Clip("quiet.wav", Blueprint(), sound=(torch.zeros(2, RATE), RATE))
    made = run([quiet, clip()])
    assert made.clips[0] is quiet and made.clips[1].labelled
    assert made.notes == ("quiet.wav: not labelled: audio: 1 seconds of silence",)
    with pytest.raises(ACEStepError, match="^dataset songs: no song could be labelled. quiet.wav: not labelled"):
        run([quiet])


def test_tensors_cannot_be_heard(asked, tmp_path):
    tensors = Clip("a", Blueprint(), tensors=tmp_path / "a.pt")
    assert run([tensors]).clips == (tensors,) and not asked


@pytest.mark.parametrize(("name", "value"), [("lyrics", "write"), ("which", "some")])
def test_options_out_of_their_lists(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected one of .*; got '{value}'"):
        LabelOptions(**{name: value})


@pytest.mark.slow
def test_the_tiny_planner_hears_what_understand_audio_hears(tiny_2b_split):
    """With real (random) networks: the fields of UnderstandAudio on the same source, draft and seed."""
    models = open_models(tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae, "turbo")
    config = sizes("2b", 630, planner_rows()).lm
    network = Qwen3(config)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state("lm", shapes, 0))
    tokenizer = Vocabulary.read(Tokenizer.from_json(planner_json())).tokenizer
    lm = LM(Handle(network.eval(), torch.float32), tokenizer, "tiny")
    options = UnderstandOptions(seed=3, caption_tokens=8, genre_tokens=4, lyric_tokens=8)
    draft = Blueprint(bpm=97)
    dataset = Dataset("songs", (clip(said=draft),))
    wish = LabelOptions(lyrics="transcribe", listen=options)
    (made,) = label(PlainRuntime(), lm, models.conditioner, models.vae, dataset, wish).clips
    source = encode_source(PlainRuntime(), models.vae, tone()[None], RATE)
    song = understand(PlainRuntime(), lm, source_codes(PlainRuntime(), models.conditioner, source), draft, options)
    for name in ("caption", "lyrics", "bpm", "key", "time_signature", "language"):
        assert getattr(made.blueprint, name) == getattr(song, name) and song.is_set(name)
    assert made.genre == song.genres and made.blueprint.bpm == 97


@pytest.mark.parametrize("folder", ["file/labels", "file"])
def test_a_label_that_cannot_be_kept_is_still_a_label(asked, tmp_path, folder):
    (tmp_path / "file").write_text("x")
    made = run([clip("a.wav"), clip("b.wav", pitch=330.0)], kept=tmp_path / folder)
    assert [one.blueprint.caption for one in made.clips] == ["heard caption"] * 2
    (note,) = made.notes
    assert str(tmp_path / folder) in note and "labels could not be kept" in note
