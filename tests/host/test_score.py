"""Best of four in a real host: plan, codes, scores, latents and the choice, each as a direct call gives it."""

from __future__ import annotations

from types import SimpleNamespace

import prompts as p
import pytest
import torch
from hostlib import PLANNER
from safetensors.torch import load_file
from sounds import SOUND

from acestep_models.blueprint import Blueprint
from acestep_models.loading import build_part, probe
from acestep_models.pipelines.generate import generate
from acestep_models.pipelines.load import open_models
from acestep_models.planner.codes import CodesOptions, write
from acestep_models.planner.lm import LM
from acestep_models.planner.plan import PlanOptions, plan
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import Handle, PlainRuntime
from acestep_models.sampling.schedule import SamplingOptions
from acestep_models.scoring.quality import ScoreOptions, score_songs

LM_NODE, DRAFT, WRITE, SCORE, CHOOSE, ALL = "60", "61", "62", "63", "64", "65"
SONG = {"caption": "calm piano", "lyrics": "[Verse]\nla la", "songs": 4}
DRAW = {"temperature": 0.85, "top_p": 0.9, "top_k": 0}
SEED, NOISE, KEEP = 11, 7, 2


def best_of_four():
    """Load both models, plan, write, score, sample all, choose two, save all latents and the chosen ones."""
    prompt = p.latent_only(p.song(seed=NOISE, loader={"precision": "fp32"}, **SONG), "chosen")
    plan_inputs = {
        "mode": "plan",
        "sentence": "",
        "instrumental": False,
        "seconds": -1.0,
        "language": "auto",
        "keep_lyrics": False,
        "songs": 1,
        "different_plans": False,
    }
    write_inputs = {"guidance": 2.0, "negative": "", "min_p": 0.0, "ending": "exact", "prompt_format": "trained"}
    lm = {"lm": [LM_NODE, 0], "seed": SEED, **DRAW}
    prompt |= {
        LM_NODE: p.node("ACEStepLoadLM", model=PLANNER, precision="fp32", download=False),
        DRAFT: prompt[p.PLAN],
        p.PLAN: p.node("ACEStepPlanSong", **lm, **plan_inputs, blueprint=[DRAFT, 0]),
        WRITE: p.node("ACEStepWriteCodes", **lm, **write_inputs, blueprint=[p.PLAN, 0]),
        SCORE: p.node("ACEStepScoreSongs", lm=[LM_NODE, 0], blueprint=[WRITE, 0], scale=0.5),
        CHOOSE: p.node("ACEStepChooseBest", blueprint=[SCORE, 0], keep=KEEP, latent=[p.SAMPLE, 0]),
        ALL: p.node("SaveLatent", samples=[p.SAMPLE, 0], filename_prefix="latents/all"),
    }
    prompt[p.SAMPLE]["inputs"]["blueprint"] = [SCORE, 0]
    prompt[p.SAVE]["inputs"]["samples"] = [CHOOSE, 1]
    return prompt


@pytest.fixture(scope="module")
def direct(tiny_2b_split):
    """The same four songs by calls of the core: blueprints, scores and latents."""
    tiny, runtime = tiny_2b_split, PlainRuntime()
    checkpoint = probe(tiny.lm)
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source("lm"))
    lm = LM(Handle(build_part(checkpoint, "lm", dtype=torch.float32), torch.float32), tokenizer, "tiny")
    draft = Blueprint(caption=SONG["caption"], lyrics=SONG["lyrics"], seconds=10.0)
    planned = plan(runtime, lm, [draft], PlanOptions("plan", songs=4, seed=SEED))
    songs = write(runtime, lm, planned, CodesOptions(seed=SEED))
    scores = score_songs(runtime, lm, songs, None, ScoreOptions(0.5))
    models = open_models(tiny.model, tiny.text_encoder, tiny.vae, "turbo")
    made = generate(runtime, models.decoder, models.conditioner, songs, SamplingOptions(), NOISE)
    return SimpleNamespace(songs=songs, scores=scores, latents=made.latents)


@pytest.fixture(scope="module")
def run(host):
    """One run in the host."""
    done = host.run(best_of_four(), timeout=300)
    assert done.ok, done.message
    return done


def saved(host, run, node):
    """The latents that a node saved."""
    file = run.outputs[node]["latents"][0]
    return load_file(host.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"]


def ranking(scores):
    return sorted(range(len(scores)), key=lambda place: -scores[place].total)


def test_scores_are_those_of_direct_calls(run, direct):
    lines = run.text(SCORE).splitlines()
    assert len(lines) == 4 and len({score.total for score in direct.scores}) == 4
    for number, (line, score) in enumerate(zip(lines, direct.scores, strict=True), 1):
        assert line.startswith(f"song {number}: {score.total:.4f} = caption {score.caption:.3f} (PMI ")
        assert f"(PMI {score.caption_pmi:+.4f} nats a token)" in line
        assert f"(PMI {score.lyrics_pmi:+.4f} nats a token)" in line
        assert [f"{name} {value:.2f}" in line for name, value in score.recall] == [True] * len(score.recall)


def test_the_best_rows_are_kept_best_first(host, run, direct, relative_error):
    order = ranking(direct.scores)
    everything, chosen = saved(host, run, ALL), saved(host, run, p.SAVE)
    assert everything.shape[0] == 4 and torch.equal(chosen, everything[order[:KEEP]])
    assert relative_error(chosen, direct.latents[order[:KEEP]]) < 1e-4
    lines = run.text(CHOOSE).splitlines()
    kept = [", kept", ", kept", "", ""]
    assert lines == [
        f"{rank}. song {at + 1}: {direct.scores[at].total:.4f}{kept[rank - 1]}" for rank, at in enumerate(order, 1)
    ]


def test_choosing_before_sampling_makes_only_the_best_song(host, run, direct):
    """Everything up to the scores comes from the cache, and DiTSample makes one song."""
    prompt = best_of_four()
    del prompt[ALL]
    prompt[CHOOSE] = p.node("ACEStepChooseBest", blueprint=[SCORE, 0], keep=1)
    prompt[p.SAMPLE]["inputs"]["blueprint"] = [CHOOSE, 0]
    prompt[p.SAVE]["inputs"]["samples"] = [p.SAMPLE, 0]
    again = host.run(prompt)
    assert again.ok, again.message
    assert {p.LOAD, LM_NODE, DRAFT, p.PLAN, WRITE, SCORE} <= again.cached
    assert saved(host, again, p.SAVE).shape[0] == 1
    assert again.text(CHOOSE).startswith(f"1. song {ranking(direct.scores)[0] + 1}: ")


def test_a_source_without_a_conditioner_is_refused_before_anything_runs(host):
    prompt = best_of_four()
    prompt["67"] = p.node("ACEStepEncodeSource", vae=[p.LOAD, 2], audio=["68", 0], tiled="auto", song=1)
    prompt["68"] = p.node("LoadAudio", audio=SOUND)
    prompt[SCORE]["inputs"]["source"] = ["67", 0]
    refused = host.run(prompt)
    assert not refused.ok and "connect the conditioner of Load DiT too" in refused.message
    assert not refused.of("executing")


def test_songs_without_scores_and_other_batches_are_refused(host):
    prompt = best_of_four()
    prompt[CHOOSE]["inputs"]["blueprint"] = [WRITE, 0]
    refused = host.run(prompt)
    assert not refused.ok and "no score for song 1, 2, 3, 4 of 4; put a ScoreSongs node before" in refused.message
    prompt = best_of_four()
    prompt[p.SAMPLE]["inputs"]["blueprint"] = ["66", 0]
    prompt["66"] = p.node("ACEStepChooseBest", blueprint=[SCORE, 0], keep=3)
    refused = host.run(prompt)
    assert not refused.ok and "one row for each of 4 songs, got 3" in refused.message
