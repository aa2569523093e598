"""A pack beside ours that makes the disk slow for whoever reads a file in bytes, and writes down what was read when.

Weights mapped into memory come from elsewhere: they are as fast as ever.
"""

import io
import json
import os
import time

import folder_paths

FILE, SWITCH, PIECE, SECONDS = "reads.jsonl", "slow_disk", 1 << 14, 0.1
REAL = io.open


class SlowFile:
    """A file of which each reading brings little, late."""

    def __init__(self, file, path):
        self.file, self.path = file, path
        self.note("open")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.note("close")

    def readinto(self, buffer):
        time.sleep(SECONDS)
        got = self.file.readinto(memoryview(buffer)[:PIECE])
        self.note("read" if got else "end")
        return got

    def note(self, what):
        row = {"what": what, "file": os.path.basename(self.path), "at": time.monotonic()}
        with REAL(os.path.join(folder_paths.get_output_directory(), FILE), "a") as log:
            log.write(json.dumps(row) + "\n")


def slow(path, mode="r", buffering=-1, *how, **more):
    """io.open, which pathlib calls; slow for weights without a buffer, while the switch lies in the output folder."""
    file = REAL(path, mode, buffering, *how, **more)
    switch = os.path.join(folder_paths.get_output_directory(), SWITCH)
    if (mode, buffering) == ("rb", 0) and str(path).endswith(".safetensors") and os.path.exists(switch):
        return SlowFile(file, str(path))
    return file


io.open = slow

NODE_CLASS_MAPPINGS = {}
