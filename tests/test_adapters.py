"""All tickets as one ONNX network with an adapter each, and tickets as adapters of peft."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tombola._utils.errors import MissingExtra, TombolaError
from tombola.cli import main as cli
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.masks.reference import changed, from_reference
from tombola.tickets.export import state_of, write_adapters, write_peft
from tombola.tickets.export.programs import check_close
from tombola.tickets.model import TicketModel

ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra onnx is not installed")
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="the package peft is not installed")
NETS = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 3)

    def forward(self, ids, scale):
        h = torch.relu(self.norm(self.inner(ids.float() * scale)))
        return {"logits": self.head(h), "hidden": h, "cache": None}

def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module with networks, in the folder of the test."""
    (tmp_path / "adapted_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("adapted_nets")
    sys.modules.pop("adapted_nets", None)


def drawn(net, layout, own, names=("north", "far/west"), keep=0.5):
    """Tickets with random masks, and random tensors of their own."""
    g = torch.Generator().manual_seed(1)
    state = {name: t.detach() for name, t in net.state_dict().items() if name in own}
    private = {n: {k: t + torch.randint(1, 9, t.shape, generator=g) for k, t in state.items()} for n in names}
    masks = {name: torch.rand(layout.size, generator=g) < keep for name in names}
    return TicketModel(net, MaskSet(layout, masks), private).eval()


def of_change(nets, keep=0.1):
    """Tickets of a change of the base, each with an output layer of its own."""
    net = from_reference(nets.base(), ["0.weight", "2.weight"])
    with torch.no_grad():
        for name in ("0.weight", "2.weight"):
            net.get_parameter(changed(name)).normal_()
    layout = Layout.of({changed(n): net.get_parameter(changed(n)) for n in ("0.weight", "2.weight")})
    return drawn(net, layout, ["4.weight", "4.bias"], keep=keep)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main(["export", *map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


# -- ONNX ---------------------------------------------------------------------------------------------------


@needs_onnx
def test_onnxruntime_swaps_tickets_of_a_structured_network(nets, tmp_path):
    import onnxruntime

    net = nets.Scaled()
    own = ["head.bias", "norm.running_mean", "norm.num_batches_tracked"]
    tickets = drawn(net, scope(net), own)
    g = torch.Generator().manual_seed(2)
    x = {"ids": torch.randint(9, (5, 6), generator=g), "scale": torch.rand(5, 1, generator=g)}
    files = write_adapters(tmp_path / "all.onnx", tickets, {name: t[:1] for name, t in x.items()})
    assert [file.name for file in files.values()] == [
        "all.north.onnx_adapter",
        "all.far%2Fwest.onnx_adapter",
    ]
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["ids", "scale"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["tickets"]) == ["north", "far/west"]
    held = {value.name for value in session.get_overridable_initializers()}
    assert held == {"mask.inner.weight", "own.head.bias", "own.norm.running_mean"}

    def outputs(batch, adapter=None):
        options = onnxruntime.RunOptions()
        if adapter is not None:
            loaded = onnxruntime.LoraAdapter()
            loaded.Load(str(adapter))
            options.add_active_adapter(loaded)
        given = {name: t.numpy() for name, t in batch.items()}
        return dict(zip(("logits", "hidden"), session.run(["logits", "hidden"], given, options), strict=True))

    for size in (1, 5, 1):
        batch = {name: t[:size] for name, t in x.items()}
        for name in ("far/west", "north", "far/west"):
            found, expected = outputs(batch, files[name]), tickets(batch, ticket=name)
            for part in found:
                np.testing.assert_allclose(found[part], expected[part].detach(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(outputs(batch)["logits"], outputs(batch, files["north"])["logits"])
    said = onnxruntime.AdapterFormat.read_adapter(str(files["far/west"]))
    assert said.get_model_version() == session.get_modelmeta().version > 0
    mask, bias, mean = (said.get_parameters()[name].numpy() for name in sorted(held))
    assert (mask.dtype, mask.sum()) == (np.uint8, int(tickets["far/west"].sum()))
    assert (bias.shape, mean.shape) == ((3,), (10,))


@needs_onnx
def test_an_adapter_holds_what_differs_from_the_first_ticket(nets, tmp_path, capsys):
    import onnxruntime

    tickets = of_change(nets)
    first = torch.arange(tickets.scope.size) < 120  # this layer is the same in both
    tickets["far/west"] = torch.where(first, tickets["north"], tickets["far/west"])
    tickets.metadata["classes"] = {"north": [0, 1], "far/west": [1, 2]}
    tickets.save("two.tickets", like=torch.rand(2, 6))
    given = ["two.tickets", "--backbone", "adapted_nets:base", "--all", "-o", "all.onnx"]
    status, out, err = call(capsys, *given, "--json")
    assert (status, err) == (0, "")
    network, first, other = json.loads(out)
    assert (network["ticket"], first["ticket"], other["ticket"]) == ("north", "north", "far/west")
    assert (first["classes"], other["classes"]) == ([0, 1], [1, 2])
    names = {
        one["ticket"]: set(onnxruntime.AdapterFormat.read_adapter(one["file"]).get_parameters())
        for one in (first, other)
    }
    assert names == {"north": set(), "far/west": {"mask.2.weight", "own.4.weight", "own.4.bias"}}
    assert 400 + 4 * 63 < other["bytes"] == Path(other["file"]).stat().st_size < 400 + 4 * 63 + 300


def test_outputs_that_differ_are_not_given_out():
    check_close("onnx", [torch.tensor([100.0])], [torch.tensor([100.0005])])
    with pytest.raises(TombolaError, match=r"what onnx computes differs from the network by 0\.1"):
        check_close("onnx", [torch.tensor([1.0])], [torch.tensor([1.1])])
    with pytest.raises(TombolaError, match="has 0 outputs, the network 1"):
        check_close("onnx", [torch.ones(1)], [])


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(nets, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtra, match=r"(onnxruntime|onnxscript) is needed; pip install -e '\.\[onnx\]'"
    ):
        write_adapters(tmp_path / "all.onnx", of_change(nets), torch.rand(2, 6))
    assert not list(tmp_path.glob("*.onnx*"))


# -- peft ---------------------------------------------------------------------------------------------------


@needs_peft
def test_peft_loads_what_a_ticket_is(nets, capsys):
    from peft import PeftModel

    tickets, x = of_change(nets), torch.rand(7, 6)
    tickets.save("two.tickets", like=x)
    given = ["two.tickets", "--backbone", "adapted_nets:base", "--format", "peft"]
    status, out, err = call(capsys, *given, "--all", "-o", "adapters", "--json")
    assert (status, err) == (0, "")
    for made, name in zip(json.loads(out), tickets.names, strict=True):
        assert (made["sparse"], made["whole"]) == (["0", "2"], ["4"])
        model = PeftModel.from_pretrained(nets.base(), made["file"]).eval()
        expected = tickets.bake(name)(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model.merge_and_unload()(x), expected, rtol=1e-6, atol=1e-6)
        assert made["bytes"] == sum(file.stat().st_size for file in Path(made["file"]).iterdir())
    status, out, _ = call(capsys, *given, "--ticket", "north", "-o", "north")
    assert (status, out.endswith("bytes; layers that it holds whole: 4\n")) == (0, True)


@needs_peft
def test_what_an_adapter_cannot_hold_is_refused_by_name(nets, tmp_path):
    tickets, x = of_change(nets), torch.rand(2, 6)
    plain = drawn(nets.base(), scope(nets.base()), [])
    with pytest.raises(TombolaError, match="these tickets are no changes: find them with reference='theta0'"):
        write_peft(tmp_path / "a", plain, "north", nets.base(), x)
    with torch.no_grad():
        tickets.backbone[0].bias += 1
    assert write_peft(tmp_path / "a", tickets, "north", nets.base(), x).whole == ("0", "4")
    with torch.no_grad():
        tickets.backbone[2].bias += 1
    with pytest.raises(TombolaError, match=r"'north' changes no layer like that: freeze biases in training"):
        write_peft(tmp_path / "b", tickets, "north", nets.base(), x)
    assert not (tmp_path / "b").exists()


@needs_peft
def test_a_layer_that_peft_takes_for_another_is_named(tmp_path):
    base = nn.Sequential(*(nn.Linear(8, 8) for _ in range(15)))
    net = from_reference(base, ["0.weight"])
    with torch.no_grad():
        net.get_parameter(changed("0.weight"))[0, 0] = 1
        net[4].weight += 1
    layout = Layout.of({changed("0.weight"): net.get_parameter(changed("0.weight"))})
    tickets = TicketModel(net, MaskSet.dense(layout, ["a"]))
    with pytest.raises(TombolaError, match="peft takes the layer 14 for 4, by its name"):
        write_peft(tmp_path / "a", tickets, "a", base, torch.rand(2, 8))


# -- the command --------------------------------------------------------------------------------------------


def test_all_tickets_as_files_of_a_folder(nets, capsys):
    tickets = drawn(nets.base(), scope(nets.base()), ["4.bias"])
    tickets.save("two.tickets")
    status, out, _ = call(capsys, "two.tickets", "--all", "--format", "safetensors", "-o", "each", "--json")
    assert (status, [Path(one["file"]).name for one in json.loads(out)]) == (
        0,
        ["north.safetensors", "far%2Fwest.safetensors"],
    )
    from safetensors.torch import load_file

    for name, one in zip(tickets.names, json.loads(out), strict=True):
        expected = state_of("two.tickets", name)
        assert all(torch.equal(expected[n], t) for n, t in load_file(one["file"]).items())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--all", "--ticket", "north", "-o", "a.onnx"], "--ticket is one ticket, --all are all of them"),
        (["--all", "--compact", "-o", "a.onnx"], "--compact one of a single ticket"),
        (["-o", "a.onnx"], "one of north, far/west, or --all"),
        (["--all", "-o", "a.onnx", "--backbone", "adapted_nets:base"], "give --shape"),
        (
            ["--all", "-o", "folder"],
            "there is no format ''. Known: safetensors, pt, pt2, onnx, peft; give --format",
        ),
    ],
)
def test_a_bad_argument_is_status_2_and_one_line(nets, capsys, arguments, named):
    drawn(nets.base(), scope(nets.base()), []).save("two.tickets")
    status, out, err = call(capsys, "two.tickets", *arguments)
    assert (status, out, len(err.splitlines()), named in err) == (2, "", 1, True), err
