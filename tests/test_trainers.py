"""Tickets in trainers that know nothing of them: the steps, their checkpoints, plain optimisers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import tombola as tb
from tombola.tickets.model import TicketModel

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
S, L = 48, 6


def rows():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (S, L), generator=g)
    return [{"input_ids": ids[i], "labels": torch.tensor(i % 3)} for i in range(S)]


def tickets_of(net, density=0.5):
    scope, g = tb.scope(net), torch.Generator().manual_seed(1)
    masks = {name: torch.rand(scope.size, generator=g) < density for name in ("cat", "dog")}
    return TicketModel(net, tb.MaskSet(scope, masks))


def equal(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


# -- Trainer of transformers ---------------------------------------------------------------------------


@pytest.fixture
def bert():
    t = pytest.importorskip("transformers", reason="the package transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.BertForSequenceClassification(t.BertConfig(**sizes, vocab_size=40, num_labels=3))


def trainer(model, folder, optimizer=None, **options):
    from transformers import Trainer, TrainingArguments

    common = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "remove_unused_columns": False}
    common |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    arguments = TrainingArguments(folder, **{"save_strategy": "no"} | common | options)
    return Trainer(model, arguments, train_dataset=rows(), optimizers=(optimizer, None))


def test_a_training_that_goes_on_from_a_checkpoint_of_trainer_has_the_same_bits(bert, tmp_path):
    tickets = tickets_of(bert)
    again = copy.deepcopy(tickets)
    for model, start in ((tickets, None), (again, str(tmp_path / "checkpoint-2"))):
        optimizer = tb.masked(torch.optim.AdamW(model.parameters(), lr=1e-2), model)
        with model.use("cat"), torch.random.fork_rng():
            run = trainer(model, tmp_path, optimizer, save_strategy="steps", save_steps=2)
            run.train(resume_from_checkpoint=start)
    assert equal(tickets, again)
    assert run.state.global_step == 6


def test_under_a_full_mask_trainer_trains_a_plain_network(bert, tmp_path):
    plain, tickets = copy.deepcopy(bert), tickets_of(bert, density=2)
    made = tb.masked(torch.optim.SGD(tickets.parameters(), lr=0.1), tickets)
    for model, optimizer in ((plain, torch.optim.SGD(plain.parameters(), lr=0.1)), (tickets, made)):
        with tickets.use("cat"), torch.random.fork_rng():
            run = trainer(model, tmp_path, optimizer)
            run.train()
            assert run.model_accepts_loss_kwargs
    for (name, a), b in zip(plain.named_parameters(), bert.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)


def test_the_optimiser_that_trainer_makes_by_itself_is_noticed(bert, tmp_path):
    tickets = tickets_of(bert)
    with tickets.use("cat"), torch.random.fork_rng(), pytest.warns(UserWarning, match="use tombola.masked"):
        trainer(tickets, tmp_path).train()


def test_what_a_backbone_does_not_have_its_tickets_do_not_have():
    tickets = tickets_of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    for name in ("config", "main_input_name", "loss_type", "activation_checkpointing_enable", "generate"):
        assert not hasattr(tickets, name)
    assert not tickets.accepts_loss_kwargs
    with pytest.raises(tb.errors.TombolaError, match="x and mask: pass all inputs by name"):
        tickets(torch.rand(1, 2), mask=torch.rand(1, 2), ticket="cat")


# -- Lightning -------------------------------------------------------------------------------------------


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        h = checkpoint(lambda h: torch.relu(self.inner(torch.relu(h))), self.first(x), use_reentrant=False)
        return self.head(h)


@pytest.fixture
def loader():
    g = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(S, 8, generator=g), torch.arange(S) % 3), batch_size=8)


@pytest.fixture
def tickets():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tickets_of(Recomputed())


@pytest.fixture
def fit(loader):
    lightning = pytest.importorskip("lightning", reason="the package lightning is not installed")
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)

    class Training(lightning.LightningModule):
        def __init__(self, tickets, optimizer, manual=False):
            super().__init__()
            self.tickets, self.made, self.automatic_optimization = tickets, optimizer, not manual

        def configure_optimizers(self):
            return self.made

        def training_step(self, batch, number):
            x, y = batch
            if self.automatic_optimization:
                return F.cross_entropy(self.tickets(x), y)
            with self.tickets.use("cat"):
                self.optimizers().zero_grad()
                self.manual_backward(F.cross_entropy(self.tickets(x), y))
                self.clip_gradients(self.optimizers(), 0.5, "norm")
                self.optimizers().step()
            return None

    def fit(tickets, optimizer, manual=False, ckpt_path=None, **options):
        given = {"max_epochs": 1, "accelerator": "cpu", "enable_checkpointing": False} | off | options
        trainer = lightning.Trainer(**given)
        trainer.fit(Training(tickets, optimizer, manual), loader, ckpt_path=ckpt_path)
        return trainer

    return fit


def by_hand(tickets, optimizer, loader, clip=None):
    tickets.train()
    for x, y in loader:
        with tickets.use("cat"):
            optimizer.zero_grad()
            F.cross_entropy(tickets(x), y).backward()
            if clip:
                nn.utils.clip_grad_norm_(tickets.parameters(), clip)
            optimizer.step()


@pytest.mark.parametrize("manual", [True, False])
def test_lightning_makes_the_steps_of_a_plain_loop(tickets, loader, fit, manual):
    plain = copy.deepcopy(tickets)
    ours, theirs = (tb.masked(torch.optim.AdamW(t.parameters(), lr=0.01), t) for t in (plain, tickets))
    if manual:
        fit(tickets, theirs, manual=True)
    else:
        with tickets.use("cat"):
            fit(tickets, theirs, gradient_clip_val=0.5)
    by_hand(plain, ours, loader, clip=0.5)
    assert equal(plain, tickets)


def test_a_training_that_goes_on_from_a_checkpoint_of_lightning_has_the_same_bits(tickets, fit, tmp_path):
    again, twice = copy.deepcopy(tickets), None
    for model, epochs in ((tickets, (2,)), (again, (1, 2))):
        for count in epochs:
            optimizer = tb.masked(torch.optim.AdamW(model.parameters(), lr=0.01), model)
            with model.use("dog"):
                done = fit(model, optimizer, max_epochs=count, ckpt_path=twice if count == 2 else None)
            if len(epochs) == 2 and count == 1:
                twice = str(tmp_path / "a.ckpt")
                done.save_checkpoint(twice)
    assert equal(tickets, again)


def test_a_plain_optimiser_in_lightning_is_noticed(tickets, fit):
    with tickets.use("cat"), pytest.warns(UserWarning, match="use tombola.masked"):
        fit(tickets, torch.optim.AdamW(tickets.parameters()))


# -- Accelerate ------------------------------------------------------------------------------------------


def test_accelerate_makes_the_steps_of_a_plain_loop(tickets, loader):
    accelerate = pytest.importorskip("accelerate", reason="the package accelerate is not installed")
    plain = copy.deepcopy(tickets)
    ours, theirs = (tb.masked(torch.optim.AdamW(t.parameters(), lr=0.01), t) for t in (plain, tickets))
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, batches = accelerator.prepare(tickets, theirs, loader)
    for x, y in batches:
        with tickets.use("cat"), accelerator.accumulate(model):
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(model(x), y))
            accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    by_hand(plain, ours, loader, clip=0.5)
    assert equal(plain, tickets)


def test_a_plain_optimiser_in_accelerate_is_noticed(tickets, loader):
    accelerate = pytest.importorskip("accelerate", reason="the package accelerate is not installed")
    plain = torch.optim.AdamW(tickets.parameters())
    model, optimizer, batches = accelerate.Accelerator(cpu=True).prepare(tickets, plain, loader)
    x, y = next(iter(batches))
    F.cross_entropy(model(x, ticket="cat"), y).backward()
    with pytest.warns(UserWarning, match="use tombola.masked"):
        optimizer.step()
