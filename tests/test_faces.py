"""Tickets in a notebook."""

import torch

from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.tickets.model import TicketModel


def masks(K):
    layout, g = Layout(("0.weight", "2.weight"), ((8, 4), (2, 8))), torch.Generator().manual_seed(0)
    return MaskSet(layout, {f"<t{k}>": torch.rand(48, generator=g) < 0.5 for k in range(K)})


def test_a_table_names_every_ticket_and_its_count_and_is_escaped():
    m = masks(3)
    page = m._repr_html_()
    for name, count in m.counts.items():
        assert f"<td>{name.replace('<', '&lt;').replace('>', '&gt;')}</td><td>{count}</td>" in page
    others = (m.jaccard().sum(1) - 1) / 2
    assert f"<td>{others[1]:.3f}</td>" in page


def test_a_table_of_many_tickets_says_how_many_it_leaves_out():
    page = masks(100)._repr_html_()
    assert page.count("<tr>") == 1 + 20 + 1
    assert "and 80 more" in page


def test_one_ticket_has_no_others_to_be_like():
    assert "<td></td>" in masks(1)._repr_html_()


def test_figures_show_densities_and_similarities():
    for K in (1, 3, 100):
        m = masks(K)
        left, right = m.plot().axes[:2]
        shown = torch.tensor(left.images[0].get_array()) * torch.tensor([32, 16])
        assert torch.allclose(shown, m.counts_KL().double())
        pairs = torch.tensor(right.images[0].get_array().filled(torch.nan))
        assert torch.equal(pairs.isnan(), torch.eye(K, dtype=torch.bool) & (K > 1))
        assert torch.equal(pairs.nan_to_num(1.0), m.jaccard())


def test_tickets_have_the_faces_of_their_masks(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    tickets = TicketModel(net, masks(2))
    assert masks(2)._repr_html_() in tickets._repr_html_()
    assert "Sequential" in tickets._repr_html_()
    tickets.plot().savefig(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000
