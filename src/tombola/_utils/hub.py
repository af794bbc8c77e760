"""Where pretrained networks and tokenizers of `transformers` lie: a folder, a GGUF file, a name on a hub."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tombola._utils.errors import DataError, TombolaError, UsageError, needs

FILES = (".gguf", ".safetensors", ".bin", ".pt", ".json")
_alone = threading.RLock()  # what `_quiet` and `_offline` change is of the whole process
OFF = ("0", "false", "no", "off")  # HF_HUB_OFFLINE, where downloads are wanted


def located(name: str | Path) -> tuple[str, dict[str, Any]]:
    """The name and the options by which `transformers` finds a network: ``(where, options)``.

    A folder that holds a single GGUF file and no ``config.json`` stands for that file. Names on a hub are
    read from the cache of this machine; they are downloaded only where ``HF_HUB_OFFLINE`` is set, and off.

    Raises:
        UsageError: no such folder or file, or nothing in it that is a network.

    >>> located("org/name-1.5")
    ('org/name-1.5', {'local_files_only': True})
    """
    if not isinstance(name, str | os.PathLike) or not str(name):
        raise UsageError(f"a pretrained network is a folder, a GGUF file or a name: got {name!r}")
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise DataError(f"{name} is one file: give the folder of config.json and safetensors, or a GGUF")
        return _gguf(path.resolve())
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return str(path.resolve()), {"local_files_only": True}
        if len(files) == 1:
            return _gguf(files[0].resolve())
        what = ", ".join(file.name for file in files) or "neither config.json nor a GGUF file"
        raise DataError(
            f"{name} holds {what}: give the folder of a network of transformers, or one GGUF file"
        )
    meant = isinstance(name, Path) or name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if meant or path.suffix in FILES:  # names on a hub have dots too
        raise DataError(f"there is no folder or GGUF file {name}")
    return str(name), {"local_files_only": _stays()}


def _stays() -> bool:
    """Whether nothing is downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() not in OFF


def _gguf(file: Path) -> tuple[str, dict[str, Any]]:
    with needs("pretrained", f"{file.name} is a GGUF file"):
        for package in ("gguf", "accelerate"):
            import_module(package)
    return str(file.parent), {"gguf_file": file.name, "local_files_only": True}


def loaded(kind: str, name: str | Path, **options: Any) -> Any:
    """``transformers.KIND.from_pretrained`` without its talk, and with one line where it fails.

    Raises:
        MissingExtra: a package that is not installed.
        UsageError: see `located`.
        TombolaError: the network is not on this machine, or `transformers` cannot make it.
    """
    with needs("pretrained", f"{name} is a network of transformers"):
        made = getattr(import_module("transformers"), kind)
    where, place = located(name)
    try:
        with _alone, _quiet(), _offline(place["local_files_only"]):
            return made.from_pretrained(where, **place, **options)
    except ImportError as error:  # of a package that this tokenizer or network needs
        raise TombolaError(f"{name}: {_line(error)} (the extra pretrained has what most need)") from None
    except Exception as error:  # whatever transformers, tokenizers, safetensors or gguf say
        away = isinstance(error, OSError) and not Path(where).exists()
        if away and place["local_files_only"]:
            raise TombolaError(
                f"{name} is no folder, and not in the cache of transformers on this machine: download it "
                f"first (hf download {name}), or set HF_HUB_OFFLINE=0 to let transformers do it"
            ) from None
        raise TombolaError(f"{name} cannot be read by transformers.{kind}: {_line(error)}") from None


def made(kind: str, name: str | Path, config: Any) -> Any:
    """``transformers.KIND.from_config``, where the configuration is of another kind with one line."""
    try:
        with _alone, _quiet():
            return getattr(import_module("transformers"), kind).from_config(config)
    except Exception as error:  # whatever transformers says
        raise TombolaError(f"{name} is no network for transformers.{kind}: {_line(error)}") from None


def fetched(name: str, file: str, revision: str = "") -> Path:
    """A file of a repository on a hub, as it lies in the cache of this machine.

    Raises:
        MissingExtra: `huggingface_hub` is not installed.
        TombolaError: it is not in the cache, and nothing may be downloaded; or the hub has none.
    """
    with needs("hub", f"{name} is a repository on a hub"):
        import huggingface_hub
    stays = _stays()
    try:
        found = huggingface_hub.hf_hub_download(name, file, revision=revision or None, local_files_only=stays)
    except (OSError, ValueError) as error:  # of names, of connections, of the hub
        if stays and isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError):
            raise TombolaError(
                f"{name} is no folder, and its {file} is not in the cache on this machine: download it first "
                f"(hf download {name}), or set HF_HUB_OFFLINE=0 to let it be done"
            ) from None
        raise TombolaError(f"{name} is no folder, and no repository with a {file}: {_line(error)}") from None
    return Path(found)


def uploaded(folder: Path, repo: str, private: bool = False, token: str = "") -> str:
    """Upload a folder as a repository on a hub, made if absent; its address.

    Raises:
        MissingExtra: `huggingface_hub` is not installed.
        TombolaError: the hub cannot be reached, or refuses.
    """
    with needs("hub", f"{repo} is a repository on a hub"):
        from huggingface_hub import HfApi
    api = HfApi(token=token or None)
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except (OSError, ValueError) as error:
        raise TombolaError(f"{repo} cannot be uploaded: {_line(error)}") from None
    return str(address)


def _line(error: Exception) -> str:
    words = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return words.strip().partition("\x1b")[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and reports, of which nothing is news here: new output layers are meant."""
    logging = import_module("transformers").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _offline(stays: bool) -> Iterator[None]:
    """Ask no network for what is not here: one that does not answer takes half a minute to say so."""
    constants: Any = import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or stays
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
