"""Functions compiled by torch.compile at their first call, and as they are where that does not work.

A `Compiler` is state of whoever holds it (a model's options, a handle of a VAE): nothing is kept for the process, and
what was compiled dies with it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar

import torch

LOG = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
Function = Callable[..., Any]
# Torch keeps 8 compiled kinds of a function. A layer with or without band and mask, for one row or several, of lengths
# that fill the last patch or not, settles at 20; one that torch has room for no more is done plainly.
MOST_KINDS = 32


@dataclass(eq=False)
class Compiler:
    """Whether the functions of one network are compiled, and how.

    `name`: what the log calls the network, say "the decoder". `dynamic` as torch.compile takes it: False compiles once
    a shape, None lets the second shape stand for all others. `failed` says why nothing is compiled any more; it is
    empty as long as nothing went wrong. `full` says that torch keeps no further kinds, so that what is new is done
    plainly. `compile` takes the place of torch.compile in tests.
    """

    name: str
    dynamic: bool | None = False
    compile: Callable[[Function], Function] | None = None
    failed: str = ""
    full: bool = field(init=False, default=False)

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
                with self._known_kinds_only():
                    return compiled(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:  # by its older name
                raise
            except _troubles() as error:
                # First done plainly: an error of the function itself is told as such and is no failed compile.
                result = function(*args, **kwargs)
                if isinstance(error, _too_many()):
                    self._take_no_more()
                else:
                    compiled = None
                    self._give_up(error)
                return result

        return call

    def _compile(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function`, to be compiled when it is called."""
        if self.compile is not None:
            return self.compile(function)
        return _with_room(torch.compile(_own(function), dynamic=self.dynamic, fullgraph=True))

    def _known_kinds_only(self) -> AbstractContextManager[Any]:
        """Once torch keeps no more kinds: have it do the others plainly by itself, which is without a word of it."""
        if not self.full or self.compile is not None or not hasattr(torch.compiler, "set_stance"):
            return nullcontext()
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("eager_on_recompile")
        return stance

    def _take_no_more(self) -> None:
        """Say once that further kinds are not compiled; those that are go on."""
        if not self.full:
            LOG.warning("%s has more kinds of passes than torch keeps compiled; further ones go plainly", self.name)
        self.full = True

    def _give_up(self, error: BaseException) -> None:
        """Say once why there is no compiling."""
        lines = (line.strip() for line in str(error).splitlines())
        # torch begins with "backend='inductor' raised:"; what was raised comes after that.
        self.failed = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
        LOG.warning("Compiling %s did not work; it goes on without: %s", self.name, self.failed)


def _troubles() -> tuple[type[Exception], ...]:
    """What says that there is no compiling: torch's own errors and those of compilers are RuntimeErrors, a missing
    triton is an ImportError, a cache folder that cannot be written an OSError; too many kinds have a class of their
    own."""
    return RuntimeError, ImportError, OSError, *_too_many()


def _too_many() -> tuple[type[Exception], ...]:
    """What says that torch keeps no further kinds of a function; older ones have no such class."""
    dynamo = sys.modules.get("torch._dynamo.exc")  # it takes seconds to import and is there where it was needed
    limit: type[Exception] | None = getattr(dynamo, "FailOnRecompileLimitHit", None)
    return () if limit is None else (limit,)


def _with_room(compiled: Callable[_P, _R]) -> Callable[_P, _R]:
    """`compiled` with room for `MOST_KINDS` while it runs; everybody else's functions keep the room that they have."""
    import torch._dynamo.config as config  # seconds, like the compile itself

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # by its older name

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with config.patch({limit: max(MOST_KINDS, getattr(config, limit))}):
            return compiled(*args, **kwargs)

    return call


def _own(function: Function) -> Function:
    """`function` with code of its own: torch keeps what it compiled, and counts it, by the code object."""
    if not isinstance(function, FunctionType):
        return function
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return own
