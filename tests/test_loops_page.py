"""The programs of docs/loops.md run, and no step of theirs moves what is not the ticket's."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tombola.optim import MaskedOptimizer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
PAGE = (Path(__file__).parent.parent / "docs" / "loops.md").read_text()


def programs(title):
    section = re.split(r"^#+ ", PAGE, flags=re.MULTILINE)
    (found,) = [part for part in section if part.startswith(title + "\n")]
    return re.findall(r"```python\n(.*?)```", found, re.DOTALL)


@pytest.fixture
def names():
    found = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(programs("Any loop")[0], found)
        yield found


class Watch:
    """Steps of masked optimisers, each of which was looked at."""

    def __init__(self):
        self.steps = {}

    def before(self, optimizer, *_):
        if isinstance(optimizer, MaskedOptimizer):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.masks = optimizer.tickets.masks_of(parameters) or optimizer.masks
            self.old = self.parts(optimizer, parameters)

    def parts(self, optimizer, parameters):
        """Off and on the masks: parameters and all of their state."""
        off, on = [], []
        for p, mask in zip(parameters, self.masks, strict=True):
            if mask is not None:
                state = [
                    v
                    for v in optimizer.state.get(p, {}).values()
                    if torch.is_tensor(v) and v.shape == p.shape
                ]
                state += [torch.zeros_like(p)] * (3 - len(state))
                off += [v.detach()[~mask].clone().float() for v in (p, *state)]
                on.append(p.detach()[mask].clone())
        return off, on

    def after(self, optimizer, *_):
        if isinstance(optimizer, MaskedOptimizer):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            off, on = self.parts(optimizer, parameters)
            assert all(torch.equal(a, b) for a, b in zip(self.old[0], off, strict=True))
            assert not all(torch.equal(a, b) for a, b in zip(self.old[1], on, strict=True))
            used = optimizer.tickets.used or "held"
            self.steps[used] = self.steps.get(used, 0) + 1


@pytest.fixture
def watch():
    found = Watch()
    handles = register_optimizer_step_pre_hook(found.before), register_optimizer_step_post_hook(found.after)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*TicketModel")
        yield found
    for handle in handles:
        handle.remove()


THREE = ("cat", "dog", "cow")


@pytest.mark.parametrize(
    ("title", "needs", "steps"),
    [("PyTorch", "torch", 14), ("Accelerate", "accelerate", 8), ("Lightning", "lightning", 8)],
)
def test_a_loop_keeps_what_is_not_the_tickets(names, watch, title, needs, steps):
    pytest.importorskip(needs)
    (program,) = programs(title)
    exec(program, names)
    assert watch.steps == dict.fromkeys(THREE, steps)
    assert names["tickets"](names["x"], ticket="cat").dtype == torch.float32


def test_the_trainer_of_transformers_keeps_what_is_not_the_tickets(names, watch):
    pytest.importorskip("transformers")
    loading, one, each = programs("Trainer of `transformers`")
    exec(loading, names)
    exec(one, names)
    assert watch.steps == {"cat": 3, "dog": 3}
    exec(each, names)
    assert watch.steps == {"cat": 3, "dog": 3, "held": 40}


def test_a_search_takes_a_loop(names):
    (program,) = programs("A search in a loop of your own")
    exec(program, names)
    assert not torch.equal(names["found"].masks.masks_KN, names["tickets"].masks.masks_KN)


SCRIPT = """
import sys
import torch
from torch import nn
import tombola as tb

{program}
if __name__ == "__main__":
    tickets, x, y = torch.load(sys.argv[1] + "/start.pt", weights_only=False)
    torch.multiprocessing.spawn(train, (tickets, x, y, sys.argv[1]), nprocs=2)
"""


def test_two_processes_train_as_one_does(names, tmp_path):
    tickets = names["tickets"].eval()  # a norm of half a batch is another
    start = {name: t.clone() for name, t in tickets.state_dict().items()}
    torch.save((tickets, names["x"], names["y"]), tmp_path / "start.pt")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(program=programs("DistributedDataParallel")[0]))
    command = [sys.executable, script, tmp_path]  # not forks: the trainers above have left threads in here
    subprocess.run(command, check=True, timeout=200)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    nobody = ~tickets.masks_KN.any(0)
    after = tickets.scope.flatten({n: first[f"backbone.{n}"] for n in tickets.scope.names})
    before = tickets.scope.flatten({n: start[f"backbone.{n}"] for n in tickets.scope.names})
    assert torch.equal(after[nobody], before[nobody])
    tb, x, y = names["tb"], names["x"], names["y"]
    optimizer = tb.masked(torch.optim.AdamW(tickets.parameters(), lr=1e-3), tickets)
    for i in range(8):
        with tickets.use(tickets.names[i % 3]):
            rows = torch.arange(32 * i, min(32 * i + 32, 240))
            torch.nn.functional.cross_entropy(tickets(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, alone in tickets.state_dict().items():
        torch.testing.assert_close(first[name], alone, rtol=1e-4, atol=1e-5)
