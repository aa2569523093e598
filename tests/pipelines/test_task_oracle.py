"""Every row of TASKS on tiny base models against diffusers, value by value; `-s` prints the table of errors.

What diffusers has no task for is put together out of its parts: a faithful cover is its `complete` with the sentence
of a cover, the second set of a weak cover is its text to music of the same length (in its own weak covers the cover's
context stays, which is not what upstream does: spec/audio.md §5.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.blueprint_json import codes_text
from acestep_models.pipelines.listen import encode_source
from acestep_models.pipelines.reference import Reference
from acestep_models.pipelines.task import Work, encode_work, work_frames
from acestep_models.runtime import PlainRuntime
from acestep_models.sampling.guidance import APG
from acestep_models.sampling.noise import song_noise
from acestep_models.tasks import TASKS, TRACKS
from acestep_models.units import HOP

# 27 frames: odd, and a group of codes to fill up; the rest of a frame is cut off.
FRAMES, SAMPLES = 27, 27 * HOP + 700
REGION, SPAN = (0.25, 0.75), (6, 18)  # in seconds, and in frames: int(25 · 0.25), int(25 · 0.75)
CODES = tuple((7919 * k) % 64_000 for k in range(9))
SONG = Blueprint(caption="warm piano", lyrics="[Verse]\n" + "one two\n" * 9, language="en", bpm=90, key="Am")
SCALE = 7.0
LIMIT = 1e-4

# What diffusers is asked for each row of TASKS, beside words, sound and noise.
DIFFUSERS = {
    "text2music": {"task_type": "text2music", "audio_duration": 10.0},
    "text2music+codes": {"task_type": "text2music", "audio_codes": codes_text(CODES, "tokens")},
    "cover": {"task_type": "cover"},
    "cover-faithful": {
        "task_type": "complete",
        "instruction": "Generate audio semantic tokens based on the given conditions:",
    },
    "repaint": {"task_type": "repaint"},
    "extract": {"task_type": "extract"},
    "lego": {"task_type": "lego"},
    "complete": {"task_type": "complete"},
}


@dataclass(frozen=True)
class Case:
    """One row, as it is asked for."""

    task: str
    tracks: tuple[str, ...] = ()
    region: tuple[float, float] | None = None

    def __str__(self) -> str:
        return " ".join([self.task, *self.tracks, *(["region"] if self.region else [])])

    @property
    def asked(self):
        """The arguments of diffusers' pipeline."""
        asked = {**DIFFUSERS[self.task], "track_name": next(iter(self.tracks), None)}
        asked["complete_track_classes"] = list(self.tracks)
        if self.region:
            asked |= {"repainting_start": self.region[0], "repainting_end": self.region[1]}
        return asked


def all_cases():
    """Every row of the table, with no, one and several tracks and with a region where it takes them."""
    for name, task in TASKS.items():
        for count in sorted({0, min(task.most_tracks, 1), min(task.most_tracks, 3)} if task.spans != "many" else ()):
            yield Case(name, TRACKS[-count:] if count else ())
        if task.spans != "none":
            yield Case(name, TRACKS[: task.most_tracks], REGION)


CASES = list(all_cases())


@dataclass
class Seen:
    """What went into and out of the networks of a run, in order."""

    ids: list = field(default_factory=list)
    conditions: list = field(default_factory=list)
    steps: list = field(default_factory=list)


@pytest.fixture(scope="module")
def base(load_song_models, tiny_2b_split):
    """The tiny 2B-like set, and what its own readers were given."""
    models, seen = load_song_models(tiny_2b_split), Seen()
    tokenizer = models.conditioner.tokenizer

    def encode_prompt(text):
        ids = tokenizer.encode_prompt(text)
        if text.startswith("# Instruction"):
            seen.ids.append(torch.tensor(ids)[None])
        return ids

    models.conditioner.condition.module.register_forward_pre_hook(lambda _, args: seen.conditions.append(args))
    readers = replace(models.conditioner, tokenizer=SimpleNamespace(encode_prompt=encode_prompt))
    return replace(models, conditioner=readers), seen


@pytest.fixture(scope="module")
def sounds(base, rng):
    """A source, as sound and as latents, and a reference, whose sound nobody hears."""
    t = torch.arange(SAMPLES) / 48_000
    left = 0.4 * torch.sin(2 * math.pi * (220 + 30 * t) * t) + 0.1 * torch.sin(2 * math.pi * 1760 * t)
    wave = torch.stack([left, left.flip(0)])[None]
    return SimpleNamespace(
        source=encode_source(PlainRuntime(), base[0].vae, wave, 48_000),
        source_wave=wave[0],
        reference=Reference(torch.randn(1, 750, 64, generator=rng(7))),
        reference_wave=torch.zeros(2, 30 * 48_000),
    )


@pytest.fixture(scope="module")
def theirs(tiny_2b_diffusers, sounds):
    """diffusers on the same weights, told that it is no turbo model.

    Of the source it takes the mean of its VAE, once for all; 30 s of reference are numbers that are given.
    """
    from diffusers import AceStepPipeline

    pipeline, seen, means = (
        AceStepPipeline.from_pretrained(tiny_2b_diffusers.model),
        Seen(),
        {(1, 2, 30 * 48_000): sounds.reference.latents.transpose(1, 2)},
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.register_to_config(is_turbo=False, model_version="base")
    pipeline.is_turbo = False
    encode = pipeline.vae.encode

    def mean(wave):
        if wave.shape not in means:
            means[wave.shape] = encode(wave).latent_dist.mean
        return SimpleNamespace(latent_dist=SimpleNamespace(sample=lambda: means[wave.shape]))

    pipeline.vae.encode = mean
    pipeline.text_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.ids.append(kwargs["input_ids"]), with_kwargs=True
    )
    pipeline.condition_encoder.register_forward_hook(
        lambda _, args, kwargs, out: seen.conditions.append((kwargs, out[0])), with_kwargs=True
    )
    pipeline.transformer.register_forward_hook(
        lambda _, args, kwargs, out: seen.steps.append((kwargs, out[0])), with_kwargs=True
    )
    return pipeline, seen


@pytest.fixture(scope="module")
def report():
    """Rows of the table; printed at the end."""
    rows = []
    yield rows
    heads = ["task", "oracle", "context", "mask", "ids", "text", "lyrics", "timbre", "tokens", "v", "v null", "v APG"]
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]))


def ours_of(case, sounds):
    """The song, the work and its length in frames, as they are asked of us."""
    needs = TASKS[case.task].needs
    source = sounds.source if needs == "source" else None
    song = {"source": SONG, "codes": replace(SONG, codes=CODES), "nothing": replace(SONG, seconds=10.0)}[needs]
    work = Work(case.task, source, case.tracks, (SPAN,) if case.region else (), sounds.reference)
    frames = {"source": FRAMES, "codes": 5 * len(CODES), "nothing": 250}[needs]
    assert work_frames([song], work) == frames
    return song, work, frames


def ask_diffusers(theirs, sounds, asked, frames):
    """One step of its pipeline -> the last condition call, the first decoder call, and the velocity it followed."""
    pipeline, seen = theirs
    for record in (seen.ids, seen.conditions, seen.steps):
        record.clear()
    noise = song_noise(5, frames).transpose(1, 2)
    needs_source = "audio_duration" not in asked and "audio_codes" not in asked
    latents = pipeline(
        prompt=SONG.caption,
        lyrics=SONG.lyrics,
        vocal_language="en",
        bpm=90,
        keyscale="A minor",
        src_audio=sounds.source_wave if needs_source else None,
        reference_audio=sounds.reference_wave,
        num_inference_steps=1,
        guidance_scale=SCALE,
        shift=1.0,
        latents=noise,
        output_type="latent",
        return_dict=False,
        **{"audio_duration": None, **asked},  # left out, it would write 60 s into the prompt
    )[0]
    return seen.conditions[-1], seen.steps[0], noise - latents


def first_step(models, batch, frames):
    """The raw velocities [1, T, 64] of the first step, with the condition and without, and what APG makes of them."""
    noise = song_noise(5, frames)
    hidden, dit, time = noise.transpose(1, 2), models.decoder.handle.module, torch.ones(1)
    with torch.inference_mode():
        v = dit(hidden, batch.context, batch.tokens, time)
        null = dit(hidden, batch.context, batch.null.expand_as(batch.tokens), time)
    guided = APG()(noise, 1.0, v.transpose(1, 2), null.transpose(1, 2), SCALE)
    return v, null, guided.transpose(1, 2)


def errors(ours, expected, relative_error):
    """`ours` and `expected`: tensors by name. One error for each; equal shapes are part of it."""
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in expected.items()
    }
    return {name: relative_error(ours[name], expected[name]) for name in ours}


def values_of_diffusers(answer, ids):
    """By name: the context, what was read, and the velocities."""
    (given, tokens), (step, v), followed = answer
    return {
        "context": step["context_latents"][:1, :, :64],
        "mask": step["context_latents"][:1, :, 64:],
        "ids": ids,
        "text": given["text_hidden_states"],
        "lyrics": given["lyric_hidden_states"],
        "timbre": given["refer_audio_acoustic_hidden_states_packed"],
        "tokens": tokens,
        "v": v[:1],
        "v null": v[1:],
        "v APG": followed,
    }


def our_values(base, batch, frames):
    """The same of the set that was encoded last."""
    models, seen = base
    text, lyrics, timbre = seen.conditions[-1]
    v, null, guided = first_step(models, batch, frames)
    return {
        "context": batch.context[..., :64],
        "mask": batch.context[..., 64:],
        "ids": seen.ids[-1],
        "text": text,
        "lyrics": lyrics,
        "timbre": timbre,
        "tokens": batch.tokens,
        "v": v,
        "v null": null,
        "v APG": guided,
    }


def check_values(name, oracle, ours, expected, relative_error, report):
    found = errors(ours, expected, relative_error)
    report.append([name, oracle, *(f"{value:.1e}" if value else "0" for value in found.values())])
    assert found.pop("mask") == found.pop("ids") == 0
    assert max(found.values()) < LIMIT, found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_task_equals_diffusers(base, theirs, sounds, relative_error, report, case):
    """Context, mask, ids, what the condition encoder is given, and the velocities of the first step at guidance 7."""
    song, work, frames = ours_of(case, sounds)
    plan = encode_work(PlainRuntime(), base[0].conditioner, [song], work, frames)
    assert plan.second is None and plan.share == 1
    answer = ask_diffusers(theirs, sounds, case.asked, frames)
    expected = values_of_diffusers(answer, theirs[1].ids[-1])
    ours = our_values(base, plan.first, frames)
    check_values(str(case), "diffusers", ours, expected, relative_error, report)


@pytest.mark.parametrize("case", [case for case in CASES if TASKS[case.task].needs != "nothing"], ids=str)
def test_the_second_set_is_text_to_music_of_diffusers(base, theirs, sounds, relative_error, report, case):
    """Its instruction, silence, the same words and timbre; where a region keeps the rest, it still does."""
    song, work, frames = ours_of(case, sounds)
    plan = encode_work(PlainRuntime(), base[0].conditioner, [song], replace(work, strength=0.5), frames)
    assert plan.share == 0.5
    asked = {"task_type": "text2music", "audio_duration": frames / 25}
    expected = values_of_diffusers(ask_diffusers(theirs, sounds, asked, frames), theirs[1].ids[-1])
    ours = our_values(base, plan.second, frames)
    if case.region:
        assert torch.equal(plan.second.context[..., 64:], plan.first.context[..., 64:])
        for name in ("mask", "v", "v null", "v APG"):
            del ours[name], expected[name]
        assert max(errors(ours, expected, relative_error).values()) < LIMIT
        return
    check_values(f"{case}, after the switch", "diffusers text2music", ours, expected, relative_error, report)
