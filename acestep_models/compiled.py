"""Functions compiled by torch.compile at their first call, and as they are where that does not work.

A `Compiler` is state of whoever holds it (a model's options, a handle of a VAE): nothing is kept for the process, and
what was compiled dies with it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch

LOG = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
Function = Callable[..., Any]


@dataclass(eq=False)
class Compiler:
    """Whether the functions of one network are compiled, and how.

    `name`: what the log calls the network, say "the decoder". `dynamic` as torch.compile takes it: False compiles once
    a shape, None lets the second shape stand for all others. `failed` says why nothing is compiled any more; it is
    empty as long as nothing went wrong. `compile` takes the place of torch.compile in tests.
    """

    name: str
    dynamic: bool | None = False
    compile: Callable[[Function], Function] | None = None
    failed: str = ""

    def wrap(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function` compiled at its first call; as it is from the first failure of any function of this compiler on.

        It must be a plain Python function without graph breaks that writes into none of its arguments, since a call
        that fails half way is done again plainly. Layers are to be arguments, not part of a closure: layers of one
        kind then share what was compiled. Out-of-memory and cancelling go through.
        """
        compiled: Callable[_P, _R] | None = None

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            """As `function`."""
            nonlocal compiled
            if self.failed or torch.compiler.is_compiling():  # the latter within somebody else's compile
                return function(*args, **kwargs)
            try:
                if compiled is None:
                    LOG.info("Compiling %s: the first pass takes longer.", self.name)
                    compiled = self._compile(function)
                return compiled(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:  # by its older name
                raise
            except _troubles() as error:
                # First done plainly: an error of the function itself is told as such and is no failed compile.
                result = function(*args, **kwargs)
                compiled = None
                self._give_up(error)
                return result

        return call

    def _compile(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, to be compiled when it is called."""
        if self.compile is not None:
            return self.compile(function)
        return torch.compile(_own(function), dynamic=self.dynamic, fullgraph=True)

    def _give_up(self, error: BaseException) -> None:
        """Say once why there is no compiling."""
        lines = (line.strip() for line in str(error).splitlines())
        # torch begins with "backend='inductor' raised:"; what was raised comes after that.
        self.failed = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
        LOG.warning("Compiling %s did not work; it goes on without: %s", self.name, self.failed)


def _troubles() -> tuple[type[Exception], ...]:
    """What says that there is no compiling: torch's own errors and those of compilers are RuntimeErrors, a missing
    triton is an ImportError, a cache folder that cannot be written an OSError; too many shapes have a class of their
    own."""
    dynamo = sys.modules.get("torch._dynamo.exc")  # it takes seconds to import and is there where it was needed
    limit = getattr(dynamo, "FailOnRecompileLimitHit", RuntimeError)
    return RuntimeError, ImportError, OSError, limit


def _own(function: Function) -> Function:
    """`function` with code of its own: torch keeps what it compiled, and counts it, by the code object."""
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return own
