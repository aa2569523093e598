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

sys.path.append(str(ROOT))


def main() -> None:
    """See the module's first lines."""
    from acestep_models.tiny import write_tiny

    name = sys.argv[1]
    file, target = ROOT / "workflows" / f"{name}.json", ROOT / "workflows" / f"{name}.jpg"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        tiny = write_tiny(base / "tiny")
        link_models(base / "links", model=tiny.model, vae=tiny.vae, text_encoder=tiny.text_encoder)
        paths = extra_model_paths(base / "paths.yaml", base / "links")
        options = ["--extra-model-paths-config", str(paths), "--preview-method", "latent2rgb"]
        with Host(base / "base", extra=options) as host, open_page(host) as page:
            drop(page, file, len(json.loads(file.read_text())["nodes"]))
            ending, detail = press_run(page, 300)
            if ending != "execution_success":
                raise SystemExit(f"{ending}: {detail}")
            page.wait_for_timeout(6000)  # until the notice of success is gone
            page.screenshot(path=str(target), clip=show_all(page), type="jpeg", quality=85)
    print(target)


if __name__ == "__main__":
    main()
