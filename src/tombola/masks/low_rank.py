"""Low-rank adapters: every ticket adds a change of low rank of its own, ``θ_k = m_k ⊙ θ + B_k A_k``.

The adapters of LoRA (Hu et al., arXiv 2106.09685, Section 4.1) beside the weights that tickets share. They
are parameters that are private to each ticket, by a parametrisation of torch's, so that training, files and
growth know nothing of them. With ``reference="theta0"`` the weight is ``θ_ref + m_k ⊙ δ + B_k A_k``; with the
same mask for all tickets they are LoRA on one network that is trained along.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tombola._utils.errors import ScopeError, TombolaError, UsageError
from tombola._utils.replica import copied


class LowRank(nn.Module):
    """The parametrisation of a weight as ``weight + up · down``; ``up`` begins at zero.

    >>> layer = nn.Linear(8, 4, bias=False)
    >>> _ = parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, 2))
    >>> [tuple(p.shape) for p in layer.parameters()]
    [(4, 8), (2, 8), (4, 2)]
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)  # a higher one makes no other changes
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_empty(rows, rank))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw ``down`` as torch draws the weights of a linear layer, on the CPU; ``up`` is zero again."""
        drawn, bound = torch.rand(self.down.shape, generator=generator), 1 / math.sqrt(self.down.shape[1])
        self.down.copy_(bound * (2 * drawn - 1))
        nn.init.zeros_(self.up)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its change."""
        return weight + (self.up @ self.down).view_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What the change is to be added to for this weight."""
        return weight - (self.up @ self.down).view_as(weight)


def with_adapters(
    network: nn.Module, names: Iterable[str], rank: int, generator: torch.Generator | None = None
) -> nn.Module:
    """A copy in which these weights have a low-rank change, zero as yet.

    Args:
        network: any; a weight may be a change of a reference (`tombola.masks.reference`).
        names: of weights, such as ``0.weight``.
        rank: of a change, at least 1; a weight of fewer rows or columns has one of as many.
        generator: draws ``A``; a new one by default.

    Raises:
        UsageError: a rank that is above the rows or columns of every weight.
        ScopeError: a weight that several layers share, or that is in a recurrent layer or made by another
            parametrisation.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> adapted = with_adapters(net, ["0.weight"], 1)
    >>> adapter_names(adapted), torch.equal(adapted[0].weight, net[0].weight)
    (['0.parametrizations.weight.0.down', '0.parametrizations.weight.0.up'], True)
    """
    made, generator = copied(network), generator or torch.Generator()
    names = list(names)
    counted = [id(p) for _, p in made.named_parameters(remove_duplicate=False)]
    for name in names:
        path, _, last = name.rpartition(".")
        layer = made.get_submodule(path)
        plain = layer._parameters.get(last)
        if isinstance(layer, nn.RNNBase | parametrize.ParametrizationList) or (
            plain is not None and counted.count(id(plain)) > 1
        ):
            raise ScopeError(
                f"{name} is shared by layers, in a recurrent one, or made of another parameter: it can have "
                "no adapter; exclude it"
            )
        parametrize.register_parametrization(layer, last, LowRank(getattr(layer, last), rank, generator))
        type(layer).__getstate__ = not_pickled  # type: ignore[method-assign]
    if rank > (most := rank_of(made)):
        raise UsageError(f"adapters of rank {rank}: no weight has more than {most} rows and columns")
    return made


def not_pickled(_: nn.Module) -> None:
    """In the place of torch's, which names another remedy."""
    raise TombolaError(
        "a network whose weights have adapters or a reference cannot be pickled: save its tickets "
        "(tickets.save(FILE); tb.load(FILE, base)), or pickle a baked one (tickets.bake(NAME))"
    )


def adapter_names(network: nn.Module) -> list[str]:
    """The parameters of a network that are adapters; none of a network without."""
    found = [name for name, m in network.named_modules() if isinstance(m, LowRank)]
    return [f"{name}.{part}" for name in found for part in ("down", "up")]


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a network with adapters and no reference, as that of the plain network.

    >>> net = with_adapters(nn.Linear(4, 3), ["weight"], 1)
    >>> {name: tuple(t.shape) for name, t in folded(net.state_dict()).items()}
    {'bias': (3,), 'weight': (3, 4)}
    """
    made = {}
    for name, tensor in state.items():
        change = name.removesuffix("original") + "0."
        if f"{change}up" in state:
            up, down = state[f"{change}up"], state[f"{change}down"]
            made[name.replace("parametrizations.", "").removesuffix(".original")] = tensor + (
                up @ down
            ).view_as(tensor)
        elif "parametrizations." not in name or not name.endswith((".0.up", ".0.down")):
            made[name] = tensor
    return made


def rank_of(network: nn.Module) -> int:
    """The rank of the adapters of a network; 0 without any."""
    return max((m.up.shape[1] for m in network.modules() if isinstance(m, LowRank)), default=0)
