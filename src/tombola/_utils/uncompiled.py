"""``torch.compiler.disable`` without its price: it imports the compiler, which most programs never need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Called = TypeVar("Called", bound=Callable[..., Any])


def uncompiled(recursive: bool = True) -> Callable[[Called], Called]:
    """Keep ``torch.compile`` out of a function; nothing is imported before something is compiled.

    Args:
        recursive: out of what it calls, too.

    >>> @uncompiled()
    ... def double(x):
    ...     return 2 * x
    >>> double(3)
    6
    """

    def wrap(function: Called) -> Called:
        def disabled() -> Callable[..., Any]:
            return torch.compiler.disable(function, recursive=recursive)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:  # it takes seconds to import
                return function(*args, **kwargs)
            # Made at every call (.1 ms at most): the compiler cannot look through what remembers it.
            return disabled()(*args, **kwargs)

        return call  # type: ignore[return-value]

    return wrap
