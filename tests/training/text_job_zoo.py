"""A smallest sweep of the task `preference`: invented titles, a small tokenizer, a model from its configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raydistill.training.context import RunContext
from raydistill.training.prepare import prepare_teacher, prepared_teacher
from raydistill.training.prepared import PreparedTeacher
from raydistill.training.resources import Resources

METRIC = "auc"
KINDS = ("war", "love", "space")

TEXT = """\
name: text
task: preference
data: {{source: interactions, path: {folder}/events.csv, user: user, item: item, timestamp: time, rating: rating,
       items: {folder}/titles.csv, title: title, split: user_time, time_cuts: [0.6, 0.8], min_interactions: 1,
       max_length: 3}}
prompt:
  template: "{{% for i in history %}}{{{{ i.title }}}} {{{{ i.rating | int }}}} {{% endfor %}}{{{{ candidate.title }}}}"
  max_tokens: 24
labels: {{kind: like, threshold: 4.0}}
candidates: {{negatives: 2, draw: uniform, seed: 0}}
classifier: {{tokenizer: {folder}/tokenizer}}
teacher: {{family: bert, layers: 4, hidden: 16, heads: 2, epochs: 3, lr: 3.0e-3, batch_size: 16}}
selectors: [fisher, attention, leave_one_out, tail, {{name: random, draws: 2}}]
controls: [teacher, popularity, scratch, scratch_kd, no_kd]
evidence: {{samples: 12, replicates: 2, batch_size: 6}}
training: {{epochs: 2, batch_size: 16, lr: 3.0e-3}}
search:
  trials: 2
  space: {{temperature: {{log_uniform: [1, 10]}}, keep_ratio: {{choice: [0.25, 0.5]}}}}
  objectives: {{auc: max, backbone_parameters: min}}
confirm: {{seeds: 1}}
analysis: {{metric: user_auc, margin: 0.02, reference: tail}}
"""


def write_events(folder: Path, n_users: int = 24, n_items: int = 30) -> None:
    """Write ratings by users who each like one kind of film, and titles that name the kind."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        items = rng.choice(n_items, size=15, replace=False)
        for time, item in enumerate(items):
            liked = item % len(KINDS) == user % len(KINDS)
            rows.append((f"u{user}", f"i{item}", 1000 + time, (5 if liked else 2) if rng.random() < 0.9 else 3.5))
    pd.DataFrame(rows, columns=["user", "item", "time", "rating"]).to_csv(folder / "events.csv", index=False)
    titles = [(f"i{item}", f"film about {KINDS[item % len(KINDS)]} {item}") for item in range(n_items)]
    pd.DataFrame(titles, columns=["item", "title"]).to_csv(folder / "titles.csv", index=False)


def write_tokenizer(folder: Path, n_items: int = 30) -> None:
    """Write a tokenizer of one token a word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "film", "about", *KINDS, *map(str, range(n_items))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


def text_resources(folder: Path, *overrides: str, run: str = "run") -> Resources:
    """Return the resources of the smallest text sweep, data and run directory in ``folder``."""
    if not (folder / "events.csv").exists():
        write_events(folder)
        write_tokenizer(folder / "tokenizer")
    file = folder / "text.yaml"
    file.write_text(TEXT.format(folder=folder))
    return Resources.load(file, (f"execution.storage={folder}", *overrides), folder / run)


def prepared_text(resources: Resources) -> PreparedTeacher:
    """Return the prepared teacher of the first seed."""
    resources.task.write_items(resources.data, resources.run.data / "items.parquet")
    return prepared_teacher(resources, prepare_teacher(resources, resources.sweep.teacher.seed, RunContext()))
