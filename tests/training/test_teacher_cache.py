"""The cache of teacher outputs against the live teacher, and distillation from it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tracemalloc

import numpy as np
import pytest
import torch
from training_zoo import MAX_LENGTH, N_ITEMS, small_data, small_model

from raydistill.data.batches import TrainingExamples
from raydistill.errors import CorruptArtifactError, ModelError, RunDirectoryError
from raydistill.losses import LossWeights, class_loss, hidden_loss
from raydistill.losses.distillation import TASK_ONLY
from raydistill.training.context import RunContext
from raydistill.training.dataset import DistillationDataset
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.rows import write_rows
from raydistill.training.teacher_cache import TeacherCache, build_teacher_cache

DATA = small_data(n_users=300)
FAMILIES = ("gpt2", "bert")


def taught(family: str = "gpt2"):
    """Return a teacher that has learned a little, so that its distributions are not flat."""
    teacher = small_model(family, layers=3, dropout=0.0)
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=teacher.causal)
    DistillationTrainer(teacher, dataset, TASK_ONLY, TrainingSettings(epochs=3, batch_size=16, lr=5e-3)).fit()
    return teacher.eval(), dataset.examples


TEACHERS = {}


@pytest.fixture(params=FAMILIES)
def case(request, tmp_path):
    """Yield a teacher, its examples and the folder of its cache."""
    if request.param not in TEACHERS:
        TEACHERS[request.param] = taught(request.param)
    teacher, examples = TEACHERS[request.param]
    build_teacher_cache(teacher, examples, tmp_path / "cache")
    return teacher, examples, tmp_path / "cache"


def live(teacher, batch) -> torch.Tensor:
    with torch.no_grad():
        return teacher.hidden(batch.input_ids, batch.attention_mask).flatten(0, 1)[batch.positions]


def test_the_cache_is_the_live_teacher_to_half_precision(case):
    teacher, examples, folder = case
    cache = TeacherCache.open(folder, verify=True)
    assert len(cache) == examples.n_slots
    assert isinstance(cache.hidden, np.memmap)
    assert torch.equal(cache.output_weight, teacher.output_weight)
    order = np.random.default_rng(0).permutation(len(examples))
    for pattern in range(examples.n_patterns):
        for part in np.array_split(order, 4):
            batch = examples.batch(part, pattern)
            hidden, cached = live(teacher, batch), cache.rows(batch.slots)
            assert cached.dtype == torch.float16
            # Half precision keeps 11 bits; padding differs between batches, hence the last bits of float32 too.
            torch.testing.assert_close(cached.float(), hidden, rtol=2**-10, atol=1e-4)


def test_the_file_has_the_bytes_that_numpy_writes_of_the_whole_array(case):
    teacher, examples, folder = case
    expected = np.full((examples.n_slots, 16), np.nan, dtype=np.float16)
    for pattern in range(examples.n_patterns):
        for batch in examples.ordered(16384, pattern=pattern):
            expected[batch.slots.numpy()] = live(teacher, batch).half().numpy()
    np.save(folder.parent / "whole.npy", expected)
    whole = (folder.parent / "whole.npy").read_bytes()
    assert (folder / "hidden.npy").read_bytes() == whole
    meta = json.loads((folder / "meta.json").read_text())["files"]["hidden.npy"]
    assert meta == {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}


def batches_of(n_batches: int, width: int = 1000):
    for number in range(n_batches):
        yield np.arange(10) * n_batches + number, {"hidden": np.full((10, width), number, dtype=np.float16)}


def test_no_more_than_a_batch_is_held_while_a_cache_is_written(tmp_path):
    write_rows(tmp_path / "first", batches_of(1), 10, RunContext())  # imports, and buffers of files
    tracemalloc.start()
    try:
        write_rows(tmp_path / "cache", batches_of(200, 4000), 2000, RunContext())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rows = np.load(tmp_path / "cache" / "hidden.npy", mmap_mode="r")
    assert (rows == np.tile(np.arange(200), 10)[:, None]).all()
    assert peak < rows.nbytes / 4  # hashing takes two megabytes


def test_rows_that_are_missing_are_noticed(tmp_path):
    with pytest.raises(ValueError, match="20 rows were computed for 21 slots"):
        write_rows(tmp_path / "cache", batches_of(2), 21, RunContext())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_without_room_for_the_cache_is_an_error_and_no_signal(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        write_rows(tmp_path / "cache", batches_of(2), 20, RunContext())
    assert list((tmp_path / "cache").iterdir()) == []


def test_opening_it_twice_does_not_copy_the_states(case):
    _, _, folder = case
    first, second = TeacherCache.open(folder), TeacherCache.open(folder)
    assert first.hidden.filename == second.hidden.filename
    with pytest.raises(ValueError, match="read-only"):
        first.hidden[0] = 0


def test_distilling_from_the_cache_is_distilling_from_the_live_teacher(case):
    """The trainer with its cache against a loop that runs the teacher in every step and holds all logits."""
    teacher, _, folder = case
    weights = LossWeights(temperature=3.0, alpha_dist=0.8, alpha_task=0.4, alpha_hidden=0.5)
    settings = TrainingSettings(
        epochs=2, batch_size=200, lr=1e-3, weight_decay=0.0, clip=0.0, schedule="constant", warmup=0
    )
    student = teacher.keep_layers([0, 2])
    other = teacher.keep_layers([0, 2])

    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=teacher.causal, cache=TeacherCache.open(folder))
    assert any(len(step.groups) > 1 for step in dataset.examples.steps(0, batch_size=200, seed=0))
    curves = DistillationTrainer(student, dataset, weights, settings).fit().curves

    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.0)
    expected = []
    for epoch in range(2):
        loss_sum = n_targets = 0
        for step in dataset.examples.steps(epoch, batch_size=200, seed=0, groups=1):
            (batch,) = step.groups
            hidden = other.hidden(batch.input_ids, batch.attention_mask).flatten(0, 1)[batch.positions]
            taught_hidden = live(teacher, batch)
            logits = hidden @ other.output_weight.T
            loss = class_loss(logits, teacher.logits(taught_hidden).detach(), batch.labels, weights).total
            loss = loss + 0.5 * hidden_loss(hidden, taught_hidden)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * step.n_targets
            n_targets += step.n_targets
        expected.append(loss_sum / n_targets)
    assert [row["loss"] for row in curves] == pytest.approx(expected, rel=2e-3)


def test_distilling_in_bfloat16_stays_near_float32(case):
    teacher, _, folder = case
    weights = LossWeights(temperature=3.0, alpha_dist=0.8, alpha_task=0.4, alpha_hidden=0.5)
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=teacher.causal, cache=TeacherCache.open(folder))
    curves = {}
    for precision in ("float32", "bfloat16"):
        settings = TrainingSettings(epochs=2, batch_size=50, lr=1e-3, precision=precision)
        curves[precision] = DistillationTrainer(teacher.keep_layers([0, 2]), dataset, weights, settings).fit().curves
    for name in ("loss", "distillation_loss"):
        first, second = ([row[name] for row in curves[precision]] for precision in curves)
        assert second == pytest.approx(first, rel=2e-2)


def test_a_student_that_is_the_teacher_has_nothing_to_distil(case):
    teacher, _, folder = case
    dataset = DistillationDataset(DATA, max_length=MAX_LENGTH, causal=teacher.causal, cache=TeacherCache.open(folder))
    student = teacher.keep_layers([0, 1, 2])
    settings = TrainingSettings(epochs=1, batch_size=16, lr=0.0)
    row = DistillationTrainer(student, dataset, LossWeights(2.0, 1.0, 0.0), settings).fit().curves[0]
    assert abs(row["distillation_loss"]) < 1e-4


@pytest.mark.parametrize("name", ["hidden.npy", "output_weight.npy"])
def test_a_changed_cache_is_noticed(case, name):
    _, _, folder = case
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=name):
        TeacherCache.open(folder, verify=True)
    path.write_bytes(content[:-8])
    with pytest.raises(CorruptArtifactError, match=name):
        TeacherCache.open(folder)


@pytest.mark.parametrize("harm", ["absent", "no meta", "half meta", "other meta"])
def test_a_cache_that_is_not_whole_is_noticed(case, harm):
    _, _, folder = case
    meta = folder / "meta.json"
    if harm == "absent":
        folder = folder.parent / "nowhere"
    elif harm == "no meta":
        meta.unlink()
    elif harm == "half meta":
        meta.write_text(meta.read_text()[:20])
    else:
        meta.write_text(json.dumps({"slots": 3}))
    with pytest.raises(CorruptArtifactError):
        TeacherCache.open(folder)


def test_a_cache_of_other_examples_is_refused(case):
    teacher, _, folder = case
    with pytest.raises(CorruptArtifactError, match="targets"):
        DistillationDataset(small_data(seed=5), max_length=5, causal=teacher.causal, cache=TeacherCache.open(folder))


def test_states_beyond_half_precision_are_refused(tmp_path):
    teacher = small_model()
    with torch.no_grad():
        teacher.backbone.ln_f.weight.fill_(1e6)
    examples = TrainingExamples(DATA, max_length=MAX_LENGTH, causal=True)
    with pytest.raises(ModelError, match="hidden in float16"):
        build_teacher_cache(teacher, examples, tmp_path / "cache")
    assert not (tmp_path / "cache" / "meta.json").exists()


def test_the_cache_is_as_small_as_promised(case):
    _, examples, folder = case
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 2 * examples.n_slots * 16 + 4 * N_ITEMS * 16 + 2000
