"""Forms of a comparison besides the terminal's: Markdown and LaTeX of its tables, CSV of its rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from tombola.lab.report.rows import KEY, Row
from tombola.lab.report.tables import Table, under_headings

Form = Literal["table", "latex", "csv", "markdown", "json"]

_SPECIAL = {sign: rf"\{sign}" for sign in "&%$#_{}"}
_SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
_SIGN = re.compile(r"(?<![\w.\]])([+-])(?=\.?\d)")  # of a number, no hyphen


def markdown(made: Iterable[Table]) -> str:
    """Tables of Markdown under their headings."""
    return "\n".join(
        "\n".join([*([f"### {of}\n"] if of else []), *(table.markdown() for table in together)])
        for of, together in under_headings(made)
    )


def latex(made: Iterable[Table]) -> str:
    """Tables of LaTeX, each to stand alone; they need ``\\usepackage{booktabs}``.

    >>> print(latex([Table("Stored, 50%", ["method", "gain"], [["same_mask", "-.018 ± .028"]])]), end="")
    % needs \\usepackage{booktabs}
    \\begin{table}
    \\caption{Stored, 50\\%}
    \\begin{tabular}{lr}
    \\toprule
    method & gain \\\\
    \\midrule
    same\\_mask & $-$.018 $\\pm$ .028 \\\\
    \\bottomrule
    \\end{tabular}
    \\end{table}
    """
    return "\n".join(["% needs \\usepackage{booktabs}", *map(_latex, made), ""])


def _latex(table: Table) -> str:
    head, *body = (" & ".join(map(_escaped, line)) + r" \\" for line in [table.header, *table.body])
    caption = _escaped(f"{table.of}. {table.title}" if table.of else table.title)
    begin = [r"\begin{table}", rf"\caption{{{caption}}}"]
    begin += [rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*begin, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _escaped(text: str) -> str:
    """Plain text as LaTeX reads it; the sign of a number is a minus, not a hyphen."""
    return _SIGN.sub(r"$\1$", "".join(_SPECIAL.get(sign, sign) for sign in text))


def csv(rows: Sequence[Row]) -> str:
    """The rows that ``--json`` prints, as comma-separated values.

    >>> print(csv([{"experiment": "digits", "method": "rtl", "sparsity": 0.5, "mean": 0.9, "seeds": 3}]))
    experiment,preset,method,sparsity,reading,metric,ticket,mean,ci95,seeds,items
    digits,,rtl,0.5,,,,0.9,,3,
    <BLANKLINE>
    """
    import pandas as pd  # only here: it takes half a second

    return pd.DataFrame(rows, columns=[*KEY, "mean", "ci95", "seeds", "items"]).to_csv(index=False)
