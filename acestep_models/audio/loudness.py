"""Integrated loudness and true peak as ITU-R BS.1770-4 defines them, and a limiter that keeps below a ceiling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_SECONDS, STEP_SECONDS = 0.4, 0.1
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
LOOKAHEAD_SECONDS = 0.005
OVERSAMPLING, TAPS = 4, 32
CHUNK = 1 << 20
FILTER_BLOCK = 1 << 19
SILENCE = -math.inf
LEVEL_RANGES = {
    "target_lufs": (-50.0, 0.0, "LUFS"),
    "ceiling_db": (-20.0, 0.0, "dBTP"),
    "fade_in": (0.0, 60.0, "seconds"),
    "fade_out": (0.0, 60.0, "seconds"),
}


@dataclass(frozen=True)
class LevelSettings:
    """Where a song shall end up: loudness in LUFS, ceiling of its true peak in dBTP, seconds of fade at either end.

    Raises:
        ValueError: for a value out of its range, with the value and the range.
    """

    target_lufs: float = -14.0
    ceiling_db: float = -1.0
    fade_in: float = 0.0
    fade_out: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high, unit) in LEVEL_RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise ValueError(f"{name}: expected {low:g} to {high:g} {unit}, got {value:g}")


@dataclass(frozen=True)
class Levels:
    """How loud a waveform is: integrated loudness in LUFS (-inf for silence) and true peak in dBTP."""

    lufs: float
    true_peak: float


def levels(wave: Tensor, sample_rate: int) -> Levels:
    """Loudness and true peak of `wave` [C, N]."""
    peak = float(true_peaks(wave).max())
    return Levels(integrated_loudness(wave, sample_rate), _decibels(peak))


def _decibels(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude > 0.0 else SILENCE


def _shelf(sample_rate: int) -> tuple[list[float], list[float]]:
    """BS.1770 stage 1, the head: a high shelf of +4 dB above about 1.7 kHz, for any sample rate."""
    gain, q = 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * 1681.974450955533 / sample_rate)
    high = 10.0 ** (gain / 20.0)
    band = high**0.4996667741545416
    a0 = 1.0 + k / q + k * k
    b = [(high + band * k / q + k * k) / a0, 2.0 * (k * k - high) / a0, (high - band * k / q + k * k) / a0]
    return b, [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0]


def _highpass(sample_rate: int) -> tuple[list[float], list[float]]:
    """BS.1770 stage 2: a high pass at 38 Hz, for any sample rate."""
    q = 0.5003270373238773
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    a0 = 1.0 + k / q + k * k
    return [1.0, -2.0, 1.0], [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0]


def _response(b: list[float], a: list[float], bins: int) -> Tensor:
    """Frequency response of a biquad at `bins` points from 0 to half the sample rate."""
    z = torch.exp(-1j * math.pi * torch.arange(bins, dtype=torch.float64) / (bins - 1))
    return (b[0] + b[1] * z + b[2] * z * z) / (a[0] + a[1] * z + a[2] * z * z)


def k_weighted(wave: Tensor, sample_rate: int) -> Tensor:
    """`wave` [C, N] through both filters of BS.1770.

    The recursive filters are applied in the frequency domain, block by block: their responses fade within a fraction
    of a second, so each block begins one second early and drops that second, where the circular tail would be.
    """
    samples, step = wave.shape[-1], FILTER_BLOCK - sample_rate
    bins = FILTER_BLOCK // 2 + 1
    response = (_response(*_shelf(sample_rate), bins) * _response(*_highpass(sample_rate), bins)).to(torch.complex64)
    padded = F.pad(wave.float(), (sample_rate, -samples % step))
    blocks = padded.unfold(-1, FILTER_BLOCK, step)  # [C, blocks, FILTER_BLOCK]
    weighted = [torch.fft.irfft(torch.fft.rfft(block) * response)[..., sample_rate:] for block in blocks.unbind(1)]
    return torch.cat(weighted, dim=-1)[..., :samples]


def integrated_loudness(wave: Tensor, sample_rate: int) -> float:
    """Gated loudness of `wave` [C, N] in LUFS; -inf when every block is below the absolute gate.

    A waveform shorter than one block (0.4 s) is measured as a single block.
    """
    power = k_weighted(wave, sample_rate).double().square().sum(dim=0)
    block = min(round(BLOCK_SECONDS * sample_rate), power.shape[-1])
    blocks = power.unfold(0, block, round(STEP_SECONDS * sample_rate)).mean(dim=-1)
    loud = blocks[_lufs(blocks) > ABSOLUTE_GATE_LUFS]
    if not loud.numel():
        return SILENCE
    gate = _lufs(loud.mean()) + RELATIVE_GATE_LU
    return float(_lufs(loud[_lufs(loud) > gate].mean()))


def _lufs(power: Tensor) -> Tensor:
    return -0.691 + 10.0 * torch.log10(power)


def _interpolator() -> Tensor:
    """Four phases of a windowed sinc, [4, 1, TAPS]: the values between two samples; phase 0 is the sample itself."""
    offset = torch.arange(TAPS, dtype=torch.float64) - (TAPS // 2 - 1)
    phase = torch.arange(OVERSAMPLING, dtype=torch.float64)[:, None] / OVERSAMPLING
    distance = offset[None] - phase
    window = torch.cos(math.pi * distance / (TAPS + 2)).square()
    return (torch.sinc(distance) * window).float()[:, None]


def true_peaks(wave: Tensor) -> Tensor:
    """The largest absolute value at and just after each sample, over all channels: [C, N] -> [N]."""
    kernel, before = _interpolator().to(wave.device), TAPS // 2 - 1
    padded = F.pad(wave.float()[:, None], (before, TAPS - 1 - before))
    pieces = [
        F.conv1d(padded[..., start : start + CHUNK + TAPS - 1], kernel).abs().amax(dim=(0, 1))
        for start in range(0, wave.shape[-1], CHUNK)
    ]
    return torch.cat(pieces)


def limit(wave: Tensor, sample_rate: int, ceiling_db: float) -> Tensor:
    """`wave` [C, N] with its true peak brought to `ceiling_db` dBTP where it is above, untouched where all is below.

    The gain falls 5 ms before a peak and recovers 5 ms after it: the smallest gain needed in a window around each
    sample, averaged over the same window, is never above the gain that this sample needs.
    """
    ceiling = 10.0 ** (ceiling_db / 20.0)
    peaks = true_peaks(wave)
    if float(peaks.max()) <= ceiling:
        return wave
    reach = max(1, round(LOOKAHEAD_SECONDS * sample_rate))
    lowest = -_running_max(F.pad(-ceiling / peaks.clamp(min=ceiling), (reach, reach), value=-1.0), 2 * reach + 1)
    limited: Tensor = wave * _running_mean(F.pad(lowest[None], (reach, reach), mode="replicate")[0], 2 * reach + 1)
    limited *= min(1.0, ceiling / float(true_peaks(limited).max()))
    return limited


def _running_max(values: Tensor, window: int) -> Tensor:
    """The largest of each `window` neighbours, [N] -> [N - window + 1], by doubling what is already known."""
    length = 1
    while 2 * length <= window:
        values, length = torch.maximum(values[:-length], values[length:]), 2 * length
    rest = window - length
    return torch.maximum(values[: len(values) - rest], values[rest:])


def _running_mean(values: Tensor, window: int) -> Tensor:
    """The mean of each `window` neighbours, [N] -> [N - window + 1]; sums in float64, where they lose nothing."""
    sums = F.pad(values.double().cumsum(0), (1, 0))
    mean: Tensor = (sums[window:] - sums[:-window]) / window
    return mean.to(values.dtype)


def normalise(wave: Tensor, sample_rate: int, target_lufs: float, ceiling_db: float) -> Tensor:
    """`wave` [C, N] at `target_lufs`, then limited to `ceiling_db` dBTP; silence is returned as it is."""
    loudness = integrated_loudness(wave, sample_rate)
    if loudness == SILENCE:
        return wave
    return limit(wave * 10.0 ** ((target_lufs - loudness) / 20.0), sample_rate, ceiling_db)
