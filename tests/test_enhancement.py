"""The objective of speech enhancement: its loss, its metrics, and what it refuses."""

import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_noise_ratio

from tombola._utils.errors import DataError
from tombola._utils.rng import generator
from tombola.data.dataset import Data, Split
from tombola.data.partition import by_column
from tombola.lab import audio
from tombola.objectives import Enhancement
from tombola.objectives.enhancement import weighted_sdr

T = 4_096


@pytest.fixture
def noisy() -> Data:
    """12 mixtures of two scenes at two ratios; x are spectrograms, y float waveforms."""
    g = generator(0, "noisy")
    speech = torch.randn(12, T, generator=g)
    snr = torch.tensor([0.0, 10.0]).repeat(6)
    mixture = audio.mix(speech, torch.randn(12, T, generator=g), snr)
    columns = {"scene": ["street", "room", "room"] * 4, "snr": snr.numpy()}
    split = Split(audio.spectrogram(mixture), speech, columns)
    return Data(split, split, split)


def named(metrics):
    return {(m.name, m.ticket): m.value for m in metrics}


def test_si_snr_is_that_of_torchmetrics():
    g = generator(0)
    speech, estimate = torch.randn(2, 5, T, generator=g, dtype=torch.float64) + 0.3
    expected = scale_invariant_signal_noise_ratio(estimate, speech)
    torch.testing.assert_close(audio.si_snr(estimate, speech), expected)
    torch.testing.assert_close(audio.si_snr(7 * estimate, speech), expected)


def test_the_ratio_of_a_mixture_is_the_one_asked_for():
    g = generator(0)
    speech, noise = torch.randn(2, 4, 16_000, generator=g)
    for wanted in (-5.0, 0.0, 10.0):
        mixture = audio.mix(speech, 0.01 * noise, torch.full((4,), wanted))
        ratio = 20 * (audio.rms(speech) / audio.rms(mixture - speech)).log10()
        torch.testing.assert_close(ratio, torch.full((4, 1), wanted), atol=1e-3, rtol=0)
    assert torch.equal(audio.mix(speech, 0 * noise, torch.zeros(4)), speech)  # silence is not amplified


def test_weighted_sdr_has_the_values_worked_out_by_hand():
    speech, noise = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    loss = [float(weighted_sdr(e, speech, speech + noise)) for e in (speech, noise, speech + noise)]
    # Energies 9 and 16: the share of speech is 9 / 25. The mixture as the estimate leaves no noise, and
    # has cosine 3 / 5 with the speech.
    assert loss == pytest.approx([-1, 0, -9 / 25 * 3 / 5], abs=1e-4)


def test_weighted_sdr_has_a_gradient_where_the_output_is_silence():
    speech, mixture = torch.randn(2, 3, 64, generator=generator(0))
    estimate = torch.zeros(3, 64, requires_grad=True)
    weighted_sdr(estimate, speech, mixture).backward()
    assert estimate.grad is not None
    assert bool(torch.isfinite(estimate.grad).all())


def test_the_loss_is_that_of_the_waveforms_and_ignores_a_context(noisy):
    objective, partition = Enhancement(), by_column(noisy, "scene")
    index = torch.arange(3)
    x, speech = noisy.train.x[index], objective.targets(noisy, partition, index, 0)
    conditioned = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    mixture = audio.waveform(x, T)
    assert float(objective.loss(x, speech, 0, conditioned)) == pytest.approx(
        float(weighted_sdr(mixture, speech, mixture)), abs=1e-5
    )
    assert float(objective.loss(audio.spectrogram(speech), speech, 0, x)) == pytest.approx(-1, abs=1e-4)


def test_metrics_are_per_scene_and_ratio_and_zero_for_what_changes_nothing(noisy):
    objective, partition = Enhancement(), by_column(noisy, "scene")
    found = named(objective.evaluate(lambda s, k, i: noisy.test.x[i], noisy, partition))
    assert {name for name, _ in found} == {
        f"{kind}{at}" for kind in ("si_snri", "si_snr_noisy") for at in ("", "_at_0", "_at_10")
    }
    assert {ticket for _, ticket in found} == {"", "room", "street"}
    assert all(value == pytest.approx(0, abs=1e-6) for (name, _), value in found.items() if "snri" in name)
    assert found["si_snr_noisy_at_10", "room"] == pytest.approx(10, abs=0.5)
    assert found["si_snr_noisy", ""] == pytest.approx(5, abs=0.5)


def test_each_ticket_is_judged_on_its_own_scene_and_the_single_network_on_all(noisy):
    objective, partition = Enhancement(), by_column(noisy, "scene")
    better = audio.mix(noisy.test.y, audio.waveform(noisy.test.x, T) - noisy.test.y, torch.full((12,), 20.0))

    def only_the_first(split, k, index):
        return audio.spectrogram(better)[index] if k == 0 else noisy.test.x[index]

    found = named(objective.evaluate(only_the_first, noisy, partition))
    assert found["si_snri", "room"] > 10
    assert found["si_snri", "street"] == pytest.approx(0, abs=1e-6)
    assert found["si_snri", ""] == pytest.approx((found["si_snri", "room"] + found["si_snri", "street"]) / 2)
    single = named(objective.single(partition).evaluate(only_the_first, noisy, partition.whole()))
    assert single["si_snri", "street"] > 10


def test_answers_that_are_no_waveforms_are_refused(noisy):
    wrong = Split(noisy.train.x, torch.arange(12))
    with pytest.raises(DataError, match="needs clean waveforms"):
        Enhancement().targets(Data(wrong, wrong, wrong), by_column(noisy, "scene"), torch.arange(3), 0)
