"""The programs of docs/sharing.md run: a folder with a card, and adapters in ONNX Runtime."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tombola.tickets.export import write_adapters

PAGE = (Path(__file__).parent.parent / "docs" / "sharing.md").read_text()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the first program leaves, and the folder that it ran in."""
    (program,), made = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), {}
    made["folder"] = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made["folder"])
        exec(program, made)
    return made


def test_its_program_runs(names):
    x = names["x"]
    assert torch.equal(names["again"](x, ticket="fox"), names["tickets"](x, ticket="fox"))
    assert "license: mit" in (names["folder"] / "animals" / "README.md").read_text()


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the extra onnx is not installed")
def test_its_adapters_run(names, monkeypatch):
    monkeypatch.chdir(names["folder"])
    write_adapters(Path("animals.onnx"), names["tickets"], names["x"][:1])
    program, made = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)[0], {"samples": names["x"].numpy()}
    exec(program, made)
    expected = names["tickets"](names["x"], ticket="dog").detach()
    torch.testing.assert_close(torch.from_numpy(made["scores"]), expected, rtol=1e-5, atol=1e-5)
    version = made["onnxruntime"].AdapterFormat.read_adapter("animals.fox.onnx_adapter").get_model_version()
    assert version == made["session"].get_modelmeta().version
