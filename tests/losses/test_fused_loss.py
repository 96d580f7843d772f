"""The catalogue loss as GPU kernels, against float64 of the plain computation.

Without a GPU they run under ``TRITON_INTERPRET=1`` and ``-m gpu -W ignore``, where Triton is installed beside a numpy
older than 2.4, all but the tests of memory and bfloat16.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from raydistill.losses import LossWeights, catalogue_loss, class_loss
from raydistill.losses.distillation import TASK_ONLY
from raydistill.losses.fused import WIDEST, FusedCatalogueLoss, NoRoomError, is_interpreted, suits, works

HAS_TRITON = importlib.util.find_spec("triton") is not None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (HAS_TRITON and (torch.cuda.is_available() or is_interpreted())),
        reason="no GPU with Triton, and no TRITON_INTERPRET=1",
    ),
]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def draw(n, items, dim, teacher_dim, *, spread=1.0, seed=0, dtype=torch.float32):
    """Return hidden states, output embedding and labels of a student, and the teacher's half precision states."""
    draws = torch.Generator().manual_seed(seed)
    hidden, weight = (spread**0.5 * torch.randn(size, dim, generator=draws) for size in (n, items))
    teacher = torch.randn(n, teacher_dim, generator=draws).half(), torch.randn(items, teacher_dim, generator=draws)
    labels = torch.randint(0, items, (n,), generator=draws)
    return [value.to(DEVICE) for value in (hidden.to(dtype), weight.to(dtype), labels, *teacher)]


def plain(hidden, weight, labels, teacher_hidden, teacher_weight, weights, count):
    """Return losses and both gradients in float64, from whole logits."""
    own = [value.double().requires_grad_() for value in (hidden, weight)]
    teacher = teacher_hidden.double() @ teacher_weight.double().T if weights.needs_teacher else None
    parts = class_loss(own[0] @ own[1].T, teacher, labels, weights, normalizer=count)
    parts.total.backward()
    return [value.item() for value in parts], [value.grad for value in own]


def fused(hidden, weight, labels, teacher_hidden, teacher_weight, weights, count):
    own = [value.clone().requires_grad_() for value in (hidden, weight)]
    teacher = (teacher_hidden, teacher_weight) if weights.needs_teacher else (None, None)
    parts = FusedCatalogueLoss.apply(*own, labels, *teacher, weights, count)
    parts[0].backward()
    return [value.item() for value in parts], [value.grad for value in own]


def distance(a, b) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("weights", [TASK_ONLY, LossWeights(3.0, 0.7, 0.3), LossWeights(0.7, 1.0, 0.0)])
@pytest.mark.parametrize("programs", [1, 512], ids=["all items in one program", "a block in each"])
@pytest.mark.parametrize(
    ("n", "items", "dim", "teacher_dim"), [(150, 203, 32, 48), (5, 130, 64, 16), (70, 1000, 40, 200)]
)
def test_it_is_the_plain_computation(n, items, dim, teacher_dim, programs, weights, monkeypatch):
    monkeypatch.setattr("raydistill.losses.kernels.PROGRAMS", programs)
    given = draw(n, items, dim, teacher_dim)
    values, gradients = fused(*given, weights, torch.tensor(float(n), device=DEVICE))
    expected, expected_gradients = plain(*given, weights, n)
    assert values == pytest.approx(expected, rel=1e-5)
    for found, true in zip(gradients, expected_gradients, strict=True):
        assert distance(found, true) < 1e-5


def test_large_logits_lose_nothing():
    """Logits of hundreds: the exponentials alone would overflow."""
    given, weights = draw(70, 203, 32, 32, spread=60.0), LossWeights(2.0, 0.5, 0.5)
    values, gradients = fused(*given, weights, 70.0)
    expected, expected_gradients = plain(*given, weights, 70)
    assert values == pytest.approx(expected, rel=1e-4)
    for found, true in zip(gradients, expected_gradients, strict=True):
        assert distance(found, true) < 1e-4


@pytest.mark.skipif(DEVICE.type != "cuda", reason="numpy, which interprets the kernels, has no bfloat16")
def test_bfloat16_rounds_products_and_not_sums():
    given, weights = draw(150, 2000, 64, 64, dtype=torch.bfloat16, spread=0.2), LossWeights(3.0, 0.7, 0.3)
    values, gradients = fused(*given, weights, 150.0)
    expected, expected_gradients = plain(*given, weights, 150)
    assert values == pytest.approx(expected, rel=1e-4)
    for found, true in zip(gradients, expected_gradients, strict=True):
        assert found.dtype == torch.bfloat16
        assert distance(found, true) < 1e-2


@pytest.mark.parametrize("weights", [TASK_ONLY, LossWeights(3.0, 0.7, 0.3)])
def test_rows_of_negative_label_do_not_count(weights):
    hidden, weight, labels, teacher_hidden, teacher_weight = draw(80, 203, 32, 32)
    whole = fused(hidden[:61], weight, labels[:61], teacher_hidden[:61], teacher_weight, weights, 61.0)
    labels[61:] = -1
    padded = fused(hidden, weight, labels, teacher_hidden, teacher_weight, weights, 61.0)
    assert padded[0] == pytest.approx(whole[0], rel=1e-6)
    assert distance(padded[1][0][:61], whole[1][0]) < 1e-6
    assert padded[1][0][61:].abs().max() == 0
    assert distance(padded[1][1], whole[1][1]) < 1e-6


def test_tensors_need_not_be_contiguous():
    given, weights = draw(70, 130, 32, 16), LossWeights(3.0, 0.7, 0.3)
    strided = [torch.stack([value, torch.zeros_like(value)], dim=-1)[..., 0] for value in given]
    assert not any(value.is_contiguous() for value in strided)
    values, gradients = fused(*given, weights, 70.0)
    others, other_gradients = fused(*strided, weights, 70.0)
    assert others == values
    for one, other in zip(gradients, other_gradients, strict=True):
        assert torch.equal(one, other)


def test_the_catalogue_loss_takes_the_kernels_where_nothing_else_is_asked_for(monkeypatch):
    hidden, weight, labels, teacher_hidden, teacher_weight = draw(20, 130, 32, 16)
    taken = []
    apply = FusedCatalogueLoss.apply
    monkeypatch.setattr(FusedCatalogueLoss, "apply", lambda *given: taken.append(given) or apply(*given))
    teacher = {"teacher_hidden": teacher_hidden, "teacher_weight": teacher_weight}
    kernels = catalogue_loss(hidden, weight, labels, LossWeights(), **teacher)
    assert len(taken) == 1
    chunks = catalogue_loss(hidden, weight, labels, LossWeights(), **teacher, chunk_logits=500)
    assert len(taken) == 1
    assert [float(value) for value in kernels] == pytest.approx([float(value) for value in chunks], rel=1e-5)


def test_where_the_kernels_do_not_fit_chunks_do(monkeypatch):
    def too_small(*given):
        raise NoRoomError

    hidden, weight, labels, _, _ = draw(20, 130, 32, 16)
    expected = catalogue_loss(hidden, weight, labels, TASK_ONLY)
    monkeypatch.setattr(FusedCatalogueLoss, "apply", too_small)
    assert float(catalogue_loss(hidden, weight, labels, TASK_ONLY).total) == pytest.approx(float(expected.total))


def test_what_does_not_suit_it():
    hidden, weight, _, _, teacher = draw(3, 5, 32, 16)
    assert suits(hidden, weight, teacher)
    assert suits(hidden, weight, None)
    wide = weight.new_zeros(5, WIDEST + 1)
    assert not suits(hidden.new_zeros(3, WIDEST + 1), wide, teacher)
    assert not suits(hidden, weight, wide)
    assert not suits(hidden.double(), weight.double(), teacher)
    assert not suits(hidden, weight.bfloat16(), teacher)


def test_where_kernels_do_not_compile_it_is_said_once(monkeypatch, caplog):
    from raydistill.losses import kernels

    def fails(device):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(kernels, "product_of_ones", fails)
    works.cache_clear()
    try:
        assert not works(torch.device("cuda", 0))
        assert not works(torch.device("cuda", 0))
    finally:
        works.cache_clear()
    assert caplog.text.count("Failed to find C compiler") == 1


@pytest.mark.skipif(DEVICE.type != "cuda", reason="memory is the GPU's")
def test_a_million_items_take_what_their_tables_take():
    given = draw(2048, 1_000_000, 64, 64, spread=0.1)
    tables = sum(value.numel() * value.element_size() for value in given)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    own = [value.requires_grad_() for value in given[:2]]
    catalogue_loss(*own, given[2], LossWeights(), teacher_hidden=given[3], teacher_weight=given[4]).total.backward()
    assert own[1].grad.isfinite().all()
    # Two gradients of the table, kept and scaled; logits would be 16 GB.
    assert torch.cuda.max_memory_allocated() - before < 1.5 * tables
