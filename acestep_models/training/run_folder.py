"""The run folder: whose it is, whether it has room, and whether all processes see the same one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import ACEStepError
from .around import Around
from .checkpoint import FOLDER
from .files import locked, remove_drafts
from .memory import FP32, STATE_BYTES
from .options import TrainOptions

_SEEN_SECONDS = 90.0  # a network's folder shows new files to other machines that late


@contextmanager
def owned(folder: Path, main: bool) -> Iterator[None]:
    """The run folder, made where it is not there, and locked by the first process until the block ends.

    Raises:
        ValueError: if another run is writing there.
        ACEStepError: if it cannot be made.
    """
    with ExitStack() as stack:
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if main:
                stack.enter_context(locked(folder))
        yield


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """Whatever the disk says of the run folder, with its name and what to do.

    Raises:
        ACEStepError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise ACEStepError(
            f"{folder}: the run folder cannot be made ({error}). Make room on that disk, or choose another one."
        ) from error


def clear(folder: Path, options: TrainOptions, parameters: int) -> None:
    """Nothing half-written in the run folder, and room for what will lie in it; its own checkpoints are room.

    Raises:
        ACEStepError: if there is none.
    """
    with disk(folder):
        remove_drafts(folder)
        free = shutil.disk_usage(folder).free
        free += sum(path.stat().st_size for path in (folder / FOLDER).rglob("*") if path.is_file())
    checkpoint = FP32 * (1 + (options.ema > 0)) + STATE_BYTES[options.optimizer]
    needed = int(parameters * (checkpoint * (options.keep + 2) + 2 * FP32))
    if free < needed:
        raise ACEStepError(
            f"{folder}: the run needs {needed / 1e9:.1f} GB there ({options.keep} checkpoints, the best one and the "
            f"result), but {free / 1e9:.1f} GB are free. Make room, keep fewer checkpoints, or lower the rank."
        )


def agree(around: Around, folder: Path, value: int) -> None:
    """Pass if all processes found the same there; else they would wait for each other for ever.

    Raises:
        ValueError: names the folder, in all of them.
    """
    found = around.workers.each(value, around.device)
    if len(set(found)) > 1:
        raise ValueError(
            f"{folder}: the processes of this run do not find the same there ({', '.join(map(str, found))}): all "
            "machines must share one output folder. Choose one that every machine sees under this path"
        )


def appears(path: Path) -> bool:
    """Whether a file that another process wrote is there, at last."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
