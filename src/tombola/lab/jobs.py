"""Several runs at once: in processes of this machine, or as tasks of Ray.

Who carries a run out is told of it in plain values and knows nothing else of this process, so it may be
anywhere. Runs are locked and saved in their directories, whoever writes them: what dies is begun again and
goes on from its last saved state, on this machine or another, in turn or at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

import torch

from tombola._utils.errors import RunError, WorkerDied, needs
from tombola.data.dataset import Data
from tombola.lab.launch import Order
from tombola.training.parallel.workers import Worker, end, sendable

ATTEMPTS = 3  # at a run whose process dies
EVERY = 5.0  # seconds between two looks at what goes on: records are read whole


@dataclass(frozen=True)
class Task:
    """One run: an order for one seed and item, in its directory; ``point`` is where in a grid."""

    order: Order
    seed: int
    item: str
    path: Path
    point: str = ""

    @classmethod
    def of(cls, order: Order, folder: Path, seed: int, item: str = "", point: str = "") -> Task:
        """The run whose directory in a folder is named by its seed."""
        return cls(order, seed, item, folder / f"seed{seed}", point)

    @property
    def label(self) -> str:
        """For readers."""
        run = f"{self.item}, seed {self.seed}" if self.item else f"seed {self.seed}"
        return f"{self.point}: {run}" if self.point else run

    def plain(self) -> dict[str, Any]:
        """What another process needs to know; paths are absolute."""
        order, shared = self.order, self.order.shared
        where = {"shared": shared and str(shared.resolve()), "threads": order.threads}
        where |= {"parallel": order.parallel, "device": order.device}
        path = str(self.path.resolve())
        return {"order": order.plain() | where, "seed": self.seed, "item": self.item, "path": path}


class Ended(NamedTuple):
    """A run that was carried out, or failed.

    Attributes:
        said: a word for each outcome.
        error: why it failed.
        again: whether it is begun again.
    """

    task: Task
    said: list[str]
    error: Exception | None = None
    again: bool = False


def at_once(
    tasks: Sequence[Task], place: Place, look: Callable[[list[Task]], None], every: float = EVERY
) -> Iterator[Ended]:
    """Carry out runs, as many at once as there is room for; how each of them ended, in the order of that.

    A run whose process dies is begun again; one that raises is not. When this generator ends, or is closed,
    nothing goes on.

    Args:
        tasks: what is to be carried out; the first begin first.
        place: where.
        look: called with what goes on, when a run begins or ends and every few seconds.
        every: those seconds.
    """
    waiting, running, died = deque(tasks), dict[Any, Task](), dict[Path, int]()
    for folder in {task.path.parent for task in tasks}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < place.room:
                task = waiting.popleft()
                running[place.begin(task.plain())] = task
            look([*running.values()])
            for handle in place.ended([*running], every):
                task = running.pop(handle)
                try:
                    yield Ended(task, place.result(handle))
                except WorkerDied as error:
                    died[task.path] = died.get(task.path, 0) + 1
                    again = died[task.path] < ATTEMPTS
                    waiting.extend([task] if again else [])
                    yield Ended(task, [], error, again)
                except Exception as error:
                    yield Ended(task, [], error)
    finally:
        place.close()


class Place(Protocol):
    """Where runs are carried out.

    Attributes:
        room: how many at once.
    """

    room: int

    def begin(self, plain: dict[str, Any]) -> Any:
        """Begin with a run; what it is asked for by."""

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        """Those that have ended, as soon as there is one; none when the seconds are over."""

    def result(self, handle: Any) -> list[str]:
        """What a run that has ended says.

        Raises:
            WorkerDied: its process has died.
            Exception: whatever it raised.
        """

    def close(self) -> None:
        """End what is still going on."""


# -- in whichever process --------------------------------------------------------------------------------

_read: dict[tuple[Any, ...], dict[str, Data]] = {}  # the data that this process read last


def carry_out(plain: dict[str, Any]) -> list[str]:
    """Carry out a run here, with one thread where nothing else is said; a word for each outcome."""
    path = Path(plain["path"])
    if not path.parent.is_dir():  # who asks has made it
        raise RunError(
            f"{os.uname().nodename} does not see {path.parent}: --out has to be on a file system that all "
            "machines of the job share"
        )
    torch.set_num_threads(1)
    order = Order.from_plain(plain["order"])
    key = order.experiment.name, repr(order.experiment.options), order.source, order.augment, order.tune
    if key not in _read:
        _read.clear()
        _read[key] = order.load()
    return list(order.run(_read[key][plain["item"]], plain["seed"], path, item=plain["item"]))


# -- processes of this machine ---------------------------------------------------------------------------


@dataclass
class Processes:
    """Processes of this machine, each with a run at a time.

    They are forked from a server that has imported what is needed and computed nothing, not from this
    process: so they may have threads and accelerators.

    Attributes:
        room: how many.
        devices: of accelerators that they take turns to see, by their numbers; all see all where it is empty.
    """

    room: int
    devices: Sequence[int] = ()
    _workers: list[Worker] = field(init=False, default_factory=list)
    _idle: list[Worker] = field(init=False, default_factory=list)

    def begin(self, plain: dict[str, Any]) -> Worker:
        """In a process that has nothing to do, or a new one."""
        worker = self._idle.pop() if self._idle else self._start()
        with suppress(OSError):  # it is dead, as its result will say
            worker.pipe.send(plain)
        return worker

    def _start(self) -> Worker:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "torch._dynamo"])  # which optimisers import, in a second
        ours, theirs = context.Pipe()
        number = len(self._workers)
        seen = str(self.devices[number % len(self.devices)]) if self.devices else None
        # No daemon: the trainings of a round may be shared out over workers of its own.
        process = context.Process(target=_serve, args=(theirs, seen), daemon=False)
        process.start()
        theirs.close()
        self._workers.append(Worker(process, ours))
        return self._workers[-1]

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        """Those whose process has answered or died."""
        heard = wait([worker.pipe for worker in handles], seconds)
        return [worker for worker in handles if worker.pipe in heard]

    def result(self, handle: Any) -> list[str]:
        """What the process answered; see `Place`."""
        try:
            answer = handle.pipe.recv()
        except (EOFError, OSError):
            self._workers.remove(handle)
            raise WorkerDied(f"its process ended with {handle.how_it_ended()}") from None
        self._idle.append(handle)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Kill all: runs survive it."""
        end(self._workers)
        self._workers, self._idle = [], []


def _serve(pipe: Connection, seen: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    if seen is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            pipe.send(_answered(pipe.recv()))


def _answered(plain: dict[str, Any]) -> list[str] | Exception:
    try:
        return carry_out(plain)
    except Exception as error:
        return sendable(error)


# -- tasks of Ray ----------------------------------------------------------------------------------------


class Ray:
    """Tasks of Ray, on all machines of a cluster, or on this one where there is none.

    Args:
        address: ``ray://HOST:PORT`` of a cluster; if empty that of the variable ``RAY_ADDRESS``, or this
            machine alone.
        room: runs at once; as many as there are processors for by default.
        threads: processors of each run.
        devices: accelerators of each run.

    Raises:
        MissingExtra: Ray is not installed.
    """

    def __init__(self, address: str, room: int | None, threads: int = 1, devices: int = 0) -> None:
        with needs("ray", "--on ray"):
            ray: Any = import_module("ray")
        self.ray = ray
        address = address or ("" if "RAY_ADDRESS" in os.environ else "local")
        own = {"num_cpus": room * threads} if address == "local" and room else {}
        ray.init(address or None, log_to_driver=False, logging_level="ERROR", **own)
        self.room = room or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        # Tasks that are lost are begun again by `at_once`, which says so.
        options = {"num_cpus": threads, "num_gpus": devices, "max_retries": 0}
        self._remote = ray.remote(**options)(carry_out)

    def begin(self, plain: dict[str, Any]) -> Any:
        """As a task."""
        return self._remote.remote(plain)

    def ended(self, handles: list[Any], seconds: float) -> list[Any]:
        """Those that have a result or failed."""
        return list(self.ray.wait(handles, timeout=seconds)[0])

    def result(self, handle: Any) -> list[str]:
        """What the task returned; see `Place`."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(handle)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            raise WorkerDied(f"its task was lost ({type(error).__name__})") from None

    def close(self) -> None:
        """Leave Ray; tasks of a local one end, those of a cluster are ended with their driver."""
        self.ray.shutdown()
