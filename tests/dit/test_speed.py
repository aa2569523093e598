"""Steps through compiled layers and recordings: the same velocities, and the plain way wherever that fails."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch

from acestep_models.compiled import MOST_KINDS, Compiler
from acestep_models.dit.config import DiTConfig, activation_bytes
from acestep_models.dit.speed import MOST_GRAPHS, Speed, Steps, recording_bytes
from acestep_models.dit.transformer import DiT
from acestep_models.graphs import Graphs
from acestep_models.ops import TORCH_OPS

sys.path.append(str(Path(__file__).resolve().parents[1] / "plugins"))

from tape import taped  # noqa: E402

FRAMES = 21


class Card:
    """Takes the place of CUDA graphs: recordings that do what was computed again, counted."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.graphs = Graphs(record=self.record, devices=("cpu",), name="A step of the decoder")

    def record(self, step):
        self.recorded += 1
        return self._Recording(self, taped(step))

    class _Recording:
        def __init__(self, card, tape):
            self._card, self._tape = card, tape

        def replay(self):
            self._card.replayed += 1
            self._tape.replay()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def dit(tiny_2b, perturb):
    torch.manual_seed(1)
    return perturb(DiT(tiny_2b), 1).eval().requires_grad_(False)


@pytest.fixture
def song(dit):
    """song(seed, rows, frames, mask) -> the arguments of a step: x, context, what was told, t."""

    def draw(seed, rows=1, frames=FRAMES, told=None):
        random, config = torch.Generator().manual_seed(seed), dit.config
        channels = config.audio_acoustic_hidden_dim
        x, context = (torch.randn(rows, frames, wide, generator=random) for wide in (channels, 2 * channels))
        if told is None:
            told = dit.tell(torch.randn(rows, 7, config.encoder_hidden_size, generator=random), frames)
        return x, context, told, torch.rand(rows, generator=random)

    return draw


def test_a_recorded_step_finds_every_input_of_its_own(dit, song):
    card, told = Card(), song(0)[2]
    steps = Steps(Speed(graphs=card.graphs))
    songs = [song(seed, told=told) for seed in range(4)]
    found = [steps.velocity(dit, *given) for given in songs]
    for mine, given in zip(found, songs, strict=True):  # looked at last: no step may write into an earlier result
        assert torch.equal(mine, dit(*given))
    assert (card.recorded, card.replayed) == (1, 3)


def test_song_and_null_one_by_one_keep_a_recording_each(dit, song):
    card = Card()
    steps, pairs = Steps(Speed(graphs=card.graphs)), [song(1), song(2)]
    for _ in range(3):
        for given in pairs:
            assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert (card.recorded, card.replayed) == (2, 4)


def test_rows_length_and_what_was_told_are_each_recorded_anew(dit, song):
    card, first = Card(), song(1, rows=2)
    steps = Steps(Speed(graphs=card.graphs))
    x, context, told, t = first
    half = (x[:1], context[:1], told.rows(0, 1), t[:1])
    for given in (first, half, song(2, rows=2), song(3, frames=FRAMES + 2), first, half):
        assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert (card.recorded, card.replayed) == (4, 2)


def test_what_changes_at_every_step_is_not_recorded_without_end(dit, song):
    card = Card()
    steps = Steps(Speed(graphs=card.graphs))
    for seed in range(MOST_GRAPHS + 3):
        given = song(seed)
        assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert card.recorded == MOST_GRAPHS


def test_a_failed_recording_is_told_once_and_nothing_is_lost(dit, song, caplog):
    def fail(step):
        tried.append(1)
        raise RuntimeError("no capture today")

    tried = []
    speed = Speed(graphs=Graphs(record=fail, devices=("cpu",), name="A step of the decoder"))
    for seed in range(3):
        given = song(seed)
        assert torch.equal(Steps(speed).velocity(dit, *given), dit(*given))
    assert tried == [1]
    said = "A step of the decoder could not be recorded as a CUDA graph; it goes on without: no capture today"
    assert caplog.messages == [said]


def test_without_room_for_a_recording_this_run_goes_on_without(dit, song, caplog):
    """What it recorded before is let go, and another run tries again."""

    def full(step):
        tried.append(1)
        if len(tried) == 2:
            raise torch.cuda.OutOfMemoryError("full")
        return card.record(step)

    tried, card = [], Card()
    speed = Speed(graphs=Graphs(record=full, devices=("cpu",), name="a step"))
    steps, pairs = Steps(speed), [song(1), song(2), song(3)]
    for _ in range(2):
        for given in pairs:
            assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert (len(tried), card.replayed) == (2, 0) and not steps._recorded and not steps._recorder._recordings
    assert len(caplog.messages) == 1 and "this run goes on without" in caplog.text
    again = Steps(speed)
    for given in pairs[:1] * 2:
        assert torch.equal(again.velocity(dit, *given), dit(*given))
    assert (len(tried), card.replayed, speed.graphs.failed) == (3, 1, "")


def test_recordings_are_counted_with_all_that_they_keep(dit, song):
    """Their memory is that of one step; their inputs and each `Told` are their own."""
    config, frames, tokens = DiTConfig(), 6000, 400
    told = 4 * config.num_hidden_layers * tokens * config.num_key_value_heads * config.head_dim
    inputs = MOST_GRAPHS * frames * (192 + 64)
    counted = recording_bytes(config, 1, frames, tokens, torch.bfloat16)
    assert counted - activation_bytes(config, 1, frames, tokens, torch.bfloat16) == 2 * inputs
    assert counted > 2 * (told + inputs)


def test_weights_that_do_not_lie_still_go_the_plain_way(tiny_2b, song, caplog):
    """Neither is tried, the log says it once however many runs there are, and each run looks once."""

    def moving(module, like):
        looked.append(module)
        return False

    looked, card = [], Card()
    dit = DiT(tiny_2b, replace(TORCH_OPS, lies_still=moving)).eval()
    compiler = Compiler("the decoder", compile=lambda function: pytest.fail("compiled"))
    speed = Speed(compiler, card.graphs)
    for _ in range(2):
        steps = Steps(speed)
        for seed in range(2):
            given = song(seed)
            assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert card.recorded == 0 and len(looked) == 2
    assert len(caplog.messages) == 1 and "do not all lie on cpu" in caplog.text


def test_every_layer_goes_through_one_compiled_function(dit, song):
    log = []

    def fake(function):
        log.append("compile")
        return lambda layer, *args: log.append(layer) or function(layer, *args)

    steps, given = Steps(Speed(Compiler("the decoder", compile=fake))), song(1)
    for _ in range(2):
        assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert log == ["compile", *dit.layers, *dit.layers]


def test_compiled_layers_within_a_recording(dit, song):
    card, runs = Card(), []

    def fake(function):
        return lambda *args: runs.append(1) or function(*args)

    steps, given = Steps(Speed(Compiler("the decoder", compile=fake), card.graphs)), song(1)
    for _ in range(2):
        assert torch.equal(steps.velocity(dit, *given), dit(*given))
    assert (card.recorded, card.replayed) == (1, 1)
    assert len(runs) == 2 * len(dit.layers)  # plainly and recorded: a replay runs no Python


def test_copies_are_one_and_a_run_takes_its_recordings_with_it(dit, song):
    class Run:
        pass

    card, run = Card(), Run()
    speed = Speed(graphs=card.graphs)
    assert copy.deepcopy({"a": {"b": speed}})["a"]["b"] is speed
    assert speed.steps_of(run) is speed.steps_of(run) is not speed.steps_of(Run())
    told = song(1)
    speed.steps_of(run).velocity(dit, *told)
    kept = weakref.ref(speed.steps_of(run))
    del run
    gc.collect()
    assert kept() is None


@pytest.mark.slow
def test_torch_compiles_all_layers_as_one_and_computes_the_same(dit, song, relative_error):
    """4 layers of 2 kinds; the second length is compiled for all that come after it."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()  # what earlier tests compiled would tell it which sizes change
    counters.clear()
    speed, graphs = Speed(Compiler("the decoder", dynamic=None)), []
    for frames in (41, 57, 75):
        given = song(frames, frames=frames)
        assert relative_error(Steps(speed).velocity(dit, *given), dit(*given)) < 1e-4
        graphs.append(counters["stats"]["unique_graphs"])
    assert speed.compiler.failed == ""
    assert graphs == [2, 4, 4]


@pytest.mark.slow
def test_every_kind_of_pass_of_a_session_is_compiled(dit, song, monkeypatch, relative_error):
    """Songs short and long, guided or not, several, padded; without a backend, which has no part in it.

    Torch's own limit of 8 was met by a song whose guidance has an interval. Once all were seen, none is compiled again.
    """
    from torch._dynamo.utils import counters

    def session():
        for frames, rows, masked in product((41, 57, 250, 301, 700), (1, 2, 4), (False, True)):
            mask = torch.arange(7) < 7 - torch.arange(rows)[:, None] if masked else None
            told = dit.tell(torch.randn(rows, 7, dit.config.encoder_hidden_size), frames, mask)
            given = song(1, rows, frames, told)
            assert relative_error(Steps(speed).velocity(dit, *given), dit(*given)) < 1e-4
        return counters["stats"]["unique_graphs"]

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()  # it knows by the line of a function which of its sizes change, which spares it kinds
    counters.clear()
    speed = Speed(Compiler("the decoder", dynamic=None))
    made = session()
    assert 8 < made <= MOST_KINDS and session() == made
    assert (speed.compiler.failed, speed.compiler.full) == ("", False)


@pytest.mark.slow
def test_a_layer_of_real_width(relative_error):
    """12 s of a song through one layer as wide as the published ones, numbers of the size of trained ones."""
    config = DiTConfig(num_hidden_layers=1)  # the others are the published numbers
    torch.manual_seed(1)
    dit = DiT(config).eval().requires_grad_(False)
    for weight in dit.parameters():
        weight.copy_(torch.randn_like(weight) * 0.02 if weight.ndim > 1 else 1 + 0.1 * torch.randn_like(weight))
    told = dit.tell(torch.randn(1, 50, config.encoder_hidden_size), 300)
    given = (torch.randn(1, 300, 64), torch.randn(1, 300, 128), told, torch.tensor([0.7]))
    speed = Speed(Compiler("the decoder"))
    assert relative_error(Steps(speed).velocity(dit, *given), dit(*given)) < 1e-4
    assert speed.compiler.failed == ""
