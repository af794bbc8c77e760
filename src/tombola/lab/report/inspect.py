"""What is in a ticket file, without the network it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tombola.masks.maskset import MaskSet
from tombola.masks.reference import original
from tombola.masks.similarity import kappa
from tombola.runs.stages import Stage
from tombola.tickets import files


def describe(path: Path | str) -> dict[str, Any]:
    """Names, counts, densities per layer, similarity, hashes and bytes of a ticket file.

    A TicketFileError where the file is missing, damaged, or holds no tickets.
    """
    tensors, header, masks = files.opened(path)
    facts, scope, size = header["facts"], masks.scope, Path(path).stat().st_size
    stage = Stage.parse(f"train-{facts.get('label', '')}")  # of a label such as rtl-0.5
    # The dense remainder is parameters: the counters and running statistics of norms, which the file keeps
    # beside it, are left out. It does not say which other numbers are buffers or frozen: those count.
    rest = [t.numel() for n, t in tensors.items() if n.startswith("rest.") and not _is_statistic(n, t)]
    private = [t[0].numel() for name, t in tensors.items() if name.startswith("private.")]
    return {
        "file": str(path),
        "method": stage.method if stage else None,
        **_fitted(header),
        "grown": {name: known["policy"] for name, known in facts.get("grown", {}).items()},
        "adapters": facts.get("adapters", 0),
        "bytes": size,
        "weights_in_scope": scope.size,
        "tickets": masks.counts,
        "union": int(masks.union().count_nonzero()),
        "core": int(masks.core().count_nonzero()),
        "free": scope.size - int(masks.union().count_nonzero()),
        "private_numbers_per_ticket": sum(private),
        "dense_rest": sum(rest),
        "bytes_per_weight_and_ticket": round(size / (scope.size * len(masks)), 4),
        "layers": {
            name: {original(layer): share for layer, share in masks.layer_densities(name).items()}
            for name in masks.names
        },
        "jaccard": masks.jaccard().double().numpy().round(4).tolist(),
        "kappa": kappa(masks, masks).double().numpy().round(4).tolist(),
        "facts": facts,
    }


def _fitted(header: Mapping[str, Any]) -> dict[str, Any]:
    """What chooses the ticket and what makes probabilities, with their options; None where nothing does."""
    parts = header.get("parts", {})
    router, calibration = parts.get("router"), parts.get("calibration")
    if calibration:  # classes within a context get a temperature, whatever the options say
        one_vs_rest = calibration["about"] == "one_vs_rest"
        used = calibration["options"] if one_vs_rest else {"method": "temperature"}
        calibration = {"of": calibration["about"], **used}
    return {
        "router": router and {"kind": router["kind"], **router.get("options", {})},
        "calibration": calibration,
    }


def masks_of(path: Path | str) -> MaskSet:
    """The masks in a ticket file; errors as in `describe`."""
    return files.opened(path)[2]


def _is_statistic(name: str, tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or name.endswith((".running_mean", ".running_var"))
