"""`python -m acestep_models.training CONFIG`: see `headless`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ..errors import ACEStepError
from .headless import run_config

USAGE = "usage: python -m acestep_models.training CONFIG.json"


def main(words: list[str]) -> int:
    """Run one CONFIG; the exit code."""
    if len(words) != 1 or words[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both leave a checkpoint
    try:
        result = run_config(Path(words[0]))
    except (ValueError, ACEStepError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    print(f"{result.steps} steps{' (stopped)' if result.stopped else ''}: {result.folder} and {result.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
