"""What the site makes of files that are there: its first page of README, its list of names of the package."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import tombola

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: Any) -> Files:
    """Add index.md and api.md."""
    files.append(File.generated(config, "index.md", content=start()))
    files.append(File.generated(config, "api.md", content=names()))
    return files


def start() -> str:
    """README, as a page of the folder docs."""
    text = (ROOT / "README.md").read_text().replace("](docs/", "](")
    return text.replace("[CONTRIBUTING.md](CONTRIBUTING.md)", "CONTRIBUTING.md")


def names() -> str:
    """A page of every public name, functions and classes first."""
    places = sorted(tombola._PLACES.items(), key=lambda item: (item[1].endswith(":"), item[0].lower()))
    parts = ["# Python names", "`import tombola as tb`. Each is imported when it is first asked for."]
    for name, place in places:
        module, _, attribute = place.partition(":")
        parts.append(f"::: tombola.{module}{'.' * bool(attribute)}{attribute}")
        if not attribute:
            parts.append(f"    options:\n      heading: tombola.{name}\n      members_order: alphabetical")
    return "\n\n".join(parts) + "\n"
