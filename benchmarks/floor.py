"""The floor: training and ranking written by hand in plain PyTorch around Hugging Face's GPT-2, nothing of raydistill.

Batches are drawn at random and split by length inside, and the softmax over the catalogue is cut into chunks. What a
library does beyond this is its overhead.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2Model


def make_model(
    n_items: int, layers: int, hidden: int, max_length: int, *, dropout: float = 0.2, seed: int = 0
) -> GPT2Model:
    """Return a GPT-2 without a language-model head over a table of items; dropout follows the same seed."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=n_items + 2,
        n_positions=max_length,
        n_embd=hidden,
        n_layer=layers,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return GPT2Model(config)


def training_sequences(items: np.ndarray, offsets: np.ndarray, train_end: np.ndarray, longest: int) -> list[Tensor]:
    """Return the training items of every user, cut from the end so that each part has at most ``longest`` targets."""
    parts = [
        items[max(begin, stop - longest - 1) : stop]
        for begin, end in zip(offsets[:-1], train_end, strict=True)
        for stop in range(end, begin + 1, -longest)
    ]
    return [torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in parts]


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy over chunks of positions; gradients are made on the way."""

    @staticmethod
    def forward(ctx, hidden, table, labels, rows=64):
        hidden_gradient, table_gradient, total = torch.empty_like(hidden), torch.zeros_like(table), 0.0
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            log_p = torch.log_softmax(hidden[part] @ table.T, 1)
            own = torch.arange(len(log_p))
            total -= log_p[own, labels[part]].sum()
            p = log_p.exp_()
            p[own, labels[part]] -= 1
            hidden_gradient[part] = p @ table
            table_gradient.addmm_(p.T, hidden[part])
        ctx.save_for_backward(hidden_gradient, table_gradient)
        return total

    @staticmethod
    def backward(ctx, scale):
        hidden_gradient, table_gradient = ctx.saved_tensors
        return hidden_gradient * scale, table_gradient * scale, None, None


def train_epoch(
    model: GPT2Model, optimizer, sequences: list[Tensor], n_items: int, *, batch=256, groups=5, order_seed=0
) -> float:
    """Return the mean loss of an epoch of random batches, split by length inside."""
    model.train()
    loss_sum, n_targets = 0.0, 0
    order = np.random.default_rng(order_seed).permutation(len(sequences))
    for start in range(0, len(order), batch):
        chosen = sorted((sequences[i] for i in order[start : start + batch]), key=len)
        count = sum(len(s) - 1 for s in chosen)
        optimizer.zero_grad()
        size = -(-len(chosen) // groups)
        for first in range(0, len(chosen), size):
            group = chosen[first : first + size]
            ids = torch.nn.utils.rnn.pad_sequence(group, batch_first=True)
            real = ids[:, 1:] != 0
            hidden = model(input_ids=ids[:, :-1]).last_hidden_state[real]
            table = model.wte.weight[1 : n_items + 1]
            loss = ChunkedCrossEntropy.apply(hidden, table, ids[:, 1:][real] - 1) / count
            loss.backward()
            loss_sum += float(loss.detach()) * count
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        n_targets += count
    return loss_sum / n_targets


def train_epoch_padded(
    model: GPT2Model, optimizer, sequences: list[Tensor], n_items: int, *, batch=256, longest=50
) -> None:
    """Train an epoch as plain loops do: all padded to the longest, all logits of real positions at once."""
    model.train()
    order = np.random.default_rng(0).permutation(len(sequences))
    for start in range(0, len(order), batch):
        ids = torch.zeros(len(order[start : start + batch]), longest + 1, dtype=torch.int64)
        for row, i in enumerate(order[start : start + batch]):
            ids[row, : len(sequences[i])] = sequences[i]
        real = ids[:, 1:] != 0
        hidden = model(input_ids=ids[:, :-1]).last_hidden_state[real]
        loss = F.cross_entropy(hidden @ model.wte.weight[1 : n_items + 1].T, ids[:, 1:][real] - 1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.inference_mode()
def ranks(model: GPT2Model, histories: list[np.ndarray], targets: np.ndarray, n_items: int, *, longest: int, rows=512):
    """Return full-catalogue ranks and the ten best items of every user, seen items masked."""
    model.eval()
    table = model.wte.weight[1 : n_items + 1]
    order = np.argsort([len(history) for history in histories], kind="stable")
    rank, best = np.empty(len(histories), dtype=np.int64), np.empty((len(histories), 10), dtype=np.int64)
    for start in range(0, len(order), rows):
        users = order[start : start + rows]
        recent = [torch.from_numpy(histories[u][-longest:].astype(np.int64)) for u in users]
        ids = torch.nn.utils.rnn.pad_sequence(recent, batch_first=True)
        last = torch.tensor([len(history) - 1 for history in recent])
        hidden = model(input_ids=ids).last_hidden_state[torch.arange(len(users)), last]
        scores = hidden @ table.T
        own = torch.arange(len(users))
        target = torch.from_numpy(targets[users].astype(np.int64)) - 1
        score = scores[own, target].clone()
        seen = np.concatenate([histories[u] for u in users]).astype(np.int64) - 1
        scores[np.repeat(np.arange(len(users)), [len(histories[u]) for u in users]), seen] = -torch.inf
        scores[own, target] = score
        rank[users] = (scores >= score[:, None]).sum(1).numpy()
        best[users] = scores.topk(10, 1).indices.numpy() + 1
    return rank, best
