"""Small models of every family with batches, and per-example gradients of them by plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5Model

from raydistill.models import FAMILIES, blocks, build_recommender
from raydistill.training.evidence import CalibrationBatch, measure_evidence

N_ITEMS, LENGTH, LAYERS = 11, 6, 3


class LargestTensor(TorchDispatchMode):
    """Remembers the most numbers that any operation has returned, views counted as what they are views of.

    Args:
        dtype: Of the only tensors that count; None for all.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        made = [
            leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and self.dtype in (None, leaf.dtype)
        ]
        self.numbers = max([self.numbers, *(tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in made)])
        return result


class EncoderDecoder(torch.nn.Module):
    """A T5 encoder and decoder with a class head, wrapped as a recommender is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = T5Model(
            T5Config(
                vocab_size=N_ITEMS, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_decoder_layers=LAYERS, num_heads=2,
                decoder_start_token_id=0, feed_forward_proj="gated-gelu",
            )
        )  # fmt: skip
        self.head = torch.nn.Linear(8, 5)


def _spread(model, seed=0):
    """Move every parameter off its symmetric start, so that no gradient is zero by accident."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model.double()


def make(name):
    """Return a model in training mode, its logits function, stack and batches of one replicate."""
    if name == "t5-decoder":
        return _spread(EncoderDecoder()), decoder_logits, "decoder", [decoder_batch(3)]
    if name == "bert-classifier":
        torch.manual_seed(2)
        config = BertConfig(
            vocab_size=N_ITEMS, hidden_size=8, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=12,
            max_position_embeddings=LENGTH, num_labels=5, pad_token_id=0,
        )  # fmt: skip
        return _spread(BertForSequenceClassification(config)), class_logits, None, [class_batch(3), class_batch(2)]
    model = build_recommender(
        name, n_items=N_ITEMS, layers=LAYERS, hidden=8, heads=2, dropout=0.3, max_length=LENGTH, seed=0
    )
    return _spread(model), item_logits, None, [item_batch(4, 0), item_batch(3, 1)]


def _ids(n_rows, generator):
    lengths = torch.randint(2, LENGTH + 1, (n_rows,), generator=generator)
    ids = torch.randint(1, N_ITEMS, (n_rows, LENGTH), generator=generator)
    return ids * (torch.arange(LENGTH) < lengths[:, None]), lengths


def item_batch(n_rows, seed):
    """Return rows with two targets each, out of order: after the first and after the last item."""
    generator = torch.Generator().manual_seed(seed)
    ids, lengths = _ids(n_rows, generator)
    example = torch.arange(n_rows).repeat(2).flip(0)
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "last": lengths - 1}
    return CalibrationBatch(inputs, example, torch.randint(0, N_ITEMS, (2 * n_rows,), generator=generator))


def item_logits(model, batch):
    hidden = model.hidden(batch.inputs["input_ids"])
    second_half = torch.arange(len(batch.example), device=batch.example.device) >= len(batch.example) // 2
    places = torch.where(second_half, batch.inputs["last"][batch.example], 0)
    return model.logits(hidden[batch.example, places])


def class_batch(n_rows):
    generator = torch.Generator().manual_seed(n_rows)
    ids, _ = _ids(n_rows, generator)
    labels = torch.randint(0, 5, (n_rows,), generator=generator)
    return CalibrationBatch({"input_ids": ids, "attention_mask": ids.ne(0).long()}, torch.arange(n_rows), labels)


def class_logits(model, batch):
    return model(**batch.inputs).logits[batch.example]


def decoder_batch(n_rows):
    batch = class_batch(n_rows)
    decoder, _ = _ids(n_rows, torch.Generator().manual_seed(9))
    batch.inputs["decoder_input_ids"] = decoder[:, :4]
    batch.inputs["decoder_attention_mask"] = decoder[:, :4].ne(0).long()
    return batch


def decoder_logits(model, batch):
    return model.head(model.backbone(**batch.inputs).last_hidden_state[batch.example, 0])


CASES = [*FAMILIES, "t5-decoder", "bert-classifier"]
every_model = pytest.mark.parametrize("name", CASES)


def one_by_one(batches):
    for batch in batches:
        yield from (piece for piece, _ in batch.chunks(1))


def loop(model, logits, rows, batches, labels_of):
    """Return per-example gradients by plain autograd: a list over examples of a list over blocks of tensors."""
    found = []
    for piece in one_by_one(batches):
        scores = logits(model, piece)
        loss = torch.nn.functional.cross_entropy(scores, labels_of(piece, scores))
        parameters = [list(block.parameters()) for block in rows]
        flat = torch.autograd.grad(loss, [p for block in parameters for p in block], allow_unused=True)
        gradients = iter(flat)
        found.append([[next(gradients) for _ in block] for block in parameters])
    return found


def squares(gradients):
    return np.array([[sum(float(g.square().sum()) for g in b if g is not None) for b in row] for row in gradients])


def measured(name, kinds, **options):
    model, logits, stack, batches = make(name)
    evidence = measure_evidence(model, [batches], logits, kinds, seed=5, stack=stack, **options)
    model.eval()
    return evidence, model, logits, list(blocks(model, stack)), batches, stack
