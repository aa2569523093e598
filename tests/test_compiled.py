"""When a function is compiled, and what happens where that does not work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from acestep_models import compiled
from acestep_models.compiled import Compiler
from acestep_models.errors import Cancelled

ROOT = Path(__file__).resolve().parents[1]


class Torch:
    """Takes the place of torch.compile: says what was asked, and raises what it is given when a function runs."""

    def __init__(self, error=None):
        self.log, self.error = [], error

    def __call__(self, function):
        self.log.append("compile")

        def run(*args):
            self.log.append("run")
            if self.error is not None:
                raise self.error
            return function(*args)

        return run


def double(x):
    return 2 * x


def test_a_function_is_compiled_once_at_its_first_call():
    torch_ = Torch()
    fast = Compiler("the decoder", compile=torch_).wrap(double)
    assert torch_.log == []
    assert [fast(1), fast(2)] == [2, 4]
    assert torch_.log == ["compile", "run", "run"]


FAILURES = {
    "torch": RuntimeError("backend='inductor' raised:\nno C++ compiler\n\nlong story"),
    "triton": ImportError("no C++ compiler"),
    "cache": OSError("no C++ compiler"),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_failure_is_told_once_and_holds_for_all_functions_of_the_network(error, caplog):
    torch_ = Torch(error)
    compiler = Compiler("the decoder", compile=torch_)
    one, other = compiler.wrap(double), compiler.wrap(lambda x: -x)
    assert [one(1), one(2), other(3)] == [2, 4, -3]
    assert torch_.log == ["compile", "run"]
    assert compiler.failed == "no C++ compiler"
    assert caplog.messages == ["Compiling the decoder did not work; it goes on without: no C++ compiler"]


def test_another_network_is_not_held_back():
    broken, sound = Compiler("a", compile=Torch(RuntimeError("x"))), Compiler("b", compile=Torch())
    assert broken.wrap(double)(1) == sound.wrap(double)(1) == 2
    assert broken.failed and not sound.failed


def test_a_kind_too_many_goes_plainly_and_nothing_is_given_up(monkeypatch, caplog):
    """torch has a class of its own for it, which is no RuntimeError, and tells of it only once it was imported."""

    class FailOnRecompileLimitHit(Exception):
        pass

    errors = SimpleNamespace(FailOnRecompileLimitHit=FailOnRecompileLimitHit)
    monkeypatch.setitem(sys.modules, "torch._dynamo.exc", errors)
    torch_ = Torch(FailOnRecompileLimitHit("limit"))
    compiler = Compiler("the decoder", compile=torch_)
    fast = compiler.wrap(double)
    assert [fast(1), fast(2)] == [2, 4]
    assert torch_.log == ["compile", "run", "run"] and compiler.failed == ""
    assert len(caplog.messages) == 1 and "further ones go plainly" in caplog.text


@pytest.mark.slow
def test_what_torch_has_no_room_for_is_done_plainly_beside_what_it_compiled(monkeypatch, caplog):
    """The real limit, which is as before for everybody else; torch says once that it was met."""
    import torch._dynamo.config as config

    ran, limit = [], config.recompile_limit

    def backend(graph, inputs):
        return lambda *args: ran.append(1) or graph(*args)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(compiled, "MOST_KINDS", limit + 2)
    fast = Compiler("the decoder").wrap(lambda x, kind: x + kind)
    for _ in range(2):
        for kind in range(limit + 4):
            assert torch.equal(fast(torch.ones(3), kind), torch.ones(3) + kind)
    assert len(ran) == 2 * (limit + 2)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2 and config.recompile_limit == limit


@pytest.mark.parametrize("error", [Cancelled("stop"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_cancel_and_full_memory_go_through(error, caplog):
    compiler = Compiler("the decoder", compile=Torch(error))
    with pytest.raises(type(error)):
        compiler.wrap(double)(1)
    assert compiler.failed == "" and not caplog.messages


def test_an_error_of_the_function_itself_is_no_failed_compile():
    compiler = Compiler("the decoder", compile=Torch())

    def wrong(x):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        compiler.wrap(wrong)(1)
    assert compiler.failed == ""


def test_within_somebody_elses_compile_there_is_none_of_ours(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch_ = Torch()
    assert Compiler("the decoder", compile=torch_).wrap(double)(1) == 2
    assert torch_.log == []


def test_torch_is_asked_for_the_whole_function_on_code_of_its_own(monkeypatch):
    """So what it compiled is counted for this network alone, and let go with it."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append((function, how)) or function)
    for _ in range(2):
        assert Compiler("the decoder", dynamic=None).wrap(double)(1) == 2
    assert [how for _, how in asked] == [{"dynamic": None, "fullgraph": True}] * 2
    assert len({id(double.__code__), *(id(function.__code__) for function, _ in asked)}) == 3


WITHOUT = """
import logging, sys, torch
from acestep_models.compiled import Compiler
logging.basicConfig(format="said: %(message)s", level=logging.WARNING)
compiler, x = Compiler("the decoder"), torch.arange(64.0)
fast = compiler.wrap(lambda value: value.sin() * value.exp() + 17.25)
with torch.inference_mode():
    for _ in range(2):
        assert torch.equal(fast(x), x.sin() * x.exp() + 17.25)
assert compiler.failed
"""


@pytest.mark.slow
def test_torch_without_a_c_compiler(tmp_path):
    """The real errors of torch, in a process of its own, for torch remembers what it found: one line, same result."""
    here = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, env={**os.environ, **here}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("said: Compiling the decoder did not work; it goes on without: ") == 1
