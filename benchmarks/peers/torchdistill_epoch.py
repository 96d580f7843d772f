"""torchdistill's distillation box on a file of sequences: prints seconds and peak memory of an epoch, 8 to 2 blocks.

Its loop runs the teacher in every step and makes all logits; batches are padded to 50, as its data loaders stack them.
The models hand it the logits of real positions only, without which an epoch would take several times as long. Models
and optimizer are those of the floor script, which needs nothing of raydistill either.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

# torchdistill imports torchvision, which knows its operators only where it was built with the same torch.
_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from peak_memory import peak_bytes  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import Dataset, RandomSampler  # noqa: E402
from torchdistill.core.distillation import get_distillation_box  # noqa: E402
from torchdistill.datasets.registry import register_collate_func  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.floor import make_model  # noqa: E402

LONGEST, HIDDEN = 50, 64


class Sequences(Dataset):
    """Padded inputs and next items; the last two items of a user are left for validation and test."""

    def __init__(self, lines: list[str]) -> None:
        self.sequences = [[int(item) for item in line.split()[1:-2]][-LONGEST - 1 :] for line in lines]
        self.sequences = [sequence for sequence in self.sequences if len(sequence) > 1]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sequence = torch.tensor(self.sequences[index])
        ids, labels = torch.zeros(LONGEST, dtype=torch.int64), torch.zeros(LONGEST, dtype=torch.int64)
        ids[: len(sequence) - 1], labels[: len(sequence) - 1] = sequence[:-1], sequence[1:]
        return ids, labels


@register_collate_func
def real_positions(examples):
    """Return stacked inputs, the classes of their real positions, and no further information."""
    ids, labels = (torch.stack([example[column] for example in examples]) for column in (0, 1))
    return ids, labels[ids != 0] - 1, {}


class Recommender(nn.Module):
    """Logits of all items at the real positions."""

    def __init__(self, n_items: int, layers: int) -> None:
        super().__init__()
        self.n_items, self.backbone = n_items, make_model(n_items, layers, HIDDEN, LONGEST)

    def forward(self, ids):
        """Return ``[real positions, items]``."""
        hidden = self.backbone(input_ids=ids).last_hidden_state[ids != 0]
        return hidden @ self.backbone.wte.weight[1 : self.n_items + 1].T


def main() -> None:
    torch.set_num_threads(1)
    lines = Path(sys.argv[1]).read_text().splitlines()
    data = Sequences(lines)
    n_items = max(int(item) for line in lines for item in line.split()[1:])
    loss = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": 4.0,
            "alpha": 0.3,
            "reduction": "batchmean",
        },
    }
    settings = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": True,
            "sampler": {"class_or_func": RandomSampler},
            "collate_fn": "real_positions",
            "kwargs": {"batch_size": 256},
        },
        "teacher": {"requires_grad": False, "forward_hook": {"output": []}, "forward_proc": "forward_batch_only"},
        "student": {"forward_hook": {"output": []}, "forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3, "fused": True}, "max_grad_norm": 1.0},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }
    teacher, student = Recommender(n_items, 8).eval(), Recommender(n_items, 2)
    box = get_distillation_box(
        teacher, student, {"train": data}, settings, torch.device("cpu"), None, distributed=False, lr_factor=1
    )
    started = time.process_time()
    box.pre_epoch_process(epoch=0)
    for ids, targets, further in box.train_data_loader:
        box.post_forward_process(loss=box.forward_process(ids, targets, further))
    print("distillation", time.process_time() - started)
    print("memory", peak_bytes())


if __name__ == "__main__":
    main()
