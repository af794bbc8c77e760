"""C kernels: one pass in place of many, compiled when first needed with the machine's compiler.

The library is kept in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``), under a hash of the
source, the flags and the processor. Without a compiler, or with ``TOMBOLA_NATIVE=0`` in the environment,
`load` gives None and everything runs on torch alone: slower, to the same bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import secrets
import subprocess
from functools import cache
from pathlib import Path

from tombola._utils.io import cache_folder

_HERE = Path(__file__).parent
# Each operation rounds by itself, so that the bits are those of torch's operations one after another.
_EXACT = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
_TUNED = [["-march=native", "-mprefer-vector-width=512"], ["-march=native"], []]  # the first that works


@cache
def load() -> ctypes.CDLL | None:
    """The compiled library; None where it cannot be made."""
    if os.environ.get("TOMBOLA_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.SubprocessError, RuntimeError):
        return None


def _built() -> Path:
    content = b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.[ch]")))
    key = hashlib.sha256(content + repr((_EXACT, _TUNED, _processor())).encode()).hexdigest()
    library = cache_folder() / f"kernels-{key[:20]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = library.with_name(f".{library.name}.{secrets.token_hex(4)}")
        try:
            _compile(new)
            new.replace(library)
        finally:
            new.unlink(missing_ok=True)
    return library


def _compile(library: Path) -> None:
    compiler = os.environ.get("CC", "cc").split()
    failed: Exception = RuntimeError("nothing was tried")
    for tuned in _TUNED:
        command = [*compiler, *_EXACT, *tuned, "-o", str(library), str(_HERE / "kernels.c"), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return
        except subprocess.CalledProcessError as error:
            failed = error
    raise failed


def _processor() -> str:
    """All that ``-march=native`` depends on: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return platform.machine() + "".join(sorted({x for x in lines if x.startswith(("flags", "Features"))}))
