"""Tickets at work on sound files, the command for it, and pictures and sounds of a run."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from torch import nn

from tombola._utils.errors import DataError, RunError, TicketFileError, UsageError
from tombola._utils.rng import generator
from tombola.cli import main as cli
from tombola.lab.experiments import speech, speech_stream
from tombola.lab.experiments.experiment import Finished
from tombola.lab.experiments.speech import SCOPE, SPEECH
from tombola.lab.experiments.speech_stream import enhance_file, find_tickets
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.tickets.model import TicketModel

REAL = Path(__file__).parents[2] / "shared" / "data" / "speech_enhancement" / "speech" / "test"
SCENES = ("indoor", "outdoor", "transportation")


class Unchanged(nn.Module):
    """Tickets whose mask is one everywhere: what comes out is what went in."""

    names = ("indoor", "outdoor")

    def forward(self, x, ticket):
        return x


def noise(seconds, rate, channels=1, seed=0):
    g = np.random.default_rng(seed)
    low = np.cumsum(g.standard_normal((int(seconds * rate), channels)), 0)
    low -= low.mean(0)
    return (0.5 * low / np.abs(low).max()).astype(np.float32)


@pytest.fixture
def tickets():
    net = SpeechUNet(generator=generator(0))
    return TicketModel(net, MaskSet.dense(scope(net, SCOPE), SCENES)).eval()


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"),
    [
        (0.01, 16_000, 1),
        (1.0, 16_000, 2),
        (1.0, 8_000, 1),
        (25.3, 16_000, 1),
        (19.0, 16_000, 2),
        (20.5, 44_100, 1),
    ],
)
def test_pieces_fit_together_again_whatever_length_rate_and_channels(tmp_path, seconds, rate, channels):
    waves = noise(seconds, rate, channels)
    soundfile.write(tmp_path / "in.wav", waves, rate, subtype="FLOAT")
    made, found = soundfile.read(
        enhance_file(tmp_path / "in.wav", Unchanged(), "indoor", tmp_path / "out.wav"),
        dtype="float32",
        always_2d=True,
    )
    assert found == rate
    assert made.shape == waves.shape
    tolerance = 2**-14 if rate == 16_000 else 0.02 * float(np.abs(waves).max())  # above 8 kHz all is lost
    edge = 0 if rate == 16_000 else rate // 50
    inner = slice(edge, len(waves) - edge)
    assert np.abs(made[inner] - waves[inner]).max() <= tolerance


def test_memory_is_bounded_because_no_piece_is_longer_than_ten_seconds(tmp_path, monkeypatch):
    lengths = []
    unchanged = speech_stream._enhanced

    def spy(chunk, *rest):
        lengths.append(len(chunk))
        return unchanged(chunk, *rest)

    monkeypatch.setattr(speech_stream, "_enhanced", spy)
    soundfile.write(tmp_path / "in.wav", noise(31, 16_000), 16_000)
    heard = []
    enhance_file(
        tmp_path / "in.wav", Unchanged(), "indoor", on_progress=lambda done, of: heard.append((done, of))
    )
    assert max(lengths) == 10 * 16_000
    assert heard[-1] == (31 * 16_000, 31 * 16_000)


def test_chunks_hardly_change_what_the_network_does(tmp_path, tickets, monkeypatch):
    soundfile.write(tmp_path / "in.wav", noise(6, 16_000), 16_000)
    whole, _ = soundfile.read(enhance_file(tmp_path / "in.wav", tickets, "indoor", tmp_path / "a.wav"))
    monkeypatch.setattr(speech_stream, "CHUNK", 3)
    pieces, _ = soundfile.read(enhance_file(tmp_path / "in.wav", tickets, "indoor", tmp_path / "b.wav"))
    assert np.corrcoef(whole, pieces)[0, 1] > 0.99


def test_the_ticket_is_the_one_named_and_may_be_left_out_where_there_is_one(tmp_path, tickets):
    soundfile.write(tmp_path / "in.wav", noise(1, 16_000), 16_000)
    with pytest.raises(
        UsageError, match=r"no ticket 'indor'; did you mean 'indoor'\? Known: indoor, outdoor"
    ):
        enhance_file(tmp_path / "in.wav", tickets, "indor")
    with pytest.raises(UsageError, match="which ticket\\? Give --ticket NAME, one of indoor, outdoor"):
        enhance_file(tmp_path / "in.wav", tickets, None)
    net = SpeechUNet(generator=generator(0))
    single = TicketModel(net, MaskSet.dense(scope(net, SCOPE), ["all"])).eval()
    assert enhance_file(tmp_path / "in.wav", single, None) == tmp_path / "in-all.wav"


def test_bad_input_is_one_clear_error_and_leaves_nothing_behind(tmp_path):
    soundfile.write(tmp_path / "in.wav", noise(1, 16_000), 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    before = set(tmp_path.iterdir())
    for name, error, message in (
        ("nowhere.wav", DataError, "there is no file"),
        ("text.wav", DataError, "is not a sound file"),
        ("nan.wav", DataError, "NaN or infinite"),
        ("empty.wav", DataError, "holds no sound"),
    ):
        with pytest.raises(error, match=message):
            enhance_file(tmp_path / name, Unchanged(), "indoor")
    with pytest.raises(UsageError, match="is the source itself"):
        enhance_file(tmp_path / "in.wav", Unchanged(), "indoor", tmp_path / "in.wav")
    with pytest.raises(DataError, match="there is no folder"):
        enhance_file(tmp_path / "in.wav", Unchanged(), "indoor", tmp_path / "none" / "out.wav")
    with pytest.raises(UsageError, match=r"WAV is written, so give -o NAME.wav: got .*out.mp3"):
        enhance_file(tmp_path / "in.wav", Unchanged(), "indoor", tmp_path / "out.mp3")
    assert set(tmp_path.iterdir()) == before


def test_tickets_come_from_a_file_or_from_a_run(tmp_path, tickets):
    (tmp_path / "tickets").mkdir()
    with pytest.raises(RunError, match="holds no tickets"):
        find_tickets(tmp_path)
    for sparsity in (0.5, 0.25):
        tickets.metadata["sparsity"] = sparsity
        tickets.save(tmp_path / "tickets" / f"rtl-{sparsity}.tickets")
    assert find_tickets(tmp_path).metadata["sparsity"] == 0.25
    assert find_tickets(tmp_path / "tickets" / "rtl-0.5.tickets").names == SCENES
    with pytest.raises(TicketFileError):
        find_tickets(tmp_path / "nowhere.tickets")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the speech files are not there: {REAL}")
def test_the_command_enhances_a_real_file(tmp_path, tickets, capsys):
    source, out = sorted(REAL.iterdir())[0], tmp_path / "clear.wav"
    tickets.save(tmp_path / "scenes.tickets")
    arguments = ["enhance", str(source), "--tickets", str(tmp_path / "scenes.tickets"), "-o", str(out)]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--ticket", "outdoor"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert soundfile.info(out).frames == soundfile.info(source).frames
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--ticket", "moon", "--force"])
    assert stop.value.code == 2
    assert "Known: indoor, outdoor, transportation" in capsys.readouterr().err


def test_pictures_and_sounds_are_made_for_every_scene(tmp_path, tickets):
    run, out = tmp_path / "seed0", tmp_path / "pictures"
    (run / "tickets").mkdir(parents=True)
    out.mkdir()
    (run / "config.yaml").write_text("source: null\n")
    finished = [Finished(run, "", 0, SPEECH.load(None, False), SPEECH)]
    with pytest.raises(RunError, match="has no finished rtl and imp"):
        speech.draw(finished, out)
    tickets.save(run / "tickets" / "rtl-0.5.tickets")
    net = SpeechUNet(generator=generator(0))
    TicketModel(net, MaskSet.dense(scope(net, SCOPE), ["all"])).save(run / "tickets" / "imp-0.5.tickets")
    files = speech.draw(finished, out)
    names = {"", "-noisy", "-clean", "-rtl", "-imp"}
    assert {f.name for f in files} == {f"{s}{n}.{'wav' if n else 'png'}" for s in SCENES for n in names}
    assert Image.open(out / "indoor.png").size[0] > 800
    for file in files:
        if file.suffix == ".wav":
            waves, rate = soundfile.read(file)
            assert (len(waves), rate) == (48_000, 16_000)
            assert 0 < np.abs(waves).max() <= 0.9001
