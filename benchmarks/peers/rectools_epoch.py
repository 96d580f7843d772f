"""RecTools' SASRec on a file of sequences: prints the seconds of an epoch and of ranking, and its peak memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
import torch
from peak_memory import peak_bytes
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for line in Path(sys.argv[1]).read_text().splitlines():
        user, *items = line.split()
        rows += [(user, item, 1.0, pd.Timestamp(position, unit="D")) for position, item in enumerate(items[:-2])]
    frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime])
    dataset = Dataset.construct(frame)
    model = SASRecModel(
        n_blocks=1, n_heads=2, n_factors=64, session_max_len=50, batch_size=256, epochs=1, loss="softmax", lr=1e-3
    )
    started = time.process_time()
    model.fit(dataset)
    trained = time.process_time()
    model.recommend(users=frame[Columns.User].unique(), dataset=dataset, k=10, filter_viewed=True)
    print("epoch", trained - started)
    print("ranking", time.process_time() - trained)
    print("memory", peak_bytes())


if __name__ == "__main__":
    main()
