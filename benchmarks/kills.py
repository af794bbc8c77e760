"""Random kills of ranks under torchrun, and whether the run comes to the same bytes: ``docs/distributed.md``.

    python -m benchmarks.kills --kills 10 --parallel ranks

A job of N ranks runs under ``torchrun --max-restarts``. Again and again one rank, drawn at random, is killed
(SIGKILL) after a random time, at most that which a whole run takes; torchrun starts all of them anew. When a
job ends before its kill, another begins in a new directory. In the end every directory is compared with that
of a run that nobody disturbed. Linux only: ranks are found in ``/proc``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

SETTINGS = ["T=6", "steps=60", "schedule=fraction:0.3", "statistics=1"]
LIMIT = 3600.0  # seconds after which a job that has not ended is a failure


def start(out: Path, parallel: str, N: int, restarts: int) -> subprocess.Popen:
    """A job on digits."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(N), "--max-restarts", str(restarts)]
    what = ["-m", "tombola", "run", "digits", "--method", "rtl", "--sparsity", "0.5", "0.75"]
    how = ["--parallel", parallel, "--brief", "--out", str(out), "--set", *SETTINGS]
    log = (out.parent / f"{out.name}.log").open("w")
    return subprocess.Popen([sys.executable, *launch, *what, *how], stdout=log, stderr=log)


def ranks_of(agent: int) -> dict[int, int]:
    """The process of each rank that an agent has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == agent:
                variables = dict(v.partition("=")[::2] for v in (folder / "environ").read_text().split("\0"))
                if "RANK" in variables:
                    found[int(variables["RANK"])] = int(folder.name)
    return found


def digest(run: Path) -> str:
    """Hash over records, finished stages and ticket files."""
    sha = hashlib.sha256()
    for file in sorted([run / "records.jsonl", *run.glob("stages/*"), *run.glob("tickets/*")]):
        sha.update(file.name.encode() + file.read_bytes())
    return sha.hexdigest()[:16]


def doing(run: Path) -> str:
    """The stage that a run was last in."""
    done = len(list(run.glob("stages/[!c]*"))) if run.exists() else 0
    return f"{done} stages done" + (
        ", one in progress" if (run / "stages/current.safetensors").exists() else ""
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--parallel", default="ranks", choices=["ranks", "joint_ranks"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--most", type=float, help="seconds from one start to a kill; by default a whole run's"
    )
    given = parser.parse_args()
    draw, folder = random.Random(given.seed), Path(tempfile.mkdtemp())
    began = time.monotonic()
    if start(folder / "whole", given.parallel, given.ranks, 0).wait(LIMIT):
        print((folder / "whole.log").read_text())
        return 1
    whole, seconds = digest(folder / "whole/digits-quick/seed0"), time.monotonic() - began
    most = given.most or seconds
    print(f"{given.parallel}, {given.ranks} ranks; undisturbed: {seconds:.0f} s, {whole}", flush=True)
    number, job, killed, failed = 0, 0, 0, 0
    while number < given.kills:
        job += 1
        out, began = folder / str(job), time.monotonic()
        run = out / "digits-quick/seed0"
        agent, here = start(out, given.parallel, given.ranks, given.kills), 0
        while agent.poll() is None and time.monotonic() - began < LIMIT:
            until = time.monotonic() + draw.uniform(0.2, 0.9) * most
            while agent.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            found = ranks_of(agent.pid)
            if number < given.kills and agent.poll() is None and len(found) == given.ranks:
                number, here, victim = number + 1, here + 1, draw.choice(sorted(found))
                print(f"kill {number}: job {job}, rank {victim}, {doing(run)}", flush=True)
                with suppress(ProcessLookupError):
                    os.kill(found[victim], signal.SIGKILL)
        if agent.poll() is None:
            agent.kill()
        same = agent.returncode == 0 and digest(run) == whole
        killed, failed = killed + here, failed + (not same)
        outcome = "the same bytes" if same else f"status {agent.returncode}, {run}"
        print(f"job {job}: {here} kills, {time.monotonic() - began:.0f} s, {outcome}", flush=True)
    print(f"{killed} kills in {job} jobs, {failed} jobs that did not come to the same bytes")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
