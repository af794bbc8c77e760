"""Streams of scenes: what is in a recording, how blocks become one sound, how a router is judged by them."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tombola._utils.errors import DataError, UsageError
from tombola._utils.rng import generator
from tombola.cli.main import main
from tombola.lab import audio
from tombola.lab.evaluation import streamed
from tombola.lab.evaluation.loaded_run import LoadedRun
from tombola.lab.experiments import speech_stream
from tombola.lab.experiments.speech import SCOPE, SPEECH
from tombola.lab.experiments.speech_data import LENGTH, NOISE, SNR, mixtures
from tombola.lab.experiments.speech_data import SPEECH as VOICE
from tombola.lab.experiments.speech_stream import FADE, STEP, recording
from tombola.lab.experiments.speech_synthetic import synthetic_clips
from tombola.lab.launch import Order
from tombola.masks.prunable import scope
from tombola.tickets.model import TicketModel


@pytest.fixture(scope="module")
def clips():
    return synthetic_clips()


@pytest.fixture(scope="module")
def data(clips):
    return mixtures(clips, augment=False)


@pytest.fixture(scope="module")
def made(data):
    return recording(data, SPEECH.partition(data), "test", [2, 0, 2], 0.0, 8, seed=1)


class Same:
    """Tickets that give back what they are given, times one and times two."""

    names = ("once", "twice")

    def __call__(self, x, ticket):
        return x * (1 + self.names.index(ticket))


def test_a_recording_is_scenes_of_test_noise_one_after_another_at_one_ratio(made, data):
    assert made.scenes == ("indoor", "outdoor", "transportation")
    assert made.scene_P.tolist() == [2, 2, 0, 0, 2, 2]
    assert made.changes() == [8.0, 16.0]
    assert len(made.clean_T) == len(made.noisy_T) == 24 * audio.RATE
    assert made.blocks == 48
    assert made.scene_I().tolist() == [2] * 16 + [0] * 16 + [2] * 16
    noise = made.pieces(made.noisy_T - made.clean_T)
    ratio = 20 * (audio.rms(made.pieces(made.clean_T)) / audio.rms(noise)).log10()
    assert float(ratio.abs().max()) < 0.01
    again = recording(data, SPEECH.partition(data), "test", [2, 0, 2], 0.0, 8, seed=1)
    assert torch.equal(again.noisy_T, made.noisy_T)
    other = recording(data, SPEECH.partition(data), "test", [2, 0, 2], 0.0, 8, seed=2)
    assert not torch.equal(other.noisy_T, made.noisy_T)


def test_a_recording_holds_clips_of_its_own_split_and_scene_alone(data, clips, monkeypatch):
    seen, waves = [], type(data.prepare).waves
    monkeypatch.setattr(
        type(data.prepare), "waves", lambda self, rows: seen.append(rows) or waves(self, rows)
    )
    recording(data, SPEECH.partition(data), "test", [1, 0], 5.0, 8, seed=0)
    (rows,) = seen
    assert [clips[n].scene for n in rows[:, NOISE].tolist()] == ["outdoor"] * 2 + ["indoor"] * 2
    assert {clips[n].split for n in rows[:, [VOICE, NOISE]].flatten().tolist()} == {"test"}
    assert set(rows[:, SNR].tolist()) == {500}
    assert set(rows[:, LENGTH].tolist()) == {4 * audio.RATE}
    assert len({tuple(row) for row in rows.tolist()}) == 4


def test_what_a_recording_cannot_be_made_of_is_said(data):
    partition = SPEECH.partition(data)
    with pytest.raises(UsageError, match="multiple of 4"):
        recording(data, partition, "test", [0], 0.0, 6, seed=0)
    with pytest.raises(DataError, match=r"ratios of -5, 0, 5, 10 dB"):
        recording(data, partition, "test", [0], 3.0, 8, seed=0)
    with pytest.raises(DataError, match="26 mixtures of indoor at 0 dB needed, test has 24"):
        recording(data, partition, "test", [0], 0.0, 104, seed=0)
    with pytest.raises(DataError, match="others"):
        recording(replace(data, prepare=torch.Tensor.float), partition, "test", [0], 0.0, 8, seed=0)


def test_blocks_joined_are_the_recording_where_tickets_change_nothing(made):
    noisy = made.noisy_T[: 6 * STEP]
    blocks = speech_stream.all_blocks(noisy, Same())
    assert blocks.shape == (2, 6, FADE + STEP)
    torch.testing.assert_close(speech_stream.joined(blocks, torch.zeros(6).long()), noisy, atol=1e-5, rtol=0)
    mixed = speech_stream.joined(blocks, torch.tensor([0, 0, 1, 1, 0, 1]))
    torch.testing.assert_close(mixed[: 2 * STEP - FADE], noisy[: 2 * STEP - FADE], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[2 * STEP : 4 * STEP - FADE], 2 * noisy[2 * STEP : 4 * STEP - FADE],
                               atol=1e-5, rtol=0)  # fmt: skip


def test_what_is_heard_and_seen_ends_before_what_is_still_to_come(made):
    for i in (0, 1, 7):
        last = (i + 1) * STEP + speech_stream.AHEAD
        heard, (seen, at) = speech_stream.heard(made.noisy_T, i, 1.5), speech_stream.seen(made.noisy_T, i)
        assert torch.equal(heard[0, -100:], made.noisy_T[last - 100 : last])
        assert torch.equal(seen[0, -100:], made.noisy_T[last - 100 : last])
        assert torch.equal(seen[0, at : at + STEP], made.noisy_T[i * STEP : (i + 1) * STEP])
    assert heard.shape[1] == 1.5 * audio.RATE


def test_delays_are_counted_from_each_change(made):
    late = made.scene_I().roll(3)
    assert streamed.delays(made, made.scene_I()) == [(8.0, 0.0), (16.0, 0.0)]
    assert streamed.delays(made, late) == [(8.0, 1.5), (16.0, 1.5)]
    never = torch.full_like(late, 2)
    assert streamed.delays(made, never) == [(8.0, None), (16.0, 0.0)]


def test_improvement_is_the_mean_over_pieces(made):
    assert streamed.improvement(made, made.noisy_T) == 0
    half = (made.noisy_T + made.clean_T) / 2
    each = [
        float(audio.si_snr(h.double(), c.double()) - audio.si_snr(n.double(), c.double()))
        for h, c, n in zip(*map(made.pieces, (half, made.clean_T, made.noisy_T)), strict=True)
    ]
    assert streamed.improvement(made, half) == pytest.approx(sum(each) / 6)
    assert 4 < streamed.improvement(made, half) < 8


@pytest.fixture
def loaded(data, tmp_path, monkeypatch):
    """A run with tickets that nobody has trained, on little data."""
    backbone = SPEECH.backbone(generator(0, "theta0"))
    found = scope(backbone, SCOPE)
    from tombola.masks.maskset import MaskSet

    keep = torch.rand(3, found.size, generator=generator(1)) > 0.2
    names = SPEECH.partition(data).names
    few = {s: data.split(s).take(torch.arange(len(data.split(s)))) for s in ("train", "validation", "test")}
    small = replace(data, **few)
    tickets = TicketModel(
        backbone, MaskSet.stacked(found, names, keep), metadata={"objective": "Enhancement"}
    )
    (tmp_path / "seed0" / "tickets").mkdir(parents=True)
    tickets.save(tmp_path / "seed0" / "tickets" / "rtl-0.5.tickets")
    order = Order(SPEECH, "quick", SPEECH.presets["quick"].settings, False, None, False, ("rtl",))
    made = LoadedRun(tmp_path / "seed0", "speech", "quick", 0, order, small, SPEECH.partition(small))
    monkeypatch.setattr("tombola.cli.fitted_options.open_runs", lambda paths, source: iter([made]))
    monkeypatch.setattr("tombola.cli.fitted_options.runs_of", lambda paths, _: list(paths))
    return made


def test_the_command_writes_rows_sounds_and_a_picture(loaded, tmp_path, capsys):
    out, page = tmp_path / "out", tmp_path / "page.md"
    arguments = ["stream", str(loaded.path), "--seconds", "4", "--set", "bands=16", "limit=4", "--json"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--out", str(out), "--write", str(page)])
    assert left.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    value = {r.get("who", r["metric"]): r["mean"] for r in rows}
    assert set(value) > {
        "oracle",
        "router",
        "best_fixed",
        "random",
        "missed",
        "switches",
        "ms_route",
        "listens",
    }
    assert value["true_switches"] == 2
    assert 0 <= value["routing_accuracy"] <= 1
    assert value["ms_wait"] == 750
    files = sorted(file.name for file in (out / "seed0-0.5").iterdir())
    assert files == ["clean.wav", "noisy.wav", "oracle.wav", "router.wav", "stream.png"]
    noisy, oracle, clean = (audio.read(out / "seed0-0.5" / f"{n}.wav") for n in ("noisy", "oracle", "clean"))
    assert len(noisy) == len(oracle) == 12 * audio.RATE
    waves = [torch.from_numpy(w).double().view(3, -1) for w in (noisy, oracle, clean)]
    better = (audio.si_snr(waves[1], waves[2]) - audio.si_snr(waves[0], waves[2])).mean()
    assert float(better) == pytest.approx(value["oracle"], abs=0.05)  # 16 bits
    assert Image.open(out / "seed0-0.5" / "stream.png").size[0] == 900
    assert (out / "seed0-0.5" / "stream.png").stat().st_size < 200_000
    assert "| speech quick | 50% | prototype |" in page.read_text()
    assert json.loads((tmp_path / "page-stream.json").read_text()) == rows


def test_runs_of_another_task_are_refused(loaded, monkeypatch, capsys):
    from tombola.lab.experiments.digits import DIGITS

    other = replace(loaded, experiment="digits", order=replace(loaded.order, experiment=DIGITS))
    monkeypatch.setattr("tombola.cli.fitted_options.open_runs", lambda paths, source: iter([other]))
    with pytest.raises(SystemExit) as left:
        main(["stream", str(loaded.path)])
    assert left.value.code == 2
    assert "stream enhances sound, and this is a run of digits" in capsys.readouterr().err
