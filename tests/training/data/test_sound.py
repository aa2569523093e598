"""Sound files as numbers: exact for PCM, told where they are broken."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.data.sound import clip_sound, length_of, lengths, read_sound, sound_clips
from acestep_models.training.data.wav import with_files, write_wav


def pcm(path, channels=2, rate=44_100, samples=50_001):
    """A 16 bit file and its numbers [C, N]."""
    numbers = np.random.default_rng(0).integers(-32768, 32768, (samples, channels), dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(numbers.astype("<i2").tobytes())
    return numbers.T


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_pcm_is_exact(tmp_path, channels, rate):
    numbers = pcm(tmp_path / "a.wav", channels, rate)
    sound, found = read_sound(tmp_path / "a.wav")
    assert (sound.dtype, found) == (torch.float32, rate)
    assert np.array_equal(sound.numpy(), numbers.astype(np.float32) / 32768)
    assert length_of(tmp_path / "a.wav") == 50_001 / rate


def packed(path, codec, seconds=2, rate=48_000):
    """A tone of 440 Hz, peak 0.4, with some noise, as a packed file."""
    noise = np.random.default_rng(0).standard_normal(rate * seconds)
    tone = (0.4 * np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate) + 0.02 * noise).astype(np.float32)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        kind = stream.codec_context.codec.audio_formats[0].name
        frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(kind, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".flac", "flac"), (".mp3", "libmp3lame"), (".ogg", "libopus"), (".m4a", "aac")]
)
def test_packed_files(tmp_path, suffix, codec):
    rate = 48_000
    packed(tmp_path / f"été{suffix}", codec)
    sound, found = read_sound(tmp_path / f"été{suffix}")
    assert found == rate
    assert sound.shape[0] == 1
    assert abs(sound.shape[1] / rate - 2) < 0.1
    middle = sound[0, rate // 2 : rate // 2 + rate].numpy()
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert abs(np.sqrt((middle**2).mean()) - 0.4 / 2**0.5) < 0.02


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), b"APETAGEX" + b"\x07" * 300, bytes(5_000)])
def test_what_stands_behind_an_mp3(tmp_path, tail):
    whole = packed(tmp_path / "a.mp3", "libmp3lame")
    expected, _ = read_sound(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(whole + tail)
    sound, _ = read_sound(tmp_path / "a.mp3")
    assert torch.equal(sound[:, : 2 * 48_000 - 2_000], expected[:, : 2 * 48_000 - 2_000])
    assert length_of(tmp_path / "a.mp3") == pytest.approx(2, abs=0.1)


def test_two_mp3_that_were_joined(tmp_path):
    whole = packed(tmp_path / "a.mp3", "libmp3lame")
    (tmp_path / "a.mp3").write_bytes(whole * 2)
    assert length_of(tmp_path / "a.mp3") == pytest.approx(4, abs=0.1)


def test_damage_is_found(tmp_path):
    path = tmp_path / "a.mp3"
    whole = packed(path, "libmp3lame", 10)
    junk = np.random.default_rng(1).bytes(len(whole) // 3)
    path.write_bytes(whole[: len(whole) // 3] + junk + whole[2 * len(whole) // 3 :])
    with pytest.raises(ValueError, match=r"a.mp3: cannot be read as sound \(\d+ of its \d+ packets are damaged\)"):
        length_of(path)
    path = tmp_path / "a.flac"
    path.write_bytes(packed(path, "flac", 10)[:200_000])
    with pytest.raises(ValueError, match=r"a.flac: cannot be read as sound \(\d.\d s can be read of the 10.0 s"):
        length_of(path)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 99, b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_sound(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a.wav: cannot be read as sound \("):
        length_of(tmp_path / "a.wav")


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(ValueError, match=r"gone.wav: cannot be read as sound \(No such file"):
        read_sound(tmp_path / "gone.wav")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path, bad):
    sound = torch.zeros(1, 9_000)
    sound[0, 8_000] = bad
    write_wav(tmp_path / "a.wav", sound, 8_000)
    with pytest.raises(ValueError, match=r"a.wav: cannot be read as sound \(it holds numbers that are not finite\)"):
        length_of(tmp_path / "a.wav")


def test_no_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match="pip install av"):
        read_sound(tmp_path / "a.wav")


def test_lengths_name_what_is_left_out(tmp_path):
    pcm(tmp_path / "good.wav", 1, 8_000, 8_000)
    pcm(tmp_path / "short.wav", 1, 8_000, 7_999)
    (tmp_path / "bad.wav").write_bytes(b"x")
    found, notes = lengths({f"n/{name}": tmp_path / name for name in ("good.wav", "short.wav", "bad.wav")})
    assert found == {"n/good.wav": 1.0}
    assert notes[0] == "left out: n/short.wav: 0.999875 s, expected at least 1 s"
    assert notes[1].startswith("left out: n/bad.wav: cannot be read as sound (")


def test_sounds_of_the_graph_become_files_bit_by_bit(tmp_path):
    sounds = torch.randn(2, 2, 44_100) * 3
    clips = sound_clips(sounds, 44_100)
    assert [(clip.name, clip.seconds) for clip in clips] == [("sound 1", 1.0), ("sound 2", 1.0)]
    filed = with_files(Dataset("d", clips), tmp_path / "sound").clips
    for clip, sound in zip(filed, sounds, strict=True):
        again, rate = clip_sound(clip)
        assert rate == 44_100
        assert torch.equal(again, sound)
    with pytest.raises(ValueError, match="audio: expected at least 1 s, got 0.5 s"):
        sound_clips(torch.zeros(1, 1, 100), 200)


def test_a_wav_by_its_bytes(tmp_path):
    write_wav(tmp_path / "a.wav", torch.tensor([[0.5, -1.0, 2.0]]), 48_000)
    content = (tmp_path / "a.wav").read_bytes()
    assert content[:4] + content[8:16] == b"RIFFWAVEfmt "
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    assert struct.unpack("<HHIIHH", content[20:36]) == (3, 1, 48_000, 192_000, 4, 32)
    assert struct.unpack("<3f", content[-12:]) == (0.5, -1.0, 2.0)


def test_clips_without_a_sound():
    with pytest.raises(ValueError, match="only its tensors are there, and no sound"):
        clip_sound(Clip("a", Blueprint(), tensors=Path("a.pt")))
