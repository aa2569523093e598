"""The two errors of our own, and the guard that every stage ends with."""

from __future__ import annotations

from torch import Tensor


class ACEStepError(Exception):
    """Something went wrong that is neither a bad value (ValueError) nor a bad type (TypeError)."""


class Cancelled(ACEStepError):
    """The user asked for the run to stop; raised by `Runtime.check_cancelled`, never caught by the core."""


REMEDY = "Load the model with precision fp32; if it stays, the weights are damaged: fetch the file again."


def check_finite(stage: str, values: Tensor) -> Tensor:
    """`values`, unless it holds a NaN or an infinity.

    Raises:
        ACEStepError: names the stage, how many values are not finite and what to do.
    """
    if bool(values.isfinite().all()):
        return values
    bad = int((~values.isfinite()).sum())
    raise ACEStepError(f"{stage}: {bad} of {values.numel()} values are not finite numbers. {REMEDY}")
