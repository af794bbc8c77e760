"""A file of tensors and facts, sealed by a hash over all of it; how files are replaced; the cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tombola._utils.errors import TicketFileError

ABANDONED = 3600.0  # seconds without a write after which a temporary file belongs to nobody
KEY = "tombola"  # of the file's metadata: a hash over all, a space, and the facts as JSON
DTYPES = {  # by safetensors' names, in the order in which it lays tensors down
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Spooled(NamedTuple):
    """A tensor that lies elsewhere: its dtype and shape, and what gives its bytes, piece by piece."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    content: Callable[[], Iterator[Any]]

    @classmethod
    def of(cls, dtype: torch.dtype, shape: tuple[int, ...], read: Callable[[], Tensor]) -> Spooled:
        """One that is read whole when it is its turn."""
        return cls(dtype, shape, lambda: iter([raw(read())]))


Tensors = Mapping[str, Tensor] | Mapping[str, Spooled]


def raw(tensor: Tensor) -> Any:
    """The bytes of a tensor, as they lie: it may be mapped."""
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _spooled(tensor: Tensor | Spooled) -> Spooled:
    if isinstance(tensor, Spooled):
        return tensor
    return Spooled.of(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def write(path: Path | str, tensors: Tensors, metadata: Mapping[str, Any]) -> int:
    """Write tensors and facts to a safetensors file at once or not at all; returns its size in bytes.

    Equal content gives equal bytes, those that the library itself writes. A tensor is read twice, for the
    hash and for the file, and never held beside the others.
    """
    with replacing(Path(path)) as file:
        return _pour(file, tensors, metadata)


def to_content(tensors: Tensors, metadata: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `write` writes."""
    made = BytesIO()
    _pour(made, tensors, metadata)
    return made.getvalue()


def size(tensors: Tensors, metadata: Mapping[str, Any]) -> int:
    """The number of bytes of that file."""
    head, ordered = _head(tensors, "0" * 64, metadata)
    return len(head) + sum(_bytes(tensor) for _, tensor in ordered)


def _pour(file: BinaryIO, tensors: Tensors, metadata: Mapping[str, Any]) -> int:
    head, ordered = _head(tensors, _seal(tensors, _json(metadata)), metadata)
    file.write(head)
    for _, tensor in ordered:
        for piece in tensor.content():
            file.write(piece)
    return file.tell()


def _head(
    tensors: Tensors, seal: str, metadata: Mapping[str, Any]
) -> tuple[bytes, list[tuple[str, Spooled]]]:
    """What a safetensors file begins with, and its tensors in their order: the widest numbers first."""
    each = [(name, _spooled(tensor)) for name, tensor in tensors.items()]
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    ordered = sorted(each, key=lambda one: (ranks[one[1].dtype], one[0]))
    header: dict[str, Any] = {"__metadata__": {KEY: f"{seal} {_json(metadata)}"}}
    at = 0
    for name, tensor in ordered:
        end = at + _bytes(tensor)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head, ordered


def _bytes(tensor: Spooled) -> int:
    return tensor.dtype.itemsize * prod(tensor.shape)


def _json(metadata: Mapping[str, Any]) -> str:
    return json.dumps(dict(metadata), sort_keys=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: a temporary file beside it, flushed to disk, then renamed."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write and read that takes the place of ``path`` at the end; after an error, not at all."""
    if path.is_dir():
        raise TicketFileError(f"{path} is a folder: give the name of a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("x+b") as file:
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)  # who may read it stays the same
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def changing(path: Path) -> Iterator[BinaryIO]:
    """A file, open, that no other process may change meanwhile, though it may be read.

    Raises:
        TicketFileError: there is none, or another process is changing it.
    """
    while True:
        try:
            file = path.open("r+b")
        except OSError as error:
            raise TicketFileError(f"{path} cannot be changed ({error.strerror})") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TicketFileError(f"{path} is being changed by another process: wait for it") from None
            # Else it was replaced before the lock: nobody may be at work on the one that is there now.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def overwrite(file: BinaryIO) -> None:
    """Fill a file that is open with zeros, on the disk as well; copies that a file system keeps stay."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    file.write(bytes(size))
    file.flush()
    os.fsync(file.fileno())


def file_name(name: str) -> str:
    """The name of a ticket as that of a file, another for every name.

    >>> file_name("law/tax"), file_name("law%2Ftax")
    ('law%2Ftax', 'law%252Ftax')
    """
    return name.replace("%2F", "%252F").replace("/", "%2F")


def check_target(path: Path) -> None:
    """Raise `TicketFileError` where a file could not be written, before what it is to hold is computed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TicketFileError(f"{path} cannot be written ({error.strerror}): choose another place") from None
    if path.is_dir():
        raise TicketFileError(f"{path} is a folder: give the name of a file in it")


def _sweep(path: Path) -> None:
    """Remove what killed processes left of this file; a process that still writes is younger."""
    for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def read(path: Path | str, remedy: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `write`; ``remedy`` is what to do about a damaged file.

    Raises:
        TicketFileError: no such file, not of this kind, truncated, or altered.
    """
    with _opened(path, remedy) as file:
        seal, _, written = file.metadata()[KEY].partition(" ")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if seal != _seal(tensors, written):
        raise TicketFileError(
            f"{path} was altered since it was written: its content does not match its hash: "
            + (remedy or "take another copy; tombola resume writes ticket files of a run again")
        )
    return tensors, _parsed(written, path)


def read_metadata(path: Path | str, remedy: str = "") -> dict[str, Any]:
    """What `read` has beside the tensors, which are not read: whether they were altered is not known."""
    with _opened(path, remedy) as file:
        return _parsed(file.metadata()[KEY].partition(" ")[2], path)


@contextmanager
def _opened(path: Path | str, remedy: str) -> Iterator[Any]:
    """A file of ours, open; what is wrong with it while it is read is said as `read` says it."""
    if not isinstance(path, str | os.PathLike):
        raise TicketFileError(f"a file is given by its path: got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        raise TicketFileError(f"{path} is a folder, not a file: {_inside(path)}")
    if not path.is_file():
        raise TicketFileError(f"there is no file {path}")
    try:
        with _name(path) as name, safe_open(name, framework="pt") as file:
            if KEY not in (file.metadata() or {}):
                raise TicketFileError(f"{path} is a safetensors file, but was not written by Tombola")
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise TicketFileError(
            f"{path} is truncated or no safetensors file ({error}): "
            + (remedy or "copy it again from its source")
        ) from None


def _parsed(written: str, path: Path | str) -> dict[str, Any]:
    try:
        metadata = json.loads(written)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise TicketFileError(f"{path} has a header that is no JSON object: take another copy")
    return metadata


def _inside(folder: Path) -> str:
    """What of a folder could have been meant, such as one of a run."""
    places = ("*.tickets", "tickets.safetensors", "tickets/*.tickets", "*/tickets/*.tickets")
    found = sorted(file for place in places for file in folder.glob(place))
    if not found:
        return "no ticket file lies in it"
    others = f" ({len(found):,} lie in it)" if len(found) > 1 else ""
    return f"give a ticket file, such as {found[0]}{others}"


@contextmanager
def _name(path: Path) -> Iterator[Path]:
    """A name of a file that is UTF-8, which is all that safetensors can open: its own, or a link's."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def _seal(tensors: Tensors, header: str) -> str:
    return hashlib.sha256(f"{digest(tensors)} {header}".encode()).hexdigest()


def digest(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        t = _spooled(tensors[name])
        sha.update(repr((name, str(t.dtype), tuple(t.shape))).encode())
        for piece in t.content():
            sha.update(piece)
    return sha.hexdigest()


def cache_folder() -> Path:
    """The folder of what can be made again: ``tombola`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tombola"
