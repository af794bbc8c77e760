"""What is served: ticket files under names, and which ticket a name means.

A state is never written to. A change makes a new one, and puts it in the place of the old one in one
assignment. A request takes its entry from the state that is there when it arrives, and keeps it until it is
answered: whatever is loaded or unloaded meanwhile, its inputs, its ticket and the hash in its answer are of
one and the same entry.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from tombola._utils import io
from tombola._utils.errors import TicketFileError, TombolaError, UsageError
from tombola._utils.validation import check_name
from tombola.lab.evaluation.inputs import taken_by
from tombola.masks.similarity import Overlaps, compare
from tombola.tickets.cache import WeightCache
from tombola.tickets.fitted import answer_of
from tombola.tickets.identity import identities
from tombola.tickets.inputs import Inputs
from tombola.tickets.model import TicketModel, load

PAIRS = 64  # tickets that are compared with each other
NAME = re.compile(r"[\w.-]{1,100}")  # of a file


class Refused(TombolaError):
    """What a service does not do, with the status of its answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, eq=False)
class Entry:
    """The tickets of a file; all that a request needs to be answered by them.

    Attributes:
        name: of the file, here.
        path: where it was read.
        tickets: its tickets.
        taken: what they take.
        hashes: of the content of each (`tombola.tickets.identity`).
        hash: of all of them, and of the router.
        kept: weights that each keeps.
    """

    name: str
    path: Path
    tickets: TicketModel
    taken: Inputs
    hashes: Mapping[str, str]
    hash: str
    kept: Mapping[str, int]

    @property
    def chooses(self) -> bool:
        """Whether a request need not name a ticket."""
        tickets = self.tickets
        return len(tickets) == 1 or tickets.router is not None or answer_of(tickets) == "subset"

    @cached_property
    def alike(self) -> Overlaps | None:
        """What the masks have in common, pair by pair; None where there are too many."""
        return compare(self.tickets.masks) if len(self.tickets) <= PAIRS else None

    @classmethod
    def of(cls, name: str, path: Path, tickets: TicketModel, taken: Inputs) -> Entry:
        """The entry of tickets that nobody will change."""
        hashes = identities(tickets)
        said = [*hashes.items()]
        if tickets.router is not None:
            known, tensors = tickets.router.state()
            said.append((repr(sorted(known.items())), io.digest(tensors)))
        whole = hashlib.sha256(repr(said).encode()).hexdigest()
        return cls(name, path, tickets, taken, hashes, whole, tickets.masks.counts)


@dataclass(frozen=True)
class Meant:
    """Who is to answer a request: a ticket of an entry; None where the entry chooses."""

    entry: Entry
    ticket: str | None

    @property
    def hash(self) -> str:
        """Of the content of the ticket, or of all that are asked."""
        return self.entry.hash if self.ticket is None else self.entry.hashes[self.ticket]


@dataclass(frozen=True)
class State:
    """Entries by the names of their files, and aliases of tickets.

    A ticket is called ``FILE/NAME``, or by an alias, which has no slash. Where the service started with one
    file, tickets of this one are known by their names alone as well. So no name changes its meaning because
    another file comes or goes.
    """

    files: Mapping[str, Entry]
    aliases: Mapping[str, tuple[str, str]]
    first: str = ""

    def entry(self, file: str) -> Entry:
        """The entry of a file."""
        if file not in self.files:
            raise Refused(404, f"there is no file {file!r} here; GET /v1/tickets lists those that there are")
        return self.files[file]

    def find(self, ticket: str | None, file: str | None = None) -> Meant:
        """Who is meant by the name of a ticket, or of a file where no ticket is named.

        Raises:
            Refused: 404 for a name that there is not; 422 where several could be meant.
        """
        if ticket is None:
            if not (file or self.first):
                raise Refused(422, f"which ticket? Pass ticket=FILE/NAME, or file= (of {_few(self.files)})")
            entry = self.entry(file or self.first)
            if not entry.chooses:
                raise Refused(422, f"which ticket? {entry.name} has no router that could choose: name one")
            return Meant(entry, None)
        if file is not None:
            raise Refused(422, "file= is for requests that name no ticket: write ticket=FILE/NAME")
        of, slash, name = ticket.partition("/")
        if not slash:
            of, name = self.aliases.get(ticket, (self.first, ticket))
        if of not in self.files or name not in self.files[of].hashes:
            raise Refused(
                404,
                f"there is no ticket {ticket!r} here; GET /v1/tickets lists those that there are (FILE/NAME)",
            )
        return Meant(self.files[of], name)

    def checked(self) -> State:
        """The same; 409 where an alias means nothing, or has the name of a ticket of the first file."""
        for alias, (file, name) in self.aliases.items():
            if name not in self.entry(file).hashes:
                raise Refused(
                    409, f"alias {alias!r} means {file}/{name}, which would be gone: delete it first"
                )
            if self.first in self.files and alias in self.files[self.first].hashes:
                raise Refused(
                    409, f"alias {alias!r} is the name of a ticket of {self.first}: delete it first"
                )
        return self


def _few(names: Mapping[str, object]) -> str:
    shown = list(names)[:5]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


Made = tuple[TicketModel, Inputs]


class Registry:
    """The state of a service, and the changes that there can be.

    Changes are made one at a time, in any thread; a second one is refused (409) while one is under way.

    Args:
        files: the files of the start, by the names that they have here.
        read: tickets of a file and what they take; for files of the start. One that comes later must belong
            to the network of one of these, and nothing but the file itself is read for it.
        allowed: folders and files from which files may come later.
        cache: bytes for masked weights (`tombola.WeightCache`), shared out evenly over the files.
        prepared: inputs will be what networks take, already prepared.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        read: Callable[[Path], Made],
        allowed: Sequence[Path] = (),
        cache: int = 0,
        prepared: bool = False,
    ) -> None:
        for name, path in files.items():
            if path.is_dir():
                raise TicketFileError(f"{path} is a folder, not a file: give the ticket files in it")
            if not NAME.fullmatch(name):
                raise UsageError(f"{name!r} cannot be the name of a file here: write NAME={files[name]}")
        self._cache, self._prepared, self._lock = cache, prepared, threading.Lock()
        self.allowed = tuple(path.resolve() for path in allowed)
        made = {name: Entry.of(name, path, *read(path)) for name, path in files.items()}
        self._networks = [(entry.tickets.backbone, entry.taken) for entry in made.values()]
        self.state = State({}, {})
        self._put(State(made, {}, first=next(iter(made)) if len(made) == 1 else ""))

    def _put(self, state: State) -> None:
        self._share(state.checked())
        files, aliases = MappingProxyType(dict(state.files)), MappingProxyType(dict(state.aliases))
        self.state = replace(state, files=files, aliases=aliases)

    def _share(self, state: State) -> None:
        """Give every file its part of the bytes for masked weights; none where not one ticket has room."""
        share = self._cache // max(len(state.files), 1)
        for entry in state.files.values():
            tickets = entry.tickets
            had = 0 if tickets.cache is None else tickets.cache.max_bytes
            one = tickets.scope.size * tickets.sources[0].element_size()
            if had != share:
                tickets.cache = WeightCache(share) if share >= one else None

    @contextmanager
    def _changing(self) -> Iterator[State]:
        if not self._lock.acquire(blocking=False):
            raise Refused(409, "another change is under way: try again when it is done")
        try:
            yield self.state
        finally:
            self._lock.release()

    def permitted(self, path: str) -> Path:
        """The file at a path, links resolved; 403 unless it lies where the operator has allowed it."""
        try:
            found = Path(path).resolve()
            inside = any(found == place or place in found.parents for place in self.allowed)
            if inside and found.is_file():
                return found
        except (OSError, ValueError, RuntimeError):  # a loop of links, a null character
            inside = False
        if inside:
            raise Refused(404, "there is no such file in the folders of --allow")
        raise Refused(403, "this path is not in the folders of --allow: none other is read")

    def _known(self, path: Path) -> Made:
        """Tickets of a file, on the network of one of those of the start, and by the tokenizer of one."""
        taken = taken_by(path, io.read_metadata(path).get("facts", {}), self._prepared)
        if taken.text is not None:
            texts = [known.text for _, known in self._networks if known.text is not None]
            alike = [text for text in texts if text["digest"] == taken.text["digest"]]
            if not alike:
                raise Refused(
                    422, f"{path.name} is of text by another tokenizer than those that are known here"
                )
            taken = replace(taken, text={**taken.text, "tokenizer": alike[0]["tokenizer"]})
        for backbone, _ in self._networks:
            with suppress(TicketFileError):
                return load(path, backbone), taken
        raise Refused(422, f"{path.name} belongs to none of the networks that the service was started with")

    def load(self, path: str, name: str | None = None, replacing: bool = False) -> Entry:
        """Tickets of a file; in the place of those of this name if that is asked for."""
        with self._changing() as state:
            found = self.permitted(path)
            name = found.stem if name is None else name
            if not NAME.fullmatch(name):
                raise Refused(
                    422, "a name of a file is of letters, digits and _ . -, 100 at most: pass name="
                )
            if name in state.files and not replacing:
                raise Refused(409, f"there is a file {name!r} already: pass another name, or replace=true")
            entry = Entry.of(name, found, *self._known(found))
            self._put(replace(state, files={**state.files, name: entry}))
            return entry

    def grow(self, file: str, make: Callable[[Entry], TicketModel]) -> Entry:
        """The tickets that are made of those of a file, in their place."""
        with self._changing() as state:
            old = state.entry(file)
            entry = Entry.of(file, old.path, make(old), old.taken)
            self._put(replace(state, files={**state.files, file: entry}))
            return entry

    def unload(self, file: str) -> tuple[Entry, list[str]]:
        """What is served no longer: a file, and its aliases. Requests that have arrived are answered."""
        with self._changing() as state:
            entry = state.entry(file)
            gone = [alias for alias, (of, _) in state.aliases.items() if of == file]
            files = {name: each for name, each in state.files.items() if name != file}
            aliases = {alias: of for alias, of in state.aliases.items() if alias not in gone}
            self._put(replace(state, files=files, aliases=aliases))
            return entry, gone

    def alias(self, alias: str, ticket: str | None) -> None:
        """Let an alias mean a ticket from now on, or nothing."""
        with self._changing() as state:
            aliases = dict(state.aliases)
            if ticket is None:
                if alias not in aliases:
                    raise Refused(404, f"there is no alias {alias!r}")
                del aliases[alias]
            else:
                try:
                    check_name(alias, "alias", slash=False)
                except UsageError as error:
                    raise Refused(422, str(error)) from None
                meant = state.find(ticket)
                assert meant.ticket is not None
                aliases[alias] = (meant.entry.name, meant.ticket)
            self._put(replace(state, aliases=aliases))
