"""The chunked catalogue loss against the plain computation, in value, in gradient and in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from raydistill.losses import LossWeights, catalogue_loss, class_loss
from raydistill.losses.distillation import TASK_ONLY

N, V, DIM, TEACHER_DIM = 37, 101, 8, 12
TILINGS = {
    "one chunk": {"chunk_logits": 1 << 30},
    "chunks": {"chunk_logits": 5 * V},
    "one logit": {"chunk_logits": 1},
    "chunks of tiles": {"chunk_logits": 5 * V, "tile_items": 16},
    "tiles": {"chunk_logits": 6 * 16, "tile_items": 16},
    "one item": {"chunk_logits": 3, "tile_items": 1},
}


def problem(dtype=torch.float64, *, scale=1.0, seed=0, n=N, v=V):
    draw = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(n, DIM, generator=draw, dtype=torch.float64)).to(dtype).requires_grad_()
    weight = torch.randn(v, DIM, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    labels = torch.randint(0, v, (n,), generator=draw)
    teacher_hidden = torch.randn(n, TEACHER_DIM, generator=draw, dtype=torch.float64).to(dtype)
    teacher_weight = torch.randn(v, TEACHER_DIM, generator=draw, dtype=torch.float64).to(dtype)
    return hidden, weight, labels, teacher_hidden, teacher_weight


def plain(hidden, weight, labels, teacher_hidden, teacher_weight, weights, **arguments):
    """Return values and gradients from whole logits."""
    parts = class_loss(
        hidden @ weight.T, teacher_hidden.to(hidden.dtype) @ teacher_weight.T, labels, weights, **arguments
    )
    return parts, torch.autograd.grad(parts.total, (hidden, weight))


def chunked(hidden, weight, labels, teacher_hidden, teacher_weight, weights, **arguments):
    parts = catalogue_loss(
        hidden, weight, labels, weights, teacher_hidden=teacher_hidden, teacher_weight=teacher_weight, **arguments
    )
    return parts, torch.autograd.grad(parts.total, (hidden, weight))


def flat(outcome):
    """Return values and gradients in one row."""
    return (*outcome[0], *outcome[1])


def assert_same(got, expected, tolerance):
    for a, b in zip(flat(got), flat(expected), strict=True):
        assert (a - b).abs().max() <= tolerance * max(b.abs().max(), 1e-30), (a, b)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 0.0), (4.0, 0.7, 0.3), (0.5, 2.0, 1.5), (9.0, 0.0, 1.0), (1.0, 0.0, 0.4)]
)
def test_float64_equals_the_plain_computation(tiling, weights):
    temperature, alpha_dist, alpha_task = weights
    weights = LossWeights(temperature, alpha_dist, alpha_task)
    case = problem()
    assert_same(chunked(*case, weights, **TILINGS[tiling]), plain(*case, weights), 1e-10)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_float32_is_within_1e_5_of_float64(tiling, scale):
    """Where logits are in the hundreds their own rounding costs more: then within twice what the plain way costs."""
    weights = LossWeights(3.0, 0.6, 0.4)
    case = problem(torch.float32, scale=scale)
    exact = [
        value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value
        for value in case
    ]
    expected = plain(*exact, weights)
    rounding = [
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(flat(plain(*case, weights)), flat(expected), strict=True)
    ]
    got = chunked(*case, weights, **TILINGS[tiling])
    for a, b, unavoidable in zip(flat(got), flat(expected), rounding, strict=True):
        assert (a - b).abs().max() <= max(1e-5, 2 * unavoidable) * b.abs().max()


@given(
    n=st.integers(1, 9),
    v=st.integers(1, 23),
    chunk=st.integers(1, 300),
    tile=st.one_of(st.none(), st.integers(1, 30)),
    temperature=st.floats(0.25, 20),
    alpha_dist=st.floats(0, 3),
    alpha_task=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_chunk_and_weight(n, v, chunk, tile, temperature, alpha_dist, alpha_task, seed):
    weights = LossWeights(temperature, alpha_dist, alpha_task)
    case = problem(seed=seed, n=n, v=v)
    got = chunked(*case, weights, chunk_logits=chunk, tile_items=tile)
    expected = plain(*case, weights)
    for a, b in zip(flat(got), flat(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("tile_items", [None, 5])
def test_gradcheck(tile_items):
    hidden, weight, labels, teacher_hidden, teacher_weight = problem(n=4, v=11)
    weights = LossWeights(2.5, 0.8, 0.5)

    def total(hidden, weight):
        return catalogue_loss(
            hidden,
            weight,
            labels,
            weights,
            teacher_hidden=teacher_hidden,
            teacher_weight=teacher_weight,
            chunk_logits=14,
            tile_items=tile_items,
        ).total

    assert torch.autograd.gradcheck(total, (hidden, weight))


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_a_half_precision_teacher_is_the_teacher_rounded(tiling):
    case = problem(torch.float32)
    half = case[3].half()
    weights = LossWeights(4.0, 0.7, 0.3)
    got = chunked(*case[:3], half, case[4], weights, **TILINGS[tiling])
    assert_same(got, plain(*case[:3], half.float(), case[4], weights), 1e-5)


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_normalizer_divides_sums(tiling):
    case, weights = problem(), LossWeights(2.0, 0.7, 0.3)
    got = chunked(*case, weights, normalizer=5.0, **TILINGS[tiling])
    mean = plain(*case, weights)
    for a, b in zip(flat(got), flat(mean), strict=True):
        torch.testing.assert_close(a, b * N / 5.0, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tiling", TILINGS)
def test_without_gradients_the_values_are_the_same(tiling):
    case, weights = problem(), LossWeights(2.0, 0.7, 0.3)
    expected, _ = plain(*case, weights)
    with torch.no_grad():
        got = catalogue_loss(*case[:3], weights, teacher_hidden=case[3], teacher_weight=case[4], **TILINGS[tiling])
    assert not got.total.requires_grad
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=0)


@pytest.mark.parametrize("frozen", [0, 1])
def test_only_what_needs_a_gradient_gets_one(frozen):
    case, weights = list(problem()), LossWeights(2.0, 0.7, 0.3)
    _, expected = plain(*case, weights)
    case[frozen] = case[frozen].detach()
    parts = catalogue_loss(*case[:3], weights, teacher_hidden=case[3], teacher_weight=case[4], chunk_logits=5 * V)
    (gradient,) = torch.autograd.grad(parts.total, (case[1 - frozen],))
    torch.testing.assert_close(gradient, expected[1 - frozen], rtol=1e-10, atol=1e-14)


def test_a_scaled_loss_scales_its_gradient_and_adds_to_what_is_there():
    case, weights = problem(), LossWeights(2.0, 0.7, 0.3)
    _, expected = plain(*case, weights)
    hidden, weight = case[:2]
    arguments = {"teacher_hidden": case[3], "teacher_weight": case[4], "chunk_logits": 5 * V}
    (3 * catalogue_loss(*case[:3], weights, **arguments).total).backward()
    catalogue_loss(*case[:3], weights, **arguments).total.backward()
    torch.testing.assert_close(hidden.grad, 4 * expected[0])
    torch.testing.assert_close(weight.grad, 4 * expected[1])


def test_the_item_table_gets_the_gradient_of_its_item_rows_only():
    case, weights = problem(), LossWeights(1.0, 0.0, 1.0)
    table = torch.cat([torch.zeros(1, DIM), case[1].detach(), torch.ones(1, DIM)]).double().requires_grad_()
    catalogue_loss(case[0], table[1:-1], case[2], weights).total.backward()
    _, expected = plain(*case, weights)
    torch.testing.assert_close(table.grad[1:-1], expected[1])
    assert not table.grad[0].any()
    assert not table.grad[-1].any()


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_bfloat16_sums_in_float32(tiling):
    """Gradients of thousands of positions that all pull one way must not stop growing at bfloat16's 8 bits."""
    n = 4096
    case = problem(torch.bfloat16, n=n, scale=0.3)
    weights = LossWeights(2.0, 0.5, 0.5)
    got = chunked(*case, weights, **TILINGS[tiling])
    exact = [
        value.detach().float().requires_grad_(value.requires_grad) if value.is_floating_point() else value
        for value in case
    ]
    expected = plain(*exact, weights)
    assert got[0].total.dtype == torch.float32
    for a, b in zip(got[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=0)
    for a, b in zip(got[1], expected[1], strict=True):
        assert a.dtype == torch.bfloat16
        assert torch.linalg.vector_norm(a.float() - b) < 2e-2 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_under_autocast_the_sums_stay_in_float32(tiling):
    """Autocast would run the products of float32 tensors in bfloat16; a model's table gets float32 gradients."""
    case, weights = problem(torch.float32, n=2048, scale=0.3), LossWeights(2.0, 0.5, 0.5)
    outside = chunked(*case, weights, **TILINGS[tiling])
    with torch.autocast("cpu", torch.bfloat16):
        inside = chunked(*case, weights, **TILINGS[tiling])
    assert all(torch.equal(a, b) for a, b in zip(flat(inside), flat(outside), strict=True))
    hidden, weight = case[:2]
    with torch.autocast("cpu", torch.bfloat16):
        low = catalogue_loss(
            hidden.bfloat16(),
            weight.bfloat16(),
            case[2],
            weights,
            teacher_hidden=case[3],
            teacher_weight=case[4],
            **TILINGS[tiling],
        )
    (gradient,) = torch.autograd.grad(low.total, weight)
    assert low.total.dtype == gradient.dtype == torch.float32
    exact = outside[1][1]
    assert torch.linalg.vector_norm(gradient - exact) < 2e-2 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("tiling", ["chunks", "chunks of tiles", "tiles"])
@pytest.mark.parametrize("shift", [-300.0, -60.0, 60.0, 300.0])
def test_a_constant_added_to_all_logits_changes_nothing(tiling, shift):
    """Far from 0 the exponentials leave the range of float32, and are formed anew with their maxima taken off."""
    hidden, weight, labels, teacher_hidden, teacher_weight = (v.detach() for v in problem(torch.float32, scale=0.3))
    weights = LossWeights(0.8, 0.5, 0.5)

    def shifted(by):
        grows = torch.where(torch.arange(N) < N // 2, 0.0, by)[:, None]  # of some positions only
        student = torch.cat([hidden, grows], 1).requires_grad_()
        table = torch.cat([weight, torch.ones(V, 1)], 1).requires_grad_()
        teacher = torch.cat([teacher_hidden, -grows], 1)
        return student, table, labels, teacher, torch.cat([teacher_weight, torch.ones(V, 1)], 1)

    parts, gradients = chunked(*shifted(shift), weights, **TILINGS[tiling])
    expected, expected_gradients = plain(*shifted(0.0), weights)
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradients[0][:, :DIM], expected_gradients[0][:, :DIM], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradients[1][:, :DIM], expected_gradients[1][:, :DIM], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_teacher_close_to_the_student_is_measured_as_exactly_as_the_plain_way(tiling):
    """A divergence of 1e-4 is the difference of terms of size 1."""
    hidden, weight, labels, _, _ = problem(torch.float32)
    noise = torch.randn(N, DIM, generator=torch.Generator().manual_seed(1))
    case = (hidden, weight, labels, hidden.detach() + 0.01 * noise, weight.detach())
    weights = LossWeights(3.0, 0.7, 0.3)
    exact = plain(*(v.detach().double().requires_grad_() if v.is_floating_point() else v for v in case), weights)
    got = chunked(*case, weights, **TILINGS[tiling])
    assert abs(got[0].distillation - exact[0].distillation) < 1e-5 * exact[0].task
    for a, b in zip(got[1], exact[1], strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_extreme_logits_stay_finite(tiling):
    case = problem(torch.float32, scale=1e4)
    parts, gradients = chunked(*case, LossWeights(1.0, 0.5, 0.5), **TILINGS[tiling])
    assert all(torch.isfinite(value).all() for value in (*parts, *gradients))
    assert_same((parts, gradients), plain(*case, LossWeights(1.0, 0.5, 0.5)), 1e-5)


@pytest.mark.parametrize("tiling", ["chunks", "tiles"])
def test_nan_is_not_hidden(tiling):
    case = problem()
    with torch.no_grad():
        case[0][3, 0] = torch.nan
    parts, _ = chunked(*case, LossWeights(1.0, 0.5, 0.5), **TILINGS[tiling])
    assert parts.total.isnan()


def test_a_teacher_equal_to_the_student_costs_nothing():
    hidden, weight, labels, _, _ = problem()
    case = (hidden, weight, labels, hidden.detach(), weight.detach())
    parts, gradients = chunked(*case, LossWeights(3.0, 1.0, 0.0), chunk_logits=5 * V)
    assert abs(parts.distillation) < 1e-12
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients)


def test_distillation_without_a_teacher_is_refused():
    hidden, weight, labels, _, _ = problem()
    with pytest.raises(ValueError, match="teacher"):
        catalogue_loss(hidden, weight, labels, LossWeights())


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operator returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize(("n", "v", "arguments"), [(512, 2000, {"chunk_logits": 20_000}), (64, 140_000, {})])
def test_no_array_grows_with_positions_times_catalogue(n, v, arguments):
    """The second case is cut as it is by default, into many blocks, and too wide for its exponentials to be kept."""
    case, weights = problem(torch.float32, n=n, v=v), LossWeights(2.0, 0.5, 0.5)
    with LargestTensor() as seen:
        got = chunked(*case, weights, **arguments)
    allowed = max(arguments.get("chunk_logits", 1 << 19), v * max(DIM, TEACHER_DIM), n * TEACHER_DIM)
    assert seen.largest <= allowed < n * v / 3
    assert_same(got, plain(*case, weights), 2e-5)


@pytest.mark.parametrize("tiling", TILINGS)
def test_the_same_bits_on_every_call(tiling):
    case, weights = problem(torch.float32), LossWeights(2.0, 0.5, 0.5)
    first, second = (chunked(*case, weights, **TILINGS[tiling]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


@pytest.mark.parametrize("normalizer", [7, None])
@pytest.mark.parametrize("weights", [LossWeights(1.0, 0.0, 1.0), LossWeights(3.0, 0.5, 0.5)])
def test_without_targets_loss_and_gradients_are_zero(weights, normalizer):
    """A worker whose share of a small step is empty adds nothing to the others' gradients."""
    hidden, table = torch.zeros(0, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    teacher = {"teacher_hidden": torch.zeros(0, 4), "teacher_weight": torch.randn(30, 4)}
    parts = catalogue_loss(
        hidden,
        table,
        torch.zeros(0, dtype=torch.int64),
        weights,
        normalizer=normalizer,
        **(teacher if weights.needs_teacher else {}),
    )
    parts.total.backward()
    assert parts.total.item() == 0
    assert torch.equal(table.grad, torch.zeros_like(table))


@pytest.mark.parametrize("weights", [TASK_ONLY, LossWeights(3.0, 0.7, 0.3)])
def test_rows_of_negative_label_do_not_count(weights):
    draws = torch.Generator().manual_seed(0)
    hidden, weight, teacher_hidden, teacher_weight = (
        torch.randn(*shape, generator=draws) for shape in ((9, 8), (20, 8), (9, 6), (20, 6))
    )
    labels = torch.randint(0, 20, (9,), generator=draws)
    labels[[2, 8]] = -1
    real = labels >= 0

    def loss(rows):
        own = [hidden[rows].clone().requires_grad_(), weight.clone().requires_grad_()]
        teacher = {"teacher_hidden": teacher_hidden[rows], "teacher_weight": teacher_weight}
        parts = catalogue_loss(*own, labels[rows], weights, **teacher)
        parts.total.backward()
        return [value.item() for value in parts], own[0].grad, own[1].grad

    whole, part = loss(slice(None)), loss(real)
    assert whole[0] == pytest.approx(part[0])
    assert torch.allclose(whole[1][real], part[1])
    assert (whole[1][~real] == 0).all()
    assert torch.allclose(whole[2], part[2])
