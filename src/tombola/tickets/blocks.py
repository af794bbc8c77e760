"""A causal language model on disk whose decoder layers are in memory one at a time.

Shape letters: S blocks of text, L tokens, D width.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from tombola._utils.errors import DataError, ScopeError, TombolaError, needs
from tombola.masks.layout import Layout

EXTRA = "pretrained"


class Blocks:
    """A network of `transformers` in a folder of safetensors; its modules hold no values.

    Attributes:
        shell: the network, its parameters on the device ``meta``.
        scope: the weights of the linear layers in its decoder layers.
        dtype: that of those weights on disk; computed is in float32.

    Raises:
        TombolaError: no such network, or its files lack a weight.
        ScopeError: the network has no list of layers.
        MissingExtra: `transformers` or `accelerate` is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        self._where = self._files(Path(folder).expanduser())
        with needs(EXTRA, "a network on disk"):
            from accelerate import init_empty_weights
            from transformers import AutoConfig, AutoModelForCausalLM
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TombolaError(f"{folder} has no config.json that can be read: {_line(error)}") from None
        self.dtype = self.stored(next(iter(self._where))).dtype
        with init_empty_weights(include_buffers=False):
            self.shell: Any = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        self.shell.tie_weights()
        self.shell.config.use_cache = False
        self.shell.eval()
        lists = {name: m for name, m in self.shell.named_modules() if isinstance(m, nn.ModuleList)}
        if not lists:
            raise ScopeError(f"{type(self.shell).__name__} has no list of decoder layers")
        self.prefix = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()))
        self.layers = lists[self.prefix]
        linear = {
            f"{self.prefix}.{i}.{n}": m
            for i in range(len(self))
            for n, m in self.linear(self.layers[i]).items()
        }
        self.scope = Layout.of({f"{name}.weight": m.weight for name, m in linear.items()})
        self._arguments: list[dict[str, Any]] = []  # of each layer, beside the states
        for name, p in self.shell.named_parameters():
            if name not in self._where:
                kinds = ", ".join(config.architectures or ["no architecture"])
                raise TombolaError(
                    f"{folder} has no tensor {name} of {type(self.shell).__name__}; its config.json says "
                    f"{kinds}: a causal language model is needed, saved with save_pretrained"
                )
            if (found := self._shape(name)) != tuple(p.shape):
                raise TombolaError(
                    f"{folder}: {name} has shape {found}, its config.json says {tuple(p.shape)}"
                )

    def __len__(self) -> int:
        """The number of decoder layers."""
        return len(self.layers)

    @staticmethod
    def _files(folder: Path) -> dict[str, Path]:
        found: dict[str, Path] = {}
        index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if whole.is_file():  # what transformers reads, whatever else lies there
            files = [whole]
        elif index.is_file():
            listed = json.loads(index.read_text())["weight_map"]
            files = [folder / name for name in sorted(set(listed.values()))]
        else:
            files = sorted(folder.glob("*.safetensors"))
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    if twice := found.keys() & opened.keys():
                        raise TombolaError(
                            f"{min(twice)} is in {found[min(twice)].name} and in {file.name} of {folder}: "
                            "leave the files of one network there"
                        )
                    found.update(dict.fromkeys(opened.keys(), file))
            except (SafetensorError, OSError) as error:
                raise TombolaError(f"{file} is truncated or no safetensors file ({_line(error)})") from None
        if not found:
            raise TombolaError(f"{folder} has no *.safetensors: save the network there with save_pretrained")
        return found

    def stored(self, name: str) -> Tensor:
        """A tensor as it is on disk."""
        with safe_open(self._where[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    def _shape(self, name: str) -> tuple[int, ...]:
        with safe_open(self._where[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    @staticmethod
    def linear(layer: nn.Module) -> dict[str, nn.Linear]:
        """The linear layers of a decoder layer, by their names in it."""
        return {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}

    def layer(self, i: int) -> nn.Module:
        """A decoder layer with its weights, in float32."""
        made = copy.deepcopy(self.layers[i])
        self._fill(made, list(_kept(made)), f"{self.prefix}.{i}.")
        return made

    def value(self, name: str, like: Tensor) -> Tensor:
        """A tensor as it is on disk; a buffer that is not there as `transformers` makes it."""
        return self.stored(name) if name in self._where else like

    def _fill(self, module: nn.Module, names: Sequence[str], prefix: str = "") -> None:
        held = _kept(module)
        for name in names:
            owner, _, last = name.rpartition(".")
            of, value = module.get_submodule(owner), self.value(prefix + name, held[name])
            if isinstance(of, nn.Embedding):  # mapped as it is: few of its rows are read
                of.register_forward_hook(lambda _, __, rows: rows.float())
            elif value.is_floating_point():
                value = value.float()
            if last in of._parameters:
                of._parameters[last] = nn.Parameter(value, requires_grad=False)
            else:
                of._buffers[last] = value

    def check(self, tokens: Mapping[str, Tensor]) -> None:
        """Raise `DataError` for what is no tokens of this network, one length for all domains."""
        size = self.shell.config.vocab_size
        if not tokens:
            raise DataError("one domain of tokens is needed at least: {name: int64 [blocks, tokens]}")
        for name, ids in tokens.items():
            if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
                raise DataError(f"tokens of {name!r} are int64 [blocks, tokens]")
            if int(ids.min()) < 0 or int(ids.max()) >= size:
                raise DataError(f"tokens of {name!r} reach {int(ids.max())}, the vocabulary has {size}")
        if len({ids.shape[1] for ids in tokens.values()}) > 1:
            raise DataError("blocks of all domains have one number of tokens")

    def begin(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The states that enter the first decoder layer, by domain, float32 ``[S, L, D]``.

        What else its layers are given (masks, rotary embeddings) may differ from layer to layer, and is kept
        for `through`.

        Raises:
            ScopeError: layers that are called otherwise, or are given what depends on the text.
        """
        net = copy.deepcopy(self.shell)
        head = net.get_output_embeddings()
        last = {id(p) for p in head.parameters()} if head is not None else set[int]()
        last -= {id(p) for p in net.get_input_embeddings().parameters()}  # a tied one is needed
        inner = f"{self.prefix}."
        self._fill(net, [n for n, t in _kept(net).items() if not n.startswith(inner) and id(t) not in last])
        layers, found = net.get_submodule(self.prefix), {}
        for name, ids_SL in tokens.items():
            states = []
            for ids_L in ids_SL.long():
                entered, arguments = _entered(net, layers, ids_L[None])
                states.append(entered)
                self._arguments = self._arguments or arguments
                if not _equal(arguments, self._arguments):
                    raise ScopeError(
                        f"layers of {type(net).__name__} take what depends on the text, beside states"
                    )
            found[name] = torch.cat(states)
        return found

    def through(
        self, i: int, layer: nn.Module, states_SLD: Tensor, each: Callable[[], None] = lambda: None
    ) -> Tensor:
        """The states after layer ``i``, ``[S, L, D]``; ``each`` is called after every block of text."""
        outputs = torch.empty_like(states_SLD)
        for s, x in enumerate(states_SLD):
            made = layer(x[None], **self._arguments[i])
            outputs[s] = (made[0] if isinstance(made, tuple) else made)[0]
            each()
        return outputs


def _kept(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, each once, and the buffers of a state dict."""
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    buffers = {n: t for n, t in module.state_dict().items() if n not in every and isinstance(t, Tensor)}
    return {**dict(module.named_parameters()), **buffers}


def _entered(net: nn.Module, layers: Any, ids_BL: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """The states that enter the first layer, and by name what each layer is given beside states."""
    for tupled in (False, True):  # what a layer returns differs from network to network
        entered, arguments = _walk(net, layers, ids_BL, tupled)
        if len(entered) == len(layers) and entered[-1].shape == entered[0].shape:
            return entered[0], arguments
    raise ScopeError(f"{type(net).__name__} does more between its layers than to hand states on")


def _walk(
    net: nn.Module, layers: Any, ids_BL: Tensor, tupled: bool
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """What layers are given by a pass in which each hands on the states as they are."""
    entered: list[Tensor] = []
    arguments: list[dict[str, Any]] = []

    def look(*args: Any, **kwargs: Any) -> Any:
        x, *rest = args or (kwargs.pop("hidden_states"),)
        if rest:
            raise ScopeError(f"layers of {type(net).__name__} take more than states by their position")
        entered.append(x)
        arguments.append(kwargs)
        if len(entered) == len(layers):
            raise _Arrived
        return (x,) if tupled else x

    for layer in layers:
        layer.forward = look
    with suppress(_Arrived, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        net(input_ids=ids_BL)
    return entered, arguments


def _equal(one: object, other: object) -> bool:
    """Whether trees of arguments hold the same numbers."""
    (a, like), (b, likewise) = tree_flatten(one), tree_flatten(other)
    pairs = zip(a, b, strict=False)
    return like == likewise and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x is y or x == y
        for x, y in pairs
    )


class _Arrived(Exception):
    """The states are there; there is no need to go on."""


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
