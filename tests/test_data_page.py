"""The programs of docs/data.md run, one after the other, and do what the page says."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parent.parent / "docs" / "data.md"


def test_its_programs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL), {}
    assert len(programs) == 4
    torch.manual_seed(0)
    exec(programs[0], names)
    data, tickets = names["data"], names["tickets"]
    where = data.test.column("city").tolist()
    found = tickets.predict(data.inputs("test", torch.arange(len(where))), ticket=where)
    right = [int(answer) == y for answer, y in zip(found.answer_B, data.test.y.tolist(), strict=True)]
    assert sum(right) > 0.9 * len(right), "cities that disagree have tickets that answer for their own"
    exec(programs[1], names)
    rows, again = names["houses"][["area", "rooms"]].to_numpy(), names["again"]
    assert torch.equal(again.prepare(rows), data.prepare(torch.tensor(rows).float()))
    exec(programs[2], names)
    assert len(names["data"].validation) == 40
    exec(programs[3], names)
    train, test = (set(names["data"].split(s).column("patient")) for s in ("train", "test"))
    assert not train & test
