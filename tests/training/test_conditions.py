"""Prepared songs: what the nodes give the decoder at inference, bit by bit (spec/lora.md §2.2, §6 test 20)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.errors import ACEStepError, Cancelled
from acestep_models.pipelines.encode import encode_song, encode_songs
from acestep_models.pipelines.listen import Source, check_sound, encode_source, posterior_noise, source_codes
from acestep_models.pipelines.load import open_models
from acestep_models.runtime import PlainRuntime
from acestep_models.tasks import instruction
from acestep_models.training import song as song_of
from acestep_models.training.conditions import PROFILE, PrepareOptions, prepare
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.manifest import read_manifest
from acestep_models.units import HOP

RATE = 48_000
SECONDS, FRAMES = 1.3, 30  # 32 frames lose two
SAID = Blueprint(caption="folk, banjo", lyrics="[verse]\nla", bpm=97, key="Am", time_signature="3", language="de")


@pytest.fixture(scope="module")
def models(tiny_2b_split):
    """The tiny 2B-like set."""
    return open_models(tiny_2b_split.model, tiny_2b_split.text_encoder, tiny_2b_split.vae, "turbo")


def tone(seconds=SECONDS, pitch=220.0, rate=RATE):
    t = torch.arange(int(seconds * rate)) / rate
    left = 0.4 * torch.sin(2 * math.pi * (pitch + 30 * t) * t)
    return torch.stack([left, left.flip(0)])


def clip(name="a.wav", sound=None, said=SAID, **more):
    return Clip(name, said, sound=(tone() if sound is None else sound, RATE), seconds=SECONDS, **more)


@pytest.fixture
def cheap(monkeypatch):
    """A VAE that takes no time: latents are samples of the sound."""

    def encode(runtime, vae, wave, rate, tile=None, seed=None):
        check_sound(wave, rate)
        frames = wave.shape[-1] // HOP
        latents = wave[:, 0, : frames * HOP].reshape(1, frames, HOP)[..., 100:164].transpose(1, 2)
        return Source(latents if seed is None else latents + 0.1 * posterior_noise(seed, frames), wave)

    monkeypatch.setattr(song_of, "encode_source", encode)


@pytest.fixture
def run(models, tmp_path):
    """run(dataset or clips, **options) -> Prepared."""

    def prepared(what, runtime=None, folder=tmp_path, vae=models.vae, conditioner=models.conditioner, **options):
        dataset = what if isinstance(what, Dataset) else Dataset("songs", tuple(what))
        return prepare(runtime or PlainRuntime(), conditioner, vae, dataset, folder, PrepareOptions(**options))

    return prepared


@pytest.fixture
def encoded(monkeypatch):
    """The names of the songs that were really encoded."""
    names, real = [], song_of.SongMaker._encoded
    monkeypatch.setattr(
        song_of.SongMaker,
        "_encoded",
        lambda self, runtime, clip, *rest: names.append(clip.name) or real(self, runtime, clip, *rest),
    )
    return names


def codes_of(models, latents):
    return source_codes(PlainRuntime(), models.conditioner, Source(latents.T[None], torch.zeros(1, 2, 1)))


def test_conditions_are_those_of_inference(run, models):
    """Tokens, context and null as EncodeSong and DiTSample make them of the same blueprint, plain and with codes."""
    sound, frames = tone(1.0), 20  # 25 frames lose five
    example, prepared = (made := run([clip(sound=sound)])).examples[0], made
    source = encode_source(PlainRuntime(), models.vae, sound[None], RATE)
    codes = source_codes(PlainRuntime(), models.conditioner, replace(source, latents=source.latents[..., :frames]))
    plain = encode_songs(PlainRuntime(), models.conditioner, [SAID], frames)
    coded = encode_songs(PlainRuntime(), models.conditioner, [replace(SAID, codes=codes)], frames)
    assert len(codes) == 4 and source.latents.shape[-1] == 25 and example.latents.shape == (frames, 64)
    assert torch.equal(example.latents, source.latents[0, :, :frames].T)
    assert torch.equal(example.plain, plain.tokens[0]) and torch.equal(example.hinted, coded.tokens[0])
    assert not torch.equal(example.plain, example.hinted)  # another instruction
    ones = torch.ones(frames, 64)
    assert torch.equal(torch.cat([prepared.silence, ones], 1), plain.context[0])
    assert torch.equal(torch.cat([example.hints, ones], 1), coded.context[0])
    assert torch.equal(prepared.null, plain.null[0]) and prepared.facts["conditioning"] == PROFILE


def test_a_crop_is_told_its_own_length(cheap, run, models):
    """As EncodeSong tells a song of 20 frames; a crop of the hints is what the crop's codes sound like."""
    example = run([clip()], duration="crop", crop_frames=20).examples[0]
    codes = codes_of(models, example.latents)
    part = encode_song(PlainRuntime(), models.conditioner, replace(SAID, codes=codes[1:5]), 20)
    assert torch.equal(example.plain, encode_song(PlainRuntime(), models.conditioner, SAID, 20).tokens[0])
    assert torch.equal(example.hinted, part.tokens[0])
    assert example.hints.shape == (FRAMES, 64)
    assert torch.allclose(example.hints[5:25], part.context[0, :, :64], atol=1e-6)
    assert not torch.equal(example.plain, run([clip()]).examples[0].plain)  # "0 seconds", not "1 seconds"


def test_the_tag_is_read_with_the_caption(cheap, run, models):
    dataset = Dataset("songs", (clip(said=replace(SAID, lyrics="")),), tag="zyx", tag_position="append")
    prepared = run(dataset)
    told = replace(SAID, caption="folk, banjo, zyx", lyrics="[Instrumental]")
    assert torch.equal(
        prepared.examples[0].plain, encode_song(PlainRuntime(), models.conditioner, told, FRAMES).tokens[0]
    )
    assert (prepared.facts["trigger"], prepared.facts["trigger_position"]) == ("zyx", "append")


def test_tensors_can_be_trained_on_where_the_host_is_in_inference_mode(cheap, run):
    for _ in range(2):  # made, then read from disk
        with torch.inference_mode():
            prepared = run([clip()])
        example = prepared.examples[0]
        for tensor in (example.latents, example.plain, example.hinted, example.hints, prepared.null, prepared.silence):
            assert not tensor.is_inference() and tensor.dtype == torch.float32 and tensor.is_contiguous()
            weight = torch.ones(tensor.shape[1], 1, requires_grad=True)
            (tensor @ weight).sum().backward()  # saves the tensor for backward
            assert torch.allclose(weight.grad[:, 0], tensor.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_sample_of_the_posterior_has_its_seed(cheap, run):
    mean, first = run([clip()]).examples[0], run([clip()], posterior="sample", seed=1).examples[0]
    assert torch.equal(run([clip()], posterior="sample", seed=1).examples[0].latents, first.latents)
    other = run([clip()], posterior="sample", seed=2).examples[0]
    assert not torch.equal(first.latents, mean.latents) and not torch.equal(first.latents, other.latents)
    assert 0.05 < (first.latents - mean.latents).std() < 0.2  # the noise of above


def test_what_is_there_is_not_made_again(cheap, run, encoded, tmp_path):
    first = run([clip("a.wav"), clip("b.wav", tone(pitch=330.0))])
    again = run([clip("a.wav"), clip("b.wav", tone(pitch=330.0))])
    assert encoded == ["a.wav", "b.wav"] and again.fingerprint == first.fingerprint
    for one, two in zip(first.examples, again.examples, strict=True):
        assert all(
            torch.equal(getattr(one, name), getattr(two, name)) for name in ("latents", "plain", "hinted", "hints")
        )
    said = run([clip("a.wav", said=replace(SAID, bpm=98)), clip("b.wav", tone(pitch=330.0))])
    assert encoded[2:] == ["a.wav"] and said.fingerprint != first.fingerprint
    run([clip("a.wav", said=replace(SAID, bpm=98)), clip("b.wav", tone(pitch=331.0))])
    assert encoded[3:] == ["b.wav"] and len(list(tmp_path.glob("*.pt"))) == 2 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("how", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_is_made_again(cheap, run, encoded, tmp_path, how):
    """A flipped bit in the middle of a tensor too, which torch.load does not see."""
    first = run([clip()], hints=False)
    (path,) = tmp_path.glob("*.pt")
    data = bytearray(path.read_bytes())
    place = bytes(data).index(first.examples[0].latents.numpy().tobytes()) + 1000
    data[place] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": data, "text": b"hello", "empty": b""}[how])
    again = run([clip()], hints=False)
    assert encoded == ["a.wav", "a.wav"] and torch.equal(again.examples[0].latents, first.examples[0].latents)
    assert again.examples[0].hints is None


def test_cancel_loses_the_song_that_is_being_made(cheap, run, encoded, tmp_path):
    runtime, songs = PlainRuntime(), [clip("a.wav"), clip("b.wav", tone(pitch=330.0))]
    runtime.say = lambda text: setattr(runtime, "cancel", "b.wav" in text)
    with pytest.raises(Cancelled):
        run(songs, runtime)
    assert len(list(tmp_path.iterdir())) == 1  # no manifest, no draft
    run(songs)
    assert encoded == ["a.wav", "b.wav", "b.wav"]


def test_a_full_disk_leaves_nothing_half_written(cheap, run, monkeypatch, tmp_path):
    def full(values, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run([clip("a.wav")])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ACEStepError, match=r"b\.wav could not be written .*No space left.*are kept"):
        run([clip("a.wav"), clip("b.wav", tone(pitch=330.0))])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_silent_song_is_left_out_and_named(cheap, run):
    prepared = run([clip("quiet.wav", torch.zeros(2, RATE)), clip(), clip("short.wav", tone(0.5))])
    assert [example.name for example in prepared.examples] == ["a.wav"] and prepared.facts["songs"] == "1"
    assert prepared.notes[0].startswith("quiet.wav: left out: ") and "silence" in prepared.notes[0]
    assert prepared.notes[1].startswith("short.wav: left out: ") and "0.5" in prepared.notes[1]
    with pytest.raises(ValueError, match="no song of it can be used. quiet.wav: left out"):
        run([clip("quiet.wav", torch.zeros(2, RATE))])


def test_words_that_are_too_long_name_the_song(cheap, run):
    with pytest.raises(ValueError, match=r"a\.wav: caption.*256"):
        run([clip(said=Blueprint(caption="word " * 400))])


def test_all_words_that_are_too_long_are_named_before_a_song_is_heard(cheap, run, encoded, tmp_path):
    long, folder = Blueprint(caption="word " * 400, lyrics="la " * 3000), tmp_path / "prepared"
    songs = [clip("good.wav"), clip("a.wav", said=long), clip("b.wav", said=replace(long, caption="short"))]
    with pytest.raises(ValueError, match="longer than the model reads") as caught:
        run(songs, folder=folder)
    lines = str(caught.value).splitlines()[1:-1]
    assert [line.split(":")[:2] for line in lines] == [
        ["a.wav", " caption, with tag and facts"],
        ["a.wav", " lyrics"],
        ["b.wav", " lyrics"],
    ]
    assert lines[0].endswith(" tokens, at most 256") and lines[2].endswith(" tokens, at most 2048")
    assert encoded == [] and not folder.exists()


def test_the_count_before_is_that_of_the_encoder(cheap, run, models):
    """A caption of exactly 256 tokens with its facts is encoded, one of 257 is named."""
    facts = "- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 1 seconds\n"

    def counted(task, caption):
        sentence = instruction(task).removesuffix(":") + ":"
        prompt = f"# Instruction\n{sentence}\n\n# Caption\n{caption}\n\n# Metas\n{facts}<|endoftext|>\n"
        return len(models.conditioner.tokenizer.encode_prompt(prompt))

    def tokens(caption):
        return max(counted(task, caption) for task in ("text2music", "text2music+codes"))

    fits = "x" * next(count for count in range(1, 3000) if tokens("x" * (count + 1)) > 256)
    run([clip(said=Blueprint(caption=fits))])
    with pytest.raises(ValueError, match=f"{tokens(fits + 'x')} tokens, at most 256"):
        run([clip(said=Blueprint(caption=fits + "x"))])


def test_the_rest_of_a_long_song_is_cut_off(cheap, run):
    prepared = run([clip(repeat=3)], longest_seconds=1.0)
    assert prepared.examples[0].latents.shape == (20, 64) and prepared.silence.shape == (20, 64)
    assert prepared.examples[0].repeat == 3 and prepared.facts["song_seconds"] == "0.8"


def test_our_own_manifest_gives_the_same_songs(cheap, run, encoded, tmp_path):
    """Without a sound: hints and null are in the tensors; only the notes and marks are others."""
    said = Dataset("mine", (clip(repeat=2),), tag="zyx", tag_position="prepend")
    first = run(said)
    read = read_manifest(tmp_path / "manifest.json")
    assert (read.name, read.tag, read.tag_position) == ("mine", "zyx", "prepend")
    (one,) = read.clips
    assert (one.name, one.repeat, one.seconds, one.labelled) == ("a.wav", 2, 1.2, True)
    assert one.blueprint == replace(SAID, caption="zyx, folk, banjo")
    again = run(read, folder=tmp_path / "run")
    assert encoded == ["a.wav"] and again.facts["conditioning"] == PROFILE and torch.equal(again.null, first.null)
    for name in ("latents", "plain", "hinted", "hints"):
        assert torch.equal(getattr(again.examples[0], name), getattr(first.examples[0], name))
    assert torch.equal(again.silence, first.silence)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": "half"}, "duration: expected one of song, crop; got 'half'"),
        ({"posterior": "mode"}, "posterior: expected one of mean, sample"),
        ({"duration": "crop", "crop_frames": 35}, "crop_frames: expected a multiple of 10 from 10 on, got 35"),
        ({"longest_seconds": 0.5}, "longest_seconds: expected 1 to 600, got 0.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PrepareOptions(**options)


def test_songs_of_another_trainer(cheap, run, models, tmp_path):
    """Their words stay, their padding goes; null and silence are those of the model, and the copies are whole."""
    theirs = tmp_path / "theirs.pt"
    tokens = torch.randn(9, models.conditioner.config.encoder_hidden_size)
    mask = (torch.arange(9) < 6).to(torch.int64)
    latents = torch.randn(47, 64)
    torch.save(
        {"target_latents": latents, "encoder_hidden_states": tokens, "encoder_attention_mask": mask, "metadata": {}},
        theirs,
    )
    (tmp_path / "manifest.json").write_text('{"samples": ["x\\\\theirs.pt"]}')
    for folder in (tmp_path, tmp_path / "run"):  # from their manifest, then from the one that we made of it
        prepared = run(read_manifest(folder), folder=tmp_path / "run")
        (example,) = prepared.examples
        assert torch.equal(example.latents, latents[:40]) and torch.equal(example.plain, tokens[:6])
        assert example.hints is None and prepared.facts["conditioning"] == "prepared elsewhere"
        assert "its tensors have no hints" in prepared.notes[-1]
        plain = encode_song(PlainRuntime(), models.conditioner, SAID, 40)
        assert torch.equal(prepared.null, plain.null[0]) and torch.equal(prepared.silence, plain.context[0, :, :64])
    torch.save({"target_latents": latents, "encoder_hidden_states": tokens[:, :8]}, theirs)
    with pytest.raises(ValueError, match="theirs.pt: its tensors are 8 wide, the model reads"):
        run(read_manifest(tmp_path), folder=tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_said(cheap, run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file: is a file, but a folder is needed there.*choose another"):
        run([clip()], folder=tmp_path / "file" / "prepared")


def test_a_manifest_that_cannot_be_written_is_said(cheap, run, tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ACEStepError, match="the prepared songs cannot be kept there.*Make room"):
        run([clip()])
    assert len(list(tmp_path.glob("*.pt"))) == 1 and not list(tmp_path.glob(".*.tmp"))


def test_a_crop_does_not_change_what_is_prepared_already(cheap, run, tmp_path):
    run([clip()], folder=tmp_path / "first")
    dataset = read_manifest(tmp_path / "first")
    notes = run(dataset, folder=tmp_path / "second", duration="crop", crop_frames=20).notes
    assert notes == ("a.wav: its tensors name the duration that they were prepared with, not a crop's",)
    assert run(dataset, folder=tmp_path / "third").notes == ()
