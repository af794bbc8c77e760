"""What the compiled kernels do, torch does to the same bits; without them everything runs on torch."""

import subprocess

import pytest
import torch

from tombola._utils import native
from tombola.masks import apply as product
from tombola.masks.bits import packed
from tombola.masks.layout import Layout
from tombola.optim import adam, masked

needs_compiler = pytest.mark.skipif(native.load() is None, reason="no C compiler here")
KINDS = [
    (torch.optim.Adam, {"lr": 0.1}),
    (torch.optim.Adam, {"lr": 0.1, "betas": (0.3, 0.9), "weight_decay": 0.3}),
    (torch.optim.AdamW, {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.3}),
    (torch.optim.Adam, {"lr": 0.1, "eps": 0.0}),
]


def trained(kind, options, dtype, give, steps=7, N=5003):
    """Weights and state after a few steps under masks that change, with gradients that are partly NaN."""
    random = torch.Generator().manual_seed(0)
    p = torch.randn(N, generator=random, dtype=dtype).requires_grad_()
    optimizer = masked(kind([p], **options))
    masks = [torch.rand(N, generator=random) < 0.5 for _ in range(steps)]
    for i in range(steps):
        mask = {"in turn": masks[i], "one": masks[0], "none": None}[give]
        p.grad = torch.randn(N, generator=random, dtype=dtype)
        if mask is not None:
            p.grad[~mask] = torch.nan
        optimizer.step([mask])
    return {"p": p.detach(), **optimizer.tensors()}


@needs_compiler
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("give", ["in turn", "one", "none"])
def test_one_pass_gives_the_bits_of_many(kind, options, dtype, give, monkeypatch):
    monkeypatch.setattr(adam, "SMALLEST", 1)
    monkeypatch.setattr(adam, "_PER_THREAD", 1000)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    fast = trained(kind, options, dtype, give)
    torch.set_num_threads(threads)
    monkeypatch.setattr(adam, "_kernel", lambda dtype: None)
    slow = trained(kind, options, dtype, give)
    assert fast.keys() == slow.keys()
    for name in fast:
        assert torch.equal(fast[name], slow[name]), name


@needs_compiler
def test_the_kernel_is_trusted_only_if_its_bits_agree(monkeypatch):
    assert adam._kernel(torch.float32) is not None
    assert not adam._agrees(lambda *arguments: None, torch.float32)


def test_without_a_compiler_there_is_no_library(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert native.load.__wrapped__() is None
    assert list((tmp_path / "tombola").iterdir()) == []
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.load.__wrapped__() is None
    monkeypatch.setenv("TOMBOLA_NATIVE", "0")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("compiled although told not to"))
    assert native.load.__wrapped__() is None


@needs_compiler
def test_a_library_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.load.__wrapped__() is not None
    monkeypatch.setenv("CC", "false")
    assert native.load.__wrapped__() is not None


LAYOUT = Layout(("a", "b"), ((7, 3), (4,)))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_product_and_its_gradients_are_those_of_torch(dtype, monkeypatch):
    random = torch.Generator().manual_seed(1)
    mask, x = torch.rand(25, generator=random) < 0.5, torch.randn(3, 7, generator=random, dtype=dtype)
    found = []
    for smallest in (1, 1 << 30):
        monkeypatch.setattr(product, "SMALLEST", smallest)
        w = torch.linspace(-1, 1, 25, dtype=dtype).requires_grad_()
        named = product.masked_weights(LAYOUT, w, mask)
        loss = (x @ named["a"]).pow(2).sum() + named["b"].prod()
        (first,) = torch.autograd.grad(loss, w, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), w, retain_graph=True)
        (plain,) = torch.autograd.grad(loss, w)
        assert named["a"].shape == (7, 3)
        assert named["a"].grad_fn.kernel == (smallest == 1)
        assert not plain[~mask].any()
        found.append((loss, first, second, plain))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@needs_compiler
def test_what_lies_outside_the_mask_reaches_nothing(monkeypatch):
    monkeypatch.setattr(product, "SMALLEST", 1)
    w = torch.full((25,), torch.nan)
    w[0] = 2.0
    named = product.masked_weights(LAYOUT, w, torch.arange(25) == 0)
    assert named["a"].sum() == 2
    assert named["b"].tolist() == [0] * 4


@needs_compiler
def test_under_vmap_it_is_a_product_of_torch(monkeypatch):
    monkeypatch.setattr(product, "SMALLEST", 1)
    masks = torch.arange(50).reshape(2, 25) % 3 > 0
    out = torch.vmap(lambda m: product.masked_weights(LAYOUT, torch.ones(25), m)["b"])(masks)
    assert torch.equal(out, masks[:, 21:].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_product_of_tensors_that_lie_apart_is_the_product(monkeypatch, dtype):
    random = torch.Generator().manual_seed(3)
    parts = [torch.randn(shape, generator=random).to(dtype) for shape in LAYOUT.shapes]
    mask = torch.rand(LAYOUT.size, generator=random) < 0.5
    flat = LAYOUT.flatten(dict(zip(LAYOUT.names, parts, strict=True)))
    expected = LAYOUT.unflatten(flat * mask)
    for smallest in (1, 10**9):
        monkeypatch.setattr(product, "SMALLEST", smallest)
        out = torch.empty(LAYOUT.size, dtype=dtype)
        made = LAYOUT.unflatten(product.masked_parts(LAYOUT, parts, packed(mask), out))
        assert all(torch.equal(made[name], expected[name]) for name in LAYOUT.names)
        assert not any(w.requires_grad for w in made.values())
    turned = [parts[0].t().contiguous().t(), *parts[1:]] if parts[0].dim() == 2 else parts
    assert torch.equal(product.masked_parts(LAYOUT, turned, packed(mask), out), flat * mask)
