"""A VAE whose snakes are compiled, each into one kernel that reads and writes once (spec/perf.md §4, "VAE", 3).

The convolutions stay the layers that they are, so that whatever streams, casts or patches them goes on as before, and
one compile serves all snakes of both halves, tiles of any length and the slices that a CPU works in. On a CPU this is
faster than a compiled decoder as a whole, which would go without the slices.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ..compiled import Compiler
from ..runtime import Handle
from .oobleck import Oobleck, snake


class CompiledOobleck(Oobleck):
    """Encoder and decoder of another VAE, the very same layers, with compiled snakes."""

    def __init__(self, plain: Oobleck, compiler: Compiler) -> None:
        nn.Module.__init__(self)
        self.config, self.encoder, self.decoder = plain.config, plain.encoder, plain.decoder
        self.compiler = compiler
        self.wave = compiler.wrap(snake)
        self.train(plain.training)


def compile_vae(vae: Handle[Oobleck], compiler: Compiler | None = None) -> Handle[Oobleck]:
    """The same VAE under the same owner, compiled at its first use; the handle that is given stays as it is.

    Results are the same but for the last bits of a number. What does not compile goes on plainly (`Compiler`).
    """
    if isinstance(vae.module, CompiledOobleck):
        return vae
    # One compile for every shape: lengths and channels differ from layer to layer, and in slices from call to call.
    compiler = compiler or Compiler("the VAE", dynamic=True)
    return replace(vae, module=CompiledOobleck(vae.module, compiler))


def vae_compiler(vae: Handle[Oobleck]) -> Compiler | None:
    """What compiles this VAE, which knows whether that failed; None for a plain one."""
    return vae.module.compiler if isinstance(vae.module, CompiledOobleck) else None
