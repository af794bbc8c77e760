"""Speech enhancement: its network, its clips and their splits, its mixtures."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from tombola._utils.errors import DataError
from tombola._utils.rng import generator
from tombola.lab import audio
from tombola.lab.experiments import speech_data, speech_synthetic
from tombola.lab.experiments.speech import SCOPE, SPEECH
from tombola.lab.experiments.speech_data import (
    NOISE,
    NOISE_AT,
    SNR,
    SPEECH_AT,
    Bank,
    Clip,
    mixtures,
    read_clips,
    with_validation,
)
from tombola.lab.models.speech_unet import SpeechUNet, levelled
from tombola.masks.prunable import scope
from tombola.methods.context import conditioned
from tombola.pruning.schedules import kept

REAL = Path(__file__).parents[2] / "shared" / "data" / "speech_enhancement"
COLUMNS = "path,kind,scene,split,speaker,recording,label"


# -- the network ------------------------------------------------------------------------------------------


def test_the_network_has_the_papers_37368_weights_all_in_scope():
    net = SpeechUNet()
    found = scope(net, SCOPE)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert found.size == sum(m.weight.numel() for m in convolutions) == 37_368
    assert set(found.names) == {n for n, p in net.named_parameters() if p.ndim == 4}
    assert "mask.weight" in found.names
    assert [kept(found.size, s) for s in (0.25, 0.5, 0.75)] == [28_026, 18_684, 9_342]


def test_the_layers_are_the_papers():
    net = SpeechUNet()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [m.in_channels for m in layers] == [2, 12, 12, 12, 24, 48, 48, 24, 24, 24]
    assert [m.out_channels for m in layers] == [12, 12, 12, 24, 48, 24, 12, 12, 12, 2]
    assert [m.kernel_size for m in layers] == [(3, 5), *[(3, 3)] * 8, (3, 5)]
    assert {m.stride for m in layers} == {(1, 2)}  # frames stay, bins are halved
    h = torch.zeros(1, 2, 7, 513)
    for layer, bins in zip(net.down, (257, 129, 65, 33, 17), strict=True):
        h = layer(h)
        assert h.shape[2:] == (7, bins)


def test_the_output_is_a_bounded_mask_times_the_mixture_whatever_its_loudness():
    net = SpeechUNet(generator=generator(0)).eval()
    x = torch.randn(2, 2, 6, 513, generator=generator(1))
    with torch.no_grad():
        y = net(x)
        torch.testing.assert_close(net(100 * x), 100 * y, rtol=1e-3, atol=1e-3)
        assert torch.equal(net(torch.zeros_like(x)), torch.zeros_like(x))
    assert bool((y.square().sum(1) <= x.square().sum(1) * 1.001).all())


def test_training_starts_from_the_mixture_as_it_is():
    x = torch.randn(2, 2, 6, 513, generator=generator(1))
    y = SpeechUNet(generator=generator(0))(x).detach()
    assert float((x * y).sum() / (x.norm() * y.norm())) > 0.98
    assert float(levelled(7 * x).square().sum(1).mean()) == pytest.approx(1, rel=1e-4)


def test_a_network_that_is_told_the_scene_starts_as_the_same_network_in_all_they_share():
    net = SpeechUNet(generator=generator(0))
    wide = conditioned(net, 3, 16, generator(0))
    x = torch.cat([torch.randn(2, 2, 4, 513), torch.full((2, 1, 4, 513), 2.0)], 1)
    assert wide(x).shape == (2, 2, 4, 513)
    assert wide.down[0][0].weight.shape[1] == 18
    torch.testing.assert_close(wide.mask.weight, net.mask.weight)


# -- spectrograms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1_024, 16_000, 16_001, 40_123])
def test_a_waveform_comes_back_from_its_spectrogram(length):
    waves = torch.randn(2, length, generator=generator(0))
    x = audio.spectrogram(waves)
    assert x.shape == (2, 2, length // 256 + 1, 513)
    torch.testing.assert_close(audio.waveform(x, length), waves, atol=1e-5, rtol=0)


def test_more_samples_than_a_spectrogram_holds_are_refused():
    x = audio.spectrogram(torch.randn(1, 2_000, generator=generator(0)))  # 8 frames
    assert audio.waveform(x, 2_047).shape == (1, 2_047)
    with pytest.raises(DataError, match=r"8 frames holds fewer than 2,048 samples, not 2,048"):
        audio.waveform(x, 2_048)


# -- files ------------------------------------------------------------------------------------------------


def tone(seconds=4.0, rate=16_000, pitch=440.0):
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def folder(tmp_path):
    """A folder with a manifest: three training speakers and one for test, three recordings and one."""
    rows = [COLUMNS]
    for split, count in (("train", 3), ("test", 1)):
        for n in range(count):
            for kind, scene in (("speech", ""), ("noise", "inside"), ("noise", "outside")):
                name = f"{kind}-{scene}-{split}-{n}.wav"
                noise = np.random.default_rng(n).standard_normal(16_000) * 0.1
                soundfile.write(tmp_path / name, tone() if kind == "speech" else noise, 16_000)
                rows.append(f"{name},{kind},{scene},{split},{split}{n},{scene}{split}{n},")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def changed(folder, old, new):
    file = folder / "manifest.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_a_folder_becomes_three_splits_with_every_scene_at_every_ratio(folder):
    data = SPEECH.load(str(folder), True)
    assert SPEECH.partition(data).names == ("inside", "outside")
    for split, count in speech_data.PER_CELL.items():
        scenes, snrs = (data.split(split).column(name) for name in ("scene", "snr"))
        cells = {(a, b): int(((scenes == a) & (snrs == b)).sum()) for a in set(scenes) for b in set(snrs)}
        assert set(cells.values()) == {count}
        assert len(cells) == 8
    assert data.train.y.shape == (2 * 4 * 2, 16_000)  # two speakers, four seconds, two scenes
    assert data.test.y.shape == (2 * 4 * 24, 48_000)


def test_other_rates_are_resampled_and_channels_averaged(folder):
    stereo = np.stack([tone(rate=44_100), np.zeros(4 * 44_100)], 1)
    soundfile.write(folder / "speech--train-0.wav", stereo, 44_100)
    clip = read_clips(folder)[0]
    assert clip.samples.dtype == np.int16
    expected = 2**15 * tone() / 2
    assert np.abs(clip.samples[100:-100] - expected[100:-100]).max() < 50


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,kind,scene", "path,kind,place", "has no column scene"),
        (",noise,inside,", ",noise,,", "line 3 .* noise needs a scene"),
        (",speech,,train,train0,", ",speech,,train,,", "line 2 .* speech needs a speaker"),
        (",speech,,train,", ",speech,,tarin,", "no split 'tarin'; did you mean 'train'"),
        (",noise,inside,", ",nois,inside,", "no kind 'nois'; did you mean 'noise'"),
        ("speech--train-0.wav", "nowhere.wav", "line 2 .* there is no file nowhere.wav"),
        ("train,train1", "test,train0", "speaker 'train0' is in the splits test and train: keep it in one"),
        ("outsidetrain1", "outsidetest0", "noise recording 'outsidetest0' is in the splits test and train"),
    ],
)
def test_a_wrong_manifest_is_one_clear_error(folder, old, new, message):
    changed(folder, old, new)
    with pytest.raises(DataError, match=message):
        SPEECH.load(str(folder), False)


@pytest.mark.parametrize(
    ("waves", "message"),
    [
        (np.zeros(16_000), "speech--train-0.wav is silent"),
        (np.full(16_000, 0.5), "speech--train-0.wav is silent"),  # a constant is no sound
        (tone(0.05), "lasts 0.050 s, too short"),
        (np.zeros(0), "holds no sound: it is empty"),
        (np.full(16_000, np.nan), "NaN or infinite"),
    ],
)
def test_a_useless_file_is_named(folder, waves, message):
    soundfile.write(folder / "speech--train-0.wav", waves, 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=message):
        SPEECH.load(str(folder), False)


def test_what_is_no_sound_or_no_folder_says_so(folder, tmp_path):
    (folder / "speech--train-0.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"speech--train-0.wav is not a sound file"):
        SPEECH.load(str(folder), False)
    with pytest.raises(DataError, match=r"takes a folder with a manifest\.csv"):
        SPEECH.load(str(tmp_path / "nowhere"), False)
    (folder / "manifest.csv").write_text(COLUMNS + "\n")
    with pytest.raises(DataError, match="lists no files"):
        SPEECH.load(str(folder), False)


def test_speech_that_is_too_short_everywhere_or_a_missing_scene_is_an_error(folder):
    soundfile.write(folder / "speech--test-0.wav", tone(1.0), 16_000)
    with pytest.raises(DataError, match="no speech clip in test lasts 3 s"):
        SPEECH.load(str(folder), False)
    soundfile.write(folder / "speech--test-0.wav", tone(), 16_000)
    changed(folder, ",noise,inside,test", ",noise,outside,test")
    with pytest.raises(DataError, match="no noise of scene 'inside' in test"):
        SPEECH.load(str(folder), False)


# -- splits and mixtures ----------------------------------------------------------------------------------


def clip(kind, split, source, scene="", seconds=4.0, label=""):
    return Clip(speech_synthetic.to_int16(tone(seconds)), kind, split, source, scene, label)


def test_validation_takes_whole_speakers_and_recordings_and_a_given_one_stays():
    clips = [clip("speech", "train", f"v{n // 2}") for n in range(24)]
    clips += [clip("noise", "train", f"r{n // 3}", "hall", label="fan") for n in range(12)]
    cut = with_validation(clips)
    sources = {s: {(c.kind, c.source) for c in cut if c.split == s} for s in ("train", "validation")}
    assert not sources["train"] & sources["validation"]
    assert len([1 for kind, _ in sources["validation"] if kind == "speech"]) == 2  # of twelve speakers
    assert len([1 for kind, _ in sources["validation"] if kind == "noise"]) == 1  # of four recordings
    assert with_validation(clips) == cut
    assert with_validation(cut) == cut
    with pytest.raises(DataError, match="1 speakers of speech; at least two"):
        with_validation([clips[0], *clips[24:]])
    with pytest.raises(DataError, match="1 recordings of noise of scene 'hall'; at least two"):
        with_validation([*clips[:24], clips[24]])


def test_a_short_noise_is_repeated():
    bank = Bank.of([Clip(np.arange(1, 6, dtype=np.int16), "noise", "train", "r", "hall")])
    assert bank.crop(torch.tensor([0, 0]), torch.tensor([0, 3]), 7).tolist() == [
        [1, 2, 3, 4, 5, 1, 2],
        [4, 5, 1, 2, 3, 4, 5],
    ]


@pytest.fixture(scope="module")
def synthetic():
    return SPEECH.load(None, True)


def test_the_default_is_synthetic_and_says_so(synthetic):
    assert "synthetic" in SPEECH.data
    assert SPEECH.partition(synthetic).names == ("indoor", "outdoor", "transportation")
    again = SPEECH.load(None, True)
    assert torch.equal(again.train.x, synthetic.train.x)
    assert torch.equal(again.test.y, synthetic.test.y)


def test_targets_are_the_clean_speech_of_the_mixture_at_the_ratio_of_its_column(synthetic):
    rows = torch.arange(40)
    speech, mixture = synthetic.prepare.waves(synthetic.test.x[rows])
    assert torch.equal(speech, synthetic.test.y[rows].float() / 2**15)
    measured = 20 * (audio.rms(speech) / audio.rms(mixture - speech)).log10()[:, 0]
    wanted = torch.as_tensor(synthetic.test.column("snr")[rows]).float()
    torch.testing.assert_close(measured, wanted, atol=0.05, rtol=0)
    assert float(speech.square().mean(1).min()) > 0  # no pauses


def test_augmentation_draws_noise_of_the_same_scene_and_leaves_speech_alone(synthetic):
    x = synthetic.train.x[:100]
    drawn = synthetic.augment(x, generator(0))
    bank = synthetic.prepare.bank
    assert torch.equal(drawn[:, :NOISE], x[:, :NOISE])
    assert torch.equal(bank.scenes[drawn[:, NOISE].long()], bank.scenes[x[:, NOISE].long()])
    assert float((drawn[:, SNR] != x[:, SNR]).float().mean()) > 0.9
    assert -500 <= int(drawn[:, SNR].min()) < int(drawn[:, SNR].max()) <= 1000
    assert bool((drawn[:, NOISE_AT] < bank.lengths[drawn[:, NOISE].long()]).all())
    assert torch.equal(synthetic.augment(x, generator(0)), drawn)
    unheard = set(synthetic.test.x[:, NOISE].tolist()) | set(synthetic.validation.x[:, NOISE].tolist())
    assert not unheard & set(drawn[:, NOISE].tolist())


def test_halves_of_validation_hold_every_scene_and_ratio(synthetic):
    tuning = synthetic.tuning()
    for split in (tuning.validation, tuning.test):
        assert len(set(split.column("scene"))) == 3
        assert len(set(split.column("snr"))) == 4


def test_every_kind_of_noise_has_the_same_chance():
    clips = [clip("speech", s, f"{s}{n}") for s in ("train", "validation", "test") for n in range(2)]
    for s in ("train", "validation", "test"):
        clips += [clip("noise", s, f"{s} fan {n}", "hall", label="fan") for n in range(9)]
        clips += [clip("noise", s, f"{s} pipe", "hall", label="pipe")]
    data = mixtures(clips, True)
    drawn = data.augment(data.train.x[:1].repeat(2_000, 1), generator(0))
    pipes = [n for n, c in enumerate(clips) if c.label == "pipe"]
    share = np.isin(drawn[:, NOISE].numpy(), pipes).mean()
    assert 0.45 < share < 0.55


def test_the_papers_figures_are_those_of_its_table():
    assert SPEECH.paper["rtl", 0.75] == {"si_snri": 6.992, "union": 12_300}
    assert SPEECH.paper["imp", 0.25]["si_snri"] == 6.885
    assert len(SPEECH.paper) == 9
    assert all(preset.augment and preset.settings.include == SCOPE for preset in SPEECH.presets.values())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the speech files are not there: {REAL}")
def test_the_real_clips_are_disjoint_by_speaker_and_recording():
    clips = with_validation(read_clips(REAL))
    sources = {}
    for c in clips:
        assert sources.setdefault((c.kind, c.source), c.split) == c.split
    counts = {
        s: sum(c.kind == "speech" and c.split == s for c in clips) for s in ("train", "validation", "test")
    }
    assert counts == {"train": 80, "validation": 15, "test": 36}
    data = mixtures(clips, False)
    assert len(data.test) == 3 * 4 * 24
    assert SPEECH.partition(data).names == ("indoor", "outdoor", "transportation")
    assert int(data.train.x[:, SPEECH_AT].min()) == 0
