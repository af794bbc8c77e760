"""Exported tickets compute what tickets compute; what cannot be exported is one clear line."""

import errno
import importlib
import importlib.util
import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tombola._utils.errors import MissingExtra, TombolaError, UnknownTicket, UsageError
from tombola.api import rtl
from tombola.cli import main as cli
from tombola.data.dataset import Data
from tombola.data.partition import by_label
from tombola.lab.models.convnet import SmallConvNet
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.objectives import OneVsRest
from tombola.pruning import prune
from tombola.tickets.export import compact, state_of, write_program
from tombola.tickets.export.files import whole_channels
from tombola.tickets.model import TicketModel, load
from tombola.training.norm import statistics_names

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
MAKER = "from tombola.lab.models.convnet import SmallConvNet as net\n\nthree = 3\n"
PROGRAM = ["--ticket", "channels", "--backbone", "my_nets:net", "--shape", 1, 8, 8]


def net(seed=0):
    g = torch.Generator().manual_seed(seed)
    made = SmallConvNet(generator=g)
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean = torch.randn(m.num_features, generator=g) * 0.1
            m.bias.data = torch.randn(m.num_features, generator=g) * 0.1
    return made


@pytest.fixture
def tickets():
    """A ticket of channels and one of single weights, with statistics of their own."""
    made = net()
    layout, g = scope(made), torch.Generator().manual_seed(1)
    whole, scores = torch.ones(layout.size).bool(), torch.rand(layout.size, generator=g)
    args = (whole, scores, layout.size // 4, layout, "uniform")
    masks = {
        "channels": prune(*args, granularity="channel", transposed={}),
        "weights": prune(*args, granularity="weight", transposed={}),
    }
    state, names = made.state_dict(), statistics_names(made)
    private = {name: {n: state[n] + 0.01 * k for n in names} for k, name in enumerate(masks)}
    return TicketModel(made, MaskSet(layout, masks), private).eval()


@pytest.fixture
def file(tickets, tmp_path, monkeypatch):
    """The ticket file, in a folder that has a module with the network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets.py").write_text(MAKER)
    tickets.save(tmp_path / "two.tickets")
    yield tmp_path / "two.tickets"
    sys.modules.pop("my_nets", None)


@pytest.fixture
def x():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main(["export", *map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def bad(capsys, status, *arguments):
    found, out, err = call(capsys, *arguments)
    assert (found, out, len(err.splitlines())) == (status, "", 1), err
    return err


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("ticket", ["channels", "weights"])
def test_a_state_dict_needs_no_network_and_fits_the_users(file, tickets, x, capsys, suffix, ticket):
    out = file.parent / f"one.{suffix}"
    status, said, _ = call(capsys, file, "--ticket", ticket, "-o", out, "--json")
    assert (status, json.loads(said)["bytes"]) == (0, out.stat().st_size)
    state = load_file(out) if suffix == "safetensors" else torch.load(out, weights_only=True)
    plain = SmallConvNet()
    plain.load_state_dict(state)  # strict
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), tickets(x, ticket=ticket))
    again = out.read_bytes()
    call(capsys, file, "--ticket", ticket, "-o", out)
    assert out.read_bytes() == again


@pytest.mark.parametrize(("small", "form"), [(False, "pt2"), (True, "pt2")])
def test_a_program_computes_what_the_ticket_computes(file, tickets, x, capsys, small, form):
    out, flags = file.parent / f"one.{form}", ["--compact"] if small else []
    status, said, err = call(capsys, file, *PROGRAM, "-o", out, *flags, "--json")
    assert status == 0, err
    with torch.no_grad():
        found = torch.export.load(out).module()(x)
        torch.testing.assert_close(found, tickets(x, ticket="channels"), rtol=1e-5, atol=1e-5)
    dense = sum(p.numel() for p in tickets.backbone.parameters())
    assert (json.loads(said)["parameters"] < dense / 2) == small


@needs_onnx
@pytest.mark.parametrize("small", [False, True])
def test_onnxruntime_computes_what_the_ticket_computes(file, tickets, x, capsys, small):
    import onnxruntime

    out, flags = file.parent / "one.onnx", ["--compact"] if small else []
    status, _, err = call(capsys, file, *PROGRAM, "-o", out, *flags)
    assert (status, err) == (0, "")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        expected = tickets(x, ticket="channels")
    assert float((torch.from_numpy(found) - expected).abs().max()) <= 1e-5


@pytest.mark.skipif(ONNX, reason="the extra onnx is installed")
def test_onnx_without_its_extra_says_what_to_install(tickets, x, tmp_path):
    with pytest.raises(MissingExtra, match=r"pip install -e '.\[onnx\]'"):
        write_program(tmp_path / "one.onnx", tickets.bake("channels"), "onnx", x)


def test_a_compact_state_dict_has_the_shapes_of_the_compact_network(file, tickets, capsys):
    out = file.parent / "small.safetensors"
    command = ["--ticket", "channels", "--compact", "--backbone", "my_nets:net", "-o", out]
    assert call(capsys, file, *command)[0] == 0
    state = compact(tickets, "channels").state_dict()
    found = load_file(out)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], t) for name, t in state.items())


def test_the_network_of_a_run_is_that_of_its_experiment(tickets, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("experiment: digits\n")
    (tmp_path / "tickets").mkdir()
    tickets.save(tmp_path / "tickets" / "rtl-0.75.tickets")
    command = [tmp_path / "tickets" / "rtl-0.75.tickets", "--ticket", "channels", "--compact"]
    assert call(capsys, *command, "-o", tmp_path / "one.pt")[0] == 0


def test_the_classes_of_a_ticket_are_said_where_its_network_goes_alone(tickets, capsys, tmp_path):
    tickets.metadata["classes"] = {name: [k, k + 1] for k, name in enumerate(tickets.names)}
    tickets.save(tmp_path / "all.tickets")
    name = tickets.names[1]
    arguments = [tmp_path / "all.tickets", "--ticket", name, "-o", tmp_path / "one.safetensors"]
    assert f"ticket {name} answers with classes 1, 2: its other outputs" in call(capsys, *arguments)[2]
    assert json.loads(call(capsys, *arguments, "--force", "--json")[1])["classes"] == [1, 2]


def test_a_ticket_of_single_weights_is_not_made_compact(file, capsys):
    command = [file, "--ticket", "weights", "--compact", "--backbone", "my_nets:net", "-o", "small.pt"]
    err = bad(capsys, 2, *command)
    assert "--compact takes out whole channels, but ticket weights was pruned otherwise" in err
    assert "granularity=channel" in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ticket", "weight"], "did you mean 'weights'? Known: channels, weights"),
        ([], "which ticket? Give --ticket NAME, one of channels, weights"),
        (["--ticket", "weights", "-o", "one.bin"], "there is no format 'bin'"),
        (["--ticket", "weights", "--format", "ptt"], "did you mean 'pt'?"),
        (
            ["--ticket", "weights", "--format", "pt2"],
            "does not say which network its tickets belong to: give --backbone",
        ),
        (
            ["--ticket", "weights", "--format", "pt2", "--backbone", "nowhere:net"],
            "No module named 'nowhere'",
        ),
        (["--ticket", "weights", "--format", "pt2", "--backbone", "my_nets:nat"], "no attribute 'nat'"),
        (["--ticket", "weights", "--format", "pt2", "--backbone", "my_nets"], "write MODULE:NAME"),
        (["--ticket", "weights", "--format", "pt2", "--backbone", "my_nets:three"], "not callable"),
        (["--ticket", "weights", "--format", "pt2", "--backbone", "builtins:int"], "gives int, not a torch"),
    ],
)
def test_a_bad_argument_is_status_2_and_one_line(file, capsys, arguments, named):
    out = [] if "-o" in arguments else ["-o", file.parent / "one.pt"]
    assert named in bad(capsys, 2, file, *arguments, *out)
    assert sorted(p.name for p in file.parent.glob("one.*")) == []


def test_a_network_of_another_architecture_is_status_1_and_one_line(file, capsys):
    (file.parent / "my_nets.py").write_text("import torch\n\ndef net():\n    return torch.nn.Linear(3, 3)\n")
    command = [file, "--ticket", "weights", "-o", "one.pt2", "--backbone", "my_nets:net"]
    assert "another architecture" in bad(capsys, 1, *command)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pt2"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(file, capsys, monkeypatch, suffix):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = file.parent / f"one.{suffix}"
    out.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    command = [file, *PROGRAM, "-o", out, "--force"]
    assert "No space left on device" in bad(capsys, 1, *command)
    assert out.read_text() == "old"
    assert {p.name for p in file.parent.iterdir()} >= {out.name}
    assert not list(file.parent.glob(".*"))


def test_a_network_that_cannot_be_exported_is_an_error(tmp_path):
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(TombolaError, match=r"Branch cannot be exported by torch\.export"):
        write_program(tmp_path / "one.pt2", Branch(), "pt2", torch.ones(1, 3))


def test_what_is_read_without_the_network_is_what_is_baked(file, tickets):
    restored = load(file, net(1))
    for name in tickets.names:
        state = restored.bake(name).state_dict()
        found = state_of(file, name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[n], t) for n, t in state.items())
    with pytest.raises(UnknownTicket):
        state_of(file, "nobody")


def test_layers_that_share_weights_need_the_network(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    layout = Layout(("0.weight",), ((3, 3),))
    TicketModel(tied, MaskSet.dense(layout, ["a"])).save(tmp_path / "a.tickets")
    with pytest.raises(TombolaError, match=r"1\.weight shares the weights"):
        state_of(tmp_path / "a.tickets", "a")


def test_whole_channels_counts_what_lies_in_dead_rows(tickets):
    assert whole_channels(tickets.scope, tickets["channels"]) == 1
    assert whole_channels(tickets.scope, tickets["weights"]) < 0.1
    assert whole_channels(tickets.scope, torch.ones(tickets.scope.size).bool()) == 1


def test_a_program_needs_a_shape_that_the_file_or_the_user_gives(file, tickets, capsys, tmp_path):
    given = [file, *PROGRAM[:4], "-o", tmp_path / "a.pt2"]
    status, _, err = call(capsys, *given)
    assert (status, "give --shape" in err) == (2, True)
    assert not (tmp_path / "a.pt2").exists()
    tickets.metadata["shape"] = [1, 8, 8]
    tickets.save(file)
    assert call(capsys, *given)[0] == 0
    loaded = torch.export.load(tmp_path / "a.pt2").module()
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(loaded(x), tickets(x, ticket="channels"))


def test_an_example_that_the_network_cannot_take_is_one_line(tmp_path):
    with pytest.raises(
        UsageError, match=r"cannot take a sample of shape \[5\] .*--shape is that of one sample"
    ):
        write_program(tmp_path / "one.pt2", torch.nn.Linear(3, 2), "pt2", torch.ones(1, 5))
    assert not (tmp_path / "one.pt2").exists()


READER = """
import torch
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, ids, mask):
        h = torch.relu(self.inner((self.table(ids) * mask[..., None]).mean(1)))
        return {"logits": self.head(h), "hidden": h, "cache": None}

def reader():
    torch.manual_seed(0)
    return Reader()
"""


def test_inputs_of_any_structure_are_known_to_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_readers.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    reader = importlib.import_module("my_readers").reader()
    y, ids = torch.arange(90) % 3, torch.randint(3, 50, (90, 6))
    data = Data.of({"ids": ids, "mask": torch.rand(90, 6)}, y)
    objective, partition = OneVsRest(output="logits"), by_label(data, ["a", "b", "c"])
    tickets = rtl(reader, objective, data, partition, sparsity=0.5, T=2, steps=2, parallel="no")
    tickets.save("r.tickets")
    given = ["r.tickets", "--ticket", "b", "--backbone", "my_readers:reader"]
    status, _, err = call(capsys, *given, "-o", "b.pt2")
    assert status == 0, err
    x = data.inputs("test", torch.arange(7))
    found = torch.export.load("b.pt2").module()(**x)
    assert set(found) == {"logits", "hidden"}
    torch.testing.assert_close(found["logits"], tickets.bake("b").eval()(**x)["logits"])
    assert "networks of one tensor" in bad(capsys, 2, *given, "-o", "b.pt", "--compact")
