"""Evidence against brute force: a loop over examples with autograd, in float64, for every family."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from evidence_zoo import (
    LAYERS,
    LargestTensor,
    every_model,
    item_batch,
    loop,
    make,
    measured,
    one_by_one,
    squares,
)

from raydistill.models import blocks, skip_layers
from raydistill.seeding import stream
from raydistill.selectors import KINDS
from raydistill.training import calibration
from raydistill.training.calibration import draw_labels, example_losses
from raydistill.training.evidence import CalibrationBatch, measure_evidence


@every_model
@pytest.mark.parametrize("chunk_size", [2, 64])
def test_gradient_kinds_equal_the_loop_over_examples(name, chunk_size):
    kinds = ["fisher_empirical", "fisher_empirical_mean", "gradient", "taylor", "taylor_group"]
    evidence, model, logits, rows, batches, _ = measured(name, kinds, chunk_size=chunk_size)
    gradients = loop(model, logits, rows, batches, lambda piece, scores: piece.labels)
    norms = squares(gradients)
    sizes = [sum(p.numel() for p in block.parameters()) for block in rows]
    group, weights = np.zeros((len(gradients), len(rows))), np.zeros(len(rows))
    for layer, block in enumerate(rows):
        for i, parameter in enumerate(block.parameters()):
            each = [row[layer][i] for row in gradients]
            each = [torch.zeros_like(parameter) if g is None else g for g in each]
            group[:, layer] += [float((parameter.detach() * g).sum()) for g in each]
            weights[layer] += float((parameter.detach() * torch.stack(each).mean(0)).abs().sum())
    expected = {
        "fisher_empirical": norms.mean(0),
        "fisher_empirical_mean": norms.mean(0) / sizes,
        "gradient": np.sqrt(norms).mean(0),
        "taylor": weights,
        "taylor_group": np.abs(group).mean(0),
    }
    for kind in kinds:
        assert evidence.values[kind].shape == (1, len(rows))
        np.testing.assert_allclose(evidence.values[kind][0], expected[kind], rtol=1e-8, err_msg=kind)


@every_model
def test_true_fisher_equals_the_loop_with_the_same_drawn_labels(name):
    draws = 3
    evidence, model, logits, rows, batches, _ = measured(name, ["fisher", "fisher_mean"], draws=draws, chunk_size=2)
    rng = stream(5, "evidence", 0)
    total, n_examples = np.zeros(len(rows)), 0
    for batch in batches:
        uniforms = torch.from_numpy(rng.random((draws, len(batch.labels))))
        n_examples += batch.n_rows
        for draw in range(draws):
            labels = draw_labels(logits(model, batch), uniforms[draw])
            drawn = CalibrationBatch(batch.inputs, batch.example, labels)
            total += squares(loop(model, logits, rows, [drawn], lambda piece, scores: piece.labels)).sum(0)
    sizes = [sum(p.numel() for p in block.parameters()) for block in rows]
    np.testing.assert_allclose(evidence.values["fisher"][0], total / draws / n_examples, rtol=1e-8)
    np.testing.assert_allclose(evidence.values["fisher_mean"][0], total / draws / n_examples / sizes, rtol=1e-8)


def test_true_fisher_tends_to_the_expectation_over_all_labels():
    model, _, _, batches = make("gpt2")
    rows = list(blocks(model))
    expected, n_examples = np.zeros(len(rows)), 0
    # One target a row here, so that the expectation is a plain sum over the classes.
    batches = [CalibrationBatch(b.inputs, torch.arange(b.n_rows), b.labels[: b.n_rows]) for b in batches]

    def first(model, batch):
        return model.logits(model.hidden(batch.inputs["input_ids"])[:, 0])

    evidence = measure_evidence(model, [batches], first, ["fisher"], seed=1, draws=400)
    model.eval()
    for piece in one_by_one(batches):
        n_examples += 1
        for label, share in enumerate(first(model, piece).softmax(-1)[0].tolist()):
            gradients = loop(model, first, rows, [piece], lambda piece, scores, label=label: torch.tensor([label]))
            expected += share * squares(gradients)[0]
    np.testing.assert_allclose(evidence.values["fisher"][0], expected / n_examples, rtol=0.1)


def test_drawn_labels_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(40000, 4)
    labels = draw_labels(logits, torch.from_numpy(np.random.default_rng(0).random(40000)))
    shares = torch.bincount(labels, minlength=4) / 40000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.01, rtol=0)
    assert draw_labels(logits[:2], torch.tensor([0.0, 1 - 1e-16])).tolist() == [0, 3]


@pytest.mark.parametrize("scratch", [1, 30, 90])
def test_labels_are_drawn_a_few_targets_at_a_time_to_the_same_bits(monkeypatch, scratch):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(23, 30, generator=generator)
    uniforms = torch.rand(2, 23, generator=generator, dtype=torch.float64)
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    expected = torch.searchsorted(cumulative, (uniforms.T * cumulative[:, -1:]).contiguous(), right=True).T
    monkeypatch.setattr(calibration, "SCRATCH", scratch)
    with LargestTensor(torch.float64) as largest:
        found = draw_labels(logits, uniforms)
    assert torch.equal(found, expected)
    assert largest.numbers <= max(scratch, 30, uniforms.numel())
    assert torch.equal(draw_labels(logits, uniforms[0]), expected[0])


@every_model
def test_values_do_not_depend_on_how_many_targets_are_in_memory(name):
    whole = measured(name, KINDS)[0].values
    for targets in (1, 5):
        found = measured(name, KINDS, chunk_targets=targets)[0].values
        for kind in KINDS:
            np.testing.assert_allclose(found[kind], whole[kind], rtol=1e-8, atol=1e-12, err_msg=kind)


def test_chunks_hold_whole_examples_and_no_more_targets_than_asked():
    example = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 5])
    batch = CalibrationBatch({"input_ids": torch.arange(6)[:, None]}, example, torch.arange(12))
    for size, targets, expected in (
        (6, 3, [[0], [1, 2], [3], [4, 5]]),
        (1, 100, [[0], [1], [2], [3], [4], [5]]),
        (4, 100, [[0, 1, 2, 3], [4, 5]]),
        (4, None, [[0, 1, 2, 3], [4, 5]]),
        (6, 1, [[0], [1], [2], [3], [4], [5]]),
    ):
        pieces = list(batch.chunks(size, targets=targets))
        assert [piece.inputs["input_ids"].flatten().tolist() for piece, _ in pieces] == expected
        assert torch.cat([places for _, places in pieces]).tolist() == list(range(12))
        for piece, places in pieces:
            assert piece.labels.tolist() == places.tolist()
            assert piece.inputs["input_ids"][piece.example].flatten().tolist() == example[places].tolist()


def reference_states(model, batch, stack):
    """Return each block's input and output from the model's own hidden states, before any last normalization."""
    states = []
    rows = blocks(model, stack)
    handles = [
        block.register_forward_hook(
            lambda module, args, kwargs, output: states.append(
                (args[0] if args else kwargs["hidden_states"], output if torch.is_tensor(output) else output[0])
            ),
            with_kwargs=True,
        )
        for block in rows
    ]
    return states, handles


def real_length(piece, stack):
    return int(piece.inputs["decoder_attention_mask" if stack == "decoder" else "attention_mask"].sum())


@every_model
def test_block_influence_angles_and_first_order_removal_by_loops(name):
    kinds = ["block_influence", "contiguous", "taylor_block"]
    evidence, model, logits, rows, batches, stack = measured(name, kinds, chunk_size=2)
    influence, angles, removal = [], [], []
    for piece in one_by_one(batches):
        states, handles = reference_states(model, piece, stack)
        loss = torch.nn.functional.cross_entropy(logits(model, piece), piece.labels)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, [after for _, after in states])
        n = real_length(piece, stack)

        def cosine(a, b, n=n):
            a, b = a.detach(), b.detach()
            return [float(a[0, t] @ b[0, t] / a[0, t].norm() / b[0, t].norm()) for t in range(n)]

        influence.append([1 - np.mean(cosine(a, b)) for a, b in states])
        angles.append(
            [
                [
                    np.mean([math.acos(max(-1, min(1, c))) / math.pi for c in cosine(states[i][0], states[j][1])])
                    if i <= j
                    else 0.0
                    for j in range(len(rows))
                ]
                for i in range(len(rows))
            ]
        )
        removal.append([-float((g * (b - a).detach()).sum()) for g, (a, b) in zip(gradients, states, strict=True)])
    np.testing.assert_allclose(evidence.values["block_influence"][0], np.mean(influence, 0), rtol=1e-8)
    np.testing.assert_allclose(evidence.values["contiguous"][0], np.mean(angles, 0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(evidence.values["taylor_block"][0], np.mean(removal, 0), rtol=1e-6, atol=1e-12)


@every_model
def test_attention_concentration_by_loops(name):
    evidence, model, _, _, batches, stack = measured(name, ["attention"], chunk_size=2)
    causal = stack == "decoder" or getattr(model, "causal", False)
    backbone = getattr(model, "backbone", model)
    backbone.set_attn_implementation("eager")
    found = []
    for piece in one_by_one(batches):
        n = real_length(piece, stack)
        inputs = {key: value for key, value in piece.inputs.items() if key != "last"}
        output = backbone(**inputs, output_attentions=True)
        attentions = output.decoder_attentions if stack == "decoder" else output.attentions
        each_block = []
        for probabilities in attentions:
            heads = []
            for head in probabilities[0].tolist():
                each_row = []
                for i in range(n):
                    keys = i + 1 if causal else n
                    if keys > 1:
                        entropy = -sum(p * math.log(p) for p in head[i][:keys] if p > 0)
                        each_row.append(1 - entropy / math.log(keys))
                heads.append(np.mean(each_row) if each_row else np.nan)
            each_block.append(np.mean(heads))
        if not np.isnan(each_block).any():
            found.append(each_block)
    np.testing.assert_allclose(evidence.values["attention"][0], np.mean(found, 0), rtol=1e-7)


@every_model
def test_leave_one_out_and_greedy_by_loops(name):
    evidence, model, logits, rows, batches, stack = measured(name, ["leave_one_out", "greedy", "greedy_loss"])

    def loss(skipped):
        with torch.no_grad(), skip_layers(model, {stack: skipped} if stack else skipped):
            losses = [torch.nn.functional.cross_entropy(logits(model, p), p.labels) for p in one_by_one(batches)]
        return float(torch.stack(losses).mean())

    base = loss([])
    alone = [loss([layer]) - base for layer in range(len(rows))]
    np.testing.assert_allclose(evidence.values["leave_one_out"][0], alone, rtol=1e-8, atol=1e-12)
    gone, left = [], set(range(len(rows)))
    while left:
        best = min(left, key=lambda layer: loss([*gone, layer]))
        gone.append(best)
        left.remove(best)
        step = evidence.values["greedy"][0][best]
        assert step == len(gone)
        assert evidence.values["greedy_loss"][0][best] == pytest.approx(loss(gone) - base, rel=1e-8)


@every_model
def test_model_and_random_state_come_back_as_they_were(name):
    model, logits, stack, batches = make(name)
    model.train()
    next(model.children()).eval()  # a mixed mode has to come back as well
    modes = {key: module.training for key, module in model.named_modules()}
    before = copy.deepcopy(model.state_dict())
    implementation = getattr(model, "backbone", model).config._attn_implementation
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    measure_evidence(model, [batches], logits, KINDS, seed=0, stack=stack)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert getattr(model, "backbone", model).config._attn_implementation == implementation
    assert all(parameter.grad is None for parameter in model.parameters())
    # transformers leaves inert hooks of its own behind once attention probabilities were asked for.
    hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [hook for hook in hooks if hook.__module__.startswith("raydistill")]
    assert not any("compute_bias" in vars(module) or "forward" in vars(module) for module in model.modules())
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)


def test_every_kind_has_values_seconds_and_memory_and_replicates_differ():
    model, logits, _, batches = make("gpt2")
    evidence = measure_evidence(model, [batches, [item_batch(7, 8)]], logits, KINDS, seed=0, samples=7)
    assert set(evidence.values) == set(KINDS)
    assert all(evidence.seconds(kind) > 0 and evidence.peak_memory_bytes(kind) >= 0 for kind in KINDS)
    seconds = evidence.pass_seconds
    assert evidence.seconds("fisher", "gradient") == seconds["forward"] + seconds["draws"] + seconds["labels"]
    assert evidence.seconds("attention") == seconds["forward"] + seconds["attention"]
    assert evidence.seconds() == 0
    assert evidence.samples == 7
    assert evidence.replicates == 2
    for kind, array in evidence.values.items():
        assert array.shape == ((2, LAYERS, LAYERS) if kind == "contiguous" else (2, LAYERS))
        assert array.dtype == np.float64
        assert kind == "greedy" or not np.allclose(array[0], array[1])


def test_same_seed_same_bits_and_the_seed_moves_the_true_fisher_only():
    model, logits, _, batches = make("gpt2")
    kinds = ["fisher", "fisher_empirical", "attention"]
    one, again, other = (measure_evidence(model, [batches], logits, kinds, seed=seed) for seed in (1, 1, 2))
    for kind in kinds:
        np.testing.assert_array_equal(one.values[kind], again.values[kind])
    assert not np.allclose(one.values["fisher"], other.values["fisher"])
    np.testing.assert_array_equal(one.values["attention"], other.values["attention"])


def test_switch_to_eager_is_said_aloud_and_recorded(caplog):
    model, logits, _, batches = make("bert")
    evidence = measure_evidence(model, [batches], logits, ["attention"], seed=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "attention 'sdpa' gives no probabilities: the evidence is measured with 'eager'" in caplog.text
    assert evidence.attention == "eager"
    caplog.clear()
    assert measure_evidence(model, [batches], logits, ["fisher"], seed=0).attention == "sdpa"
    assert measure_evidence(model, [batches], logits, ["leave_one_out"], seed=0).attention is None
    assert not caplog.records


@every_model
def test_kinds_are_the_same_whatever_else_is_measured(name):
    """Asked for together they share a forward pass under eager attention, whose softmax may be in single precision."""
    model, logits, stack, batches = make(name)
    together = measure_evidence(model, [batches], logits, KINDS, seed=5, stack=stack).values
    for kind in KINDS:
        alone = measure_evidence(model, [batches], logits, [kind], seed=5, stack=stack).values[kind]
        np.testing.assert_allclose(together[kind], alone, rtol=1e-5, atol=1e-8, err_msg=kind)


def test_module_that_no_rule_knows_and_one_called_twice_are_exact_too():
    """A gain without a batch axis (no rule knows it) and one linear map used twice in a block."""

    class Gain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor([0.3, 0.7], dtype=torch.float64))

        def forward(self, hidden, scale):
            return hidden * self.gain.sum() * scale * self.gain[0]

    model, logits, _, batches = make("gpt2")
    block = blocks(model)[1]
    block.gain, inner, linear = Gain(), block.mlp, torch.nn.Linear(8, 8, dtype=torch.float64)

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.linear = inner, linear

        def forward(self, hidden):
            return self.linear(torch.tanh(self.linear(block.gain(self.inner(hidden), 2.0))))

    block.mlp = Twice()
    evidence = measure_evidence(model, [batches], logits, ["fisher_empirical", "taylor_group"], seed=0)
    model.eval()
    expected = squares(loop(model, logits, list(blocks(model)), batches, lambda piece, scores: piece.labels)).mean(0)
    np.testing.assert_allclose(evidence.values["fisher_empirical"][0], expected, rtol=1e-8)


def test_example_losses_are_means_over_their_own_targets():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    batch = CalibrationBatch(
        {"input_ids": torch.ones(2, 1)}, torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 1, 2, 3, 0])
    )
    each = [-math.log(float(logits[i].softmax(-1)[label])) for i, label in enumerate(batch.labels.tolist())]
    expected = torch.tensor([(each[0] + each[2] + each[4]) / 3, (each[1] + each[3]) / 2])
    torch.testing.assert_close(example_losses(logits, batch.labels, batch), expected)
