"""Downloads through the real huggingface_hub client, from a hub on the loopback interface."""

from __future__ import annotations

import io
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parent))

from hubserver import Hub, serve, sha256  # noqa: E402

from acestep_models.errors import ACEStepError, Cancelled  # noqa: E402
from acestep_models.loading import hub as downloads  # noqa: E402
from acestep_models.loading import hub_process  # noqa: E402
from acestep_models.loading.hub_process import without_secrets
from acestep_models.loading.zoo import COMFY, MAIN, TEXT_ENCODER, VAE, ZOO, readable  # noqa: E402
from acestep_models.runtime import PlainRuntime  # noqa: E402

pytestmark = pytest.mark.slow  # half a minute of servers and processes

KEYS = Path(__file__).resolve().parents[1] / "oracles" / "keys"
CHUNK = 10 << 20  # the client writes in such pieces; what is in the air when the line breaks is lost
TURBO = "split_files/diffusion_models/acestep_v1.5_turbo.safetensors"
TEXT = "split_files/text_encoders/qwen_0.6b_ace15.safetensors"
SOUND = "split_files/vae/ace_1.5_vae.safetensors"
WEIGHTS, CONFIG, SILENCE = "model.safetensors", "config.json", "silence_latent.pt"


def noise(seed, size):
    return random.Random(seed).randbytes(size)


class Watch(PlainRuntime):
    """Keeps every progress pair; cancels once so many MiB have arrived."""

    def __init__(self, cancel_at=None):
        super().__init__()
        self.pairs, self.cancel_at = [], cancel_at

    def progress(self, done, total):
        self.pairs.append((done, total))
        self.cancel = self.cancel_at is not None and done >= self.cancel_at


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub()
    hub.repos = {
        COMFY: {TURBO: noise(1, 300_000), TEXT: noise(2, 200_000), SOUND: noise(3, 100_000), "README.md": b"#"}
    }
    server = serve(hub)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_XET"):
        monkeypatch.delenv(name, raising=False)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*", "no_proxy": "*"}
    for name, value in {**settings, "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path):
    """folders, and what lies in them; `staged` is what lies in the hidden folder."""
    root = tmp_path / "models"
    folders = {name: root / name for name in ("diffusion_models", "text_encoders", "vae")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    hidden = root / downloads.STAGING

    def installed():
        files = [path for folder in folders.values() for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def staged():
        return sorted(path for path in hidden.rglob("*") if path.is_file() and path.suffix != ".part")

    return SimpleNamespace(root=root, folders=folders, hidden=hidden, installed=installed, staged=staged)


def get(models, name="acestep-v15-turbo", runtime=None, present=()):
    runtime = runtime or Watch()
    return downloads.fetch(downloads.plan(name, models.folders, runtime, present), runtime)


def only_decoder(models, runtime=None):
    return get(models, runtime=runtime, present=("text_encoder", "vae"))


def assert_nothing_looks_complete(models):
    """No file in a model folder, and no weight file under its own name in the hidden one."""
    assert models.installed() == {}
    assert models.staged() == []


def test_plan_has_the_true_sizes_and_fetches_nothing(hub, models):
    plan = downloads.plan("acestep-v15-turbo", models.folders, Watch())
    assert [(file.path, file.bytes) for file in plan.files] == [(TURBO, 300_000), (TEXT, 200_000), (SOUND, 100_000)]
    assert plan.total_bytes == 600_000
    assert plan.files[0].sha256 == sha256(hub.repos[COMFY][TURBO])
    assert plan.describe().startswith(f"600 kB from {COMFY} (acestep_v1.5_turbo.safetensors 300 kB, ")
    assert len(hub.requests) == 1 and not hub.sent
    assert_nothing_looks_complete(models)


def test_split_files_arrive_byte_for_byte(hub, models):
    watch = Watch()
    paths = get(models, runtime=watch)
    files = hub.repos[COMFY]
    assert models.installed() == {
        "diffusion_models/acestep_v1.5_turbo.safetensors": files[TURBO],
        "text_encoders/qwen_0.6b_ace15.safetensors": files[TEXT],
        "vae/ace_1.5_vae.safetensors": files[SOUND],
    }
    assert sorted(paths) == sorted(models.root / name for name in models.installed())
    assert not models.hidden.exists()
    assert sum(hub.sent.values()) == 600_000


def test_several_repositories_and_shards(hub, models):
    """The shift variants are in repositories of their own, without VAE and text encoder; remote code stays there."""
    index = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    wanted = {
        CONFIG: b"{}",
        SILENCE: noise(4, 50_000),
        "model-00001-of-00002.safetensors": noise(5, 80_000),
        "model-00002-of-00002.safetensors": noise(6, 70_000),
        "model.safetensors.index.json": index,
    }
    hostile = {"modeling.py": b"import os", "../evil.safetensors": b"x", "sub/model.safetensors": b"x"}
    hub.repos["ACE-Step/acestep-v15-turbo-shift1"] = {**wanted, **hostile}
    paths = get(models, "acestep-v15-turbo-shift1", present=("vae",))
    folder = "diffusion_models/acestep-v15-turbo-shift1"
    assert models.installed() == {f"{folder}/{name}": content for name, content in wanted.items()} | {
        "text_encoders/qwen_0.6b_ace15.safetensors": hub.repos[COMFY][TEXT]
    }
    order = [path.name for path in paths if path.parent.name == "acestep-v15-turbo-shift1"]
    assert order[-1] == "model.safetensors.index.json" and set(order[:2]) == {CONFIG, SILENCE}


def test_what_comfy_does_not_have_comes_from_the_authors(hub, models):
    """VAE and text encoder from the main repository, in folders; a planner from its folder there."""
    hub.repos = {
        MAIN: {
            "acestep-v15-turbo/config.json": b"{}",
            "acestep-v15-turbo/model.safetensors": noise(7, 1000),
            "acestep-v15-turbo/silence_latent.pt": noise(8, 100),
            "Qwen3-Embedding-0.6B/model.safetensors": noise(9, 500),
            "Qwen3-Embedding-0.6B/tokenizer.json": b"{}",
            "vae/config.json": b"{}",
            "vae/diffusion_pytorch_model.safetensors": noise(10, 400),
            "acestep-5Hz-lm-1.7B/config.json": b"{}",
            "acestep-5Hz-lm-1.7B/model.safetensors": noise(11, 600),
        }
    }
    get(models)
    get(models, "acestep-5Hz-lm-1.7B")
    main = hub.repos[MAIN]
    places = {
        "diffusion_models/acestep-v15-turbo": "acestep-v15-turbo",
        "text_encoders/Qwen3-Embedding-0.6B": "Qwen3-Embedding-0.6B",
        "vae/Ace-Step1.5-vae": "vae",
        "text_encoders/acestep-5Hz-lm-1.7B": "acestep-5Hz-lm-1.7B",
    }
    expected = {
        f"{place}/{path.split('/')[1]}": content
        for place, folder in places.items()
        for path, content in main.items()
        if path.startswith(f"{folder}/")
    }
    assert models.installed() == expected and len(expected) == len(main)


@pytest.mark.parametrize("name", ZOO)
def test_every_row_can_be_had_from_each_of_its_sources(name, models, monkeypatch):
    """Against the repositories as spec/audio.md §1.2, §1.3 and spec/planner.md §1.3 name them."""
    main_parts = {"acestep-v15-turbo", "acestep-5Hz-lm-1.7B"}
    for source in ZOO[name].part.sources:
        if source.repo == COMFY:
            assert source.path == f"split_files/{source.category}/{source.target}"
        else:
            assert (source.repo, source.path) == ((MAIN, name) if name in main_parts else (f"ACE-Step/{name}", ""))
            assert source.target == name
    answers = {"path": "", "bytes": 1, "sha256": None, "sha1": None, "commit": "c"}
    for source in ZOO[name].part.sources:
        file = f"{source.path}/model.safetensors".lstrip("/") if source.is_folder else source.path
        (found,) = downloads._pick(source, [{**answers, "path": file}], models.folders[source.category])
        target = models.folders[source.category] / source.target
        assert found.target == (target / "model.safetensors" if source.is_folder else target)


def test_a_cut_line_is_taken_up_again_in_the_same_run(hub, models):
    body = noise(12, CHUNK + 3_000_000)
    hub.repos[COMFY][TURBO] = body
    hub.cut[TURBO] = [CHUNK + 1_000_000]
    watch = Watch()
    only_decoder(models, watch)
    assert models.installed()["diffusion_models/acestep_v1.5_turbo.safetensors"] == body
    ranges = [request.range for request in hub.requests if request.method == "GET" and "/cdn/" in request.path]
    assert ranges == [None, f"bytes={CHUNK}-"]
    assert hub.sent[TURBO] == CHUNK + 1_000_000 + 3_000_000
    assert watch.pairs[-1] == (len(body) >> 20, len(body) >> 20)


def test_a_second_run_sends_only_the_rest(hub, models):
    body = noise(13, CHUNK + 2_000_000)
    hub.repos[COMFY][TURBO] = body
    hub.cut[TURBO] = [CHUNK + 500_000]
    hub.after_cut[TURBO] = 403  # the next question is refused, so this run ends
    with pytest.raises(ACEStepError, match="HTTP 403"):
        only_decoder(models)
    assert_nothing_looks_complete(models)
    assert [path.stat().st_size for path in models.hidden.rglob("*.part")] == [CHUNK]
    hub.cut.clear()
    hub.sent.clear()
    watch = Watch()
    only_decoder(models, watch)
    assert hub.sent[TURBO] == 2_000_000
    assert watch.pairs[0][0] == CHUNK >> 20  # progress begins where the first run ended
    assert models.installed()["diffusion_models/acestep_v1.5_turbo.safetensors"] == body
    assert not models.hidden.exists()


def test_cancel_stops_at_once_and_keeps_the_partial_file(hub, models):
    body = noise(14, 2 * CHUNK + 1_000_000)
    hub.repos[COMFY][TURBO] = body
    hub.slow[TURBO] = 0.002
    started = time.monotonic()
    with pytest.raises(Cancelled):
        only_decoder(models, Watch(cancel_at=10))
    assert time.monotonic() - started < 8
    assert_nothing_looks_complete(models)
    sent = hub.sent[TURBO]
    time.sleep(0.5)
    assert hub.sent[TURBO] - sent <= 4 << 20  # what the sockets still hold; then nobody reads any more
    hub.slow.clear()
    hub.sent.clear()
    only_decoder(models)
    assert hub.sent[TURBO] == len(body) - CHUNK
    assert models.installed()["diffusion_models/acestep_v1.5_turbo.safetensors"] == body


def test_missing_file_names_every_source(hub, models):
    del hub.repos[COMFY][TURBO]
    with pytest.raises(ACEStepError) as caught:
        only_decoder(models)
    text = str(caught.value)
    assert f"{COMFY} has no {TURBO}" in text
    assert f"{MAIN}: there is no such repository, or it is private (HTTP 401)" in text
    assert "update the node pack" in text
    assert_nothing_looks_complete(models)


def test_file_that_vanishes_after_the_plan_is_a_404(hub, models):
    runtime = Watch()
    plan = downloads.plan("acestep-v15-turbo", models.folders, runtime)
    del hub.repos[COMFY][TURBO]
    with pytest.raises(ACEStepError, match=r"acestep_v1.5_turbo.safetensors: it is not there \(HTTP 404\)\. Reposit"):
        downloads.fetch(plan, runtime)
    assert_nothing_looks_complete(models)


@pytest.mark.parametrize(
    ("status", "says"), [(403, "accept the terms, then log in"), (503, "trouble of its own"), (429, "Wait a while")]
)
def test_refusals_say_what_to_do(hub, models, status, says):
    hub.status[COMFY] = [status]
    with pytest.raises(ACEStepError) as caught:
        only_decoder(models)
    assert COMFY in str(caught.value) and f"HTTP {status}" in str(caught.value) and says in str(caught.value)
    assert hub.url in str(caught.value)
    assert_nothing_looks_complete(models)


def test_gated_file_is_refused(hub, models):
    hub.status[TURBO] = [403]
    with pytest.raises(ACEStepError, match=r"HTTP 403\).*HF_TOKEN"):
        only_decoder(models)
    assert_nothing_looks_complete(models)


def test_silent_server_is_a_timeout(hub, models):
    hub.hang.add(COMFY)
    started = time.monotonic()
    with pytest.raises(ACEStepError, match=r"did not answer in time.*HF_HUB_ETAG_TIMEOUT"):
        only_decoder(models)
    assert time.monotonic() - started < 6
    assert_nothing_looks_complete(models)


def test_nobody_listening_is_a_connection_error(hub, models, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ACEStepError, match=r"connection failed or was cut.*Check network.*127\.0\.0\.1:9"):
        only_decoder(models)


def test_full_disk_is_seen_before_anything_is_fetched(hub, models, monkeypatch):
    usage = SimpleNamespace(total=10**9, used=10**9, free=605_999)  # 600 000 bytes and one percent are 606 000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ACEStepError, match=r"606 kB free, the download needs 606 kB\. Make room"):
        get(models)
    assert not hub.sent
    assert_nothing_looks_complete(models)
    usage.free = 606_000
    assert len(get(models)) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
def test_disk_that_fills_up_meanwhile(hub, models):
    """The partial file is a link to /dev/full: the client's write fails with the real ENOSPC."""
    runtime = Watch()
    plan = downloads.plan("acestep-v15-turbo", models.folders, runtime, ("text_encoder", "vae"))
    (file,) = plan.files
    file.staging.mkdir(parents=True)
    file.part.symlink_to("/dev/full")
    with pytest.raises(ACEStepError, match=r"the disk is full.*Make room and run again.*No space left"):
        downloads.fetch(plan, runtime)
    assert_nothing_looks_complete(models)


@pytest.mark.parametrize("path", [TURBO, "config"])
def test_changed_content_is_thrown_away(hub, models, path):
    """Size right, bytes wrong: sha256 of large files, git's sha1 of small ones."""
    name, present = "acestep-v15-turbo", ("text_encoder", "vae")
    if path == "config":
        name, path = "acestep-v15-turbo-shift3", CONFIG
        hub.repos[f"ACE-Step/{name}"] = {CONFIG: b'{"a": 1}', WEIGHTS: noise(15, 1000), SILENCE: noise(16, 10)}
    content = next(files[path] for files in hub.repos.values() if path in files)
    hub.swap[path] = bytes([content[0] ^ 1]) + content[1:]
    with pytest.raises(ACEStepError, match=r"its hash is [0-9a-f]+, the hub promised [0-9a-f]+\. It was thrown away"):
        get(models, name, present=present)
    assert_nothing_looks_complete(models)
    hub.swap.clear()
    get(models, name, present=present)
    assert content in models.installed().values()


def test_wrong_size_is_thrown_away(hub, models):
    hub.swap[TURBO] = hub.repos[COMFY][TURBO][:-10]
    with pytest.raises(ACEStepError, match=r"not the size that the hub promised.*Run again"):
        only_decoder(models)
    assert_nothing_looks_complete(models)


def test_a_file_of_the_user_is_never_replaced(hub, models):
    target = models.folders["diffusion_models"] / "acestep_v1.5_turbo.safetensors"
    target.write_bytes(b"my own quantised file")
    with pytest.raises(ValueError, match=r"acestep_v1.5_turbo.safetensors: there is a file already.*Move it away"):
        only_decoder(models)
    assert target.read_bytes() == b"my own quantised file"


def test_the_very_file_may_lie_there_already(hub, models):
    target = models.folders["diffusion_models"] / "acestep_v1.5_turbo.safetensors"
    target.write_bytes(hub.repos[COMFY][TURBO])
    only_decoder(models)
    assert target.read_bytes() == hub.repos[COMFY][TURBO]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        ("https://me:secret@mirror.example/hf", "https://mirror.example/hf"),
        ("GET 'https://cdn.example/a/b?X-Signature=abc&x=1' failed", "GET 'https://cdn.example/a/b' failed"),
    ],
)
def test_messages_hold_no_secrets(text, shown):
    assert without_secrets(text) == shown


def test_offline_setting_is_honoured(hub, models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ACEStepError, match=r"set to offline \(HF_HUB_OFFLINE\).*Unset HF_HUB_OFFLINE"):
        only_decoder(models)
    assert not hub.requests
    assert_nothing_looks_complete(models)


def fill_cache(hub, tmp_path):
    """The file in the client's own cache, as its `hf_hub_download(repo, file)` leaves it."""
    code = f"from huggingface_hub import hf_hub_download as get; get({COMFY!r}, {TURBO!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_DISABLE_XET": "1"})


@pytest.mark.parametrize("offline", ["0", "1"])
def test_cache_is_used(hub, models, tmp_path, monkeypatch, offline):
    fill_cache(hub, tmp_path)
    hub.sent.clear()
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    only_decoder(models)
    assert models.installed() == {"diffusion_models/acestep_v1.5_turbo.safetensors": hub.repos[COMFY][TURBO]}
    assert not hub.sent
    assert bool(hub.requests) == (offline == "0")


def test_token_goes_to_the_hub_and_not_to_the_storage(hub, models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    only_decoder(models)
    tokens = {(request.host, request.token) for request in hub.requests}
    assert tokens == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}


def test_client_that_does_not_load_is_named(hub, models, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "huggingface_hub").is_dir()])
    with pytest.raises(ACEStepError, match=r"huggingface_hub, which comes with ComfyUI.*pip install huggingface_hub"):
        only_decoder(models)


def test_python_that_does_not_start_is_named(hub, models, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ACEStepError, match=r"does not load\. Install it.*/no/such/python"):
        only_decoder(models)


def test_process_ends_with_its_parent(hub, models, monkeypatch):
    """What the client runs in does not outlive ComfyUI: while it waits for a server, its input closes."""
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")
    hub.hang.add(COMFY)
    nowhere = io.FileIO(os.devnull, "w")
    process = hub_process._start({"task": "list", "repo": COMFY}, nowhere, nowhere)
    while not hub.requests:
        time.sleep(0.02)
    process.stdin.close()
    assert process.wait(timeout=1.5) == 1


def parameters(*files):
    """Sum over the oracles' shapes, of the parts that are asked for."""
    lines = [line for file in files for line in (KEYS / file).read_text().splitlines() if line and line[0] != "#"]
    return sum(math.prod(map(int, shape.split("x"))) for _, shape in (line.rsplit(" ", 1) for line in lines))


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("split_2b.txt", ZOO["acestep-v15-turbo"].part.bytes),
        ("split_xl.txt", ZOO["acestep-v15-xl-sft"].part.bytes),
        ("diffusers_2b_transformer.txt", ZOO["acestep-v15-base"].memory_bytes),
        ("diffusers_xl_transformer.txt", ZOO["acestep-v15-xl-base"].memory_bytes),
        ("text_encoder.txt", TEXT_ENCODER.bytes),
        ("vae_diffusers.txt", VAE.bytes),
        ("lm_4b.txt", ZOO["acestep-5Hz-lm-4B"].part.bytes),
    ],
)
def test_sizes_are_those_of_the_key_tables_in_bf16(file, size):
    assert size == 2 * parameters(file)


@pytest.mark.parametrize(("file", "name"), [("lm_06b.txt", "0.6B"), ("lm_17b.txt", "1.7B")])
def test_published_sizes_are_the_tensors_and_a_header(file, name):
    assert 0 < ZOO[f"acestep-5Hz-lm-{name}"].part.bytes - 2 * parameters(file) < 50_000


def test_sizes_and_names():
    assert len(ZOO) == 12
    assert [readable(size) for size in (4_787_745_036, 337_390_852, 2_000, 12)] == [
        "4.8 GB",
        "337 MB",
        "2 kB",
        "12 bytes",
    ]
    assert readable(ZOO["acestep-v15-xl-base"].part.bytes) == "10.0 GB"
    assert (TEXT_ENCODER.bytes, VAE.bytes) == (1_191_553_024, 337_390_852)
    with pytest.raises(ValueError, match="acestep-v15-turbo-shift1.*got 'turbo'"):
        downloads.plan("turbo", {}, Watch())
