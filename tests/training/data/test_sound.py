"""Sound files as numbers: exact for PCM, told where they are broken."""

from __future__ import annotations

import struct
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.training.data.clip import Clip, Dataset
from acestep_models.training.data.sound import clip_sound, hear, lengths, read_sound, sound_clips
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
    heard = hear(tmp_path / "a.wav")
    assert (heard.seconds, heard.peak) == (50_001 / rate, np.abs(numbers.astype(np.float32)).max() / 32768)


MANY = """
import sys
from pathlib import Path
from acestep_models.training.data.sound import hear, read_sound
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        sound, rate = read_sound(path)
        print(path.name, *sound.shape, float(sound.double().sum()), hear(path).peak)
    except ValueError as error:
        print(error)
"""


def many_channels(folder):
    """Files of 1 to 16 channels, of WAV in 16 bit and float32 and of FLAC: name -> what is printed of each."""
    expected = {}
    for channels in range(1, 17):
        numbers = np.random.default_rng(channels).integers(-32768, 32768, (9_000, channels), dtype=np.int16)
        exact = numbers.T.astype(np.float64) / 32768
        names = [f"s{channels:02}.wav", f"f{channels:02}.wav", f"s{channels:02}.flac"][: 3 if channels < 9 else 2]
        with wave.open(str(folder / names[0]), "wb") as file:
            file.setparams((channels, 2, 8_000, 0, "NONE", ""))
            file.writeframes(numbers.tobytes())
        write_wav(folder / names[1], torch.from_numpy(exact).float(), 8_000)
        if channels < 9:
            layout = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")[channels - 1]
            with av.open(str(folder / names[2]), "w") as file:
                stream = file.add_stream("flac", rate=8_000, layout=layout)
                frame = av.AudioFrame.from_ndarray(numbers.reshape(1, -1), "s16", layout)
                frame.sample_rate = 8_000
                file.mux(stream.encode(frame))
                file.mux(stream.encode(None))
        for name in names:
            refused = f"{name}: cannot be read as sound ({channels} channels, at most 8 (7.1); mix it to stereo)"
            good = f"{name} {channels} 9000 {exact.sum()} {np.abs(exact).max()}"
            expected[name] = good if channels < 9 else refused
    return expected


def test_one_to_sixteen_channels_in_a_process_of_their_own(tmp_path):
    """Of 8 and more planes PyAV reads memory that is not its own: the process may end, or the numbers be wrong."""
    expected = many_channels(tmp_path)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [expected[name] for name in sorted(expected)]


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_stay_in_their_order(tmp_path, channels):
    sound = torch.arange(1, channels + 1)[:, None] / 16 + torch.rand(1, 9_000) / 32
    write_wav(tmp_path / "a.wav", sound, 8_000)
    assert torch.equal(read_sound(tmp_path / "a.wav")[0], sound)


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
    assert hear(tmp_path / "a.mp3").seconds == pytest.approx(2, abs=0.1)


def test_two_mp3_that_were_joined(tmp_path):
    whole = packed(tmp_path / "a.mp3", "libmp3lame")
    (tmp_path / "a.mp3").write_bytes(whole * 2)
    assert hear(tmp_path / "a.mp3").seconds == pytest.approx(4, abs=0.1)


def test_damage_is_found(tmp_path):
    path = tmp_path / "a.mp3"
    whole = packed(path, "libmp3lame", 10)
    junk = np.random.default_rng(1).bytes(len(whole) // 3)
    path.write_bytes(whole[: len(whole) // 3] + junk + whole[2 * len(whole) // 3 :])
    with pytest.raises(ValueError, match=r"a.mp3: cannot be read as sound \(\d+ of its \d+ packets are damaged\)"):
        hear(path)
    path = tmp_path / "a.flac"
    path.write_bytes(packed(path, "flac", 10)[:200_000])
    with pytest.raises(ValueError, match=r"a.flac: cannot be read as sound \(\d.\d s can be read of the 10.0 s"):
        hear(path)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 99, b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_sound(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"^a.wav: cannot be read as sound \("):
        hear(tmp_path / "a.wav")


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(ValueError, match=r"gone.wav: cannot be read as sound \(No such file"):
        read_sound(tmp_path / "gone.wav")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path, bad):
    sound = torch.zeros(1, 9_000)
    sound[0, 8_000] = bad
    write_wav(tmp_path / "a.wav", sound, 8_000)
    with pytest.raises(ValueError, match=r"a.wav: cannot be read as sound \(it holds numbers that are not finite\)"):
        hear(tmp_path / "a.wav")


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


def test_silence_is_left_out_and_what_is_too_loud_is_noted(tmp_path):
    tone = torch.sin(torch.arange(9_000) / 9)[None]
    for name, peak in {"none": 0.0, "below": 9e-7, "above": 2e-6, "loud": 7.9, "wild": 20.0}.items():
        write_wav(tmp_path / f"{name}.wav", tone / tone.abs().max() * peak, 8_000)
    names = ("none.wav", "below.wav", "above.wav", "loud.wav", "wild.wav")
    found, notes = lengths({name: tmp_path / name for name in names})
    assert list(found) == ["above.wav", "loud.wav", "wild.wav"]
    assert notes == (
        "left out: none.wav: 1.125 s of silence",
        "left out: below.wav: 1.125 s of silence",
        "wild.wav: its samples reach 20 times full scale; listen to it, and turn it down if it is sound at all",
    )


def test_silence_and_channels_of_the_graph():
    sounds = torch.stack([torch.zeros(2, 9_000), torch.full((2, 9_000), 0.1), torch.full((2, 9_000), 30.0)])
    clips, notes = sound_clips(sounds, 8_000)
    assert [clip.name for clip in clips] == ["sound 2", "sound 3"]
    assert notes[0] == "left out: sound 1: 1.125 s of silence"
    assert notes[1].startswith("sound 3: its samples reach 30 times full scale")
    with pytest.raises(ValueError, match=r"audio: 1.125 s of silence; there is nothing to hear"):
        sound_clips(sounds[:1], 8_000)
    with pytest.raises(ValueError, match=r"audio: expected at most 8 channels \(7.1\), got 9"):
        sound_clips(torch.rand(1, 9, 9_000), 8_000)


@pytest.mark.parametrize(
    ("told", "note"),
    [
        (36_000, None),
        (37_000, None),
        (72_000, "promises 72000 bytes of sound, 36000 are there; the file may be cut off"),
        (0xFFFFFFFF, None),
    ],
)
def test_a_header_that_promises_more(tmp_path, told, note):
    """36 000 bytes are there; 37 000 is less than 5 % more, and the largest size of all means "not known"."""
    path = tmp_path / "a.wav"
    write_wav(path, torch.full((1, 9_000), 0.5), 8_000)
    content = path.read_bytes()
    path.write_bytes(content[:54] + struct.pack("<I", told) + content[58:])
    found, notes = lengths({"a.wav": path})
    assert found == {"a.wav": 1.125}
    assert notes == ((f"a.wav: its header {note}",) if note else ())


def test_sounds_of_the_graph_become_files_bit_by_bit(tmp_path):
    sounds = torch.rand(2, 2, 44_100) * 6 - 3
    clips, notes = sound_clips(sounds, 44_100)
    assert notes == ()
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
