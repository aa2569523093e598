"""Where labels lie until all songs of a dataset have theirs, and for the next time."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .dataset_files import FOLDER

LABELS = "labels"


def labels_folder() -> Path:
    """output/acestep_datasets/labels."""
    return Path(folder_paths.get_output_directory(), FOLDER, LABELS)
