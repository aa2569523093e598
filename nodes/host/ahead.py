"""Weights come from disk while an earlier stage computes.

Networks map their files into memory, so the disk is read when weights are first used: a decoder's when its first song
is ready to start. Whoever loads one also lets a thread read its files through once, and the first use finds them in
the memory that the system has left for files. The thread touches nothing but bytes: no network, no device, no memory
manager. It ends with the files or with the prompt, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import comfy.model_management as management
import torch

from ...acestep_models.loading.formats import Checkpoint

CHUNK_BYTES = 8 << 20
MEMORY_SHARE = 0.5  # files larger than this share of what is free would push each other out


def read_ahead(*checkpoints: Checkpoint) -> threading.Thread | None:
    """Begin to read the files behind `checkpoints`, in this order; None where it cannot be done or would not help.

    Called by a node while the host runs a prompt: the end of that prompt ends the reading.
    """
    paths = list(dict.fromkeys(path for checkpoint in checkpoints for path in weight_files(checkpoint)))
    try:
        over = asyncio.get_running_loop().is_closed
        if sum(path.stat().st_size for path in paths) > MEMORY_SHARE * _free_memory():
            return None
        thread = threading.Thread(target=read_through, args=(paths, over), name="ACE-Step read ahead", daemon=True)
        thread.start()
    except (OSError, RuntimeError) as error:  # no such file, which its reader tells; no prompt; no more threads
        logging.info("ACE-Step 1.5: files are not read ahead: %s", error)
        return None
    return thread


def weight_files(checkpoint: Checkpoint) -> Iterable[Path]:
    """Every file that holds weights of a checkpoint, once."""
    return dict.fromkeys(entry.path for part in checkpoint.sources.values() for entry in part.entries.values())


def read_through(paths: Iterable[Path], over: Callable[[], bool]) -> None:
    """Read every byte once and keep none, until `over` says so."""
    buffer = bytearray(CHUNK_BYTES)
    try:
        for path in paths:
            with path.open("rb", buffering=0) as file:  # reading lets other threads compute
                while not over() and file.readinto(buffer):
                    pass
    except OSError as error:  # whoever needs the file meets the same, and says it in words
        logging.debug("ACE-Step 1.5: %s", error)


def _free_memory() -> int:
    """Bytes of main memory that are free, or hold files that can go."""
    return int(management.get_free_memory(torch.device("cpu")))
