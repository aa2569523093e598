"""What HostRuntime tells and asks of ComfyUI: words under the node, room for a network, how much of it lies there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

IDS = [[5, 300, 64_000, 17]]


@pytest.fixture
def runtime(pack):
    return pack("host.runtime").HostRuntime()


@pytest.fixture
def load(load_planner, model_folders, tiny_2b_split):
    """load(precision) -> the tiny planner under the memory manager."""
    model_folders(text_encoders=tiny_2b_split.lm.parent)
    return lambda *precision: load_planner(tiny_2b_split.lm.name, *precision).lm


def hidden(lm):
    with torch.inference_mode():
        return lm.model.module(torch.tensor(IDS))


def test_words_are_shown_under_the_running_node(runtime, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext

    said = []
    instance = SimpleNamespace(client_id="me", send_progress_text=lambda *given: said.append(given))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    runtime.say("nobody runs")
    with CurrentNodeContext("prompt", "7"):
        runtime.say("codes 10 of 300, 20 tokens/s")
    assert said == [("codes 10 of 300, 20 tokens/s", "7", "me")]
    assert runtime.last_words == "codes 10 of 300, 20 tokens/s"


def test_the_bar_moves_ten_times_a_second_and_at_the_end(pack, runtime, monkeypatch):
    moved, clock = [], iter(range(10_000))
    module = pack("host.runtime")
    bar = SimpleNamespace(update_absolute=lambda *given: moved.append(given))
    monkeypatch.setattr(module.comfy.utils, "ProgressBar", lambda total: bar)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 5.0 + 0.03 * next(clock)))
    for done in range(1, 11):
        runtime.progress(done, 10)
    runtime.progress(1, 3)
    assert moved == [(1, 10), (5, 10), (9, 10), (10, 10), (1, 3)]


@pytest.mark.parametrize("server", [None, SimpleNamespace(), SimpleNamespace(PromptServer=SimpleNamespace())])
def test_words_need_no_server(runtime, monkeypatch, server):
    monkeypatch.setitem(sys.modules, "server", server)
    runtime.say("alone")
    assert runtime.last_words == "alone"


def test_a_planner_that_fits_lies_there_as_a_whole(load, runtime, fake_gpu):
    lm = load()
    runtime.place(lm.model)
    assert runtime.loaded_share(lm.model) == 1.0
    wanted = hidden(lm)
    fake_gpu(1 << 40)
    card = load()
    runtime.place(card.model)
    assert runtime.loaded_share(card.model) == 1.0
    assert torch.equal(hidden(card), wanted)


def test_the_planner_is_put_in_the_place_of_what_is_idle(load, runtime, fake_gpu):
    """Room for one of two: what ran before goes, and the planner lies on the card as a whole."""
    fake_gpu(1 << 40)
    lm = load()
    size, reserve = lm.model.owner.model_size(), 1 << 20
    idle = load()
    fake_gpu(int(1.2 * size) + 2 * reserve)
    runtime.place(idle.model)
    assert runtime.loaded_share(idle.model) == 1.0
    runtime.place(lm.model, reserve)
    assert runtime.loaded_share(lm.model) == 1.0
    assert runtime.loaded_share(idle.model) < 0.5


def test_the_planner_takes_what_the_host_would_keep_to_compute_in(load, runtime, fake_gpu, monkeypatch):
    """Weights and reservation fit, but not beside the 0.8 GB that the host keeps for other kinds of models."""
    import comfy.model_management as management

    fake_gpu(1 << 40)
    lm = load()
    wanted, size, reserve = hidden(lm), lm.model.owner.model_size(), 1 << 20
    kept = size // 2
    monkeypatch.setattr(management, "minimum_inference_memory", lambda *_: kept + (1 << 20))
    for reserved, whole in ((0, True), (kept, False)):  # what a user wants left to others stays free
        monkeypatch.setattr(management, "extra_reserved_memory", lambda *_, left=reserved: left)
        fake_gpu(int(1.2 * size) + reserve)
        runtime.place(lm.model, reserve)
        assert runtime.loaded_share(lm.model) < 1.0
        runtime.complete(lm.model, reserve)
        assert (runtime.loaded_share(lm.model) == 1.0) is whole
        assert runtime.free_bytes(lm.model) >= reserve + reserved
        assert torch.equal(hidden(lm), wanted)


def test_a_planner_that_does_not_fit_says_what_to_choose(load, runtime, fake_gpu, core):
    wanted = hidden(load())
    fake_gpu(1 << 40)
    lm = load()
    fake_gpu(int(0.9 * lm.model.owner.model_size()))
    runtime.place(lm.model)
    share = runtime.loaded_share(lm.model)
    assert 0.0 <= share < 1.0
    assert torch.equal(hidden(lm), wanted), "streamed weights are the same numbers"
    text = core("planner.lm").advice(runtime, lm)
    assert f"{share:.0%}" in text and "smaller language model" in text and "shorter song" in text


def test_the_node_warns_before_it_writes_and_says_so_in_its_report(load, fake_gpu, core, pack, caplog):
    """Less room than the planner needs: the same codes, a line in the log and one in the report; else none."""
    song = core("blueprint").Blueprint(caption="calm piano", seconds=10.0)
    draw = {"temperature": 0.85, "top_p": 0.9, "top_k": 0, "min_p": 0.0}
    inputs = {"seed": 1, "guidance": 2.0, "negative": "", "ending": "exact", "prompt_format": "trained", **draw}
    fake_gpu(1 << 40)
    lm, written = load(), []
    for share, warned in ((100.0, 0), (0.9, 1)):
        fake_gpu(int(share * lm.model.owner.model_size()))
        caplog.clear()
        output = pack("codes").WriteCodes.execute(lm, (song,), **inputs)
        written.append(output.args[0][0].codes)
        (text,) = output.ui["text"]
        assert text.count("smaller language model") == warned
        assert sum("smaller language model" in record.getMessage() for record in caplog.records) == warned
    assert written[0] == written[1] and len(written[0]) == 50


def test_a_dynamic_patcher_counts_what_it_could_bring(load, runtime, fake_gpu):
    fake_gpu(1 << 40)
    lm = load()
    size = lm.model.owner.model_size()
    lm.model.owner.loaded_size = lambda: 0
    assert runtime.loaded_share(lm.model) == 0.0
    lm.model.owner.is_dynamic = lambda: True
    assert runtime.loaded_share(lm.model) == 1.0
    fake_gpu(size // 2)
    assert runtime.loaded_share(lm.model) == pytest.approx(0.5)


def test_planners_are_plain_patchers_where_the_host_has_dynamic_ones(load, monkeypatch):
    """Weights that are brought one by one at their use would be brought for every token."""
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic, raising=False)
    owner = load().model.owner
    assert isinstance(owner, comfy.model_patcher.ModelPatcher)
    assert not isinstance(owner, Dynamic)


def test_ten_minutes_ask_for_weights_and_cache(core, load_planner, real_size, runtime, fake_gpu, monkeypatch):
    """What the host is asked for, 0.6B in bf16 and 3000 codes with guidance: weights, two caches, little beside."""
    import comfy.model_management as management

    asked = []

    def remember(models, memory_required=0, **more):
        asked.append(memory_required + sum(model.model_size() for model in models))
        raise InterruptedError

    fake_gpu(1 << 40)
    lm = load_planner(real_size, "bf16").lm
    words = "late at night the rain is falling on the city and I sing\n" * 60
    song = core("blueprint").Blueprint(caption="calm piano", lyrics=f"[Verse]\n{words}", seconds=600.0, bpm=90)
    codes, prompts = core("planner.codes"), core("lm_prompts")
    with monkeypatch.context() as patched:
        patched.setattr(management, "load_models_gpu", remember)
        with pytest.raises(InterruptedError):
            codes.write(runtime, lm, [song], codes.CodesOptions(guidance=2.0))
    block = prompts.think_block(prompts.facts(song))
    texts = prompts.codes_prompt(song.caption, song.lyrics, block), prompts.negative_prompt("")
    positions = sum(len(lm.tokenizer.encode(text)) + 3000 for text in texts)
    weights, cache = 2 * 662_884_352, 2 * 28 * 8 * 128 * 2 * positions  # keys and values of 28 layers in bf16
    assert weights == lm.model.owner.model_size()
    assert positions > 6900, "long lyrics"
    assert asked[0] == pytest.approx(weights + cache, rel=0.05)
    print(f"asked {asked[0] / 1e9:.3f} GB; weights {weights / 1e9:.3f} GB and cache {cache / 1e9:.3f} GB")


def test_with_that_much_room_the_planner_lies_there_as_a_whole(load_planner, real_size, runtime, fake_gpu):
    """And with a tenth less it does not, so that the number asked for is the one that decides."""
    cache = 800 << 20
    fake_gpu(1 << 40)
    lm = load_planner(real_size, "bf16").lm
    size = lm.model.owner.model_size()
    for room, whole in ((1.0, True), (0.9, False)):
        fake_gpu(int(room * (size + cache)) + (1 << 20))
        runtime.place(lm.model, cache)
        assert (runtime.loaded_share(lm.model) == 1.0) is whole


def test_free_memory_is_that_of_the_device_less_what_lies_there(load, runtime, fake_gpu):
    fake_gpu(1 << 40)
    lm = load()
    size = lm.model.owner.model_size()
    fake_gpu(3 * size)
    assert runtime.free_bytes(lm.model) == 3 * size
    runtime.place(lm.model)
    assert runtime.free_bytes(lm.model) == 2 * size
    lm.model.owner.is_dynamic = lambda: True
    assert runtime.free_bytes(lm.model) == 3 * size, "weights that go by themselves are in nobody's way"


def test_what_other_programs_hold_is_not_free_on_newer_hosts_either(load, runtime, fake_gpu, monkeypatch):
    import comfy.model_management as management

    fake_gpu(1 << 40)
    lm, other = load(), load()
    size = lm.model.owner.model_size()
    fake_gpu(4 * size)
    runtime.place(lm.model)
    runtime.place(other.model)
    lm.model.owner.is_dynamic = lambda: True
    counted = management.get_free_memory
    with monkeypatch.context() as patched:
        patched.setattr(management, "get_free_memory", lambda *place: counted(*place) - size)
        assert runtime.free_bytes(lm.model) == 2 * size, "of four: one of others, and one that does not go by itself"
        assert runtime.free_bytes(other.model) == size


def test_room_to_unpack_is_asked_for(load, runtime, fake_gpu, monkeypatch):
    import comfy.model_management as management

    asked = []
    fake_gpu(1 << 40)
    lm, packed = load(), load("int8")
    monkeypatch.setattr(management, "load_models_gpu", lambda models, memory_required: asked.append(memory_required))
    for model in (lm.model, packed.model):
        runtime.place(model, 1000)
    layers = [layer for layer in packed.model.module.modules() if hasattr(layer, "packed_bytes")]
    widest = max(layer.in_features * layer.out_features for layer in layers)
    assert asked == [1000, 1000 + widest * packed.model.dtype.itemsize]


def test_a_model_asks_for_room_to_unpack(pack, core, tiny_2b_split):
    file, asked = tiny_2b_split.model, []
    for precision in ("fp32", "int8"):
        inner = pack("host.loader").load_decoder(file, file, "turbo", precision).model
        count = core("dit.config").activation_bytes(inner.config, 1, 250, 1024, inner.compute_dtype)
        asked.append(inner.memory_required([1, 64, 250]) - count)
    assert asked == [0, core("loading.packed").unpacking_bytes(inner, inner.compute_dtype)]
    assert asked[1] > 0
