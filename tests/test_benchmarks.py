"""The page of measurements."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_rows_that_a_run_does_not_measure_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    found = json.loads((ROOT / "docs" / "performance.json").read_text())
    committed = {row["name"]: row for row in found}
    from benchmarks import page
    from benchmarks.row import Row

    for name in ("performance.json", "performance.md"):
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    name = "select_10m_vs_kthvalue"
    machine = committed[name]["machine"]
    page.update([Row(name, 0.5, "×", "something")], machine, "a day", tmp_path)
    new = {row["name"]: row for row in json.loads((tmp_path / "performance.json").read_text())}
    assert {name for name in new if new[name] != committed.get(name)} == {name}
    assert new.keys() == committed.keys()
    lines = [(folder / "performance.md").read_text().splitlines() for folder in (ROOT / "docs", tmp_path)]
    changed = set(lines[1]) - set(lines[0])
    letter = next(
        line[8] for line in lines[0] if line.startswith("Machine ") and line.endswith(f"{machine}.")
    )
    assert changed == {f"| `{name}` | 0.5× |  |  | something | {letter}, a day |"}
    page.update([Row("a_new_one", 0.5, "×", "something")], "another machine", "a day", tmp_path)
    assert "Machine A: another machine." in (tmp_path / "performance.md").read_text().splitlines()
