"""What of a run can be refused before a song is encoded: encoding takes minutes."""

from __future__ import annotations

import torch

from .data.clip import Dataset
from .optimizers import check_optimizer
from .options import TrainOptions


def check_wish(options: TrainOptions, dataset: Dataset, device: torch.device) -> None:
    """Pass if a run with these options on these songs can begin, as far as that is known before they are encoded.

    Args:
        device: what the run will compute on.

    Raises:
        ValueError: names the option and what to do.
    """
    check_optimizer(options.optimizer, device)
    check_held_out(options.validation_songs, len(dataset.clips))


def check_held_out(held: int, songs: int) -> None:
    """Pass if a song is left to train on.

    Raises:
        ValueError: if none is.
    """
    if held >= songs:
        raise ValueError(
            f"validation_songs is {held} and the dataset has {songs}: at least one song must be left to train on. Set "
            f"it to {max(songs - 1, 0)} or less, or add songs"
        )
