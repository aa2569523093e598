"""One ComfyUI for all host tests, with tiny models under the names of the released ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

from hostlib import ROOT, Host, HostMissing, comfyui_dir, extra_model_paths, link_models  # noqa: E402
from sounds import write_sound  # noqa: E402

DIFFUSERS = "acestep_tiny_diffusers"


def pytest_collection_modifyitems(items):
    """Everything in this folder needs the host."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def comfy():
    """The host's source tree."""
    try:
        return comfyui_dir()
    except HostMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_2b_split):
    """A models folder outside of the host, found through extra_model_paths.yaml."""
    folder = tmp_path_factory.mktemp("extra_models")
    link_models(folder, tiny_2b_split)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory, tiny_2b_diffusers):
    """The host's base directory, with a sound to listen to; its models folder has the weights in diffusers layout."""
    base = tmp_path_factory.mktemp("base")
    write_sound(base / "input")
    (base / "models" / "diffusers").mkdir(parents=True)
    (base / "models" / "diffusers" / DIFFUSERS).symlink_to(tiny_2b_diffusers.model, target_is_directory=True)
    return base


@pytest.fixture(scope="session")
def host(comfy, base, models):
    """The running host; previews are on."""
    paths = extra_model_paths(base / "paths.yaml", models)
    packs = (ROOT, HERE / "spypack")
    with Host(
        base, packs, extra=["--extra-model-paths-config", str(paths), "--preview-method", "latent2rgb"]
    ) as running:
        yield running


@pytest.fixture(scope="session")
def good_song(host):
    """good_song() runs a short song and says that the host is healthy."""
    import prompts

    seeds = iter(range(1000, 100_000))

    def run():
        result = host.run(prompts.song(seed=next(seeds)))
        assert result.ok, result.message
        return result

    return run
