"""Sounds of every kind in a real host: what EncodeSource and EncodeReference make of them, and what they refuse."""

from __future__ import annotations

import math
import struct

import prompts as p
import pytest

SOUND_NODE, HEARD, SHOWN = "60", "61", "62"
FLOATS = 3  # WAV's number for samples that are floats


def write_wav(path, samples, rate, channels, value):
    """A WAV of floats; value(n) is sample n of every channel."""
    data = b"".join(struct.pack("<f", value(n)) * channels for n in range(samples))
    form = struct.pack("<HHIIHH", FLOATS, channels, rate, rate * channels * 4, channels * 4, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)


def tone(rate):
    return lambda n: 0.3 * math.sin(2 * math.pi * 220 * n / rate)


@pytest.fixture(scope="module", autouse=True)
def sounds(base):
    """The files, in the host's input folder."""
    files = {
        "mono_8k": (24_000, 8_000, 1, tone(8_000)),
        "surround": (144_000, 48_000, 6, tone(48_000)),
        "half_second": (24_000, 48_000, 2, tone(48_000)),
        "twenty_minutes": (1_200 * 2_000, 2_000, 1, tone(2_000)),
        "silent": (144_000, 48_000, 2, lambda n: 0.0),
        "nan": (96_000, 48_000, 2, lambda n: math.nan if n == 5 else 0.1),
        "no_samples": (0, 48_000, 2, tone(48_000)),
    }
    for name, (samples, rate, channels, value) in files.items():
        write_wav(base / "input" / f"{name}.wav", samples, rate, channels, value)


def heard(kind, name, **values):
    """A sound file through a node, whose words are shown."""
    return {
        p.LOAD: p.load(precision="fp32"),
        SOUND_NODE: p.node("LoadAudio", audio=f"{name}.wav"),
        HEARD: p.node(kind, **{"vae": [p.LOAD, 2], "audio": [SOUND_NODE, 0], **values}),
        SHOWN: p.node("PreviewAny", source=[HEARD, 0]),
    }


def source(name, **values):
    return heard("ACEStepEncodeSource", name, **{"tiled": "auto", "song": 1, **values})


def reference(name, **values):
    return heard("ACEStepEncodeReference", name, **values)


@pytest.mark.parametrize(
    ("name", "changed"),
    [("mono_8k", "1 channel to stereo, 8000 Hz to 48000 Hz"), ("surround", "6 channels to stereo")],
)
def test_three_seconds_of_any_rate_and_channels(host, name, changed):
    run = host.run(source(name))
    assert run.ok, run.message
    assert run.text(HEARD).splitlines() == [
        "3 s, 144000 samples, 75 latent frames",
        f"changed: {changed}",
        "as codes: 15, which are 3 s",
    ]


def test_a_sample_of_the_posterior_says_its_seed(host):
    run = host.run(source("mono_8k", posterior="sample", seed=9))
    assert run.ok, run.message
    assert run.text(HEARD).endswith("posterior: a sample, seed 9")


REFUSED = {
    "half_second": ("1 to 600 seconds", "got 0.5", "longer"),
    "twenty_minutes": ("1 to 600 seconds", "got 1200", "cut a part"),
    "silent": ("3 seconds of silence", "another sound"),
    "nan": ("2 of 192000 samples are not finite",),
    "no_samples": ("audio",),
}


@pytest.mark.parametrize("make", [source, reference])
@pytest.mark.parametrize(("name", "words"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_heard_is_refused(host, make, name, words):
    run = host.run(make(name))
    assert not run.ok
    for word in words:
        assert word in run.message, run.message


@pytest.mark.parametrize(("values", "words"), [({"posterior": "mode"}, "posterior"), ({"song": 2}, "song: expected 1")])
def test_bad_choice_is_named(host, values, words):
    run = host.run(source("surround", **values))
    assert not run.ok and words in run.message, run.message


@pytest.mark.slow
def test_two_recordings_become_two_timbre_tokens(host):
    """Each is encoded as 30 s, which takes a processor a while."""
    other = {"63": p.node("LoadAudio", audio="surround.wav")}
    prompt = {**reference("mono_8k", audio_2=["63", 0], windows="seeded", seed=4), **other}
    run = host.run(prompt, timeout=600)
    assert run.ok, run.message
    assert run.text(HEARD).splitlines() == [
        "recording 1: 3 s, repeated 10 times to fill 30 s; heard: 10 s each from 0, 10, 20 s",
        "changed: 1 channel to stereo, 8000 Hz to 48000 Hz",
        "recording 2: 3 s, repeated 10 times to fill 30 s; heard: 10 s each from 0, 10, 20 s",
        "changed: 6 channels to stereo",
        "2 recordings, 2 timbre tokens",
        "windows: seeded, seed 4",
    ]
