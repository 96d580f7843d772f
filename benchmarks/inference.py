"""Latency of students by depth: eager, compiled, ONNX Runtime, and int8 weights, with the scores of all items."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import row
from benchmarks.training import MAX_LENGTH, model
from raydistill.data.splits import SequenceData
from raydistill.metrics import forward_flops, latency_ms
from raydistill.models.onnx import quietly
from raydistill.models.recommender import Recommender

TEACHER_LAYERS = 8
ROUNDS = 3
EAGER = "eager"


class Scores(nn.Module):
    """The scores of all items after the last item of each history."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, input_ids):
        """Return ``[batch, items]``."""
        return self.recommender.logits(self.recommender.hidden(input_ids)[:, -1])


def run(data: SequenceData, *, quick: bool) -> list[dict[str, Any]]:
    """Return latency by depth and batch size, each against 8 blocks run eagerly; notes compare depths in one form.

    Median seconds by the clock, for it is what a request waits; the least of some rounds in which all take turns.
    """
    teacher = model(data, TEACHER_LAYERS).eval()
    depths = (8, 2) if quick else (8, 4, 2, 1)
    students = {depth: Scores(teacher.keep_layers(list(range(depth)))).eval() for depth in depths}
    rows = []
    for batch in (1, 256):
        torch.compiler.reset()  # after some compilations of one function torch gives up, and runs it eagerly
        ids = torch.randint(1, data.n_items + 1, (batch, MAX_LENGTH))
        works, skipped, flops = {}, {}, {}
        for depth, scores in students.items():
            flops[depth] = forward_flops(lambda scores=scores, ids=ids: scores(ids))
            for name, make in _FORMS.items():
                if quick and name == "compiled":
                    skipped[depth, name] = "skipped: quick"
                    continue
                try:
                    works[depth, name] = make(scores, ids)
                except ModuleNotFoundError as error:
                    skipped[depth, name] = f"skipped: {error}"
        seconds = _in_turns(works, batch, quick)
        for depth, name in [(depth, name) for depth in depths for name in _FORMS]:
            found = seconds.get((depth, name))
            against = seconds[TEACHER_LAYERS, EAGER]
            note = skipped.get((depth, name))
            if found is not None:
                cut, real = flops[depth] / flops[TEACHER_LAYERS], found / seconds[TEACHER_LAYERS, name]
                note = f"{real:.2f} of the time and {cut:.2f} of the FLOPs of 8 blocks; {batch / found:,.0f} users/s"
            rows.append(row(f"latency, batch {batch}", f"{depth} blocks, {name}", found, against, note=note))
    return rows


def _in_turns(works: dict[Any, Callable[[], Any]], batch: int, quick: bool) -> dict[Any, float]:
    """Return the seconds of each work: the least median of the rounds."""
    repeats = (10 if batch == 1 else 2) if quick else (40 if batch == 1 else 4)
    best = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for key, work in works.items():
            best[key] = min(best[key], latency_ms(work, repeats=repeats, warmup=2)["p50"] / 1e3)
    return best


def _eager(scores: nn.Module, ids: torch.Tensor):
    return lambda: scores(ids)


def _compiled(scores: nn.Module, ids: torch.Tensor):
    compiled = torch.compile(scores)
    return lambda: compiled(ids)


def _int8(scores: nn.Module, ids: torch.Tensor):
    """Return a call with int8 weights in linear layers; GPT-2's Conv1D is a linear layer laid out the other way."""
    quantized = copy.deepcopy(scores)
    for parent in list(quantized.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Conv1D":
                linear = nn.Linear(*child.weight.shape)
                linear.weight, linear.bias = nn.Parameter(child.weight.T.contiguous()), child.bias
                setattr(parent, name, linear)
    with warnings.catch_warnings():  # torch moves its quantization elsewhere
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        quantized = torch.ao.quantization.quantize_dynamic(quantized, {nn.Linear}, dtype=torch.qint8)
    return lambda: quantized(ids)


def _onnx(scores: nn.Module, ids: torch.Tensor):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed")
    import onnxruntime

    path = Path(tempfile.mkdtemp()) / "student.onnx"
    with quietly():
        torch.onnx.export(scores, (ids,), str(path), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: ids.numpy()})


_FORMS = {EAGER: _eager, "compiled": _compiled, "int8 weights": _int8, "ONNX Runtime": _onnx}
