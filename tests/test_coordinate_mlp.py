"""The coordinate network: its size, its features, its initialisation, and being told a context."""

import math

import pytest
import torch

from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.data.dataset import with_context
from tombola.lab.models.coordinate_mlp import OMEGA_0, CoordinateMLP, FourierFeatures
from tombola.masks.prunable import scope
from tombola.methods.context import conditioned
from tombola.pruning.schedules import kept

KINDS = ("relu", "siren")


@pytest.mark.parametrize("activation", KINDS)
def test_all_weights_in_scope_are_the_papers_53888(activation):
    net = CoordinateMLP(activation)
    size = scope(net, ["*.weight"]).size
    assert size == 34 * 128 + 3 * 128 * 128 + 128 * 3 == 53_888
    assert [round(kept(size, s) / 100) / 10 for s in (0.25, 0.5, 0.75)] == [40.4, 26.9, 13.5]
    assert sum(p.numel() for p in net.parameters()) == 53_888 + 4 * 128 + 3


def test_features_are_coordinates_sines_and_cosines_and_then_the_rest():
    features = FourierFeatures(lowest=1.0, highest=128.0)
    x = torch.tensor([[0.25, -0.5, 7.0]])
    found = features(x)
    assert found.shape == (1, features.out_features + 1) == (1, 35)
    assert found[0, :2].tolist() == [0.25, -0.5]
    assert float(found[0, -1]) == 7
    for i in range(8):
        phase = math.pi * 2**i * torch.tensor([0.25, -0.5])
        torch.testing.assert_close(found[0, [2 + i, 10 + i]], phase.sin(), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[0, [18 + i, 26 + i]], phase.cos(), atol=1e-4, rtol=0)


def test_frequencies_are_fixed():
    one, other = (CoordinateMLP(generator=generator(seed)) for seed in (0, 1))
    assert torch.equal(one.features.frequencies, other.features.frequencies)
    assert not [name for name, _ in one.named_parameters() if name.startswith("features")]


@pytest.mark.parametrize("activation", KINDS)
def test_the_generator_decides_the_weights(activation):
    states = [CoordinateMLP(activation, generator=generator(seed)).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())
    assert not torch.equal(states[0]["layers.0.weight"], states[2]["layers.0.weight"])


def test_siren_keeps_the_deviation_of_its_activations():
    net = CoordinateMLP("siren", generator=generator(0))
    bound = math.sqrt(6 / 128) / OMEGA_0
    assert float(net.layers[2].weight.detach().abs().max()) <= bound
    x = 2 * torch.rand(2000, 2, generator=generator(1)) - 1
    hidden = net.features(x)
    for number, layer in enumerate(net.layers[:-1]):
        hidden = layer(hidden)
        if number % 2 and number > 1:  # after a sine: arcsine distributed, deviation sqrt(1/2)
            assert float(hidden.detach().std()) == pytest.approx(math.sqrt(0.5), abs=0.1)


@pytest.mark.parametrize("activation", KINDS)
def test_told_the_context_it_has_50_inputs_and_the_same_weights(activation):
    net = CoordinateMLP(activation, generator=generator(0))
    aware = conditioned(net, 5, 16, generator(1))
    assert aware.layers[0].weight.shape == (128, 50)
    assert torch.equal(aware.layers[0].weight[:, :34], net.layers[0].weight)
    x = torch.rand(6, 2, generator=generator(2))
    colours = [aware(with_context(x, torch.full((6,), k))) for k in (0, 4)]
    assert colours[0].shape == (6, 3)
    assert not torch.allclose(*colours)


def test_an_unknown_activation_is_an_error():
    with pytest.raises(UsageError, match="activation is 'relu' or 'siren': got 'tanh'"):
        CoordinateMLP("tanh")
