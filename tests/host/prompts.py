"""API prompts, built out of small pieces; every function returns a fresh dict."""

from __future__ import annotations

from typing import Any

from hostlib import MODEL, PLANNER

Prompt = dict[str, dict[str, Any]]
LOAD, PLAN, SAMPLE, DECODE, LOUDNESS, SAVE, ENCODE, OPTIONS, PATCH = "1", "2", "3", "4", "5", "6", "7", "8", "30"
LM, PLAN_SONG, WRITE_CODES, PAPER, HEAR, EDIT = "11", "12", "13", "14", "15", "16"

SHORT = {
    "caption": "calm piano",
    "lyrics": "",
    "instrumental": False,
    "bpm": -1,
    "key": "auto",
    "time_signature": "auto",
    "seconds": 10.0,
    "language": "auto",
    "songs": 1,
}


UNSET = {
    "steps": -1,
    "shift": -1.0,
    "times": "",
    "solver": "auto",
    "guidance": "auto",
    "scale": -1.0,
    "interval_start": 0.0,
    "interval_end": 1.0,
    "clamp": 0.0,
    "ema": 0.0,
    "dcw": "off",
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def load(**changes: Any) -> dict[str, Any]:
    """LoadDiT with everything on auto."""
    auto = dict.fromkeys(("variant", "conditioner", "text_encoder", "vae", "precision"), "auto")
    return node("ACEStepLoadDiT", **{"model": MODEL, **auto, "download": False, **changes})


def song(seed: int = 7, loader: dict[str, Any] | None = None, **changes: Any) -> Prompt:
    """Load, plan, sample, decode, level, save; `changes` are the blueprint's."""
    return {
        LOAD: load(**(loader or {})),
        PLAN: node("ACEStepBlueprint", **{**SHORT, **changes}),
        SAMPLE: node("ACEStepDiTSample", model=[LOAD, 0], conditioner=[LOAD, 1], blueprint=[PLAN, 0], seed=seed),
        DECODE: node("ACEStepDecodeAudio", vae=[LOAD, 2], latent=[SAMPLE, 0]),
        LOUDNESS: node("ACEStepLoudness", audio=[DECODE, 0], target=-14.0, ceiling=-1.0, fade_in=0.0, fade_out=0.0),
        SAVE: node("SaveAudio", audio=[LOUDNESS, 0], filename_prefix="audio/song"),
    }


def latent_only(prompt: Prompt, prefix: str) -> Prompt:
    """The same up to the sampler, whose latents are saved."""
    kept = {key: value for key, value in prompt.items() if key not in (DECODE, LOUDNESS, SAVE)}
    return {**kept, SAVE: node("SaveLatent", samples=[SAMPLE, 0], filename_prefix=f"latents/{prefix}")}


def ksampler(prompt: Prompt, steps: int = 8, cfg: float = 1.0) -> Prompt:
    """The same song through EncodeSong and the host's KSampler."""
    seed = prompt[SAMPLE]["inputs"]["seed"]
    encode = node("ACEStepEncodeSong", conditioner=[LOAD, 1], blueprint=[PLAN, 0])
    sample = node(
        "KSampler",
        model=[LOAD, 0],
        positive=[ENCODE, 0],
        negative=[ENCODE, 1],
        latent_image=[ENCODE, 2],
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    return {**prompt, ENCODE: encode, SAMPLE: sample}


def sampler_custom(prompt: Prompt, steps: int = 8) -> Prompt:
    """The same song through SamplerCustomAdvanced."""
    seed = prompt[SAMPLE]["inputs"]["seed"]
    parts = {
        "20": node("RandomNoise", noise_seed=seed),
        "21": node("BasicScheduler", model=[LOAD, 0], scheduler="simple", steps=steps, denoise=1.0),
        "22": node("KSamplerSelect", sampler_name="euler"),
        "23": node("CFGGuider", model=[LOAD, 0], positive=[ENCODE, 0], negative=[ENCODE, 1], cfg=1.0),
    }
    sample = node(
        "SamplerCustomAdvanced",
        noise=["20", 0],
        guider=["23", 0],
        sampler=["22", 0],
        sigmas=["21", 0],
        latent_image=[ENCODE, 2],
    )
    return {**ksampler(prompt), **parts, SAMPLE: sample}


def patched(prompt: Prompt, kind: str, **inputs: Any) -> Prompt:
    """The same with a node that changes the model between the loader and whatever samples."""
    changed = {**prompt, PATCH: node(kind, model=[LOAD, 0], **inputs)}
    for key, value in changed.items():
        if key != PATCH and value["inputs"].get("model") == [LOAD, 0]:
            changed[key] = {**value, "inputs": {**value["inputs"], "model": [PATCH, 0]}}
    return changed


def shifted(prompt: Prompt, shift: float) -> Prompt:
    """The same with ModelSamplingAuraFlow."""
    return patched(prompt, "ModelSamplingAuraFlow", shift=shift)


def with_options(prompt: Prompt, **options: Any) -> Prompt:
    """The same with SamplingOptions on DiTSample."""
    values = {**UNSET, **options}
    sample = {**prompt[SAMPLE], "inputs": {**prompt[SAMPLE]["inputs"], "sampling": [OPTIONS, 0]}}
    return {**prompt, OPTIONS: node("ACEStepSamplingOptions", **values), SAMPLE: sample}


def guided_custom(prompt: Prompt) -> Prompt:
    """The same song through SamplerCustomAdvanced with our Guider and Schedule, and the options of DiTSample."""
    options = {"sampling": [OPTIONS, 0]} if OPTIONS in prompt else {}
    custom = sampler_custom(prompt)
    conditionings = {"positive": [ENCODE, 0], "negative": [ENCODE, 1]}
    return {
        **custom,
        "21": node("ACEStepSchedule", model=[LOAD, 0], **options),
        "23": node("ACEStepGuider", model=[LOAD, 0], **conditionings, **options),
    }


PLANNING = {
    "mode": "plan",
    "sentence": "",
    "instrumental": False,
    "seconds": -1.0,
    "language": "auto",
    "keep_lyrics": False,
    "songs": 1,
    "different_plans": False,
    "seed": 1,
}
WRITING = {"seed": 1, "guidance": 2.0, "negative": "", "min_p": 0.0, "ending": "exact", "prompt_format": "trained"}
DRAWING = {"temperature": 0.85, "top_p": 0.9, "top_k": 0}


def load_lm(**changes: Any) -> dict[str, Any]:
    """LoadLM of the released planner."""
    return node("ACEStepLoadLM", **{"model": PLANNER, "precision": "auto", "download": False, **changes})


def plan_song(**changes: Any) -> dict[str, Any]:
    """PlanSong in the mode plan; `blueprint=[...]` is its draft."""
    return node("ACEStepPlanSong", lm=[LM, 0], **{**PLANNING, **DRAWING, **changes})


def write_codes(**changes: Any) -> dict[str, Any]:
    """WriteCodes behind PlanSong."""
    return node("ACEStepWriteCodes", lm=[LM, 0], **{"blueprint": [PLAN_SONG, 0], **WRITING, **DRAWING, **changes})


def planned(prompt: Prompt, plan: dict[str, Any] | None = None, write: dict[str, Any] | None = None) -> Prompt:
    """The same song with PlanSong and WriteCodes between its blueprint and its sampler."""
    sample = {**prompt[SAMPLE], "inputs": {**prompt[SAMPLE]["inputs"], "blueprint": [WRITE_CODES, 0]}}
    return {
        **prompt,
        LM: load_lm(),
        PLAN_SONG: plan_song(**{"blueprint": [PLAN, 0], **(plan or {})}),
        WRITE_CODES: write_codes(**(write or {})),
        SAMPLE: sample,
    }


def on_paper(nodes: Prompt, last: str, prefix: str = "blueprints/test") -> Prompt:
    """Nodes of the planner and nothing of the decoder: the blueprint of the last one is saved."""
    return {LM: load_lm(), **nodes, PAPER: node("ACEStepSaveBlueprint", blueprint=[last, 0], filename_prefix=prefix)}
