"""ComfyUI-ACEStep: make, plan and edit songs with ACE-Step 1.5 inside ComfyUI."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """What ComfyUI asks for when it loads the pack; nothing of the host is imported before that."""
    from .nodes import ACEStepExtension

    return ACEStepExtension()
