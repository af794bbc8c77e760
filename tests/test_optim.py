"""Masked optimisers: an entry outside the mask skips the step, bit for bit, and nothing else changes."""

import copy
import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from tombola._utils.errors import OptimizerError
from tombola.optim import ADAM, STEP_FREE, masked

Adam, AdamW, SGD, RMSprop = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop
Adagrad, Adadelta = torch.optim.Adagrad, torch.optim.Adadelta

CASES = [
    (Adam, {"lr": 0.1}),
    (Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3}),
    (Adam, {"lr": 0.1, "betas": (0.0, 0.99)}),
    (Adam, {"lr": torch.tensor(0.1, dtype=torch.float64)}),
    (AdamW, {"lr": 0.1}),
    (AdamW, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.3}),
    (AdamW, {"lr": 0.1, "weight_decay": 0}),
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "weight_decay": 0.3}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3, "nesterov": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "foreach": True}),
    (RMSprop, {"lr": 0.1}),
    (RMSprop, {"lr": 0.1, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.3}),
    (RMSprop, {"lr": 0.1, "centered": True}),
    (RMSprop, {"lr": 0.1, "centered": True, "momentum": 0.9}),
    (Adagrad, {"lr": 0.1}),
    (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.3}),
    (Adadelta, {"lr": 1.0}),
    (Adadelta, {"lr": 1.0, "rho": 0.7, "weight_decay": 0.3}),
]
if "decoupled_weight_decay" in Adam([torch.zeros(1)]).defaults:  # torch 2.7 and later
    CASES.append((Adam, {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True}))

every_case = pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=[f"{kind.__name__}-{'-'.join(options)}" for kind, options in CASES]
)


def parameters(dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=dtype).requires_grad_() for shape in [(2, 3), (4,), ()]]


def noise(like, seed):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def some(like, seed):
    """A random mask of this shape."""
    return noise(like.detach().double(), seed) > 0


def set_gradients(params, step):
    for i, p in enumerate(params):
        p.grad = noise(p, 100 * step + i)


def run(optimizer, params, steps, start=0):
    """Steps with interleaved random masks; the middle parameter goes unmasked now and then."""
    for step in range(start, start + steps):
        set_gradients(params, step)
        masks = [some(p, 7000 + 10 * step + i) for i, p in enumerate(params)]
        optimizer.step([masks[0], None if step % 3 == 0 else masks[1], masks[2]])


def bits(tensor):
    return tensor.detach().clone().view({4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same_bits(tensors, others):
    assert tensors.keys() == others.keys()
    for name, t in tensors.items():
        assert torch.equal(bits(t), bits(others[name])), name


# -- what a step does inside the mask ----------------------------------------------------------------


@every_case
@pytest.mark.parametrize("give", ["ones", "none"])
def test_with_everything_kept_it_is_the_plain_optimiser(kind, options, give):
    params, plain_params = parameters(), parameters()
    optimizer, plain = masked(kind(params, **options)), kind(plain_params, **options)
    masks = {
        "ones": [torch.ones_like(p, dtype=torch.bool) for p in params],
        "none": [None] * 3,
    }
    for step in range(10):
        set_gradients(params, step)
        set_gradients(plain_params, step)
        optimizer.step(masks[give])
        plain.step()
    for p, q in zip(params, plain_params, strict=True):
        if kind in ADAM:
            torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-7)
        else:
            assert torch.equal(p, q)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_entry_is_a_parameter_of_its_own_that_skips_the_steps_outside_its_mask(kind, options, dtype):
    params = parameters(dtype)
    entries = [[x.detach().clone().requires_grad_() for x in p.reshape(-1)] for p in params]
    optimizer = masked(kind(params, **options))
    alone = [[kind([x], **options) for x in row] for row in entries]
    for step in range(12):
        set_gradients(params, step)
        masks = [some(p, 10 * step + i) for i, p in enumerate(params)]
        if step % 4 == 1:
            params[1].grad = None
        if step % 4 == 2:
            masks[0] = torch.ones_like(masks[0])
        optimizer.step([None if mask.all() else mask for mask in masks])
        for p, mask, xs, steppers in zip(params, masks, entries, alone, strict=True):
            if p.grad is None:
                continue
            for own, g, x, stepper in zip(mask.reshape(-1), p.grad.reshape(-1), xs, steppers, strict=True):
                if own:
                    x.grad = g.clone()
                    stepper.step()
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}
    for p, xs in zip(params, entries, strict=True):
        torch.testing.assert_close(p.detach().reshape(-1), torch.stack(xs).detach(), **close)


@every_case
def test_two_owners_do_not_feel_each_other(kind, options):
    (p, *_), (q, *_) = parameters(), parameters()
    mask = some(p, 1)
    both, first = masked(kind([p], **options)), masked(kind([q], **options))
    for step in range(6):
        p.grad, q.grad = noise(p, step), noise(q, step)
        both.step([mask])
        first.step([mask])
        p.grad = noise(p, 100 + step)
        both.step([~mask])
    assert torch.equal(p[mask], q[mask])


@every_case
def test_groups_keep_their_own_options(kind, options):
    params, plain_params = parameters(torch.float64), parameters(torch.float64)
    build = lambda p: kind([{"params": p[:1]}, {"params": p[1:], "lr": 0.01}], **options)  # noqa: E731
    optimizer, plain = masked(build(params)), build(plain_params)
    for step in range(3):
        set_gradients(params, step)
        set_gradients(plain_params, step)
        optimizer.step([torch.ones_like(p, dtype=torch.bool) for p in params])
        plain.step()
    for p, q in zip(params, plain_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


# -- what a step leaves alone ------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("outside", [1.0, 0.0, math.nan, math.inf])
def test_outside_the_mask_weights_moments_and_step_counts_keep_their_bits(kind, options, before, outside):
    params = parameters()
    with torch.no_grad():
        params[0][0] = -0.0
        params[1][1] = 0.0
    optimizer = masked(kind(params, **options))
    run(optimizer, params, before)
    weights = [bits(p) for p in params]
    state = {name: bits(t) for name, t in optimizer.tensors().items()}
    masks = [
        torch.tensor([[0, 1, 0], [0, 1, 1]]).bool(),
        torch.tensor([1, 0, 0, 1]).bool(),
        torch.tensor(False),
    ]
    for step in range(3):
        for i, (p, mask) in enumerate(zip(params, masks, strict=True)):
            p.grad = torch.where(mask, noise(p, 50 * step + i), outside)
        optimizer.step(masks)
    for p, old, mask in zip(params, weights, masks, strict=True):
        assert torch.equal(bits(p)[~mask], old[~mask])
        assert (bits(p)[mask] != old[mask]).all()
        assert p[mask].isfinite().all()
    moments = 0
    for name, t in optimizer.tensors().items():
        i, key = name.split(".")
        if key == "step":
            continue  # the plain optimiser's count for a whole tensor, which enters no update
        moments += 1
        start = options.get("initial_accumulator_value", 0.0) if key == "sum" else 0.0
        old = state.get(name, bits(torch.full_like(t, start)))
        assert torch.equal(bits(t)[~masks[int(i)]], old[~masks[int(i)]]), name
    assert moments or kind is SGD


@every_case
def test_an_empty_mask_changes_nothing_at_all(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    run(optimizer, params, 2)
    weights = [bits(p) for p in params]
    set_gradients(params, 9)
    optimizer.step([torch.zeros_like(p, dtype=torch.bool) for p in params])
    assert all(torch.equal(bits(p), old) for p, old in zip(params, weights, strict=True))


@every_case
def test_parameters_without_a_gradient_are_skipped(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    run(optimizer, params, 2)
    set_gradients(params, 9)
    params[0].grad = None
    weights = [bits(p) for p in params]
    state = {name: t.clone() for name, t in optimizer.tensors().items() if name.startswith("0.")}
    optimizer.step([torch.ones_like(p, dtype=torch.bool) for p in params])
    assert [torch.equal(bits(p), old) for p, old in zip(params, weights, strict=True)] == [True, False, False]
    assert_same_bits({n: t for n, t in optimizer.tensors().items() if n.startswith("0.")}, state)


@every_case
def test_empty_parameters_are_skipped(kind, options):
    params = [torch.zeros(0, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = masked(kind(params, **options))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step([torch.zeros(0, dtype=torch.bool), torch.tensor([True, False])])
    assert params[1][0] != 1
    assert params[1][1] == 1


@every_case
def test_masks_and_gradients_are_not_changed(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    masks = [some(p, i) for i, p in enumerate(params)]
    set_gradients(params, 0)
    before = [m.clone() for m in masks], [p.grad.clone() for p in params]
    optimizer.step(masks)
    assert all(torch.equal(m, old) for m, old in zip(masks, before[0], strict=True))
    assert all(torch.equal(p.grad, old) for p, old in zip(params, before[1], strict=True))


# -- state -------------------------------------------------------------------------------------------


@every_case
def test_restored_state_goes_on_with_the_same_bits(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    run(optimizer, params, 4)
    saved = {name: t.clone() for name, t in optimizer.tensors().items()}
    others = [p.detach().clone().requires_grad_() for p in params]
    resumed = masked(kind(others, **options))
    resumed.restore(saved)
    run(optimizer, params, 4, start=4)
    run(resumed, others, 4, start=4)
    assert all(torch.equal(bits(p), bits(q)) for p, q in zip(params, others, strict=True))
    assert_same_bits(optimizer.tensors(), resumed.tensors())


@every_case
def test_restoring_copies_and_replaces_the_state(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    run(optimizer, params, 2)
    saved = {name: t.clone() for name, t in optimizer.tensors().items()}
    given = {name: t.clone() for name, t in saved.items()}
    weights = [p.detach().clone() for p in params]
    for _ in range(2):  # the second time, the state restored from must still be what it was
        for p, w in zip(params, weights, strict=True):
            p.data.copy_(w)
        optimizer.restore(given)
        assert_same_bits(optimizer.tensors(), saved)
        run(optimizer, params, 3, start=2)
    assert_same_bits(given, saved)


@every_case
def test_restoring_the_state_of_no_step_forgets_every_step(kind, options):
    params, others = parameters(), parameters()
    optimizer = masked(kind(params, **options))
    fresh = {name: t.clone() for name, t in optimizer.tensors().items()}
    run(optimizer, params, 3)
    optimizer.restore(fresh)
    for p, q in zip(params, others, strict=True):
        p.data.copy_(q)
    run(optimizer, params, 3)
    run(masked(kind(others, **options)), others, 3)
    assert all(torch.equal(bits(p), bits(q)) for p, q in zip(params, others, strict=True))


@every_case
def test_state_dicts_of_torch_go_on_with_the_same_bits(kind, options):
    params = parameters()
    optimizer = masked(kind(params, **options))
    run(optimizer, params, 4)
    others = [p.detach().clone().requires_grad_() for p in params]
    resumed = masked(kind(others, **options))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, 4, start=4)
    run(resumed, others, 4, start=4)
    assert all(torch.equal(bits(p), bits(q)) for p, q in zip(params, others, strict=True))


def test_adam_counts_the_steps_of_every_entry():
    w = torch.zeros(3, requires_grad=True)
    optimizer = masked(Adam([w]))
    for mask in ([1, 1, 0], [1, 0, 0], [1, 1, 0]):
        w.grad = torch.ones(3)
        optimizer.step([torch.tensor(mask, dtype=torch.bool)])
    assert optimizer.tensors()["0.steps"].tolist() == [3, 2, 0]


@pytest.mark.parametrize("kind", ADAM)
def test_adam_counts_beyond_the_precision_of_low_precision_weights(kind):
    w = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    optimizer = masked(kind([w], lr=1e-3))
    for _ in range(300):
        w.grad = torch.ones_like(w)
        optimizer.step([torch.tensor([True, False])])
    assert optimizer.tensors()["0.steps"].tolist() == [300, 0]
    assert w.dtype == torch.bfloat16
    assert w[0] < -0.2  # 300 steps of about 0.001
    assert w[1] == 0


@pytest.mark.parametrize("beta2", [0.999, 0.9999, 0.99999])
def test_bias_correction_is_accurate_in_float32(beta2):
    params = [torch.zeros(1, dtype=dtype, requires_grad=True) for dtype in (torch.float32, torch.float64)]
    for p in params:
        optimizer = masked(Adam([p], lr=1.0, betas=(0.9, beta2)))
        for step in range(3):
            p.grad = torch.full_like(p, 1 / 3 + step)
            optimizer.step([None])
    assert params[0].item() == pytest.approx(params[1].item(), rel=1e-6)


def test_zero_grad_clears_the_gradients():
    params = parameters()
    optimizer = masked(Adam(params))
    set_gradients(params, 0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


# -- learning-rate schedulers ------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize(
    "schedule",
    [lambda o: StepLR(o, step_size=2, gamma=0.1), lambda o: CosineAnnealingLR(o, T_max=8)],
    ids=["StepLR", "CosineAnnealingLR"],
)
def test_learning_rate_schedulers_of_torch_drive_it(kind, options, schedule):
    params, plain_params = parameters(torch.float64), parameters(torch.float64)
    optimizer = masked(kind(params, **copy.deepcopy(options)))
    plain = kind(plain_params, **copy.deepcopy(options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedulers = [schedule(optimizer), schedule(plain)]
        for step in range(6):
            set_gradients(params, step)
            set_gradients(plain_params, step)
            optimizer.step([torch.ones_like(p, dtype=torch.bool) for p in params])
            plain.step()
            for scheduler in schedulers:
                scheduler.step()
            assert float(optimizer.param_groups[0]["lr"]) == float(plain.param_groups[0]["lr"])
    assert float(optimizer.param_groups[0]["lr"]) < 0.2 * float(options["lr"])
    for p, q in zip(params, plain_params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_a_scheduler_made_before_masking_drives_it_too(kind):
    plain = kind(parameters(), lr=0.1)
    scheduler = StepLR(plain, step_size=1, gamma=0.5)
    optimizer = masked(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch counts the steps of the plain optimiser alone
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_a_learning_rate_of_zero_moves_nothing(kind):
    params = parameters()
    optimizer = masked(kind(params, lr=0.1))
    run(optimizer, params, 2)
    weights = [bits(p) for p in params]
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, params, 2, start=2)
    assert all(torch.equal(bits(p), old) for p, old in zip(params, weights, strict=True))


# -- refusals ----------------------------------------------------------------------------------------

EVERY_KIND = [
    kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_optimiser_of_torch_is_supported_or_refused_by_name(kind):
    optimizer = kind([torch.zeros(2, 2, requires_grad=True)])
    if kind in {case for case, _ in CASES}:
        assert masked(optimizer).param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    else:
        with pytest.raises(
            OptimizerError, match=rf"{kind.__name__} cannot be masked exactly.*use one of Adam, "
        ):
            masked(optimizer)


def test_every_supported_optimiser_is_tested_here():
    assert {kind for kind, _ in CASES} == {*ADAM, *STEP_FREE} <= set(EVERY_KIND)


def test_a_subclass_is_refused():
    special = type("SpecialAdam", (Adam,), {})
    with pytest.raises(OptimizerError, match="SpecialAdam cannot be masked"):
        masked(special(parameters()))


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (Adam, {"amsgrad": True}, "amsgrad=True"),
        (AdamW, {"amsgrad": True}, "amsgrad=True"),
        (Adam, {"maximize": True}, "maximize=True"),
        (Adam, {"differentiable": True}, "differentiable=True"),
        (SGD, {"momentum": 0.9, "dampening": 0.1}, "dampening=0.1"),
        (SGD, {"differentiable": True}, "differentiable=True"),
        (Adagrad, {"lr_decay": 0.1}, "lr_decay=0.1"),
    ],
)
def test_options_that_cannot_be_masked_are_refused_by_name(kind, options, named):
    with pytest.raises(OptimizerError, match=rf"{kind.__name__}\({named}\) cannot be masked exactly"):
        masked(kind(parameters(), **options))


def test_an_option_of_any_group_is_refused():
    p, q, _ = parameters()
    with pytest.raises(OptimizerError, match="amsgrad"):
        masked(Adam([{"params": [p]}, {"params": [q], "amsgrad": True}]))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Adam, {}), (AdamW, {}), (SGD, {"momentum": 0.9}), (RMSprop, {}), (Adagrad, {}), (Adadelta, {})],
)
def test_an_optimiser_that_has_stepped_is_refused(kind, options):
    params = parameters()
    plain = kind(params, **options)
    set_gradients(params, 0)
    plain.step()
    with pytest.raises(OptimizerError, match=f"{kind.__name__} has already stepped"):
        masked(plain)


def test_an_eps_that_is_zero_in_half_precision_is_named():
    half = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    with pytest.raises(OptimizerError, match=r"eps=1e-08 is 0 in torch.float16.*bfloat16"):
        masked(Adam([half]))
    masked(Adam([half], eps=1e-4))
    masked(Adam([half.detach().bfloat16().requires_grad_()]))


@pytest.mark.parametrize("kind", [Adam, RMSprop])
def test_complex_parameters_are_refused(kind):
    with pytest.raises(OptimizerError, match="complex"):
        masked(kind([torch.zeros(2, dtype=torch.complex64, requires_grad=True)]))


@pytest.mark.parametrize("kind", [Adam, SGD])
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "0 masks for 3 parameters"),
        ([None] * 2, "2 masks for 3 parameters"),
        ([None] * 4, "4 masks for 3 parameters"),
        ([torch.ones(2, 3), None, None], "boolean and of that shape"),
        ([torch.ones(2, 3, dtype=torch.uint8), None, None], "boolean and of that shape"),
        ([torch.ones(3, 2, dtype=torch.bool), None, None], "boolean and of that shape"),
        ([torch.ones(3, dtype=torch.bool), None, None], "boolean and of that shape"),
        ([None, torch.ones(1, dtype=torch.bool), None], "boolean and of that shape"),
        ([None, None, torch.ones(1, dtype=torch.bool)], "boolean and of that shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused_before_anything_moves(kind, masks, message):
    params = parameters()
    optimizer = masked(kind(params, lr=0.1))
    set_gradients(params, 0)
    weights = [bits(p) for p in params]
    with pytest.raises(OptimizerError, match=message):
        optimizer.step(masks)
    assert all(torch.equal(bits(p), old) for p, old in zip(params, weights, strict=True))
