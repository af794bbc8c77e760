"""The calibration of tickets: fitted on validation data, used in predictions, kept in the ticket file.

Shape letters: S samples, B batch, K tickets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.checkpoint import part
from tombola._utils.device import device_of
from tombola._utils.errors import CalibrationError, unknown
from tombola._utils.rng import generator
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.classification import allowed, mask_logits
from tombola.tickets.calibration import coupling as couplings
from tombola.tickets.calibration import maps
from tombola.tickets.calibration.maps import log_odds, parse, shifted, threshold
from tombola.tickets.fitted import State, Tickets, answer_of, fingerprint_of, output_of, read
from tombola.tickets.passes import evaluating

BATCH = 500
_OF = {"one_vs_rest": "one-vs-rest tickets", "classes": "classes within a context", "": "nothing yet"}


class Calibration:
    """Probabilities, thresholds and one answer from the scores of tickets.

    For one-vs-rest tickets: a map from each ticket's score to the probability of yes at the prior of the
    validation data, a threshold for each ticket, and a coupling of all into one answer. For classes within a
    context: a temperature for each ticket (arXiv 1706.04599).

    Args:
        method: ``temperature``, ``platt`` or ``isotonic`` (`maps.fit`).
        coupling: ``argmax``, ``calibrated``, ``vector`` or ``matrix`` (`coupling.fit`).
        target: what thresholds are for (`maps.threshold`).
        miss: share of each class that may be missing in its sets (`coupling.conformal`); 0 for no sets.

    Raises:
        CalibrationError: an option that there is not.

    Attributes:
        made_for: the hash of the tickets that it was fitted on.
    """

    def __init__(
        self, method: str = "platt", coupling: str = "vector", target: str = "f1", miss: float = 0.0
    ) -> None:
        if method not in maps.KINDS:
            raise CalibrationError(unknown("calibration", method, maps.KINDS))
        if coupling not in couplings.COUPLINGS:
            raise CalibrationError(unknown("coupling", coupling, couplings.COUPLINGS))
        parse(target)
        if not 0 <= miss < 1:
            raise CalibrationError(f"miss is a share from 0 to below 1: got {miss}")
        self.options: dict[str, Any] = {
            "method": method,
            "coupling": coupling,
            "target": target,
            "miss": miss,
        }
        self.names: tuple[str, ...] = ()
        self.about = ""
        self.tensors: dict[str, Tensor] = {}
        self.made_for: str | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"Calibration({options})" + (f" of {', '.join(self.names)}" if self.names else "")

    # -- fitting ----------------------------------------------------------------------------------

    def fit(self, tickets: Tickets, data: Data, partition: Partition) -> Self:
        """Learn from validation data.

        Raises:
            CalibrationError: no classifiers, other contexts than tickets, or an option that makes no sense.
        """
        if tuple(partition.names) != tuple(tickets.names):
            raise CalibrationError(
                f"the partition names {list(partition.names)}, the tickets {list(tickets.names)}"
            )
        members_SK, answer = partition.members["validation"], answer_of(tickets)
        if answer == "subset":
            self.fit_scores(own_scores(tickets, data, "validation"), members_SK, tickets.names)
        elif answer == "class":
            if self.options != Calibration().options:
                raise CalibrationError(
                    "classes within a context get a temperature: method, coupling, target and miss are for "
                    "one-vs-rest tickets; use Calibration()"
                )
            self._fit_temperatures(tickets, data, members_SK)
        else:
            objective = tickets.metadata.get("objective")
            raise CalibrationError(
                f"{objective} tickets give no probabilities: there is nothing to calibrate"
            )
        return self.bind(tickets)

    def bind(self, tickets: Tickets) -> Self:
        """Note whose scores these were, after `fit_scores`; returns itself."""
        self.made_for = fingerprint_of(tickets)
        return self

    def fit_scores(self, score_SK: Tensor, members_SK: Tensor, names: tuple[str, ...]) -> Self:
        """Learn from scores of held-out samples ``[S, K]`` and who belongs to what, boolean ``[S, K]``.

        With ``miss`` one half of them, drawn at random, fits maps and coupling and the other the sets: what
        probabilities were fitted on would make them too narrow.

        Raises:
            CalibrationError: ``miss`` for a single ticket, which has no other answer.
        """
        self.names, self.about, K = tuple(names), "one_vs_rest", len(names)
        if self.options["miss"]:
            if K < 2:
                raise CalibrationError("sets are of several answers, there is one ticket: leave out miss")
            apart = torch.randperm(len(score_SK), generator=generator(0, "conformal")) % 2 == 1
            others, theirs = (score_SK[apart], members_SK[apart])
            score_SK, members_SK = score_SK[~apart], members_SK[~apart]
        method, target = self.options["method"], self.options["target"]
        states = [maps.fit(method, score_SK[:, k], members_SK[:, k]) for k in range(K)]
        self.tensors = {f"map.{k}.{n}": t for k, state in enumerate(states) for n, t in state.items()}
        self.tensors["prior_K"] = members_SK.double().mean(0).clamp(1e-6, 1 - 1e-6)
        p_SK = self.probability(score_SK)
        chosen = [threshold(target, p_SK[:, k], members_SK[:, k]) for k in range(K)]
        self.tensors["threshold_K"] = torch.tensor(chosen, dtype=torch.double)
        alone = members_SK.sum(1) == 1
        truth = members_SK[alone].int().argmax(1)
        if K > 1:
            state = couplings.fit(self.options["coupling"], score_SK[alone], truth)
            self.tensors |= {f"coupling.{n}": t for n, t in state.items()}
        if self.options["miss"]:
            alone = theirs.sum(1) == 1
            truth, p_SK = theirs[alone].int().argmax(1), self.coupled(others[alone])
            self.tensors["conformal_K"] = couplings.conformal(p_SK, truth, self.options["miss"])
        return self

    def _fit_temperatures(self, tickets: Tickets, data: Data, members_SK: Tensor) -> None:
        self.names, self.about = tuple(tickets.names), "classes"
        indices = [mine_S.nonzero()[:, 0] for mine_S in members_SK.T]
        found = [_of_ticket(tickets, n, data, i) for n, i in zip(tickets.names, indices, strict=True)]
        self.tensors = {"temperature_K": torch.tensor(found, dtype=torch.double)}

    def extended(self, tickets: Tickets, data: Data) -> Self | None:
        """For ``tickets``, the last of which was grown on ``data``; None where it needs those of all.

        Raises:
            CalibrationError: there are no validation data.
        """
        if self.about != "classes":
            return None
        index, name = torch.arange(len(data.validation)), tickets.names[-1]
        if not len(index):
            raise CalibrationError(f"{name!r} has no validation data")
        more = torch.tensor([_of_ticket(tickets, name, data, index)], dtype=torch.double)
        temperature_K = torch.cat([self.tensors["temperature_K"], more])
        facts = {**self.state()[0], "names": [*tickets.names]}
        return self.restored(facts, {"temperature_K": temperature_K}).bind(tickets)

    def without(self, left: Tickets, name: str) -> Self | None:
        """For ``left``, which are all tickets but this one; None where maps were fitted on data of all."""
        if self.about != "classes":
            return None
        others = [k for k, each in enumerate(self.names) if each != name]
        facts = {**self.state()[0], "names": [*left.names]}
        return self.restored(facts, {n: t[others] for n, t in self.tensors.items()}).bind(left)

    # -- use --------------------------------------------------------------------------------------

    def probability(self, score_BK: Tensor, prior_K: Tensor | None = None) -> Tensor:
        """Probabilities of yes ``[B, K]``, at the validation data's prior or another one (`maps.shifted`)."""
        self._needs("one_vs_rest")
        states = [part(self.tensors, f"map.{k}.") for k in range(len(self.names))]
        columns = [maps.apply(self.options["method"], states[k], score_BK[:, k]) for k in range(len(states))]
        p_BK = torch.stack(columns, 1)
        if prior_K is None:
            return p_BK
        return torch.sigmoid(shifted(log_odds(p_BK), prior_K.to(p_BK), self.tensors["prior_K"].to(p_BK)))

    def yes(self, score_BK: Tensor) -> Tensor:
        """Yes or no of each ticket, boolean ``[B, K]``."""
        return self.probability(score_BK) >= self.tensors["threshold_K"].to(score_BK.device)

    def coupled(self, score_BK: Tensor) -> Tensor:
        """Probabilities of the K answers ``[B, K]``, rows sum to 1."""
        self._needs("one_vs_rest")
        state = part(self.tensors, "coupling.")
        return couplings.apply(self.options["coupling"], state, score_BK, self.probability(score_BK))

    def sets(self, score_BK: Tensor) -> Tensor:
        """Answers that cannot be excluded, boolean ``[B, K]``; an error if fitted without ``miss``."""
        if "conformal_K" not in self.tensors:
            raise CalibrationError("no sets were fitted: pass miss=0.1, the share that may be missed")
        return 1 - self.coupled(score_BK) <= self.tensors["conformal_K"].to(score_BK.device)

    def classes(self, outputs_BC: Tensor, k: int) -> Tensor:
        """Probabilities of the classes by ticket k, ``[B, C]``."""
        self._needs("classes")
        return (outputs_BC.double() / self.tensors["temperature_K"][k].to(outputs_BC.device)).softmax(1)

    def _needs(self, about: str) -> None:
        if self.about != about:
            raise CalibrationError(
                f"this calibration is of {_OF[self.about]}, not of {_OF[about]}: fit another"
            )

    # -- the file ---------------------------------------------------------------------------------

    def state(self) -> State:
        """Facts and tensors from which `restored` makes the same."""
        metadata = {
            "options": self.options,
            "names": list(self.names),
            "about": self.about,
            "made_for": self.made_for,
        }
        return metadata, dict(self.tensors)

    @classmethod
    def restored(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `state`."""
        made = cls(**metadata["options"])
        made.names, made.tensors = tuple(metadata["names"]), dict(tensors)
        made.about, made.made_for = metadata["about"], metadata["made_for"]
        made._check()
        return made

    def _check(self) -> None:
        """Raise any error where tensors are missing, or of other shapes or dtypes."""
        K = len(self.names)
        needed = ["prior_K", "threshold_K"] if self.about == "one_vs_rest" else ["temperature_K"]
        for name in [*needed, *({"conformal_K"} & self.tensors.keys())]:
            if self.tensors[name].shape != (K,):
                raise ValueError(f"{name} is {tuple(self.tensors[name].shape)}")
        if self.about == "one_vs_rest" and self.coupled(torch.zeros(2, K)).shape != (2, K):
            raise ValueError("its maps have another shape")


def own_scores(tickets: Tickets, data: Data, split: str) -> Tensor:
    """Output k of ticket k for all samples of a split, ``[S, K]`` on the CPU."""
    every = torch.arange(len(data.split(split)))
    named = enumerate(tickets.names)
    columns = [_outputs(tickets, n, data, split, every)[:, output_of(tickets, k)] for k, n in named]
    return torch.stack(columns, 1)


@torch.no_grad()
def _outputs(tickets: Tickets, name: str, data: Data, split: str, index_S: Tensor) -> Tensor:
    device = device_of(tickets.backbone)
    with evaluating():
        inputs = data.batches(split, index_S.split(BATCH), device)
        return torch.cat([read(tickets, tickets(x, ticket=name)).cpu() for x in inputs])


def _of_ticket(tickets: Tickets, name: str, data: Data, index_S: Tensor) -> float:
    """The temperature of a ticket on validation data of its own."""
    outputs_SC = _outputs(tickets, name, data, "validation", index_S)
    truth_S = data.validation.y[index_S].long()
    if (own_SC := allowed(tickets.metadata, [name] * len(index_S))) is not None:
        known_S = (truth_S[:, None] == own_SC[0].nonzero()[:, 0]).any(1)  # no others can be right
        outputs_SC, truth_S = mask_logits(outputs_SC, own_SC)[known_S], truth_S[known_S]
    return _temperature(outputs_SC, truth_S)


def _temperature(outputs_SC: Tensor, truth_S: Tensor) -> float:
    """The divisor of the logits with the highest likelihood; a search on the logarithm, from 1/20 to 20."""
    logits = outputs_SC.detach().double().cpu()

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_t), truth_S.cpu()))

    return math.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
