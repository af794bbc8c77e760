"""Files that outputs are compared with as a whole; ``RENEW_GOLDENS=1 pytest ...`` writes them anew."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "goldens"


def check(name, text):
    """The text is that of the file of this name."""
    file = FOLDER / name
    if os.environ.get("RENEW_GOLDENS"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert text.splitlines() == file.read_text().splitlines(), f"look at the difference, then renew {file}"
