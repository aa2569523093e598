"""Patches filled in for the sake of a CPU's kernels change nothing."""

from __future__ import annotations

import pytest
import torch

from acestep_models.dit import transformer
from acestep_models.dit.transformer import DiT

# frames of songs whose patches are 5, 13, 16, 23 and 101, with windows that hide nothing, a part and nearly all
LENGTHS = (9, 26, 32, 45, 202)


@pytest.mark.parametrize("window", [16, 24, 128])
@pytest.mark.parametrize("frames", LENGTHS)
def test_songs_stay_the_same(tiny_2b, perturb, rng, monkeypatch, relative_error, frames, window):
    config = tiny_2b.__class__(**{**vars(tiny_2b), "sliding_window": window})
    net, generator = perturb(DiT(config), 11), rng(frames)
    C, E = config.audio_acoustic_hidden_dim, config.encoder_hidden_size
    x, context, tokens = (torch.randn(2, *size, generator=generator) for size in ((frames, C), (frames, 2 * C), (7, E)))
    t, rows = torch.tensor([0.9, 0.2]), []
    net.layers[0].mlp.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    with torch.no_grad():
        plain = net(x, context, tokens, t)
        monkeypatch.setattr(transformer, "EVEN_DTYPES", (torch.float32,))
        filled = net(x, context, tokens, t), net(x, context, net.tell(tokens, frames), t)
    with torch.enable_grad():  # training keeps what its memory is reckoned for
        net(x, context, tokens, t)
    patches = -(-frames // 2)
    assert rows == [patches, -(-patches // 16) * 16, -(-patches // 16) * 16, patches]
    assert max(relative_error(out, plain) for out in filled) < 1e-5


def test_a_window_that_is_too_narrow_is_left_alone(tiny_2b, perturb, rng):
    """What is filled in would see nothing at all."""
    config = tiny_2b.__class__(**{**vars(tiny_2b), "sliding_window": 3})
    net, rows = perturb(DiT(config), 11).bfloat16(), []
    net.layers[0].mlp.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1]))
    C, E = config.audio_acoustic_hidden_dim, config.encoder_hidden_size
    with torch.no_grad():
        for frames in (26, 56):
            x, context, tokens = (
                torch.randn(1, *size, generator=rng(1)).bfloat16() for size in ((frames, C), (frames, 2 * C), (7, E))
            )
            assert net(x, context, tokens, torch.tensor([0.5])).isfinite().all()
    assert rows == [16, 28]
