"""Models as ONNX files, which a server runs without Python, torch or transformers.

A classifier's file takes ``input_ids`` and ``attention_mask`` and gives ``logits``. A recommender's takes
``input_ids``, histories of items padded on the right with 0, and gives ``scores`` of all items as the next one; column
c belongs to item c + 1. Batch size and length are free in both, up to what the model was made for.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raydistill.errors import ModelError, UserError
from raydistill.models.lora import refuse_adapters
from raydistill.models.recommender import Recommender
from raydistill.models.surgery import with_attention
from raydistill.models.text_classifier import TextClassifier

TOLERANCE = 1e-4

LONGEST = 512
"""Most tokens that outputs are compared for: more would take long on a processor."""


class ClassScores(nn.Module):
    """A classifier from tokens to logits."""

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classes."""
        return self.model.logits(self.model.hidden(input_ids, attention_mask))


class ItemScores(nn.Module):
    """A recommender from histories to the scores of all items as the next one."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch n_items"]:
        """Return the scores; a bidirectional model gets the mask item after the history, as in evaluation."""
        lengths = input_ids.ne(0).sum(dim=1, keepdim=True)
        if self.model.causal:
            last = (lengths - 1).clamp(min=0)
        else:
            input_ids = torch.cat([input_ids, torch.zeros_like(input_ids[:, :1])], dim=1)
            input_ids = input_ids.scatter(1, lengths, torch.full_like(lengths, self.model.mask_item))
            last = lengths
        hidden = self.model.hidden(input_ids)
        return self.model.logits(hidden.gather(1, last[:, :, None].expand(-1, -1, hidden.shape[2]))[:, 0])


def export_onnx(model: TextClassifier | Recommender, path: str | Path) -> float:
    """Write a model as an ONNX file and return the largest difference between its outputs and the model's.

    They are compared in ONNX Runtime on the CPU, for batch sizes and lengths other than the exported ones, up to the
    longest that the model was made for. The file is in float32 whatever the model is.

    Args:
        model: It is not changed.
        path: The file to write; beside it goes one with the weights where they are too large for it.

    Raises:
        UserError: A package is missing.
        ModelError: Adapters that are not merged, a model that cannot be expressed, or outputs that differ.
    """
    check_packages()
    refuse_adapters(model.backbone, "exported")
    wrapper, output = (ClassScores, "logits") if isinstance(model, TextClassifier) else (ItemScores, "scores")
    model = model if isinstance(model, TextClassifier) else model.plain()
    module = wrapper(deepcopy(model).cpu().float().requires_grad_(False)).eval()
    inputs = _examples(model, 2, 3)
    # Attention as plain operators: fused ones cannot be expressed for every family.
    with quietly(), with_attention(module.model, "eager"):
        try:
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ModelError(
                f"torch cannot express this model in ONNX: {str(error).splitlines()[0]}",
                where=type(model.backbone).__name__,
                mend="export a model of another family, or serve the Hugging Face folder",
            ) from error
        program.save(os.fspath(path))
    # Positions are where a length that was not exported would show: the longest is among those compared.
    shapes = ((2, 3), (1, 1), (5, 4), (2, LONGEST))
    difference = max(_difference(module, path, _examples(model, *shape)) for shape in shapes)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the ONNX file's outputs differ from the model's by {difference:.2g}, more than {TOLERANCE:g}",
            where=str(path),
            mend="do not serve it; serve the Hugging Face folder",
        )
    return difference


def _difference(module: nn.Module, path: str | Path, inputs: dict[str, Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        mine = module(*inputs.values()).numpy()
    return float(np.abs(theirs - mine).max())


def _examples(model: TextClassifier | Recommender, n_rows: int, length: int) -> dict[str, Tensor]:
    """Return inputs of some rows, cut to what the model takes; the last is shorter by a third where it can be."""
    classifies = isinstance(model, TextClassifier)
    generator = torch.Generator().manual_seed(0)
    length = min(length, model.max_tokens if classifies else model.max_length - (not model.causal))
    n_ids = model.backbone.get_input_embeddings().num_embeddings if classifies else model.n_items + 1
    ids = torch.randint(1, n_ids, (n_rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, max(1, length - (length + 2) // 3) :] = 0
    if not classifies:
        return {"input_ids": ids * mask}
    padding = model.backbone.config.pad_token_id
    return {"input_ids": ids.where(mask.bool(), padding), "attention_mask": mask}


def check_packages() -> None:
    """Refuse to go on where a package is missing.

    Raises:
        UserError: With its name.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"an ONNX file cannot be written: the package '{error.name}' is missing",
            mend='pip install "raydistill[onnx]"',
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Run without what the exporter says of itself: deprecated calls, shared axis names, absent torchvision."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*The axis name: ", category=UserWarning)
            yield
    finally:
        registration.setLevel(level)
