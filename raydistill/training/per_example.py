"""Squared norms of per-example gradients, block by block, without ever holding one gradient for each example.

The gradient of a module's parameters is a function of what went in and of the gradient of what came out. Both are kept
for a chunk of examples; no example talks to another in eval mode, so a row of the output's gradient is that example's
own. For a linear map ``y = W a + b`` with inputs A ``[seq, in]`` and output gradients D ``[seq, out]`` of one example

    || D^T A ||^2 = sum_{s,t} (A A^T)_st (D D^T)_st        (Gram form; adding 1 to A A^T adds the bias)

and either side is used, whichever takes fewer multiplications (Goodfellow 2015, "Efficient per-example gradient
computations"; Li et al. 2022, "Large language models can be strong differentially private learners"). LayerNorm has its
closed form, T5's relative positions are a sum over buckets, every other module with parameters of its own goes through
torch.func, and what cannot be told apart by rows is done by one backward for each example.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

log = logging.getLogger(__name__)

# Numbers that per-example gradients of one weight may take at a time, 64 MB in float32.
SCRATCH = 1 << 24


@dataclass
class Call:
    """One call of a module with parameters: what went in, and what came out, first axis the example."""

    layer: int
    module: nn.Module
    input: Tensor
    output: Tensor
    kept: Tensor | None = None  # made of the input alone, for further backward passes through the same forward


@dataclass
class Recording:
    """Every call in one forward pass, and the parameters whose gradients it cannot tell apart by example."""

    calls: list[Call] = field(default_factory=list)
    rest: list[tuple[int, nn.Parameter]] = field(default_factory=list)


@contextmanager
def recorded(blocks: Sequence[nn.Module], n_rows: int) -> Iterator[Recording]:
    """Record one forward pass over ``n_rows`` examples that runs inside the block; the model is left as it was."""
    recording, handles, patched = Recording(), [], []
    seen: set[int] = set()

    def hook(layer: int):
        def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if len(inputs) == 1 and isinstance(output, Tensor) and inputs[0].shape[0] == output.shape[0] == n_rows:
                recording.calls.append(Call(layer, module, inputs[0].detach(), output))
            else:
                unclear.add(id(module))

        return record

    unclear: set[int] = set()
    owners: list[tuple[int, nn.Module]] = []
    for layer, block in enumerate(blocks):
        for module in block.modules():
            if hasattr(module, "compute_bias") and hasattr(module, "relative_attention_bias"):
                seen.add(id(module.relative_attention_bias))
                patched.append(module)
                module.compute_bias = _bias_by_example(module, layer, n_rows, recording)
            if next(module.parameters(recurse=False), None) is not None and id(module) not in seen:
                seen.add(id(module))
                owners.append((layer, module))
                handles.append(module.register_forward_hook(hook(layer)))
    try:
        yield recording
    finally:
        for handle in handles:
            handle.remove()
        for module in patched:
            del module.compute_bias
    called = {id(call.module) for call in recording.calls}
    recording.calls = [call for call in recording.calls if id(call.module) not in unclear]
    for layer, module in owners:
        if id(module) in unclear or id(module) not in called:
            recording.rest += [(layer, parameter) for parameter in module.parameters(recurse=False)]
            log.debug("%s of block %d: one backward for each example", type(module).__name__, layer)


def _bias_by_example(attention: nn.Module, layer: int, n_rows: int, recording: Recording):
    """Return T5's ``compute_bias`` with one copy of the bias for each example, so that gradients stay apart."""
    original = type(attention).compute_bias

    def compute_bias(*args, **kwargs) -> Tensor:
        buckets = []
        table = attention.relative_attention_bias
        handle = table.register_forward_pre_hook(lambda module, inputs: buckets.append(inputs[0]))
        try:
            bias = original(attention, *args, **kwargs)
        finally:
            handle.remove()
        bias = bias.expand(n_rows, *bias.shape[1:]).clone()
        recording.calls.append(Call(layer, table, buckets[0], bias))
        return bias

    return compute_bias


def squared_norms(
    recording: Recording,
    gradients: Sequence[Tensor | None],
    losses: Float[Tensor, " examples"],
    n_layers: int,
    *,
    products: bool = False,
) -> tuple[Float[Tensor, "examples layers"], Float[Tensor, "examples layers"]]:
    """Return, for each example and block, the squared norm of the gradient and its inner product with the parameters.

    Args:
        recording: Of the forward pass that gave the losses.
        gradients: Gradient of the sum of the losses with respect to each call's output; None where it has none.
        losses: One for each example; its graph is needed only where ``recording.rest`` has parameters.
        n_layers: Number of blocks.
        products: Whether to compute the inner products, which are zeros otherwise.

    Returns:
        Both in float64.
    """
    squares = torch.zeros(n_layers, len(losses), dtype=torch.float64, device=losses.device)
    inner = torch.zeros_like(squares)
    calls: dict[int, list[tuple[Call, Tensor]]] = {}
    for call, gradient in zip(recording.calls, gradients, strict=True):
        if gradient is not None:
            calls.setdefault(id(call.module), []).append((call, gradient))
    with torch.no_grad():
        for of_module in calls.values():
            layer, module = of_module[0][0].layer, of_module[0][0].module
            square, product = _of_module(module, of_module, products)
            squares[layer] += square
            if products:
                inner[layer] += product
    if recording.rest:
        _add_one_by_one(recording.rest, losses, squares, inner)
    return squares.T, inner.T


def _add_one_by_one(rest: list[tuple[int, nn.Parameter]], losses: Tensor, squares: Tensor, inner: Tensor) -> None:
    parameters = [parameter for _, parameter in rest]
    for row, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for (layer, parameter), gradient in zip(rest, gradients, strict=True):
            if gradient is not None:
                squares[layer, row] += gradient.square().sum()
                inner[layer, row] += (gradient * parameter.detach()).sum()


def _of_module(module: nn.Module, calls: list[tuple[Call, Tensor]], products: bool) -> tuple[Tensor, Tensor | float]:
    """Return squared norm and inner product of the per-example gradients of one module, over all its calls."""
    if isinstance(module, (nn.Linear, Conv1D)):
        square = _linear(calls, module.bias is not None)
        # For a linear map the inner product of gradient and parameters is that of output and its gradient.
        return square, sum(_dot(call.output, gradient) for call, gradient in calls) if products else 0.0
    by_name: dict[str, Tensor] = {}
    for call, gradient in calls:
        for name, value in _gradients(module, call, gradient).items():
            by_name[name] = by_name[name] + value if name in by_name else value
    square = sum(_squared(value.flatten(1)) for value in by_name.values())
    if not products:
        return square, 0.0
    parameters = dict(module.named_parameters(recurse=False))
    return square, sum(_dot(value, parameters[name].expand_as(value)) for name, value in by_name.items())


def _linear(calls: list[tuple[Call, Tensor]], bias: bool) -> Float[Tensor, " n"]:
    """Return the squared norms of one linear map, whose calls are laid end to end along the sequence."""
    first = calls[0][0]
    d = _joined([gradient for _, gradient in calls])
    n_rows, length, n_out = d.shape
    n_in = first.input.shape[-1]
    if length * (n_in + n_out) <= n_in * n_out:
        if first.kept is None:
            a = _joined([call.input for call, _ in calls])
            first.kept = (a @ a.transpose(1, 2)).add_(int(bias))
        return (d @ d.transpose(1, 2)).mul_(first.kept).sum(dim=(1, 2))
    a = _joined([call.input for call, _ in calls])
    step = max(1, SCRATCH // (n_in * n_out))
    squares = [_squared((d[i : i + step].transpose(1, 2) @ a[i : i + step]).flatten(1)) for i in range(0, n_rows, step)]
    return torch.cat(squares) + (_squared(d.sum(dim=1)) if bias else 0)


def _gradients(module: nn.Module, call: Call, gradient: Tensor) -> dict[str, Float[Tensor, "n ..."]]:
    """Return the per-example gradients of a module with few parameters, by name."""
    if isinstance(module, nn.Embedding) and call.input.ndim == 2 and gradient.ndim == 4:
        return {"weight": _relative_positions(call.input, gradient, module.num_embeddings)}
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        if call.kept is None:
            call.kept = nn.functional.layer_norm(call.input, module.normalized_shape, eps=module.eps)
        weight = {"weight": _flat(call.kept * gradient).sum(dim=1)}
        return weight | ({"bias": _flat(gradient).sum(dim=1)} if module.bias is not None else {})
    parameters = {name: value.detach() for name, value in module.named_parameters(recurse=False)}

    def of_one(one: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
        def run(values: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(module, values, (one.unsqueeze(0),))

        return torch.func.vjp(run, parameters)[1](cotangent.unsqueeze(0))[0]

    return torch.func.vmap(of_one)(call.input, gradient)


def _relative_positions(
    buckets: Int[Tensor, "query key"], gradient: Float[Tensor, "n heads query key"], n_buckets: int
) -> Float[Tensor, "n n_buckets heads"]:
    n_rows, n_heads = gradient.shape[:2]
    sums = gradient.new_zeros(n_rows, n_heads, n_buckets)
    return sums.index_add_(2, buckets.flatten(), gradient.flatten(2)).transpose(1, 2)


def _joined(tensors: list[Float[Tensor, "n ... dim"]]) -> Float[Tensor, "n rest dim"]:
    flat = [_flat(tensor) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)


def _dot(one: Float[Tensor, "n ..."], other: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return the inner product of each row, as one product of matrices: nothing of the rows' size is written."""
    return (one.flatten(1).unsqueeze(1) @ other.flatten(1).unsqueeze(2)).flatten()


def _squared(rows: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """Return each row's squared norm, in one pass over it."""
    return torch.linalg.vector_norm(rows, dim=1).square_()


def _flat(tensor: Float[Tensor, "n ... dim"]) -> Float[Tensor, "n rest dim"]:
    return tensor if tensor.ndim == 3 else tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])
