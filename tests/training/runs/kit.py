"""A small decoder and made-up songs to train it on; as a program: `kit.py FOLDER OPTIONS [PROCESSES]` trains once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from acestep_models.dit.config import DiTConfig  # noqa: E402
from acestep_models.dit.transformer import DiT  # noqa: E402
from acestep_models.training.examples import Example, Prepared  # noqa: E402
from acestep_models.training.job import Around, Silent, TrainOptions, train  # noqa: E402
from acestep_models.training.parallel import Workers, several_processes  # noqa: E402

CHANNELS, WIDTH = 8, 64
CONFIG = DiTConfig(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=128,
    encoder_hidden_size=WIDTH,
    fsq_dim=WIDTH,
    in_channels=3 * CHANNELS,
    audio_acoustic_hidden_dim=CHANNELS,
    sliding_window=4,
)


def make_decoder(seed: int = 0) -> DiT:
    """Random weights; the modulation tables are not zero, or no gradient would pass."""
    torch.manual_seed(seed)
    decoder = DiT(CONFIG)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for _, parameter in sorted(decoder.named_parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def make_data(*frames: int, hints: bool = True, tokens: int = 12) -> Prepared:
    """A song of each length."""
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    songs = tuple(
        Example(
            f"song{index}.wav",
            noise(length, CHANNELS),
            noise(tokens, WIDTH),
            noise(tokens + 2, WIDTH) if hints else None,
            noise(length, CHANNELS) if hints else None,
        )
        for index, length in enumerate(frames)
    )
    facts = {"trigger": "tango nuevo", "trigger_position": "prepend", "conditioning": "acestep-15 inference"}
    return Prepared(songs, noise(1, WIDTH), noise(max(frames), CHANNELS), "made up", facts)


class Watch(Silent):
    """Remembers everything; stops after step `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.points, self.words, self.plans, self.samples = stop, [], [], [], []

    def started(self, plan):
        self.plans.append(plan)

    def point(self, point):
        self.points.append(point)

    def should_stop(self):
        return self.stop is not None and bool(self.points) and self.points[-1].step >= self.stop

    def sample(self, decoder, step):
        assert not torch.is_grad_enabled()
        assert not decoder.training
        self.samples.append(step)

    def say(self, text):
        self.words.append(text)


def run(folder, decoder=None, data=None, watcher=None, variant="base", runtime=None, **options):
    """Train with few, quick steps; every option can be given."""
    chosen = {"rank": 4, "steps": 6, "accumulation": 2, "checkpoint_every": 2, "validate_every": 0, **options}
    watcher = watcher or Watch()
    around = Around(watcher=watcher) if runtime is None else Around(watcher=watcher, runtime=runtime)
    if several_processes():
        around.workers = Workers.accelerated(cpu=True)
    decoder = make_decoder() if decoder is None else decoder
    data = make_data(20, 30, 20, 40) if data is None else data
    return train(decoder, variant, data, TrainOptions.from_json(chosen), Path(folder), around)


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = globals().get("WORDS") or sys.argv[1:]
    given = json.loads(words[1])
    run(words[0], watcher=Watch(given.pop("stop", None)), **given)
