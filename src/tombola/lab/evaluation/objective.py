"""The objective of data for tickets: by its name (`--objective`), or that of a ticket file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tombola import objectives
from tombola._utils.errors import UsageError
from tombola._utils.imported import imported
from tombola.objectives import Objective


def objective_of(given: str | None, metadata: Mapping[str, Any]) -> Objective:
    """The objective by its name, or that of the file."""
    name = given or metadata.get("objective", "")
    found: Any = imported(name, "--objective") if ":" in name else getattr(objectives, name, None)
    if isinstance(found, Objective):
        return found
    if not isinstance(found, type) or not issubclass(found, Objective):
        said = f"{name!r} is none that ships" if name else "the file names none"
        raise UsageError(f"which objective? {said}: give --objective, such as Classification or MODULE:NAME")
    known = {name: metadata[name] for name in ("output", "loss") if name in metadata}
    return found(**known)
