"""LoadLM: every layout of a planner gives the same network; what is none is told what to choose; memory stays flat."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

LAYOUTS = ("split", "without prefix", "with prefix", "sharded", "all in one", "in the main repository")
REAL_ROWS, REAL_CODES = 217_204, 65_535
MAPS = Path("/proc/self/maps")


def rewrite(source, target, prefix, shards=1):
    """The planner's folder again: keys under `prefix`, in so many files."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if not file.name.startswith("model"):
            (target / file.name).symlink_to(file)
    tensors = {prefix + key: value for key, value in load_file(source / "model.safetensors").items()}
    if shards == 1:
        save_file(tensors, target / "model.safetensors")  # no metadata, as the 0.6B is published
        return
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    places = {key: names[number % shards] for number, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: tensors[key] for key in tensors if places[key] == name}, target / name, {"format": "pt"})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.fixture(scope="session")
def planners(tmp_path_factory, write_tiny, tiny_2b_split):
    """Folders of ComfyUI with the same tiny planner in every layout, and the entry of the list by layout."""
    root = tmp_path_factory.mktemp("planners")
    upstream = write_tiny(root / "published", layout="upstream").lm
    whole = write_tiny(root, layout="aio").lm
    texts = root / "text_encoders"
    texts.mkdir()
    (texts / "qwen_1.7b_ace15.safetensors").symlink_to(tiny_2b_split.lm)
    (texts / "qwen_0.6b_ace15.safetensors").symlink_to(tiny_2b_split.text_encoder)
    (texts / "clip_l.safetensors").symlink_to(tiny_2b_split.vae)
    rewrite(upstream, texts / "acestep-5Hz-lm-0.6B", "model.")
    rewrite(upstream, texts / "acestep-5Hz-lm-4B", "model.", shards=3)
    rewrite(upstream, root / "diffusers" / "Ace-Step1.5" / "acestep-5Hz-lm-1.7B", "")
    rewrite(upstream, root / "diffusion_models" / "my planner", "")
    names = (
        "qwen_1.7b_ace15.safetensors",
        "my planner",
        "acestep-5Hz-lm-0.6B",
        "acestep-5Hz-lm-4B",
        f"checkpoints/{whole.name}",
        "Ace-Step1.5/acestep-5Hz-lm-1.7B",
    )
    return root, dict(zip(LAYOUTS, names, strict=True))


@pytest.fixture
def there(planners, model_folders):
    """The entries by layout, with the host looking there."""
    root, names = planners
    categories = ("text_encoders", "checkpoints", "diffusers", "diffusion_models")
    model_folders(**{name: root / name for name in categories})
    return names


def hidden(loaded):
    with torch.inference_mode():
        return loaded.lm.model.module(torch.tensor([[5, 300, 64_000, 17]]))


def test_every_layout_is_listed_and_nothing_inside_of_folders(pack, there):
    names = pack("host.folders").planner_names()
    assert set(names) == {*there.values(), "qwen_0.6b_ace15.safetensors", "clip_l.safetensors"}
    assert names[-2:] == ["clip_l.safetensors", "qwen_0.6b_ace15.safetensors"], "planners come first"
    options = pack("load_lm").planner_choices()
    released = [f"acestep-5Hz-lm-{size} (download)" for size in ("0.6B", "1.7B", "4B")]
    assert options == [*names, *released]


def test_planners_are_no_models_of_load_dit(pack, there):
    assert not {"my planner", "acestep-5Hz-lm-4B"} & set(pack("host.folders").model_names())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_logits(layout, there, load_planner, tiny_2b_split, core):
    build, formats = core("loading.build"), core("loading.formats")
    reference = build.build_part(formats.probe(tiny_2b_split.lm), "lm", dtype=torch.float32)
    loaded = load_planner(there[layout])
    ids = torch.tensor([[5, 300, 64_000, 17]])
    with torch.inference_mode():
        wanted = reference.logits(reference(ids))
        got = loaded.lm.model.module.logits(loaded.lm.model.module(ids))
    assert got.shape[-1] == loaded.config.vocab_size and torch.equal(got, wanted)
    assert loaded.lm.tokenizer.decode(loaded.lm.tokenizer.encode("calm piano\n")) == "calm piano\n"


@pytest.mark.parametrize(
    ("choice", "entry"),
    [
        ("acestep-5Hz-lm-0.6B (download)", "acestep-5Hz-lm-0.6B"),
        ("acestep-5Hz-lm-1.7B (download)", "qwen_1.7b_ace15.safetensors"),
        ("acestep-5Hz-lm-4B (download)", "acestep-5Hz-lm-4B"),
        ("my planner", "my planner"),
    ],
)
def test_released_names_are_found_on_disk(pack, there, choice, entry):
    assert pack("host.download").on_disk(pack("load").plain_name(choice)) == entry


def test_node_says_what_it_loaded(pack, there):
    node = pack("load_lm").LoadLM
    output = node.execute("acestep-5Hz-lm-0.6B", "fp32", False)
    (text,) = output.ui["text"]
    rows = output.args[0].model.module.config.vocab_size
    assert text.splitlines() == [
        f"planner: acestep-5Hz-lm-0.6B (4.2 M weights: 2 layers of width 64, {rows} tokens)",
        "precision: fp32 on cpu",
        "tokenizer: acestep-5Hz-lm-0.6B/tokenizer.json",
    ]
    assert output.args[0].name == "acestep-5Hz-lm-0.6B"


WRONG = {
    "text encoder": ("qwen_0.6b_ace15.safetensors", ("holds a text encoder", "151669", "217204", "qwen_1.7b_ace15")),
    "VAE": ("clip_l.safetensors", ("holds a VAE", "acestep-5Hz-lm-0.6B, -1.7B or -4B")),
    "gone": ("gone.safetensors", ("gone.safetensors", "text_encoders", "Comfy-Org")),
}


@pytest.mark.parametrize(("name", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_planner_is_named(pack, there, name, words):
    with pytest.raises(ValueError) as error:
        pack("load_lm").LoadLM.execute(name, "auto", False)
    assert name in str(error.value)
    for word in words:
        assert word in str(error.value), word


def test_what_is_not_here_is_offered_with_its_size(pack, model_folders, tmp_path):
    model_folders(text_encoders=tmp_path)
    with pytest.raises(ValueError, match=r"acestep-5Hz-lm-4B is not here.*download on.*text_encoders.*8\.4 GB"):
        pack("load_lm").LoadLM.execute("acestep-5Hz-lm-4B (download)", "auto", False)


def test_fingerprint_follows_the_file(pack, model_folders, tmp_path, tiny_2b_split):
    file = tmp_path / "planner.safetensors"
    file.write_bytes(tiny_2b_split.lm.read_bytes())
    model_folders(text_encoders=tmp_path)
    node = pack("load_lm").LoadLM
    before = node.fingerprint_inputs("planner.safetensors", "auto", False)
    assert node.fingerprint_inputs("planner.safetensors", "auto", False) == before
    assert node.fingerprint_inputs("planner.safetensors", "fp32", False) != before
    file.write_bytes(tiny_2b_split.lm.read_bytes() + b"")
    assert node.fingerprint_inputs("planner.safetensors", "auto", False) != before
    away = node.fingerprint_inputs("acestep-5Hz-lm-4B (download)", "auto", False)
    assert "is not there" in away and away != node.fingerprint_inputs("acestep-5Hz-lm-4B (download)", "auto", True)


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")
def test_weights_are_mapped_and_not_copied(there, load_planner, tiny_2b_split):
    """A planner in the precision of its file costs no memory of its own, and lets the file go with itself."""

    def mapped():
        gc.collect()
        return str(tiny_2b_split.lm.resolve()) in MAPS.read_text()

    assert not mapped()
    loaded = load_planner(there["split"])
    assert mapped()
    del loaded
    assert not mapped()


def test_loading_again_and_again_leaves_memory_flat(pack, there, load_planner):
    """Twenty times, each with a pass: nothing of a planner that is gone stays, neither here nor in the host's list."""
    import comfy.model_management as management

    def once():
        loaded = load_planner(there["sharded"])
        pack("host.runtime").HostRuntime().place(loaded.lm.model)
        hidden(loaded)

    once()
    gc.collect()
    alive, listed = tensors(), len(management.current_loaded_models)
    for _ in range(20):
        once()
    gc.collect()
    management.cleanup_models()
    assert tensors() == alive
    assert len(management.current_loaded_models) <= listed


def tensors():
    """How many tensors and networks are alive."""
    return sum(issubclass(type(thing), (torch.Tensor, torch.nn.Module)) for thing in gc.get_objects())


@pytest.mark.slow
def test_a_tokenizer_of_real_size_is_there_in_four_seconds(pack, core, tmp_path):
    """151 669 tokens of text and 65 535 codes, 24 MB of JSON as published; and ComfyUI's own, where there is none."""
    tokenizer = core("qwen3.tokenizer").Tokenizer
    start = time.perf_counter()
    own = tokenizer.from_source(pack("host.folders").host_tokenizer())
    assert time.perf_counter() - start < 4 and own.size == REAL_ROWS - REAL_CODES
    data, flags = json.loads(own.to_json()), dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"] += [
        {"id": own.size + code, "content": f"<|audio_code_{code}|>", **flags, "special": True}
        for code in range(REAL_CODES)
    ]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")
    assert 24e6 < path.stat().st_size < 25e6
    start = time.perf_counter()
    published = tokenizer.from_source(path)
    assert time.perf_counter() - start < 4 and published.size == REAL_ROWS
    text = "# Caption\ncalm piano, 90 bpm\n\n# Lyric\n[Instrumental]\n"
    assert published.encode(text) == own.encode(text)


@pytest.mark.slow
@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is resident")
def test_twenty_planners_of_real_size_leave_memory_flat(pack, real_size, load_planner):
    """Load, put in place, read every weight, drop: resident memory afterwards is what it was."""

    def resident():
        gc.collect()
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024  # MB

    def once():
        start = time.perf_counter()
        loaded = load_planner(real_size, "bf16")
        seconds.append(time.perf_counter() - start)
        assert loaded.size == "0.6B"
        module = pack("host.runtime").HostRuntime().place(loaded.lm.model)
        assert not any(value.view(torch.int16).any() for value in module.parameters())
        held.append(resident())

    seconds, held, after = [], [], []
    once()
    before = resident()
    for _ in range(20):
        once()
        after.append(resident())
    print(
        f"LoadLM: {max(seconds):.2f} s at most; resident: {before:.0f} MB before, {max(held):.0f} MB with a planner, "
    )
    print(f"after each of 20: {', '.join(f'{amount:.0f}' for amount in after)} MB")
    assert max(held) > before + 1000, "the planner was really there"
    assert max(after) < before + 50
