"""Make a workflow file out of its API twin, in the real frontend, which is the authority on the format.

    python tests/browser/author.py NAME

Reads workflows/api/NAME.json and writes workflows/NAME.json. Where that file exists already, its layout, notes and
node properties stay, and only what the twin says is brought up to date.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browserlib import open_page, serialized
from hostlib import LORA, ROOT, Host
from sounds import write_sound

WORKFLOWS = ROOT / "workflows"
NOTES = ("MarkdownNote", "Note")
TAKES = (
    "ACEStepDiTSample",
    "ACEStepCover",
    "ACEStepRepaint",
    "ACEStepExtend",
    "ACEStepAddTrack",
    "ACEStepComplete",
    "ACEStepRetake",
    "ACEStepMorph",
)
KEPT = ("pos", "size", "properties", "title", "color", "bgcolor")
TO_CANVAS = """async ([prompt, name]) => { await window.app.loadApiJson(prompt, name);
  await new Promise(done => setTimeout(done, 800)); window.app.graph.arrange(120); }"""


def author(page: Any, name: str) -> dict[str, Any]:
    """The workflow for a twin, laid out in columns; of its seeds only that of a take changes by itself."""
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text())
    page.evaluate(TO_CANVAS, [prompt, name])
    page.wait_for_timeout(500)
    workflow = serialized(page)
    for node in workflow["nodes"]:
        node.setdefault("properties", {})
        node["widgets_values"] = list(_fixed(node["type"], node.get("widgets_values") or []))
    return workflow


def _fixed(kind: str, values: list[Any]) -> Iterator[Any]:
    """The values of a node, of whose seeds only the last one changes, and only where that is another take."""
    seeds = [place for place, value in enumerate(values) if value == "randomize"]
    changes = seeds[-1:] if kind in TAKES else []
    return ("fixed" if place in seeds and place not in changes else value for place, value in enumerate(values))


def keep_layout(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The new workflow with the old one's layout and notes, and its place on the screen."""
    before = {(node["id"], node["type"]): node for node in old["nodes"]}
    for node in new["nodes"]:
        known = before.get((node["id"], node["type"]), {})
        node.update({key: known[key] for key in KEPT if key in known})
    notes = [node for node in old["nodes"] if node["type"] in NOTES]
    new["nodes"] += notes
    new["last_node_id"] = max(node["id"] for node in new["nodes"])
    new["groups"], new["extra"], new["id"] = old["groups"], old["extra"], old["id"]
    return new


def main() -> None:
    """See the module's first lines."""
    name = sys.argv[1]
    target = WORKFLOWS / f"{name}.json"
    with tempfile.TemporaryDirectory() as base:
        write_sound(Path(base) / "input")
        shelf = Path(base) / "models" / "loras"
        shelf.mkdir(parents=True)
        (shelf / LORA).touch()  # a list with a wire on it keeps its first entry in the file
        with Host(Path(base)) as host, open_page(host) as page:
            workflow = author(page, name)
    if target.exists():
        workflow = keep_layout(workflow, json.loads(target.read_text()))
    target.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n")
    print(target)


if __name__ == "__main__":
    main()
