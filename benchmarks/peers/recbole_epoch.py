"""RecBole's SASRec on a file of sequences: prints the seconds of an epoch and of ranking, and its peak memory."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from peak_memory import peak_bytes
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed


def write_atomic(source: Path, folder: Path) -> None:
    """Write RecBole's ``.inter`` file; a sequence's positions serve as times."""
    (folder / "beauty").mkdir()
    with open(folder / "beauty" / "beauty.inter", "w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for line in source.read_text().splitlines():
            user, *items = line.split()
            out.writelines(f"{user}\t{item}\t{time}\n" for time, item in enumerate(items))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_atomic(Path(sys.argv[1]), Path(folder))
        settings = {
            "data_path": folder,
            "checkpoint_dir": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": 50,
            "n_layers": 1,
            "hidden_size": 64,
            "inner_size": 256,
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "train_batch_size": 2048,
            "eval_batch_size": 512,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
            "epochs": 1,
            "use_gpu": False,
            "show_progress": False,
        }
        config = Config(model="SASRec", dataset="beauty", config_dict=settings)
        init_seed(0, True)
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        trainer = Trainer(config, SASRec(config, train.dataset))
        started = time.process_time()
        trainer._train_epoch(train, 0)
        trained = time.process_time()
        trainer.evaluate(test, load_best_model=False)
        print("epoch", trained - started)
        print("ranking", time.process_time() - trained)
        print("memory", peak_bytes())


if __name__ == "__main__":
    main()
