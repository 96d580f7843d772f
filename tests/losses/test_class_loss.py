"""The objective over whole logits against formulas written out with scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from raydistill.losses import LossWeights, class_loss, hidden_loss

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(6, 5)) * 2, RNG.normal(size=(6, 5)) * 3
LABELS = RNG.integers(0, 5, 6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("alpha_dist", "alpha_task"), [(0.7, 0.3), (0.0, 1.0), (2.0, 0.0)])
def test_objective_is_the_written_formula(temperature, alpha_dist, alpha_task):
    task = -log_softmax(STUDENT, axis=1)[np.arange(6), LABELS].mean()
    soft = softmax(STUDENT / temperature, axis=1)
    target = softmax(TEACHER / temperature, axis=1)
    distillation = temperature**2 * rel_entr(target, soft).sum(axis=1).mean()
    parts = class_loss(
        torch.from_numpy(STUDENT),
        torch.from_numpy(TEACHER) if alpha_dist else None,
        torch.from_numpy(LABELS),
        LossWeights(temperature, alpha_dist, alpha_task),
    )
    assert float(parts.task) == pytest.approx(task, rel=1e-12)
    assert float(parts.distillation) == pytest.approx(distillation if alpha_dist else 0.0, rel=1e-12)
    assert float(parts.total) == pytest.approx(alpha_task * task + alpha_dist * distillation, rel=1e-12)


def test_normalizer_replaces_the_number_of_targets():
    tensors = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), torch.from_numpy(LABELS)
    whole, shared = class_loss(*tensors, LossWeights()), class_loss(*tensors, LossWeights(), normalizer=24)
    for a, b in zip(whole, shared, strict=True):
        assert float(a) == pytest.approx(4 * float(b))


def test_the_factor_t_squared_keeps_the_soft_gradient_when_temperature_grows():
    """In the limit of high temperature the gradient is (s - t) / classes with centred logits (Hinton et al., eq. 4)."""
    student = torch.from_numpy(STUDENT).requires_grad_()
    teacher = torch.from_numpy(TEACHER)
    class_loss(student, teacher, torch.from_numpy(LABELS), LossWeights(1e4, 1.0, 0.0), normalizer=1).total.backward()
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(student.grad, centred.detach() / 5, rtol=1e-2, atol=1e-3)


def test_parts_have_no_gradient_and_the_total_has():
    student = torch.from_numpy(STUDENT).requires_grad_()
    parts = class_loss(student, torch.from_numpy(TEACHER), torch.from_numpy(LABELS), LossWeights())
    assert [part.requires_grad for part in parts] == [True, False, False]


def test_hidden_loss_is_one_minus_cosine():
    cosine = [STUDENT[i] @ TEACHER[i] / np.linalg.norm(STUDENT[i]) / np.linalg.norm(TEACHER[i]) for i in range(6)]
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    assert float(hidden_loss(student, teacher)) == pytest.approx(1 - np.mean(cosine))
    assert float(hidden_loss(student, teacher, normalizer=3)) == pytest.approx(2 * (1 - np.mean(cosine)))
    assert float(hidden_loss(student, 7 * student)) == pytest.approx(0, abs=1e-12)
    assert float(hidden_loss(student, -student)) == pytest.approx(2)


def test_hidden_states_of_negative_label_have_neither_distance_nor_gradient():
    student, teacher = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.tensor([3, -1, 0, -1, 2])
    loss = hidden_loss(student, teacher, labels, normalizer=3)
    real = labels >= 0
    assert loss.item() == pytest.approx(hidden_loss(student[real], teacher[real]).item())
    assert hidden_loss(student, teacher, labels).item() == pytest.approx(loss.item())
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient[~real] == 0).all()
    assert (gradient[real].norm(dim=1) > 0).all()


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"alpha_dist": -0.1}])
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(ValueError, match=r"temperature|alpha"):
        LossWeights(**wrong)


def test_which_weights_need_a_teacher():
    assert LossWeights().needs_teacher
    assert LossWeights(alpha_dist=0, alpha_hidden=0.1).needs_teacher
    assert not LossWeights(alpha_dist=0).needs_teacher


def test_hidden_loss_is_computed_in_float32_where_lower_precision_is_asked_for():
    """A student near its teacher, at a distance below what bfloat16 can tell from 0."""
    student = torch.from_numpy(RNG.normal(size=(6, 5))).float()
    teacher = (student + 0.02 * torch.from_numpy(RNG.normal(size=(6, 5)))).float()
    left, right = student.double().numpy(), teacher.double().numpy()
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert 1e-5 < 1 - cosine.mean() < 2e-3
    with torch.autocast("cpu", torch.bfloat16):
        assert float(hidden_loss(student, teacher)) == pytest.approx(1 - cosine.mean(), rel=0.01)
        assert hidden_loss(student.bfloat16(), teacher).dtype == torch.float32
