"""Speech enhancement inside each subset: the scene is given, the clean waveform is the answer.

Shape letters: S samples of a split, B batch, T samples in time.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.objectives.objective import InSubset, Metric, Predict, mean_and_each

WINDOW, HOP = 1024, 256  # of spectrograms: samples (Hann), and samples a step
CHUNK = 16  # test samples in memory at once: spectrograms are large


class Enhancement(InSubset):
    """Weighted SDR loss between waveforms (Choi et al., arXiv 1903.03107).

    Inputs are spectrograms of mixtures (`tombola.lab.audio.spectrogram`), outputs those of enhanced speech,
    ``y`` the clean waveforms ``[S, T]``, float or int16.

    Metrics, of each ticket on the test samples of its own subset, and their mean: ``si_snr_noisy``, the
    SI-SNR of the mixture in dB; ``si_snri``, how much higher that of the output is; and, where the test
    split has a column ``snr``, both also at each of its values, as in ``si_snri_at_-5``.
    """

    router_score = "consistency"
    sound = True

    def targets(self, data: Data, partition: Partition, index: Tensor, k: int) -> Tensor:  # noqa: ARG002
        """The clean waveforms, float ``[B, T]``."""
        return clean(data.train.y[index])

    def loss(self, outputs: Tensor, targets: Tensor, k: int, inputs: Tensor) -> Tensor:  # noqa: ARG002
        """Weighted SDR, between -1 (perfect) and 1."""
        estimate = waveform(outputs, targets.shape[-1])
        with torch.no_grad():
            mixture = waveform(inputs, targets.shape[-1])
        return weighted_sdr(estimate, targets, mixture)

    def evaluate(self, predict: Predict, data: Data, partition: Partition) -> list[Metric]:
        """SI-SNR of mixtures, and its improvement, per ticket and at each signal-to-noise ratio."""
        judged, snrs = self.original or partition, data.test.columns.get("snr")
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for k, name in enumerate(judged.names):
            index = judged.members["test"][:, k].nonzero()[:, 0]
            noisy, better = self._improvements(predict, data, index, 0 if self.original else k)
            groups = {"": torch.ones(len(index), dtype=torch.bool)}
            if snrs is not None:
                held = torch.as_tensor(snrs)[index]
                groups |= {f"_at_{value:g}": held == value for value in held.unique().tolist()}
            for suffix, group in groups.items():
                values[f"si_snri{suffix}"][name] = float(better[group].mean())
                values[f"si_snr_noisy{suffix}"][name] = float(noisy[group].mean())
        return [metric for name, each in values.items() for metric in mean_and_each(name, each)]

    @staticmethod
    def _improvements(predict: Predict, data: Data, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        noisy, better = [], []
        for part in index.split(CHUNK):
            truth = clean(data.test.y[part])
            mixture = waveform(data.inputs("test", part), truth.shape[-1])
            estimate = waveform(predict("test", k, part), truth.shape[-1])
            noisy.append(si_snr(mixture.double(), truth.double()))
            better.append(si_snr(estimate.double(), truth.double()) - noisy[-1])
        return torch.cat(noisy), torch.cat(better)


def clean(y: Tensor) -> Tensor:
    """Waveforms as float: 16-bit ones over 2¹⁵."""
    if y.ndim != 2 or not (y.is_floating_point() or y.dtype == torch.int16):
        raise DataError(
            f"Enhancement needs clean waveforms [samples, time] in y, float or int16, not "
            f"{tuple(y.shape)} {y.dtype}"
        )
    return y if y.is_floating_point() else y.float() / 2**15


def weighted_sdr(estimate: Tensor, speech: Tensor, mixture: Tensor) -> Tensor:
    """``−a cos(y, ŷ) − (1 − a) cos(n, n̂)``, the mean over a batch; waveforms ``[B, T]``.

    ``n = x − y`` and ``n̂ = x − ŷ`` are the true and the estimated noise in the mixture x, and
    ``a = |y|² / (|y|² + |n|²)`` weighs them by energy (arXiv 1903.03107, Eq. 7 and 8).

    >>> speech, noise = torch.randn(2, 100), torch.randn(2, 100)
    >>> round(float(weighted_sdr(speech, speech, speech + noise)), 4)
    -1.0
    """
    noise, left = mixture - speech, mixture - estimate
    energies = speech.square().sum(-1), noise.square().sum(-1)
    share = energies[0] / (energies[0] + energies[1]).clamp(min=1e-12)
    return -(share * _cosine(speech, estimate) + (1 - share) * _cosine(noise, left)).mean()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    # A root has no finite slope at 0, which an output of silence would reach.
    lengths = (a.square().sum(-1) + 1e-8).sqrt() * (b.square().sum(-1) + 1e-8).sqrt()
    return (a * b).sum(-1) / lengths


def spectrogram(waves: Tensor) -> Tensor:
    """Waveforms ``[B, T]`` (T of 513 or more) to real and imaginary parts ``[B, 2, T // 256 + 1, 513]``.

    >>> spectrogram(torch.zeros(3, 16_000)).shape
    torch.Size([3, 2, 63, 513])
    """
    window = torch.hann_window(WINDOW, dtype=waves.dtype, device=waves.device)
    parts = torch.stft(waves, WINDOW, HOP, window=window, return_complex=True)
    return torch.view_as_real(parts).permute(0, 3, 2, 1).contiguous()


def waveform(x: Tensor, length: int) -> Tensor:
    """The inverse of `spectrogram`: ``[B, 2, frames, bins]`` to ``[B, length]``.

    Raises:
        DataError: so many samples have more frames than there are.

    >>> waves = torch.randn(3, 16_000)
    >>> torch.allclose(waveform(spectrogram(waves), 16_000), waves, atol=1e-5)
    True
    """
    if length >= (longest := x.shape[2] * HOP):
        raise DataError(
            f"a spectrogram of {x.shape[2]} frames holds fewer than {longest:,} samples, not {length:,}: "
            "make inputs and targets from waveforms of one length"
        )
    window = torch.hann_window(WINDOW, dtype=x.dtype, device=x.device)
    parts = torch.view_as_complex(x[:, :2].permute(0, 3, 2, 1).contiguous())
    return torch.istft(parts, WINDOW, HOP, window=window, length=length)


def si_snr(estimate: Tensor, clean: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio of each estimate in dB: ``[B, T]`` twice to ``[B]``.

    ``10 log10 |a s|² / |a s − ŝ|²`` with ``a = <ŝ, s> / |s|²``, both without their mean (Le Roux et al.,
    arXiv 1811.02508).
    """
    e = estimate - estimate.mean(-1, keepdim=True)
    s = clean - clean.mean(-1, keepdim=True)
    tiny = torch.finfo(e.dtype).eps
    target = ((e * s).sum(-1, keepdim=True) + tiny) / (s.square().sum(-1, keepdim=True) + tiny) * s
    ratio = (target.square().sum(-1) + tiny) / ((target - e).square().sum(-1) + tiny)
    return 10 * ratio.log10()
