"""Doctests of docstrings as blocks of code, for the page of names."""

import re
from typing import Any

import griffe

BLOCK = re.compile(r"((?:^[ ]*>>> .*\n)(?:^[ ]*\S.*\n)*)", re.MULTILINE)  # up to the next empty line


class Fences(griffe.Extension):
    """Every block that begins with ``>>>`` gets a fence."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Rewrite the docstring of whatever has one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text, its doctests in fences.

    >>> fenced("A sum.\\n\\n>>> 1 + 1\\n2\\n").splitlines()
    ['A sum.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    return BLOCK.sub(lambda found: f"```pycon\n{found[1].rstrip()}\n```\n", text + "\n").rstrip("\n")
