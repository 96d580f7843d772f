"""What a model costs, against counts done by hand."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from raydistill.metrics import PeakMemory, call_ms, count_parameters, forward_flops, latency_ms


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.linear = nn.Linear(4, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(self.linear(self.table(ids)))


def test_shared_parameters_count_once_and_tables_are_named_apart():
    assert count_parameters(Tied()) == {"parameters": 40 + 16 + 4, "backbone_parameters": 16 + 4}


def test_flops_of_matrix_products():
    model, ids = Tied(), torch.zeros(3, 7, dtype=torch.int64)
    assert forward_flops(lambda: model(ids)) == 2 * 3 * 7 * (4 * 4 + 4 * 10)


def test_latency_orders_fast_and_slow_and_leaves_no_graph():
    grads = []

    def slow():
        grads.append(torch.is_grad_enabled())
        time.sleep(0.02)

    measured = latency_ms(slow, repeats=4, warmup=1)
    assert len(grads) == 5
    assert not any(grads)
    assert 20 <= measured["p50"] <= measured["p95"]


def test_slow_calls_are_fewer_but_never_one():
    calls = []
    assert len(call_ms(lambda: calls.append(time.sleep(0.02)), repeats=50, warmup=1, at_most_s=0.05)) < 5
    assert len(call_ms(lambda: time.sleep(0.02), repeats=50, warmup=0, at_most_s=0.001)) == 2
    assert len(call_ms(lambda: None, repeats=7, warmup=0, at_most_s=10.0)) == 7


def test_peak_memory_sees_what_was_freed_again():
    with PeakMemory() as small:
        pass
    with PeakMemory() as large:
        np.ones(40_000_000, dtype=np.float64).sum()  # 320 MB, gone at once
    assert large.bytes - small.bytes > 250e6


def test_peak_memory_opened_again_keeps_the_highest():
    memory = PeakMemory()
    with memory:
        np.ones(40_000_000, dtype=np.float64).sum()
    before = memory.bytes
    with memory:
        pass
    assert memory.bytes >= before
    with memory:
        np.ones(80_000_000, dtype=np.float64).sum()
    assert memory.bytes - before > 250e6
