"""Objects of the user's own modules, by name."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tombola._utils.errors import UsageError


def imported(path: str, what: str) -> Any:
    """The object that ``MODULE:NAME`` names; modules of the current folder are found.

    Args:
        path: such as ``my_package.nets:small``.
        what: the option that it was given to, for messages.

    Raises:
        UsageError: no such module or object; the message says which.

    >>> imported("math:pi", "--number")
    3.141592653589793
    """
    where, colon, name = path.partition(":")
    if not colon or not name:
        raise UsageError(f"{what} {path}: write MODULE:NAME, of this folder or installed")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(where), name)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        raise UsageError(f"{what} {path}: {error}; write MODULE:NAME, of this folder or installed") from None
    finally:
        sys.path.remove("")
