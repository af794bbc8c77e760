"""The model card of a ticket file: what is in it, how it is used, and what it does not say.

What the file knows is read from it; licences, the figures of a run and the command that makes them are given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tombola._utils.version import VERSION
from tombola.masks.maskset import MaskSet
from tombola.tickets import files, inputs

TAGS = ["pruning", "sparsity", "lottery-ticket"]
PLACE = "# Write here where your network comes from, in which the tickets were found, such as: import my_nets"
MANY = 30  # tickets that have a row of their own


@dataclass(frozen=True, kw_only=True)
class About:
    """What a card says beside what the file knows; an empty field is said to be not given.

    Attributes:
        name: of the tickets, as one loads them: a folder, or ``OWNER/NAME`` on a hub.
        base: the base network, as its name on a hub.
        licence, base_licence, data_licence: of the tickets, of the base network, of the data.
        figures: what was measured, in Markdown.
        again: the command that finds the tickets again.
        network: of a network of one's own, lines of Python after which ``network`` is it.
    """

    name: str = "FOLDER"
    base: str = ""
    licence: str = ""
    base_licence: str = ""
    data_licence: str = ""
    figures: str = ""
    again: str = ""
    network: str = ""


def card_of(path: Path | str, about: About) -> str:
    """The card, Markdown under a YAML header as hubs read it.

    Raises:
        TicketFileError: the file is missing, damaged, or holds no tickets.
    """
    tensors, header, masks = files.opened(path)
    facts = header["facts"]
    own = sum(t[0].numel() for name, t in tensors.items() if name.startswith("private."))
    rest = sum(t.numel() for n, t in tensors.items() if n.startswith("rest.") and t.is_floating_point())
    parts = [
        _front(about, facts),
        f"# {Path(about.name).name}",
        f"{len(masks)} sparse tickets in one network: each is a mask over weights that they share, found and "
        "trained for its own subset of the data.",
        "## Use",
        f"```python\n{program(header, about.name, about.network)}```",
        f"Needs Tombola {VERSION}" + (" and the base network." if facts.get("reference") else "."),
        "## What is in it",
        _table(["", ""], _contents(Path(path), header, masks, own, rest, about)),
        _table(["ticket", "active weights", "share of the network"], _tickets(masks)),
        "## Figures",
        about.figures or "None: these tickets are of no run that kept figures.",
        "## Find them again",
        _again(about, facts, header["names"]),
        "## Limits",
        "".join(f"- {line}\n" for line in _limits(facts, header, masks)).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _again(about: About, facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """The commands that make the tickets again, as far as they are known."""
    made, grown = about.again or facts.get("command", ""), facts.get("grown", {})
    by_command = [str(each["command"]) for each in grown.values() if each.get("command")]
    unknown = [n for n in names if not (grown[n].get("command") if n in grown else made)]
    block = f"```\n{chr(10).join(filter(None, [made, *by_command]))}\n```"
    if not unknown:
        return block
    which = "them" if len(unknown) == len(names) else ", ".join(unknown)
    words = f"The file does not say which command, or which program, made {which}."
    return words if which == "them" else f"{words} The others are of:\n\n{block}"


def program(header: Mapping[str, Any], name: str, network: str = "") -> str:
    """A program that loads the tickets of a file and asks the first of them.

    ``network`` are lines that make a network of one's own; without them there is a place for it.
    """
    facts, first = header["facts"], header["names"][0]
    found = "pretrained" in facts or ":" not in (facts.get("experiment") or ":")
    lines = ["import torch", "import tombola as tb", ""]
    if not found:
        lines += network.splitlines() if network else [PLACE, f"network = ...  # {_kind(header)}"]
    where = _quoted(name) if found else f"{_quoted(name)}, backbone=network"
    lines.append(f"tickets = tb.TicketModel.from_pretrained({where})")
    known, taken = inputs.known(facts), inputs.as_taken(facts)
    if known.text is not None:
        lines.append('x = tickets.prepare(["a text", "and another one"])')
    elif known.prepare and known.stored is not None and not known.own():
        lines.append(f"x = tickets.prepare({_drawn(known.stored)})  # samples as they were before training")
    else:
        lines.append(
            f"x = {'...' if taken is None else _drawn(taken)}  # two samples, as the network takes them"
        )
    asks = "tickets.predict(x, {}).answers" if "answer" in facts else "tickets(x, ticket={})"
    return "\n".join([*lines, f"print({asks.format(_quoted(first))})", ""])


def _quoted(text: str) -> str:
    """A string as Python reads it."""
    return json.dumps(text, ensure_ascii=False)


def _drawn(form: Any) -> str:
    """The expression that draws two samples of a form (`tombola.tickets.probe`).

    >>> _drawn({"tuple": [{"tensor": [6], "dtype": "int64", "range": [3, 7]}, {"value": None}]})
    '(torch.randint(3, 8, (2, 6)), None,)'
    """
    if "tensor" in form:
        shape, dtype = (2, *form["tensor"]), getattr(torch, form["dtype"])
        if dtype == torch.bool:
            return f"torch.rand({shape}) < 0.5"
        if dtype.is_floating_point:
            return f"torch.rand({shape})" + ("" if dtype == torch.float32 else f".to({dtype})")
        low, high = form["range"]
        return f"torch.randint({low}, {high + 1}, {shape}" + (
            ")" if dtype == torch.int64 else f", dtype={dtype})"
        )
    if "dict" in form:
        return "{" + ", ".join(f"{name!r}: {_drawn(part)}" for name, part in form["dict"].items()) + "}"
    for kind, ends in (("tuple", "(,)"), ("list", "[]")):
        if kind in form:
            return ends[0] + ", ".join(map(_drawn, form[kind])) + ends[1:]
    return repr(form["value"])


def _front(about: About, facts: Mapping[str, Any]) -> str:
    import yaml

    known: dict[str, Any] = {"library_name": "tombola", "tags": TAGS}
    known |= {"license": about.licence} if about.licence else {}
    base = about.base or _pretrained(facts)
    known |= {"base_model": base} if base and not Path(base).is_absolute() else {}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---"


def _pretrained(facts: Mapping[str, Any]) -> str:
    return str(facts.get("pretrained", {}).get("model", ""))


def _base(about: About, facts: Mapping[str, Any]) -> str:
    """The network that the tickets are of, in words."""
    if base := about.base or _pretrained(facts):
        return Path(base).name if Path(base).is_absolute() else base
    name = facts.get("experiment")
    return f"that of the experiment {name} of Tombola" if name else "it has no name"


def _contents(
    path: Path, header: Mapping[str, Any], masks: MaskSet, own: int, rest: int, about: About
) -> Iterator[list[str]]:
    facts, union, N = header["facts"], int(masks.union().count_nonzero()), masks.scope.size
    yield ["base network", f"{_base(about, facts)} ({_kind(header)})"]
    if facts.get("reference"):
        known_by = f"known by its hash {facts['reference'][:12]}"
        yield ["", f"tickets are changes of it; its weights are not in the file, but {known_by}"]
    yield ["licence of the tickets", about.licence or "not given"]
    if about.base or _pretrained(facts):
        yield ["licence of the base network", about.base_licence or "not given"]
    yield ["licence of the data", about.data_licence or "not given"]
    active = f"{masks.density * N:,.0f} of {N:,} weights on average"
    active += f", a change of rank {facts['adapters']} of each matrix" if facts.get("adapters") else ""
    yield ["active in a ticket", f"{active}, and {own:,} numbers of its own"]
    stored = f"{union:,} weights ({union / N:.3f} of the network)"
    yield ["stored of all tickets", f"{stored}, and {rest:,} numbers that are not pruned and that all share"]
    yield ["file", f"{path.stat().st_size:,} bytes"]
    if (K := len(masks)) > 1:
        J = masks.jaccard()[~torch.eye(K, dtype=torch.bool)].tolist()
        spread = f"{min(J):.3f} to {max(J):.3f}"
        yield ["similarity of masks", f"mean Jaccard {sum(J) / len(J):.3f} ({spread} between two)"]
    for part in ("router", "calibration"):
        known = header.get("parts", {}).get(part)
        yield [part, str(known.get("kind") or known.get("about")) if known else "none"]


def _tickets(masks: MaskSet) -> Iterator[list[str]]:
    shown = list(masks.counts.items())
    for name, count in shown[:MANY]:
        yield [name, f"{count:,}", f"{count / masks.scope.size:.3f}"]
    if len(shown) > MANY:
        yield [f"and {len(shown) - MANY} more", "", ""]


def _limits(facts: Mapping[str, Any], header: Mapping[str, Any], masks: MaskSet) -> Iterator[str]:
    if len(masks) > 1 and "router" not in header.get("parts", {}):
        yield "Who asks says which ticket answers: no router that could choose is in the file."
    if facts.get("answer") == "subset":
        yield "A ticket was trained at its own output alone: whether a sample is of its subset."
    if facts.get("classes"):
        yield "A ticket answers with the classes of its own subset; its other outputs mean nothing."
    yield "A mask saves storage, not time: a ticket takes as long as the dense network."
    yield (
        "Figures are of test data like those of training. Robustness, fairness and other data were not "
        "looked at, and what limits the base network limits its tickets."
    )


def _kind(header: Mapping[str, Any]) -> str:
    """The class of the network."""
    return str(header["architecture"].get("module (root)", "a network")).partition("(")[0]


def _table(heads: list[str], rows: Iterator[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
