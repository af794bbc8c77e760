"""A pretrained network in which a small part is trained: adapters of `peft`, biases, the output layer.

Each takes a copy of the network, the names of the weights in scope and that of the output layer, and returns
the network in which only what it trains requires gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from tombola._utils.errors import UsageError, needs
from tombola.masks.prunable import is_norm

Adapter = Callable[[nn.Module, Sequence[str], str], nn.Module]


def whole(network: nn.Module, scope: Sequence[str], head: str) -> nn.Module:  # noqa: ARG001
    """All that the network itself trains: a full fine-tune."""
    return network


def head_alone(network: nn.Module, scope: Sequence[str], head: str) -> nn.Module:  # noqa: ARG001
    """The output layer on features that stay."""
    return _with_head(network.requires_grad_(False), head)


def biases(network: nn.Module, scope: Sequence[str], head: str) -> nn.Module:  # noqa: ARG001
    """Biases and norms (BitFit, Ben Zaken et al., arXiv 2106.10199, and norms)."""
    trained = [p for name, p in network.named_parameters() if name.endswith("bias")]
    trained += [p for layer in network.modules() if is_norm(layer) for p in layer.parameters()]
    trained = [p for p in trained if p.requires_grad]
    network.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)
    return _with_head(network, head)


def lora(network: nn.Module, scope: Sequence[str], head: str, r: int) -> nn.Module:
    """Low-rank changes of the layers in scope (LoRA, Hu et al., arXiv 2106.09685), α = 2r.

    Of convolutions those of 1×1 without groups, which are matrices; the others stay.
    """
    with needs("pretrained", "LoRA"):
        from peft import LoraConfig
    targets = _matrices(network, scope, "LoRA")
    return _injected(network, LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets), head)


def shira(network: nn.Module, scope: Sequence[str], head: str, r: int) -> nn.Module:
    """Changes at random places, as many as LoRA of this rank has numbers (SHiRA, arXiv 2406.13175).

    Of linear layers: the library knows no others.
    """
    with needs("pretrained", "SHiRA"):
        from peft import ShiraConfig
    targets = _matrices(network, scope, "SHiRA", nn.Linear)
    return _injected(network, ShiraConfig(r=r, target_modules=targets, random_seed=0), head)


def ia3(network: nn.Module, scope: Sequence[str], head: str) -> nn.Module:
    """A scale of every output of the layers in scope (IA³, Liu et al., arXiv 2205.05638)."""
    with needs("pretrained", "IA³"):
        from peft import IA3Config
    return _injected(network, IA3Config(target_modules=_layers(scope), feedforward_modules=[]), head)


def stored(network: nn.Module) -> dict[str, Tensor]:
    """What is stored of an adapted network beside its base: what was trained, and where it is."""
    trained = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    if not any(name.endswith(".default") or ".default." in name for name in trained):
        return trained
    from peft import get_peft_model_state_dict

    adapter: dict[str, Any] = get_peft_model_state_dict(network)
    others = {name: p for name, p in trained.items() if ".default" not in name}
    return {**adapter, **others}


def _layers(scope: Sequence[str]) -> list[str]:
    return [name.rpartition(".")[0] for name in scope]


def _matrices(
    network: nn.Module, scope: Sequence[str], what: str, kinds: Any = (nn.Linear, nn.Conv2d)
) -> list[str]:
    """The layers in scope that are matrices; 1×1 convolutions of a class of their own become plain ones.

    Raises:
        UsageError: there is none.
    """
    found = []
    for name in _layers(scope):
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and isinstance(layer, kinds):
            if layer.kernel_size != (1, 1) or layer.groups > 1 or layer.padding != (0, 0):
                continue
            if type(layer) is not nn.Conv2d:  # the library would call that class
                stride: Any = layer.stride
                plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, stride, bias=False)
                plain.weight, plain.bias = layer.weight, layer.bias
                network.set_submodule(name, plain)
        elif not isinstance(layer, kinds):
            continue
        found.append(name)
    if not found:
        raise UsageError(f"{what} changes matrices, and no layer in scope is one that its library takes")
    return found


def _injected(network: nn.Module, config: Any, head: str) -> nn.Module:
    from peft import inject_adapter_in_model

    return _with_head(inject_adapter_in_model(config, network), head)


def _with_head(network: nn.Module, head: str) -> nn.Module:
    network.get_submodule(head.rpartition(".")[0]).requires_grad_(True)
    return network
