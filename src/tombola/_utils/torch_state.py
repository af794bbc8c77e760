"""The training mode of a module for a while, and what ``torch.compile`` and ``torch.func`` see and do not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Called = TypeVar("Called", bound=Callable[..., Any])


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Inside, a module is in training or evaluation mode; afterwards every part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def uncompiled(recursive: bool = True) -> Callable[[Called], Called]:
    """``torch.compiler.disable`` without its price: the compiler is imported when something is compiled.

    ``recursive`` keeps ``torch.compile`` out of what the function calls, too.
    """

    def wrap(function: Called) -> Called:
        def disabled() -> Callable[..., Any]:
            return torch.compiler.disable(function, recursive=recursive)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:  # it takes seconds to import
                return function(*args, **kwargs)
            # Made at every call (0.1 ms at most): the compiler cannot look through what remembers it.
            return disabled()(*args, **kwargs)

        return call  # type: ignore[return-value]

    return wrap


@uncompiled(recursive=False)
def under_compiler() -> bool:
    """True where ``torch.compile`` runs the calling code, also in functions that it leaves out."""
    if "torch._dynamo" not in sys.modules:
        return False
    callback = torch._C._dynamo.eval_frame.get_eval_frame_callback()
    return torch.compiler.is_compiling() or callback not in (None, False)


def ordinary(tensors: Sequence[Tensor]) -> bool:
    """True of tensors that NumPy and kernels may read: no part of ``torch.compile`` and ``torch.func``."""
    kinds = {Tensor, nn.Parameter}
    return not torch.compiler.is_compiling() and {type(t) for t in tensors} <= kinds and not transformed()


def transformed() -> bool:
    """True where ``torch.func`` is at work (vmap, grad, ...), which wants torch's own operations."""
    peek = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
    return peek is None or peek() is not None


_WRAPPED = "_orig_mod"  # in a wrapper of ``torch.compile``


def plain_name(name: str) -> str:
    """The name that a module or tensor has without wrappers of ``torch.compile``.

    >>> plain_name("_orig_mod.block._orig_mod.0.weight"), plain_name("block._orig_mod")
    ('block.0.weight', 'block')
    """
    return re.sub(rf"(?<![^. ]){_WRAPPED}(\.|$)", "", name).removesuffix(".")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` has wrapped, its wrapped layers replaced by what they wrap."""
    while (inner := module._modules.get(_WRAPPED)) is not None:
        module = inner
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = unwrapped(child)
    return module
