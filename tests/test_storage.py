"""The ticket file: exact, small, atomic, and never a surprise when it is damaged."""

import copy
import os
import random
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import nn

from tombola._utils import io
from tombola._utils.errors import TicketFileError
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.tickets import files
from tombola.tickets.model import TicketModel, load
from tombola.training.norm import statistics_names

NAMES = ("top", "middle", "bottom")


@pytest.fixture
def tickets(convnet, random_masks):
    own = [*statistics_names(convnet), "1.weight", "1.bias"]
    state = convnet.state_dict()
    private = {name: {n: state[n] + i for n in own} for i, name in enumerate(NAMES)}
    metadata = {"label": "test", "settings": {"lr": 1e-3, "sparsity": [0.5]}}
    return TicketModel(convnet, random_masks(scope(convnet), density=0.3), private, metadata).eval()


@pytest.fixture
def file(tickets, tmp_path):
    tickets.save(tmp_path / "a.tickets")
    return tmp_path / "a.tickets"


def refuses(path, backbone):
    """The one-line message with which reading this file fails."""
    with pytest.raises(TicketFileError) as caught:
        load(path, backbone)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_round_trip_gives_bit_equal_outputs(tickets, file, make_convnet):
    again, x = load(file, make_convnet(seed=7)), torch.randn(4, 1, 6, 6)
    assert (again.names, again.masks) == (tickets.names, tickets.masks)
    assert again.metadata == {"label": "test", "settings": {"lr": 1e-3, "sparsity": [0.5]}}
    for name in NAMES:
        assert torch.equal(again(x, ticket=name), tickets(x, ticket=name))


def test_loading_leaves_the_given_backbone_alone(file, make_convnet):
    net = make_convnet(seed=7)
    before = copy.deepcopy(net.state_dict())
    load(file, net)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_equal_content_gives_equal_bytes(tickets, file, tmp_path, make_convnet):
    size = tickets.save(tmp_path / "b.tickets")
    assert (tmp_path / "b.tickets").read_bytes() == file.read_bytes()
    assert size == file.stat().st_size
    load(file, make_convnet(seed=7)).save(tmp_path / "c.tickets")
    assert (tmp_path / "c.tickets").read_bytes() == file.read_bytes()


def test_only_the_weights_of_the_union_are_stored(tickets, file):
    tensors, _ = io.read(file)
    assert tensors["weights"].numel() == int(tickets.masks.union().sum()) < tickets.scope.size
    assert tensors["masks"].numel() == 3 * -(-tickets.scope.size // 8)


def test_file_size_is_that_of_union_and_bits_whatever_the_network(tmp_path):
    net = nn.Sequential(nn.Linear(200, 200, bias=False), nn.Linear(200, 2))
    mask = torch.arange(40_000) % 10 == 0
    model = TicketModel(net, MaskSet(scope(net), {"a": mask, "b": mask.roll(1)}))
    size = model.save(tmp_path / "a.tickets", coding="plain")
    content = 4 * 8_000 + 2 * 5_000 + 4 * 402
    assert content < size < content + 3_000 < 4 * 40_000


def test_weights_that_no_ticket_keeps_come_back_as_zero(tickets, file, make_convnet):
    again = load(file, make_convnet(seed=7))
    flat = again.scope.flatten(dict(again.backbone.named_parameters()))
    assert not flat[~again.masks.union()].any()
    assert bool(flat[again.masks.union()].all())


def test_a_weight_with_two_names_is_stored_once(tmp_path):
    a, b = nn.Linear(40, 40, bias=False), nn.Linear(40, 40, bias=False)
    b.weight = a.weight
    net = nn.Sequential(a, nn.Tanh(), b, nn.Linear(40, 2))
    masks = MaskSet(Layout(("0.weight",), ((40, 40),)), {"a": torch.rand(1600) < 0.5})
    model, x = TicketModel(net, masks), torch.rand(3, 40)
    model.save(tmp_path / "a.tickets")
    again = load(tmp_path / "a.tickets", net)
    assert torch.equal(again(x), model(x))
    assert again.backbone[0].weight is again.backbone[2].weight
    assert not again.backbone[0].weight.reshape(-1)[~masks["a"]].any()
    assert "rest.2.weight" not in io.read(tmp_path / "a.tickets")[0]


def test_any_tensors_and_facts_round_trip(tmp_path):
    tensors = {
        "f": torch.randn(3, 2),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0),
        "bool": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "strided": torch.randn(4, 3).T,
    }
    io.write(tmp_path / "x", tensors, {"a": [1, None, "é"], "sha256": "mine"})
    back, metadata = io.read(tmp_path / "x")
    assert metadata == {"a": [1, None, "é"], "sha256": "mine"}
    assert back.keys() == tensors.keys()
    for name, t in tensors.items():
        assert back[name].dtype == t.dtype
        assert torch.equal(back[name], t)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.001, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 1.0])
def test_a_truncated_file_is_refused(file, convnet, share):
    content = file.read_bytes()
    file.write_bytes(content[: min(int(share * len(content)) + (0 < share < 1), len(content) - 1)])
    assert "truncated or no safetensors file" in refuses(file, convnet)


def test_any_flipped_byte_is_refused(file, convnet):
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    picks = random.Random(0)
    places = [*range(8), *picks.sample(range(8, header), 80), *picks.sample(range(header, len(content)), 40)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << picks.randrange(8)
        if damaged[place] in b" \t\r\n" and content[place] in b" ":
            continue  # JSON's padding
        file.write_bytes(damaged)
        refuses(file, convnet)


def test_an_altered_fact_is_refused(file, convnet):
    file.write_bytes(file.read_bytes().replace(b"middle", b"muddle"))
    assert "does not match its hash" in refuses(file, convnet)


def test_appended_bytes_are_refused(file, convnet):
    file.write_bytes(file.read_bytes() + b"\0")
    refuses(file, convnet)


def test_a_missing_file_and_a_directory_are_refused(tmp_path, convnet):
    assert "there is no file" in refuses(tmp_path / "none.tickets", convnet)
    refuses(tmp_path, convnet)


@pytest.mark.parametrize("metadata", [None, {"tombola": "{}"}, {"tombola": "nothing", "sha256": "0"}])
def test_a_foreign_safetensors_file_is_refused(tmp_path, convnet, metadata):
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors", metadata=metadata)
    refuses(tmp_path / "x.safetensors", convnet)


def test_a_name_that_is_not_utf8_is_saved_and_loaded(tickets, tmp_path, convnet):
    path = tmp_path / os.fsdecode(b"\xff.tickets")
    tickets.save(path)
    assert load(path, convnet).masks == tickets.masks


def test_a_file_of_text_or_pickle_is_refused(tmp_path, convnet):
    (tmp_path / "text").write_text("hello, this is no ticket file at all\n" * 9)
    torch.save({"a": 1}, tmp_path / "pickle")
    refuses(tmp_path / "text", convnet)
    refuses(tmp_path / "pickle", convnet)


def test_a_stage_file_of_a_run_is_refused(tmp_path, convnet):
    io.write(tmp_path / "x", {"masks": torch.zeros(3)}, {"stage": "search", "facts": {"done": 1}})
    assert "holds no tickets" in refuses(tmp_path / "x", convnet)


def test_a_newer_format_is_refused(file, convnet):
    tensors, header = io.read(file)
    io.write(file, tensors, {**header, "format": files.FORMAT + 1})
    assert "update tombola" in refuses(file, convnet)


def change_width(net):
    net[9] = nn.Linear(6, 4)


def change_stride(net):
    net[4].stride = (1, 1)


def change_activation(net):
    net[2] = nn.GELU()


def change_norm(net):
    net[1].eps = 1e-3


def add_a_layer(net):
    net.append(nn.Softmax(1))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (change_width, "tensor 9"),
        (change_stride, "module 4"),
        (change_activation, "module 2"),
        (change_norm, "module 1"),
        (add_a_layer, "module 10"),
    ],
)
def test_another_architecture_is_refused_and_the_first_difference_named(file, make_convnet, change, names):
    net = make_convnet()
    change(net)
    message = refuses(file, net)
    assert "belongs to another architecture" in message
    assert names in message


def test_another_dtype_is_refused(file, convnet):
    assert "float64" in refuses(file, convnet.double())


def fail(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", [(os, "fsync"), (Path, "replace")])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(file, tickets, monkeypatch, where):
    before = file.read_bytes()
    tickets.metadata["label"] = "new"
    with monkeypatch.context() as patch:
        patch.setattr(*where, fail)
        with pytest.raises(OSError, match="No space left"):
            tickets.save(file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    tickets.save(file)
    assert file.read_bytes() != before


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(file, tickets, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tickets.save(file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_written_file_may_be_read_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        io.write(tmp_path / "deep" / "x", {"a": torch.zeros(1)}, {})
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "deep" / "x").stat().st_mode) == 0o644


def test_digest_sees_names_dtypes_shapes_and_bytes():
    a = {"x": torch.zeros(4)}
    others = [
        {"y": torch.zeros(4)},
        {"x": torch.zeros(2, 2)},
        {"x": torch.zeros(4, dtype=torch.int32)},
        {"x": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {},
    ]
    digests = {io.digest(tensors) for tensors in (a, *others)}
    assert len(digests) == 6
    assert io.digest({"x": torch.zeros(4)}) == io.digest(a)


@pytest.mark.parametrize("kind", [*io.DTYPES, None], ids=str)
def test_bytes_are_those_of_the_library(kind, tmp_path):
    """Of one dtype each, and of all together; names and facts in any letters."""
    kinds = [kind] if kind else [*io.DTYPES]
    shapes = {"empty": (0, 3), "one": (), "grid": (3, 5), "zweite/größe": (7,)}
    facts = {"label": "Größe 'x' \"y\" \n \x01 \u2028", "list": [1, 2.5, None]}
    tensors = {f"{name} {k}": torch.ones(shape).to(k) for k in kinds for name, shape in shapes.items()}
    tensors["turned"] = torch.arange(6.0).view(2, 3).T
    size = io.write(tmp_path / "x", tensors, facts)
    content = (tmp_path / "x").read_bytes()
    with safe_open(tmp_path / "x", "pt") as opened:
        known = opened.metadata()
    plain = {name: t.contiguous() for name, t in tensors.items()}
    assert content == save(plain, metadata=known) == io.to_content(tensors, facts)
    assert size == len(content) == io.size(tensors, facts)
    found, again = io.read(tmp_path / "x")
    assert again == facts
    assert all(found[name].dtype == t.dtype and torch.equal(found[name], t) for name, t in tensors.items())
