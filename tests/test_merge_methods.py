"""The formulas by which fine-tunes are merged, each against its paper's, in NumPy over whole vectors."""

import numpy as np
import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.errors import UsageError
from tombola._utils.rng import generator
from tombola.lab.evaluation import own_changes
from tombola.masks.codec import encode
from tombola.tickets.checkpoints import fine_tunes
from tombola.tickets.merge_methods import merged

K, LAYERS = 4, ("0.weight", "2.weight")


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 3))


def tuned(k):
    net, g = base(), torch.Generator().manual_seed(10 + k)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g) * (torch.rand(p.shape, generator=g) < 0.6)
    return net.eval()


NETS = {f"task {k}": tuned(k) for k in range(K)}


def flat(net):
    return torch.cat([net.get_parameter(n).detach().flatten() for n in LAYERS]).double().numpy()


START = flat(base())
TAUS = np.stack([flat(net) for net in NETS.values()]) - START  # [K, N]


def changes(tickets):
    return np.stack([flat(tickets.bake(name)) for name in tickets.names]) - START


def scales(tickets):
    return [known["scale"] for known in tickets.metadata["merged"].values()]


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def ties(taus, share=0.2):
    cut = []
    for tau in taus:
        least = np.sort(np.abs(tau))[-max(round(share * len(tau)), 1)]
        cut.append(np.where(np.abs(tau) >= least, tau, 0))
    cut = np.stack(cut)
    gamma = np.sign(cut.sum(0))
    agree = (np.sign(cut) == gamma) & (cut != 0)
    return (cut * agree).sum(0) / np.maximum(agree.sum(0), 1)


def test_tall_keeps_by_its_rule_at_the_lambda_that_comes_nearest():
    tickets, total = tb.merge(base(), NETS, "tall"), TAUS.sum(0)
    for k, (name, known) in enumerate(tickets.metadata["merged"].items()):
        mask = np.abs(TAUS[k]) >= known["lambda"] * np.abs(total - TAUS[k])
        mask &= total != 0
        assert (tickets[name].numpy() == mask).mean() > 0.999
        close(changes(tickets)[k], known["scale"] * mask * total)
        assert known["scale"] == pytest.approx(np.abs(TAUS[k]).sum() / np.abs(mask * total).sum(), rel=1e-4)
        away = {}
        for lam in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0):
            part = (np.abs(TAUS[k]) >= lam * np.abs(total - TAUS[k])) * total
            best = np.linalg.lstsq(part[:, None], TAUS[k], rcond=None)[0][0]
            away[lam] = np.linalg.norm(TAUS[k] - best * part)
        assert away[known["lambda"]] == pytest.approx(min(away.values()), rel=1e-4)
        ours = np.linalg.norm(TAUS[k] - changes(tickets)[k])
        assert known["kept"] == pytest.approx(1 - ours / np.linalg.norm(TAUS[k]), abs=1e-5)


def test_tall_has_a_choice_of_two_scales_for_each_lambda():
    found, total = merged("tall", fine_tunes(base(), NETS), 0), TAUS.sum(0)
    for tau, choices in zip(TAUS, found.choices, strict=True):
        alike, near = choices[:10], choices[10:]
        for choice, other in zip(near, alike, strict=True):
            part = (np.abs(tau) >= choice.lam * np.abs(total - tau)) * total
            assert choice.lam == other.lam
            assert choice.scale == pytest.approx((tau * part).sum() / (part**2).sum(), rel=1e-4)
            assert other.scale == pytest.approx(np.abs(tau).sum() / np.abs(part).sum(), rel=1e-4)


def test_emr_elects_masks_and_rescales():
    tickets = tb.merge(base(), NETS, "emr")
    sign = np.sign(TAUS.sum(0))
    elected = sign * np.where(np.sign(TAUS) == sign, np.abs(TAUS), 0).max(0)
    masks = TAUS * elected > 0
    s = np.abs(TAUS).sum(1) / np.abs(masks * elected).sum(1)
    close(scales(tickets), s)
    close(changes(tickets), s[:, None] * masks * elected)


@pytest.mark.parametrize(
    ("method", "change"),
    [("ties", ties(TAUS)), ("mean", TAUS.mean(0)), ("sum", 0.4 * TAUS.sum(0))],
)
def test_one_network_for_all_tasks(method, change):
    tickets = tb.merge(base(), NETS, method)
    for row in changes(tickets):
        close(row, change)


@pytest.mark.parametrize("method", ["dare", "dare_ties"])
def test_dare_drops_nine_tenths_and_scales_the_rest_up(method):
    tickets = tb.merge(base(), NETS, method, seed=3)
    drawn = []
    for name in NETS:
        rows = [
            torch.rand(base().get_parameter(n).numel(), generator=generator(3, "dare", name, n)) < 1 - 0.9
            for n in LAYERS
        ]
        drawn.append(torch.cat(rows).numpy())
    assert np.mean(drawn) == pytest.approx(0.1, abs=0.02)
    left = np.stack(drawn) * TAUS / 0.1
    close(changes(tickets)[0], left.mean(0) if method == "dare" else ties(left))
    again, other = (tb.merge(base(), NETS, method, seed=seed) for seed in (3, 4))
    assert torch.equal(again.masks_KN, tickets.masks_KN)
    assert not torch.equal(other.masks_KN, tickets.masks_KN)


def test_what_dare_drops_of_a_task_does_not_hang_on_the_others():
    few = {name: NETS[name] for name in ("task 2", "task 3")}
    one, two = (tb.merge(base(), nets, "dare").owned_N for nets in (few, NETS))
    assert bool((one <= two).all())


def test_dare_is_unbiased():
    tunes = fine_tunes(base(), NETS)
    rows = [merged("dare", tunes, seed).change_N.double().numpy() for seed in range(300)]
    noise = np.sqrt(9 * (TAUS**2).sum(0) / K**2 / 300)  # of a mean of so many draws
    z = (np.mean(rows, 0) - TAUS.mean(0))[noise > 0] / noise[noise > 0]
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1, abs=0.1)


# -- a change for each task ----------------------------------------------------------------------------------


def private_bytes():
    return K * 4 * sum(p.numel() for n, p in base().named_parameters() if n not in LAYERS)


def test_bitdelta_is_the_sign_times_the_mean_size_per_matrix():
    found = own_changes.bitdelta(base(), NETS)
    for name, net in NETS.items():
        for n in LAYERS:
            first, one = base().get_parameter(n), net.get_parameter(n)
            tau = (one - first).detach()
            expected = first + tau.abs().mean() * torch.where(tau > 0, 1.0, -1.0)
            torch.testing.assert_close(found.networks[name].get_parameter(n), expected)
        assert torch.equal(found.networks[name][4].weight, net[4].weight)
    bits = sum(t.numel() * t.element_size() for t in encode(torch.from_numpy(TAUS > 0)).values())
    assert bits >= K * len(START) / 8 * 0.9
    assert found.bytes == bits + K * len(LAYERS) * 4 + private_bytes()


def test_the_largest_entries_at_a_share_and_at_equal_bytes():
    found = own_changes.largest(base(), NETS, 0.1)
    keep = round(0.1 * len(START))
    for tau, net in zip(TAUS, found.networks.values(), strict=True):
        expected = np.where(np.abs(tau) >= np.sort(np.abs(tau))[-keep], tau, 0)
        close(flat(net) - START, expected)
    file = found.bytes + 200
    fits = own_changes.largest(base(), NETS, at_most=file)
    assert found.bytes <= fits.bytes <= file
    whole = own_changes.largest(base(), NETS, 1.0)
    close(flat(whole.networks["task 1"]) - START, TAUS[1])
    for wrong in ({}, {"share": 0.1, "at_most": 5}, {"share": 2.0}, {"at_most": 5}):
        with pytest.raises(UsageError):
            own_changes.largest(base(), NETS, **wrong)
