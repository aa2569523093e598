"""Reading ahead: every byte once, in order of use, beside the prompt; and it ends with the prompt."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

AUTO = ("auto",) * 4


@pytest.fixture
def ahead(pack):
    return pack("host.ahead")


@pytest.fixture
def sources(pack, model_folders, tiny_2b_split):
    """The files of the tiny model; ComfyUI's folders hold it and its planner."""
    root = tiny_2b_split.model.parents[1]
    model_folders(**{name: root / name for name in ("diffusion_models", "text_encoders", "vae")})
    return pack("host.sources").find_sources(tiny_2b_split.model.name)


def in_a_prompt(function):
    """What a function returns that the host calls while its loop runs."""

    async def run():
        return function()

    return asyncio.run(run())


def in_order(sources):
    return sources.text_encoder, sources.conditioner, sources.decoder, sources.vae


def test_every_file_once_in_order_of_use(ahead, sources, tiny_2b_split, monkeypatch):
    seen = []
    monkeypatch.setattr(ahead, "read_through", lambda paths, over: seen.extend(paths))
    in_a_prompt(lambda: ahead.read_ahead(*in_order(sources))).join(10)
    assert seen == [tiny_2b_split.text_encoder, tiny_2b_split.model, tiny_2b_split.vae]


def test_reads_every_byte_in_bounded_pieces(ahead, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "CHUNK_BYTES", 1000)
    files = [tmp_path / "a", tmp_path / "b"]
    for file, size in zip(files, (2500, 1000), strict=True):
        file.write_bytes(bytes(size))
    counted = CountedPath.over(files)
    ahead.read_through(counted, lambda: False)
    assert [path.got for path in counted] == [[1000, 1000, 500, 0], [1000, 0]]


def test_stops_with_the_prompt(ahead, tmp_path, monkeypatch):
    """The last thing a prompt does is to close its loop."""
    monkeypatch.setattr(ahead, "CHUNK_BYTES", 1000)
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    (counted,) = CountedPath.over([tmp_path / "a"])
    ahead.read_through([counted, tmp_path / "never opened"], lambda: len(counted.got) == 3)
    assert len(counted.got) == 3


def test_the_host_does_not_wait_for_a_disk_that_hangs(ahead, sources, monkeypatch):
    hangs, over = threading.Event(), []
    monkeypatch.setattr(ahead, "read_through", lambda paths, ended: (hangs.wait(30), over.append(ended())))
    thread = in_a_prompt(lambda: ahead.read_ahead(*in_order(sources)))  # the prompt is over, the thread is not
    assert thread.is_alive() and thread.daemon
    hangs.set()
    thread.join(10)
    assert over == [True]


def test_a_file_that_cannot_be_read_is_left_to_its_reader(ahead, tmp_path, caplog):
    """No error out of a thread that nobody waits for, which Python would print."""
    with caplog.at_level("DEBUG"):
        for path in (tmp_path / "gone", tmp_path):
            ahead.read_through([path], lambda: False)
    assert ["gone" in caplog.messages[0], len(caplog.messages)] == [True, 2]


def test_where_it_cannot_be_done_nothing_is_read(ahead, sources, monkeypatch, caplog):
    started = []
    caplog.set_level("INFO")
    monkeypatch.setattr(ahead, "read_through", lambda *_: started.append(1))
    assert ahead.read_ahead(*in_order(sources)) is None  # nobody runs a prompt
    with monkeypatch.context() as patch:
        patch.setattr(ahead, "_free_memory", lambda: 1000)
        assert in_a_prompt(lambda: ahead.read_ahead(*in_order(sources))) is None
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        caplog.clear()
        assert in_a_prompt(lambda: ahead.read_ahead(*in_order(sources))) is None
    assert caplog.messages == ["ACE-Step 1.5: files are not read ahead: can't start new thread"]
    assert started == []


def test_load_dit_lets_others_go_first(pack, sources, tiny_2b_split, monkeypatch):
    """As ComfyUI does it: a task, one turn for it, and then whatever else is ready, without a further turn."""
    node, load, steps = pack("load").LoadDiT, pack("load").load, []
    monkeypatch.setattr(pack("load"), "read_ahead", lambda *given: steps.append(("reads", len(given))))
    monkeypatch.setattr(pack("load"), "load", lambda *given: (steps.append("builds"), load(*given))[1])

    async def prompt():
        with torch.inference_mode():
            task = asyncio.create_task(node.execute(tiny_2b_split.model.name, *AUTO, "fp32", False))
            await asyncio.sleep(0)
            assert not task.done()
            steps.append("plans")
            return await task

    output = asyncio.run(prompt())
    assert steps == [("reads", 4), "plans", "builds"]
    assert next(output.args[0].model.diffusion_model.parameters()).is_inference()  # as in any node of the host
    assert asyncio.iscoroutinefunction(getattr(node, node.FUNCTION))


def test_wrong_choices_are_told_before_others_go_first(pack, sources):
    """A planner shall not write for minutes for a decoder that is not there."""

    async def prompt():
        task = asyncio.create_task(pack("load").LoadDiT.execute("gone.safetensors", *AUTO, "fp32", False))
        await asyncio.sleep(0)
        return task.done() and task.exception()

    error = asyncio.run(prompt())
    assert isinstance(error, ValueError) and "gone.safetensors" in str(error)


def test_load_lm_reads_ahead_what_it_loads(pack, sources, tiny_2b_split, monkeypatch):
    read = []
    monkeypatch.setattr(pack("load_lm"), "read_ahead", lambda *given: read.extend(given))
    output = pack("load_lm").LoadLM.execute(tiny_2b_split.lm.name, "fp32", False)
    assert [checkpoint.path.name for checkpoint in read] == [tiny_2b_split.lm.name]
    assert output.args[0].model.module is not None


def refuse(*_):
    raise RuntimeError("can't start new thread")


class CountedPath:
    """A path that notes how many bytes each reading of its file gave."""

    def __init__(self, path: Path) -> None:
        self.path, self.got = path, []

    @classmethod
    def over(cls, paths):
        return [cls(path) for path in paths]

    def open(self, mode, buffering):
        self.file = self.path.open(mode, buffering=buffering)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def readinto(self, buffer):
        self.got.append(self.file.readinto(buffer))
        return self.got[-1]
