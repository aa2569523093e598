"""A real Chromium on a real host: the frontend is the authority on workflow files."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "host"))

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--autoplay-policy=no-user-gesture-required",
]
READY = """() => window.app?.graph && window.app.extensionManager && window.LiteGraph
  && 'ACEStepDiTSample' in window.LiteGraph.registered_node_types"""
MISSING = """() => { const known = new Set(Object.keys(window.LiteGraph.registered_node_types));
  const unknown = n => !known.has(n.type) && !n.isVirtualNode && !n.subgraph;
  return window.app.graph._nodes.filter(unknown).map(n => n.type); }"""
# Newer frontends show plain cards, not dialogs: read the page.
COMPLAINTS = """() => (document.body.innerText.match(/^.*(missing node|node types were not found|not installed).*$/gim)
  || []).slice(0, 6)"""
DROP = """([name, b64]) => {
  const bytes = Uint8Array.from(atob(b64), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: 'application/json'}));
  const canvas = document.querySelector('#graph-canvas') || document.querySelector('canvas');
  const at = canvas.getBoundingClientRect();
  for (const type of ['dragenter', 'dragover', 'drop'])
    canvas.dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: transfer,
      clientX: at.x + 400, clientY: at.y + 300})); }"""
LISTEN = """() => { window.__events = [];
  for (const type of ['execution_success', 'execution_error', 'execution_interrupted'])
    window.app.api.addEventListener(type, e => window.__events.push([type, e.detail])); }"""
SIZE = {"width": 1720, "height": 960}
FRONTEND_ONLY = ("audioUI", "upload")


def chromium() -> str | None:
    """The browser's program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def open_page(host: Any) -> Iterator[Any]:
    """The host's frontend, ready; nothing outside of the host can be reached."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=chromium(), args=FLAGS, headless=True, viewport=SIZE
        )
        context.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        page = context.pages[0] if context.pages else context.new_page()
        page.set_default_timeout(60_000)
        page.route(lambda url: not url.startswith((host.url, "data:", "blob:")), lambda route: route.abort())
        page.goto(host.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=120_000)
        page.wait_for_timeout(1500)
        page.evaluate(LISTEN)
        try:
            yield page
        finally:
            context.close()


def drop(page: Any, file: Path, nodes: int) -> None:
    """Drop a workflow file on the empty canvas, as a user does, and wait until its nodes are there."""
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate(DROP, [file.name, base64.b64encode(file.read_bytes()).decode()])
    page.wait_for_function(f"() => window.app.graph._nodes.length === {nodes}")
    page.wait_for_timeout(1000)


def press_run(page: Any, seconds: float) -> tuple[str, Any]:
    """Press Run; (event, detail) of how it ended."""
    page.evaluate("() => { window.__events.length = 0; }")
    page.locator("[data-testid='queue-button']").first.click()
    page.wait_for_function("() => window.__events.length > 0", timeout=seconds * 1000)
    kind, detail = page.evaluate("() => window.__events[0]")
    return kind, detail


def as_prompt(page: Any) -> dict[str, Any]:
    """The canvas as an API prompt, without what only the frontend reads."""
    output = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    for node in output.values():
        node.pop("_meta", None)
        node["inputs"] = {key: value for key, value in node["inputs"].items() if key not in FRONTEND_ONLY}
    return dict(output)


def serialized(page: Any) -> dict[str, Any]:
    """The canvas as a workflow; made into text inside the page, because undefined must not become null."""
    return dict(json.loads(page.evaluate("() => JSON.stringify(window.app.graph.serialize())")))


FIT = """() => { const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const n of window.app.graph._nodes) {
    box[0] = Math.min(box[0], n.pos[0] - 20); box[1] = Math.min(box[1], n.pos[1] - 60);
    box[2] = Math.max(box[2], n.pos[0] + n.size[0] + 20); box[3] = Math.max(box[3], n.pos[1] + n.size[1] + 20); }
  const view = window.app.canvas.ds, canvas = window.app.canvas.canvas.getBoundingClientRect();
  const left = 100, top = 110, wide = canvas.width - left - 40, high = canvas.height - top - 60;
  view.scale = Math.min(wide / (box[2] - box[0]), high / (box[3] - box[1]), 1);
  view.offset = [left / view.scale - box[0], top / view.scale - box[1]];
  window.app.graph.setDirtyCanvas(true, true);
  return {x: canvas.x + left, y: canvas.y + top,
    width: (box[2] - box[0]) * view.scale, height: (box[3] - box[1]) * view.scale}; }"""


def show_all(page: Any) -> dict[str, float]:
    """Move and scale the canvas until every node is visible; the rectangle of the page that they fill."""
    rectangle = page.evaluate(FIT)
    page.wait_for_timeout(1500)
    return dict(rectangle)
