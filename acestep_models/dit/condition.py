"""Caption, lyrics and timbre become the sequence that the decoder attends to (spec/audio.md §2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import parameter
from ..ops import TORCH_OPS, Ops
from .config import DiTConfig
from .encoder import Encoder


class TimbreEncoder(Encoder):
    """One token for each reference: what the encoder says at position 0.

    Position 0 is the special token in XL and simply the first frame in 2B, whose file has the token all the same.
    """

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        depth = config.num_timbre_encoder_hidden_layers
        super().__init__(config, config.audio_acoustic_hidden_dim, depth, ops, device, dtype)
        self.special_token = parameter(1, 1, config.encoder_hidden_size, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """References x [R, F, 64] -> [R, E]."""
        h = self.embed_tokens(x)  # [R, F, E]
        if self.config.timbre_special_token:
            token = self.ops.cast(self.special_token, h).expand(len(h), -1, -1)
            h = torch.cat([token, h], dim=1)  # [R, 1 + F, E]
        return self.transform(h)[:, 0]


class ConditionEncoder(nn.Module):
    """Everything that is said about one song, as one sequence without padding; computed once a song."""

    def __init__(
        self,
        config: DiTConfig,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        width, text = config.encoder_hidden_size, config.text_hidden_dim
        self.ops = ops
        self.text_projector = ops.Linear(text, width, bias=False, device=device, dtype=dtype)
        self.lyric_encoder = Encoder(config, text, config.num_lyric_encoder_hidden_layers, ops, device, dtype)
        self.timbre_encoder = TimbreEncoder(config, ops, device, dtype)
        self.null_condition_emb = parameter(1, 1, width, device=device, dtype=dtype)

    def forward(self, text: Tensor, lyrics: Tensor, references: Tensor) -> Tensor:
        """Tokens of one song [1, Ll + R + Lt, E]: lyrics, one for each reference, caption.

        text [1, Lt, D] caption states, lyrics [1, Ll, D] embeddings, references [R, F, 64] latents (silence if none).

        Raises:
            ValueError: more than one song, or no reference.
        """
        if len(text) != 1 or len(lyrics) != 1 or len(references) < 1:
            raise ValueError(
                "condition encoder: expected one song and at least one reference (silence where there is none), got "
                f"text {list(text.shape)}, lyrics {list(lyrics.shape)}, references {list(references.shape)}; "
                "encode the songs of a batch one by one"
            )
        timbre = self.timbre_encoder(references)[None]  # [1, R, E]
        return torch.cat([self.lyric_encoder(lyrics), timbre, self.text_projector(text)], dim=1)

    def null_tokens(self, length: int, like: Tensor) -> Tensor:
        """What stands for "nothing said" in guidance: one learned vector, [1, length, E] at `like`."""
        return self.ops.cast(self.null_condition_emb, like).expand(1, length, -1)
