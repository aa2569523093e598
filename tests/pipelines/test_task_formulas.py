"""Every row of TASKS against the table of spec/audio.md §5.2 and the sentences of §4.3, bit by bit but for hints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acestep_models.blueprint import Blueprint
from acestep_models.pipelines.listen import Source
from acestep_models.pipelines.task import Work, encode_work
from acestep_models.runtime import PlainRuntime
from acestep_models.tasks import TASKS
from acestep_models.units import HOP

SECONDS, FRAMES = 2, 53  # T is odd, and a group of codes is filled up; 53 frames are 2.12 s, which reads "2 seconds"
SONG = Blueprint(caption="warm piano", lyrics="la", bpm=90)
CODES = (0, 63_999, 12_345, 5, 7, 77, 777, 7_777, 8, 88, 888)

FOLLOW = "Generate audio semantic tokens based on the given conditions:"
# Task: what the context shows, tracks, the sentence. The mask is 1 everywhere where there are no spans.
SPANS = ((3, 9), (20, 21))
TABLE = {
    "text2music": ("silence", (), "Fill the audio semantic mask based on the given conditions:"),
    "text2music+codes": ("hints of the codes", (), FOLLOW),
    "cover": ("hints of the source", (), FOLLOW),
    "cover-faithful": ("source", (), FOLLOW),
    "repaint": ("source, silent in its spans", (), "Repaint the mask area based on the given conditions:"),
    "extract": ("source", ("backing_vocals",), "Extract the BACKING_VOCALS track from the audio:"),
    "lego": ("source", ("fx",), "Generate the FX track based on the audio context:"),
    "complete": ("source", ("bass", "drums"), "Complete the input track with BASS | DRUMS:"),
}


@pytest.fixture(scope="module")
def source():
    latents = torch.randn(1, 64, FRAMES, generator=torch.Generator("cpu").manual_seed(3))
    return Source(latents, torch.zeros(1, 2, FRAMES * HOP + 100))


def shown(kind, source, silence, pipeline):
    """What the context shows, [1, T, 64]; hints out of diffusers' tokenizer and detokenizer."""
    latents, tokenizer = source.latents.transpose(1, 2), pipeline.audio_tokenizer
    if kind == "source, silent in its spans":
        quiet = silence.take(FRAMES)
        parts = (latents[:, :3], quiet[:, 3:9], latents[:, 9:20], quiet[:, 20:21], latents[:, 21:])
        return torch.cat(parts, dim=1)
    if kind in {"silence", "source"}:
        return silence.take(FRAMES) if kind == "silence" else latents
    with torch.no_grad():
        if kind == "hints of the source":
            vectors = tokenizer.tokenize(latents, silence.take(10))[0]
        else:
            vectors = tokenizer.quantizer.get_output_from_indices(torch.tensor(CODES)[None, :, None])
        return pipeline.audio_token_detokenizer(vectors)[:, : FRAMES if "source" in kind else 5 * len(CODES)]


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", TASKS)
def test_context_and_prompt_of_every_row(
    tiny_models, diffusers_pipeline, source, monkeypatch, relative_error, name, strength
):
    """A weak task reads the same first, then silence under the first task's mask and the sentence of text to music."""
    kind, tracks, sentence = TABLE[name]
    needs, models = TASKS[name].needs, tiny_models.conditioner
    prompts, encode = [], models.tokenizer.encode_prompt
    monkeypatch.setattr(type(models.tokenizer), "encode_prompt", lambda _, text: prompts.append(text) or encode(text))
    weak = strength if needs != "nothing" else 1.0
    spans = SPANS if TASKS[name].spans == "many" else ()
    work = Work(name, source if needs == "source" else None, tracks, spans, strength=weak)
    song = replace(SONG, codes=CODES) if needs == "codes" else SONG
    frames = 5 * len(CODES) if needs == "codes" else FRAMES
    plan = encode_work(PlainRuntime(), models, [song], work, frames)
    expected = shown(kind, source, models.silence, diffusers_pipeline)
    got = plan.first.context[..., :64]
    assert torch.equal(got, expected) if "hints" not in kind else relative_error(got, expected) < 1e-5
    sets = [(plan.first, sentence)]
    if weak < 1:
        assert torch.equal(plan.second.context[..., :64], models.silence.take(frames))
        sets.append((plan.second, TABLE["text2music"][2]))
    mask = [1.0 if not spans or 3 <= k < 9 or k == 20 else 0.0 for k in range(frames)]
    assert all(batch.context[0, :, channel].tolist() == mask for batch, _ in sets for channel in (64, 127))
    assert [prompt for prompt in prompts if prompt.startswith("# Instruction")] == [
        f"# Instruction\n{said}\n\n# Caption\nwarm piano\n\n# Metas\n- bpm: 90\n- timesignature: N/A\n"
        f"- keyscale: N/A\n- duration: {SECONDS} seconds\n<|endoftext|>\n"
        for _, said in sets
    ]
    lyrics = [prompt for prompt in prompts if not prompt.startswith("# Instruction")]
    assert lyrics == ["# Languages\nunknown\n\n# Lyric\nla<|endoftext|>"] * len(sets)


def test_the_table_is_whole():
    assert list(TABLE) == list(TASKS)
