"""Tickets in a folder or on a hub, with a card that is made from the run and a program in it that runs."""

import json
import re
import shlex
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import tombola as tb
from tombola._utils.errors import MissingExtra, TicketFileError, TombolaError, UsageError
from tombola.cli.main import main as cli
from tombola.cli.share import _network as own_network
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.reference import changed, from_reference
from tombola.tickets import files, probe
from tombola.tickets.card import About, _drawn, card_of
from tombola.tickets.sharing import FILE

needs_hub = pytest.mark.skipif(
    find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def tickets():
    net = small()
    masks = {"cat": torch.arange(32) % 2 == 0, 'a "dog"': torch.arange(32) % 3 == 0}
    made = tb.TicketModel(net, MaskSet(Layout(("0.weight",), ((8, 4),)), masks)).eval()
    made.metadata["probe"] = probe.of(made, torch.rand(2, 4))
    return made


def run(card):
    """What the program of a card prints."""
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with redirect_stdout(StringIO()) as said:
        exec(program, {})
    return said.getvalue()


def main(arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli(arguments))
    assert not stop.value.code


def cell(card, row, column=1):
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {row} |")]
    return line.split(" | ")[column].removesuffix(" |")


# -- folders ------------------------------------------------------------------------------------------------


def test_a_folder_gives_back_the_tickets_and_says_what_they_are(tickets, tmp_path):
    folder = tickets.save_pretrained(tmp_path / "pets", licence="mit", data_licence="cc-by-4.0")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", FILE]
    x, again = torch.rand(3, 4), tb.TicketModel.from_pretrained(folder, small(1))
    for name in tickets:
        assert torch.equal(again(x, ticket=name), tickets(x, ticket=name))
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"], "base_model" in front) == ("mit", "tombola", False)
    assert cell(card, "licence of the data") == "cc-by-4.0"
    assert cell(card, "cat", 2) == "0.500"
    assert cell(card, "active in a ticket").startswith("14 of 32 weights on average")
    assert cell(card, "stored of all tickets").startswith("21 weights (0.656 of the network), and 35 numbers")
    assert cell(card, "similarity of masks").startswith(f"mean Jaccard {6 / 21:.3f}")
    assert "# Write here where your network comes from" in card
    assert "network = ...  # Sequential" in card
    assert "None: these tickets are of no run" in card
    tickets.save_pretrained(folder, card="# mine\n")
    assert (folder / "README.md").read_text() == "# mine\n"


def test_a_file_that_does_not_say_its_network_asks_for_it(tickets, tmp_path):
    folder = tickets.save_pretrained(tmp_path / "pets")
    with pytest.raises(
        TombolaError, match=r"does not say which network its tickets belong to: pass backbone="
    ):
        tb.TicketModel.from_pretrained(folder)
    tickets.metadata["experiment"] = "my_code:EXPERIMENT"  # code that a file of others may not choose
    with pytest.raises(TombolaError, match="pass backbone="):
        tb.TicketModel.from_pretrained(tickets.save_pretrained(folder))
    with pytest.raises(TicketFileError, match="another architecture"):
        tb.TicketModel.from_pretrained(folder, nn.Linear(4, 3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TicketFileError, match=f"holds no {FILE}"):
        tb.TicketModel.from_pretrained(tmp_path / "empty", small())
    (tmp_path / "file").touch()
    with pytest.raises(TicketFileError, match="is a file: give a folder"):
        tickets.save_pretrained(tmp_path / "file")


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(2, 1, 3),
        torch.randint(3, 9, (2, 6)),
        torch.randint(0, 255, (2, 2), dtype=torch.uint8),
        torch.rand(2, 3).to(torch.bfloat16),
        torch.rand(2, 3) < 0.5,
        {"ids": torch.arange(4).view(2, 2), "more": [torch.rand(2, 1), None], "mode": "fast"},
        (torch.rand(2, 1),),
    ],
)
def test_the_inputs_that_a_card_draws_are_like_those_of_training(x):
    made = eval(_drawn(probe.described(x)), {"torch": torch})

    def form(part):
        return (list(part.shape), part.dtype) if isinstance(part, torch.Tensor) else part

    mapped = torch.utils._pytree.tree_map
    assert mapped(form, made) == mapped(form, x)


# -- the run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    command = "run digits --method rtl same_mask --seed 0 1 --sparsity 0.5 --parallel no --brief"
    with redirect_stdout(StringIO()):
        main([*command.split(), "--set", "T=1", "steps=1", "statistics=1", "--out", str(folder)])
    return folder


def test_the_card_of_a_run_has_its_figures_its_command_and_a_program(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = runs / "digits-quick" / "seed0" / "tickets" / "rtl-0.5.tickets"
    main(["share", str(file), "shared", "--licence", "apache-2.0", "--json"])
    assert json.loads(capsys.readouterr().out)["files"] == [FILE, "README.md"]
    card = Path("shared/README.md").read_text()
    assert re.fullmatch(r"\['(yes|no)', '(yes|no)'\]\n", run(card))  # no backbone was asked for

    frame = tb.results(runs)
    frame = frame[(frame.ticket == "") & (frame.reading == "like_for_like") & (frame.metric == "auc")]
    for method, shown in (("rtl", "**rtl**"), ("same_mask", "same_mask (control)")):
        assert cell(card, shown, 3).startswith(f"{frame[frame.method == method].value.mean():.3f} ± ")
        assert cell(card, shown, 6) == "2"
    assert "balanced accuracy, the paper's reading | AUC, like for like" in card

    (command,) = re.findall(r"```\n(tombola .*)\n```", card)
    assert "T=1" in command
    main([*shlex.split(command)[1:], "--out", str(runs), "--brief"])
    said = capsys.readouterr()
    assert "rtl at 50%: done before" in said.out + said.err  # other settings would be another run


def test_what_a_user_may_still_say_is_one_line(runs, tmp_path, capsys):
    file = runs / "digits-quick" / "seed0" / "tickets" / "same_mask-0.5.tickets"
    main(["share", str(file), str(tmp_path / "shared")])
    said = capsys.readouterr()
    lacking = (
        "the card says that no licence of the tickets and of the data is given: --licence, --data-licence\n"
    )
    assert said.err == lacking
    main(["share", str(file), str(tmp_path / "shared"), "--licence", "mit", "--force"])
    assert capsys.readouterr().err == "the card says that no licence of the data is given: --data-licence\n"
    assert cell((tmp_path / "shared" / "README.md").read_text(), "**same_mask**", 6) == "2"


NETS = """
import torch
from torch import nn
import tombola as tb

def small():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

ready = small()
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nets.py").write_text(NETS)
    yield
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize("made", ["small", "ready"])
def test_the_program_of_a_network_of_ones_own_runs(tickets, nets, made, capsys):
    tickets.metadata["answer"] = "class"
    tickets.save("pets.tickets")
    main(["share", "pets.tickets", "shared", "--backbone", f"own_nets:{made}"])
    card = Path("shared/README.md").read_text()
    assert f"import own_nets\n\nnetwork = own_nets.{made}" in card
    assert re.fullmatch(r"\[[012], [012]\]\n", run(card))
    with pytest.raises(SystemExit, match="1"):
        cli(["share", "pets.tickets", "other", "--backbone", "digits"])  # another network
    assert not Path("other").exists()


def test_the_program_of_an_experiment_of_ones_own_takes_its_network(tickets, nets, capsys):
    experiment = "\nEXPERIMENT = types.SimpleNamespace(backbone=lambda generator: small())\n"
    Path("own_nets.py").write_text(f"import types\n{NETS}{experiment}")
    Path("run/seed0/tickets").mkdir(parents=True)
    Path("run/seed0/config.yaml").write_text("experiment: own_nets:EXPERIMENT\n")
    tickets.save("run/seed0/tickets/a.tickets")
    facts = files.opened("run/seed0/tickets/a.tickets")[1]["facts"]
    own = own_network(Path("run/seed0/tickets/a.tickets"), facts, None, "own_nets:EXPERIMENT")
    folder = tickets.save_pretrained("shared", network=own)
    assert "tensor" in run((folder / "README.md").read_text())


def test_the_card_says_by_which_commands_tickets_grew(tickets, nets, capsys):
    from test_growth import TASK, founders, new_data

    two = founders(norm=False)
    two.save("two.tickets")
    card = card_of("two.tickets", About())
    assert "The file does not say which command, or which program, made them." in card
    three = two.grow("west", new_data(), TASK)
    three.metadata["grown"]["west"]["command"] = "tombola grow two.tickets --name west --data west.csv"
    three.save("three.tickets")
    card = card_of("three.tickets", About())
    assert "which program, made north, south. The others are of:\n\n```\ntombola grow two.tickets" in card
    card = card_of("three.tickets", About(again="tombola run mine"))
    assert "```\ntombola run mine\ntombola grow two.tickets --name west --data west.csv\n```" in card
    assert "command" not in str(three.forget("west").metadata)


# -- pretrained networks ------------------------------------------------------------------------------------


def test_a_pretrained_base_is_found_where_it_lies_or_by_its_name(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    from test_pretrained import save, tokens

    base, x = save(tmp_path / "bert"), tokens(2)
    net = from_reference(tb.from_pretrained(base, labels=3), ["bert.pooler.dense.weight"])
    change = net.get_parameter(changed("bert.pooler.dense.weight"))
    with torch.no_grad():
        change.normal_()
    layout = Layout.of({changed("bert.pooler.dense.weight"): change})
    tickets = tb.TicketModel(net, MaskSet.dense(layout, ["mail"])).eval()
    tickets.metadata["probe"] = probe.of(tickets, x)
    expected = tickets(x, ticket="mail").logits
    folder = tickets.save_pretrained(tmp_path / "here")
    assert torch.equal(tb.TicketModel.from_pretrained(folder)(x, ticket="mail").logits, expected)
    card = (folder / "README.md").read_text()
    assert str(tmp_path) not in card.replace(str(folder), "")
    assert run(card)
    with pytest.raises(UsageError, match=r"which is on this machine alone: .*\(base=, --base\)"):
        tickets.push_to_hub("org/tickets")

    folder = tickets.save_pretrained(tmp_path / "there", base="org/bert", base_licence="apache-2.0")
    header = files.opened(folder / FILE)[1]
    assert header["facts"]["pretrained"]["model"] == "org/bert"
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["base_model"] == "org/bert"
    with pytest.raises(TombolaError, match=r"org/bert is no folder, and not in the cache"):
        tb.TicketModel.from_pretrained(folder)
    again = tb.TicketModel.from_pretrained(folder, base)  # where it lies by now
    assert torch.equal(again(x, ticket="mail").logits, expected)
    with pytest.raises(TicketFileError, match="holds changes of another network"):
        tb.TicketModel.from_pretrained(folder, save(tmp_path / "other", seed=1))


def test_the_tokenizer_of_the_base_goes_by_its_name_too(tickets, tmp_path):
    here = str(tmp_path / "bert")  # a folder of this machine
    text = {"column": "text", "tokenizer": here, "digest": "0", "length": 8}
    tickets.metadata |= {"pretrained": {"model": here, "task": "text-classification"}}
    tickets.metadata["input"] = {
        "stored": None,
        "prepare": [],
        "features": None,
        "kind": "values",
        "text": text,
    }
    folder = tickets.save_pretrained(tmp_path / "a", base="org/bert")
    assert files.opened(folder / FILE)[1]["facts"]["input"]["text"]["tokenizer"] == "org/bert"
    assert 'tickets.prepare(["a text"' in (folder / "README.md").read_text()
    assert tickets.metadata["pretrained"]["model"] == here  # these tickets stay as they are


# -- the hub ------------------------------------------------------------------------------------------------


@needs_hub
def test_a_repository_is_read_from_the_cache(tickets, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TombolaError, match=r"org/pets is no folder, and its tickets\.safetensors is not"):
        tb.TicketModel.from_pretrained("org/pets", small())
    kept = tmp_path / "models--org--pets"  # as hf_hub_download lays it down
    tickets.save_pretrained(kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    again = tb.TicketModel.from_pretrained("org/pets", small())
    assert torch.equal(again(torch.ones(1, 4), ticket="cat"), tickets(torch.ones(1, 4), ticket="cat"))
    with pytest.raises(TombolaError, match=r"its tickets\.safetensors is not in the cache"):
        tb.TicketModel.from_pretrained("org/pets", small(), revision="other")
    with pytest.raises(TombolaError, match="no/such/name is no folder, and no repository"):
        tb.TicketModel.from_pretrained("no/such/name", small())


@needs_hub
def test_a_repository_gets_the_folder(tickets, monkeypatch):
    import huggingface_hub

    seen = {}

    def create(self, repo_id, **options):
        seen.update(options, repo=repo_id, token=self.token)
        return f"https://hub.test/{repo_id}"

    def upload(self, repo_id, folder_path, **options):
        seen["files"] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    address = tickets.push_to_hub("org/pets", private=True, token="secret", licence="mit")
    assert (address, seen["repo"], seen["private"]) == ("https://hub.test/org/pets", "org/pets", True)
    assert (seen["exist_ok"], seen["token"], set(seen["files"])) == (True, "secret", {FILE, "README.md"})
    card = seen["files"]["README.md"].decode()
    assert 'from_pretrained("org/pets", backbone=network)' in card
    assert "# pets" in card
    assert huggingface_hub.ModelCard(card).data.license == "mit"


@needs_hub
def test_a_hub_that_cannot_be_reached_is_one_line(tickets, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TombolaError, match=r"^org/pets cannot be uploaded: .*offline"):
        tickets.push_to_hub("org/pets", token="hf_none")


def test_without_its_package_the_extra_is_named(tickets, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (
        lambda: tickets.push_to_hub("org/pets"),
        lambda: tb.TicketModel.from_pretrained("org/pets", small()),
    ):
        with pytest.raises(MissingExtra, match=r"pip install -e '.\[hub\]'"):
            call()


def test_a_card_of_many_tickets_is_short(tmp_path):
    masks = MaskSet.dense(Layout(("0.weight",), ((8, 4),)), [f"t{k}" for k in range(40)])
    tb.TicketModel(small(), masks).save(tmp_path / "a.tickets")
    card = card_of(tmp_path / "a.tickets", About())
    assert "| t29 |" in card
    assert "| and 10 more |" in card
    assert "| t30 |" not in card


def test_a_readme_of_ones_own_is_not_replaced(tmp_path, make_convnet, random_masks):
    tickets = tb.TicketModel(net := make_convnet(), random_masks(tb.scope(net), ("a", "b")))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"has a README.md of its own, .*give another folder"):
        tickets.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
