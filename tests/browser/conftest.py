"""A host of its own for the browser, with tiny models under the names of the released ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "host")]

from browserlib import chromium, open_page  # noqa: E402
from hostlib import Host, HostMissing, comfyui_dir, extra_model_paths, link_models  # noqa: E402
from sounds import write_sound  # noqa: E402


def pytest_collection_modifyitems(items):
    """Everything in this folder needs the browser."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser_host(tmp_path_factory, tiny_2b_split):
    """The host, or a reason why there is none."""
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install --no-install-recommends chromium")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: pip install playwright")
    try:
        comfyui_dir()
    except HostMissing as error:
        pytest.skip(str(error))
    base = tmp_path_factory.mktemp("browser")
    link_models(base / "links", tiny_2b_split)
    write_sound(base / "base" / "input")
    paths = extra_model_paths(base / "paths.yaml", base / "links")
    with Host(base / "base", extra=["--extra-model-paths-config", str(paths)]) as host:
        yield host


@pytest.fixture(scope="module")
def page(browser_host):
    """The frontend, open; its workflow is whatever the last test left there.

    Closed with its module: Playwright's event loop would keep every later test from starting one.
    """
    with open_page(browser_host) as opened:
        yield opened
