"""Tickets whose weights are shared out over processes (FSDP2): the training of one process, moments too."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import tombola as tb
from tombola._utils.errors import ScopeError
from tombola.training.parallel import choose

fsdp = pytest.importorskip("torch.distributed.fsdp", reason="this torch was built without distributed")
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

pytestmark = pytest.mark.skipif(bool(choose.hindrance()), reason="no forks here")
NAMES = ("cat", "dog", "cow")


def meshed(work):
    """On a rank, given the mesh of both."""
    return lambda rank: work(rank, init_device_mesh("cpu", (2,)))


def made():
    """Three tickets with output layers of their own; weights of sizes that two processes cannot halve."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 2))
    scope = tb.scope(net)
    masks = {name: torch.rand(scope.size) < 0.4 for name in NAMES}
    own = {name: {"4.weight": torch.randn(2, 9), "4.bias": torch.zeros(2)} for name in NAMES}
    return tb.TicketModel(net, tb.MaskSet(scope, masks), own)


def batches():
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 5, generator=g), torch.randint(2, (8,), generator=g)) for _ in range(6)]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.01),
}


def train(tickets, optimizer, part=slice(None)):
    """Algorithm 2: ticket after ticket, on a part of each batch."""
    for i, (x, y) in enumerate(batches()):
        with tickets.use(NAMES[i % 3]):
            nn.functional.cross_entropy(tickets(x[part]), y[part]).backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_joint_training_is_that_of_one_process_and_gathered_where_it_is_saved(over, tmp_path, kind):
    whole = made()
    optimizer = tb.masked(OPTIMIZERS[kind](whole.parameters()), whole)
    train(whole, optimizer)

    def work(rank, mesh):
        tickets = fsdp.fully_shard(made(), mesh=mesh)
        optimizer = tb.masked(OPTIMIZERS[kind](tickets.parameters()), tickets)
        train(tickets, optimizer, slice(4 * rank, 4 * rank + 4))
        parameters = list(tickets.parameters())
        moments = [v for p in parameters for v in optimizer.state[p].values() if v.ndim]
        assert all(isinstance(t, DTensor) for t in [*parameters, *moments])
        size = tickets.save(tmp_path / "sharded.tickets")
        tickets.save_pretrained(tmp_path / "shared")
        dist.barrier()
        return size, [t.full_tensor().tolist() for t in moments]

    (size, moments), other = over(meshed(work))
    assert size == other[0] == (tmp_path / "sharded.tickets").stat().st_size
    theirs = tb.TicketModel.from_pretrained(tmp_path / "shared", made().backbone)
    assert theirs.masks == tb.load(tmp_path / "sharded.tickets", made().backbone).masks
    for name in NAMES:
        alike = {"rtol": 1e-5, "atol": 1e-6, "msg": name}
        torch.testing.assert_close(theirs.bake(name).state_dict(), whole.bake(name).state_dict(), **alike)
    alone = [v.tolist() for p in whole.parameters() for v in optimizer.state[p].values() if v.ndim]
    torch.testing.assert_close(moments, alone, rtol=1e-5, atol=1e-6)


def test_what_no_ticket_owns_keeps_its_bits_and_so_do_those_beside_one_that_grows(over):
    def work(rank, mesh):
        tickets = made()
        x, _ = batches()[0]
        with torch.no_grad():
            before = [tickets(x, ticket=name) for name in NAMES[:2]]
        others = tickets.masks.masks_KN[:2].any(0)
        free = dict(tickets.scope.unflatten(tickets["cow"] & ~others))
        first = {name: p.detach().clone() for name, p in tickets.backbone.named_parameters()}
        fsdp.fully_shard(tickets, mesh=mesh)
        optimizer = tb.masked(torch.optim.Adam(tickets.parameters(), lr=0.1), tickets)
        # What the new ticket has to itself; nothing of what is shared outside the masks.
        optimizer.masks = [
            free.get(name.removeprefix("backbone."), torch.zeros(p.shape, dtype=torch.bool))
            for name, p in tickets.named_parameters()
        ]
        for x_B, y_B in batches()[:3]:
            part = slice(4 * rank, 4 * rank + 4)
            nn.functional.cross_entropy(tickets(x_B[part], ticket="cow"), y_B[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
        whole = tickets.gathered()
        with torch.no_grad():
            after = [whole(x, ticket=name) for name in NAMES[:2]]
        moved = {name: p != first[name] for name, p in whole.backbone.named_parameters()}
        for name, moved_here in moved.items():
            assert not bool((moved_here & ~free.get(name, torch.zeros(moved_here.shape) > 0)).any())
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        return sum(int(m.sum()) for m in moved.values()), same

    for moved, same in over(meshed(work)):
        assert moved > 10
        assert same == [True, True]


def test_what_cannot_be_done_with_shards_is_refused_with_what_to_do(over, images, by_class):
    def refused(work):
        with pytest.raises(ScopeError) as error:
            work()
        return str(error.value)

    def work(rank, mesh):
        x, _ = batches()[0]
        parts, tickets = made(), fsdp.fully_shard(made(), mesh=mesh)
        fsdp.fully_shard(parts.backbone[0], mesh=mesh)
        fsdp.fully_shard(parts, mesh=mesh)
        net = fsdp.fully_shard(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), mesh=mesh)
        task = tb.objectives.Classification(), images, by_class
        said = [
            refused(lambda: parts(x, ticket="cat")),
            refused(lambda: tb.rtl(net, *task, sparsity=0.5)),
            refused(lambda: tickets.grow("new", images, task[0])),
        ]
        assert len(tickets.predict(x, "cat").tickets) == len(x)  # all processes ask
        with torch.no_grad():
            assert torch.equal(tickets.bake("cat")(x), tickets(x, ticket="cat"))
        return said

    for said in over(meshed(work)):
        assert all("is sharded over processes (fully_shard): " in words for words in said)
        assert all("shard a TicketModel as one and not its parts" in words for words in said[:1])
        assert all("give the network whole; a loop of your own" in words for words in said[1:])
