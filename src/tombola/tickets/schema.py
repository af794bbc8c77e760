"""What the header and the tensors of a ticket file have to be, looked at before any of it is used.

A hash says that a file is what was written, not that whoever wrote it was this library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from tombola.tickets import inputs

Test = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(test: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _dict_of(test: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(test, value.values()))


def _any(_: Any) -> bool:
    return True


def _classes(value: Any) -> bool:
    return _dict_of(_list_of(_number))(value) and all(value.values())


_HEADER: dict[str, Test] = {
    "names": _list_of(_text),
    "scope": _dict_of(_list_of(_any)),
    "architecture": _dict_of(_text),
    "facts": _dict_of(_any),
}
_SCOPE: dict[str, Test] = {"names": _list_of(_text), "shapes": _list_of(_list_of(_number))}
_FACTS: dict[str, Test] = {  # those that are read; each may be absent
    **dict.fromkeys(("answer", "objective", "task", "router_score", "label", "reference", "command"), _text),
    "outputs": _list_of(_number),
    "adapters": lambda value: type(value) is int and value > 0,
    "shape": _list_of(_number),
    "output": lambda value: value is None or _text(value) or type(value) is int,
    "classes": _classes,
    "told": _list_of(_text),
    "class_names": lambda value: _list_of(_text)(value) or _dict_of(_list_of(_text))(value),
    **dict.fromkeys(("grown", "merged"), _dict_of(_dict_of(_any))),
    "input": inputs.is_known,
    "pretrained": lambda value: _dict_of(_any)(value) and _text(value.get("model")),
}
_PARTS: dict[str, dict[str, Test]] = {
    "router": {"kind": _text, "options": _dict_of(_any)},
    "calibration": {"about": lambda value: value in ("one_vs_rest", "classes"), "options": _dict_of(_any)},
}


def faults(header: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a header, in a few words each; what follows a fault may be one because of it.

    >>> next(faults({"names": ["cat"], "scope": {}, "architecture": {}, "facts": {}}))
    'scope names'
    """
    yield from _wrong(header, _HEADER, "")
    if not _dict_of(_text)(header.get("base", {})):
        yield "base"
    scope, facts, names = header["scope"], header["facts"], header["names"]
    yield from _wrong(scope, _SCOPE, "scope ")
    if len(set(scope["names"])) != len(scope["shapes"]):
        yield "scope names and shapes"
    yield from _wrong({name: facts[name] for name in _FACTS if name in facts}, _FACTS, "facts ", some=True)
    if len(facts.get("outputs", names)) != len(names):
        yield "facts outputs"
    classes = facts.get("classes")
    if classes and not {*facts.get("told", names)} <= classes.keys():
        yield "facts classes"
    parts = header.get("parts", {})
    if not _dict_of(lambda known: isinstance(known, dict))(parts):
        yield "parts"
    for name in _PARTS.keys() & parts.keys():
        yield from _wrong(parts[name], _PARTS[name], f"{name} ")


def _wrong(
    known: Mapping[str, Any], tests: Mapping[str, Test], where: str, some: bool = False
) -> Iterator[str]:
    for name, test in tests.items():
        if not (some and name not in known) and not (name in known and test(known[name])):
            yield where + name


def tensor_faults(header: Mapping[str, Any], tensors: Mapping[str, Tensor], kept: int) -> Iterator[str]:
    """Names of the tensors that are not what a header without faults says; ``kept`` weights are in use."""
    told, K = header["architecture"], len(header["names"])
    weights = tensors.get("weights")
    if weights is None or weights.shape != (kept,):
        yield "weights"
        return
    for name, shape in zip(header["scope"]["names"], header["scope"]["shapes"], strict=True):
        if told.get(f"tensor {name}") != f"{weights.dtype} {tuple(shape)}":
            yield f"weights of {name}"
    for name, tensor in tensors.items():
        kind, _, place = name.partition(".")
        shape = tensor.shape
        if kind == "private":
            if not shape or shape[0] != K:
                yield name
                continue
            shape = shape[1:]
        if kind in ("rest", "private") and told.get(f"tensor {place}") != f"{tensor.dtype} {tuple(shape)}":
            yield name
