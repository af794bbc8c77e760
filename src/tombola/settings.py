"""All that a method can be told, in one place that a run can write down."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tombola.errors import UsageError
from tombola.normalization import check
from tombola.problem import Recipe
from tombola.schedules import kept, parse


@dataclass(frozen=True)
class Settings:
    """How tickets are searched for and trained.

    Budgets are counted in batches *per ticket*. A method that trains one network for all K subsets
    gets K times as many, so that every method sees the same number of samples.

    Attributes:
        sparsity: shares of weights removed at which tickets are retrained and judged, in one nested
            search.
        schedule: densities of the search: ``one_shot``, ``fraction:P``, ``fixed_count:N`` or
            ``explicit:S1,S2,...`` (`tombola.schedules`).
        T: training steps per ticket and round of Algorithm 1.
        steps: batches per ticket of Algorithm 2.
        rewind: dense training steps per ticket before the rewind point (0: rewind to theta0).
        search: recipe of Algorithm 1 and of the way to the rewind point.
        train: recipe of Algorithm 2.
        selection: ``global`` or ``layer``.
        form: of Algorithm 2: ``sequential`` or ``simultaneous``.
        normalization: ``shared``, ``per_ticket_statistics`` or ``per_ticket``.
        private: names or globs of further parameters that every ticket keeps for itself.
        statistics: training batches from which norm statistics are estimated.
        include, exclude: names or globs of the scope (`tombola.scope`).
    """

    sparsity: tuple[float, ...] = (0.25, 0.5, 0.75)
    schedule: str = "fraction:0.2"
    T: int = 100
    steps: int = 500
    rewind: int = 0
    search: Recipe = field(default_factory=Recipe)
    train: Recipe = field(default_factory=Recipe)
    selection: str = "global"
    form: str = "sequential"
    normalization: str = "per_ticket_statistics"
    private: tuple[str, ...] = ()
    statistics: int = 10
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value in self.sparsity:
            kept(1, value)
        if not self.sparsity:
            raise UsageError("at least one sparsity is needed")
        parse(self.schedule)
        check(self.normalization)
        for name, choices in (
            ("selection", ("global", "layer")),
            ("form", ("sequential", "simultaneous")),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {' or '.join(choices)}: got {getattr(self, name)!r}")
        for name, least in (("T", 0), ("steps", 1), ("rewind", 0), ("statistics", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}: got {getattr(self, name)}")

    def plain(self) -> dict[str, Any]:
        """Nested dictionaries and lists that YAML and JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, stored: dict[str, Any]) -> Settings:
        """The inverse of `plain`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**{**values, "search": Recipe(**stored["search"]), "train": Recipe(**stored["train"])})
