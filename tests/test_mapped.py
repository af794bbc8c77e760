"""Rows in a mapped file: as in memory, made once, made again where damaged, one line where refused."""

import errno
import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tombola._utils.errors import DataError, UsageError
from tombola.data import memmap as module
from tombola.data.memmap import VARIABLE, fits, free_memory, mapped

SHAPE = (7, 3, 4, 5)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tombola"


@pytest.fixture
def whole():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


class Rows:
    """Rows in another order than that of their places; counts how often they are made."""

    def __init__(self, whole):
        self.whole, self.calls = whole, 0

    def __call__(self):
        self.calls += 1
        for place in (3, 0, 6, 1, 5, 2, 4):
            yield place, self.whole[place]


def files(folder):
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def test_rows_are_as_given_and_made_once(whole, folder):
    rows = Rows(whole)
    for _ in range(2):
        x = mapped("a", SHAPE, rows)
        assert torch.equal(x, torch.from_numpy(whole))
        index = torch.tensor([5, 0, 5])
        assert torch.equal(x[index], torch.from_numpy(whole)[index])
    assert rows.calls == 1
    assert len(files(folder)) == 1


def test_other_keys_and_shapes_have_other_files(whole, folder):
    rows = Rows(whole)
    for key, shape in (("a", SHAPE), ("b", SHAPE), ("a", (7, 60))):
        mapped(key, shape, rows)
    assert rows.calls == len(files(folder)) == 3


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def longer(file):
    file.write_bytes(file.read_bytes() + b"x")


def altered(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, longer, altered, emptied])
def test_a_damaged_file_is_made_again(damage, whole, folder):
    rows = Rows(whole)
    mapped("a", SHAPE, rows)
    (file,) = files(folder)
    damage(file)
    assert torch.equal(mapped("a", SHAPE, rows), torch.from_numpy(whole))
    assert rows.calls == 2
    mapped("a", SHAPE, rows)
    assert rows.calls == 2


def test_an_error_on_the_way_leaves_nothing_and_is_not_renamed(whole, folder):
    def broken():
        yield 0, whole[0]
        raise DataError("row 1 is no image")

    with pytest.raises(DataError, match=r"^row 1 is no image$"):
        mapped("a", SHAPE, broken)
    assert files(folder) == []


def test_what_a_killed_process_left_is_taken_away(whole, folder):
    rows = Rows(whole)
    mapped("a", SHAPE, rows)
    (file,) = files(folder)
    file.rename(folder / f".{file.name}.0123abcd")
    mapped("a", SHAPE, rows)
    assert files(folder) == [file]


def refused(whole, *words):
    with pytest.raises(DataError) as caught:
        mapped("a", SHAPE, Rows(whole))
    for word in (*words, "XDG_CACHE_HOME", f"{VARIABLE}=inf", "make room"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_room_is_said_before_the_work(whole, folder, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    refused(whole, str(folder), "too little room")


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(whole, folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(whole, str(folder), "No space left on device")
    assert files(folder) == []


def test_a_folder_that_cannot_be_made_is_named(whole, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(whole, str(tmp_path / "file" / "tombola"), "Not a directory")


def test_two_processes_that_want_the_same_rows_make_them_once(whole, folder):
    made = multiprocessing.get_context("fork").Value("i", 0)

    def slow():
        made.value += 1
        time.sleep(0.3)
        yield from Rows(whole)()

    def work():
        assert torch.equal(mapped("a", SHAPE, slow), torch.from_numpy(whole))

    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert made.value == 1


# -- how much may be held ---------------------------------------------------------------------------------


def test_a_quarter_of_the_free_memory_may_be_held(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert [fits(size) for size in (0, 250, 251)] == [True, True, False]
    for share, expected in (("0", False), ("0.3", True), ("inf", True), ("", False)):
        monkeypatch.setenv(VARIABLE, share)
        assert fits(251) is expected


@pytest.mark.parametrize("share", ["-1", "nan", "much"])
def test_a_share_that_is_none_is_named(share, monkeypatch):
    monkeypatch.setenv(VARIABLE, share)
    with pytest.raises(UsageError, match=f"{VARIABLE}={share} .* must be a number from 0 on"):
        fits(1)


def test_free_memory_is_at_most_all_memory():
    assert 0 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


SIZE = 200 << 20
MEASURE = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path

    import numpy as np
    import torch

    from tombola._utils import io
    from tombola.data import Data, Split
    from tombola.data.memmap import mapped

    def held(kind):
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(kind))
        return int(line.split()[1]) * 1024

    each = 3 * 64 * 64
    count = int(sys.argv[1]) // each
    row = np.arange(each, dtype=np.uint8).reshape(3, 64, 64)
    rows = lambda: ((place, row + place % 251) for place in range(count))
    before = held("VmHWM")
    x = mapped("measured", (count, 3, 64, 64), rows)
    made = held("VmHWM") - before
    y = torch.arange(count)
    split = Split(x, y)
    data = Data(split, split, split).tuning()
    before = held("VmRSS")
    for start in range(0, 192, 64):
        index = torch.arange(start, count, count // 64)[:64]
        batch = data.inputs("train", index)
        assert bool((batch[:, 0, 0, 0] == index % 251).all())
    batches = held("VmRSS") - before
    room = 64 << 20  # a copy of all rows is refused from here on
    resource.setrlimit(resource.RLIMIT_DATA, (held("VmData") + room, resource.RLIM_INFINITY))
    io.digest({"x": data.train.x, "half": data.validation.x})
    try:
        data.train.x.clone()
        sys.exit("the limit does not work")
    except RuntimeError:
        pass
    print(made, batches)
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_neither_making_nor_indexing_nor_hashing_takes_the_memory_of_all_rows(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, str(SIZE)], env=environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    made, batches = map(int, found.stdout.split())
    assert made < SIZE / 8
    assert batches < SIZE / 4
