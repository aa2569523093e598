"""Make workflows/NAME.jpg, a picture of a workflow that has just run, with tiny models in a real ComfyUI.

python tests/browser/make_picture.py NAME
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from browserlib import drop, open_page, press_run, show_all
from hostlib import ROOT, Host, extra_model_paths, link_models
from sounds import write_sound

sys.path.append(str(ROOT))
SCREEN = {"width": 2600, "height": 1440}  # the canvas leaves out all words when it has to be small


def main() -> None:
    """See the module's first lines."""
    from acestep_models.tiny import write_tiny

    name = sys.argv[1]
    file, target = ROOT / "workflows" / f"{name}.json", ROOT / "workflows" / f"{name}.jpg"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        link_models(base / "links", write_tiny(base / "tiny"))
        write_sound(base / "base" / "input")
        paths = extra_model_paths(base / "paths.yaml", base / "links")
        options = ["--extra-model-paths-config", str(paths), "--preview-method", "latent2rgb"]
        with Host(base / "base", extra=options) as host, open_page(host) as page:
            page.set_viewport_size(SCREEN)
            drop(page, file, len(json.loads(file.read_text())["nodes"]))
            ending, detail = press_run(page, 300)
            if ending != "execution_success":
                raise SystemExit(f"{ending}: {detail}")
            page.wait_for_timeout(6000)  # until the notice of success is gone
            page.screenshot(path=str(target), clip=show_all(page), type="jpeg", quality=85)
    print(target)


if __name__ == "__main__":
    main()
