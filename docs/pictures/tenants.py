"""The picture of README: accuracy against the bytes of a file, from `docs/results/when.json`.

python docs/pictures/tenants.py
"""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLUE, GREY = "#0b62c4", "#6b7280"
LABELS = {  # of a method: what a reader calls it, its colour, where the words stand beside the point
    "imp": ("one mask for all", GREY, (8, 2)),
    "imp_context": ("one mask, told", GREY, (8, 4)),
    "same_mask": ("one mask, an output layer each", GREY, (8, -8)),
    "rtl": ("tickets", BLUE, (8, 6)),
    "rtl_learned": ("tickets, masks learned", BLUE, (8, -2)),
    "imp_per_subset": ("ten pruned networks", GREY, (-124, 6)),
}


def main() -> None:
    """Write tenants.svg beside this file."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "tombola", "font.family": "sans-serif"}
    rows = json.loads((HERE.parent / "results" / "when.json").read_text())
    of_all = [row for row in rows if row["experiment"] == "tenants" and "ticket" not in row]
    found = {(row.get("method"), row["metric"]): (row["mean"], row["ci95"]) for row in of_all}
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for method, (label, colour, beside) in LABELS.items():
        kilobytes, (accuracy, interval) = found[method, "file_bytes"][0] / 1000, found[method, "accuracy"]
        axes.errorbar(kilobytes, accuracy, interval, fmt="o", color=colour, capsize=3, markersize=6)
        axes.annotate(label, (kilobytes, accuracy), beside, textcoords="offset points", color=colour)
    axes.set(xlabel="all that is stored, KB", ylabel="accuracy, mean of ten tenants", xlim=(0, 150))
    axes.set_ylim(0.78, 0.98)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "tenants.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
