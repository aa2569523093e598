"""A tiny planner as LoadLM would give it out, with transformers' model on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from acestep_models.planner.lm import LM
from acestep_models.qwen3.model import Qwen3, Qwen3Config
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import Handle
from acestep_models.tiny.tokens import planner_json, planner_rows

CODES = 64  # of the 64 000, so that the tokenizer is made in milliseconds
CONFIG = Qwen3Config(planner_rows(CODES), 64, 128, 2, 4, 2, head_dim=16)
UNDERSTAND = (
    "<|im_start|>system\n# Instruction\n"
    "Understand the given musical conditions and describe the audio semantics accordingly:\n\n<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)

Lesson = tuple[Sequence[int], str]  # codes that are heard, or none, and what should be said


@dataclass(frozen=True, eq=False)
class Pair:
    """Our planner, its oracle, the prompt with some codes or with none, and more lessons."""

    lm: LM
    oracle: Any
    understanding: Callable[[Sequence[int]], str]
    teach: Callable[[LM, Sequence[Lesson], int], LM]


def _understanding(codes: Sequence[int]) -> str:
    return UNDERSTAND.format("".join(f"<|audio_code_{code}|>" for code in codes) or "NO USER INPUT")


def _teach(lm: LM, lessons: Sequence[Lesson], steps: int) -> LM:
    model = Qwen3(CONFIG)
    model.load_state_dict(lm.model.module.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    prompts = [(lm.tokenizer.encode(_understanding(codes)), lm.tokenizer.encode(text)) for codes, text in lessons]
    for _ in range(steps):
        loss = torch.zeros(())
        for prompt, text in prompts:
            logits = model.logits(model(torch.tensor([prompt + text])))[0, len(prompt) - 1 : -1]
            loss = loss + F.cross_entropy(logits, torch.tensor(text))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return LM(model=Handle(model.eval().requires_grad_(False), torch.float32), tokenizer=lm.tokenizer, name="taught")


@pytest.fixture(scope="session")
def tiny_lm(perturb: Callable[..., Any]) -> Pair:
    """Random weights that have learnt a little of the form, so that some tokens are likely and others are not."""
    import transformers

    torch.manual_seed(0)
    model = perturb(Qwen3(CONFIG), 9, 0.05)
    raw = LM(model=Handle(model, torch.float32), tokenizer=Tokenizer.from_json(planner_json(CODES)), name="tiny")
    lm = _teach(raw, [((1, 2, 3), "<think>\nbpm: 90\n</think>\n"), ((), "<think>\n</think>\n# Lyric\nla\n")], 6)
    names = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    given = transformers.Qwen3Config(
        **names, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation="sdpa"
    )
    oracle = transformers.Qwen3ForCausalLM(given).eval()
    oracle.model.load_state_dict(lm.model.module.state_dict(), strict=True)
    return Pair(lm, oracle, _understanding, _teach)
