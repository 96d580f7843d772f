"""How often each selector finds the truth, on teachers in which it is known which blocks matter.

    python -m benchmarks.planted [--quick] [--families gpt2 bert ...] [--teachers 4] [--json FILE]
    python -m benchmarks.planted --table FILE [FILE ...]    # the tables again, from what --json wrote

Three plants, each in small trained teachers of each family; a base teacher learns to answer with a permutation of the
first item, and the last item says which of three permutations:

- ``no_op``: 3 trained blocks and 3 blocks with random weights whose output projections are zero, so that they pass the
  hidden state on unchanged, in random order. Found: the student of 3 layers is the 3 trained blocks.
- ``duplicate``: each of 3 trained blocks stands there twice in a row, each copy with half of the output. Found: the
  student of 3 layers has one copy of each.
- ``hop``: 6 blocks trained with the attention output held at zero in all but one, which alone can carry the first item
  to the last position. Found: the student of 2 layers has that block.

Prints found / tried for each family, and over all families the mean share with a 95% t interval whose units are the
families: within one, selectors find all plants or none so often that its plants are hardly more than one observation.
Where all families have one share there is no interval.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from raydistill.models import Recommender, blocks, build_recommender
from raydistill.seeding import stream, stream_seed
from raydistill.selectors import SELECTORS
from raydistill.training.calibration import CalibrationBatch
from raydistill.training.evidence import measure_evidence

N_ITEMS, LENGTH, HIDDEN = 18, 6, 32
# Ends of the names of the modules whose zeroed weights make attention, or the feed-forward part, add nothing. Gemma 2
# and 3 normalize what a part gives before they add it: zero stays zero, but half stays whole.
ATTENTION_OUTPUT = {
    "gpt2": "attn.c_proj",
    "bert": "attention.output.dense",
    "roberta": "attention.output.dense",
    "distilbert": "attention.out_lin",
    "t5": "SelfAttention.o",
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), "self_attn.o_proj"),
}
FEED_FORWARD_OUTPUT = {
    "gpt2": "mlp.c_proj",
    "bert": "output.dense",
    "roberta": "output.dense",
    "distilbert": "ffn.lin2",
    "t5": "DenseReluDense.wo",
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), "mlp.down_proj"),
}
POST_NORM = ("bert", "roberta", "distilbert")
PLANTS = ("no_op", "duplicate", "hop")
ARMS = {
    "fisher": ("fisher", {}),
    "fisher, empirical": ("fisher", {"labels": "empirical"}),
    "attention": ("attention", {}),
    "gradient": ("gradient", {}),
    "hybrid": ("hybrid", {}),
    "taylor, weights": ("taylor", {"form": "weights"}),
    "taylor, group": ("taylor", {"form": "group"}),
    "taylor, block": ("taylor", {"form": "block"}),
    "block_influence": ("block_influence", {}),
    "leave_one_out": ("leave_one_out", {}),
    "greedy": ("greedy", {}),
    "contiguous": ("contiguous", {}),
    "random": ("random", {}),
    "uniform": ("uniform", {}),
    "head_tail": ("head_tail", {}),
    "tail": ("tail", {}),
}


def make(family: str, layers: int, seed: int) -> Recommender:
    """Return an untrained teacher; post-norm families keep untrained norms, so that a no-op block is possible."""
    # Blocks are moved about, so they must all be of one type.
    types = {"layer_types": ["full_attention"] * layers} if family in ("gemma2", "gemma3") else {}
    model = build_recommender(
        family,
        n_items=N_ITEMS,
        layers=layers,
        hidden=HIDDEN,
        heads=2,
        dropout=0.0,
        max_length=LENGTH,
        seed=seed,
        **types,
    )
    if family in POST_NORM:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(False)
    return model


def examples(n_rows: int, generator: torch.Generator, n_permutations: int) -> CalibrationBatch:
    """Return random sequences with the answer: a permutation of the first item, chosen by the last."""
    ids = torch.randint(1, N_ITEMS + 1, (n_rows, LENGTH), generator=generator)
    table = torch.stack([torch.from_numpy(stream(0, "table", i).permutation(N_ITEMS)) for i in range(n_permutations)])
    labels = table[ids[:, -1] % n_permutations, ids[:, 0] - 1]
    return CalibrationBatch({"input_ids": ids}, torch.arange(n_rows), labels)


def logits(model: Recommender, batch: CalibrationBatch) -> Tensor:
    """Return the scores of all items at the last position."""
    return model.logits(model.hidden(batch.inputs["input_ids"])[batch.example, -1])


def train(model: Recommender, seed: int, n_permutations: int, held: list[nn.Parameter], steps: int) -> float:
    """Train on fresh examples, ``held`` parameters kept as they are; return the accuracy on others."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "order"))
    for parameter in held:
        parameter.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = examples(64, generator, n_permutations)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(model, batch), batch.labels).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    model.requires_grad_(True).eval()
    with torch.no_grad():
        batch = examples(512, generator, n_permutations)
        return float((logits(model, batch).argmax(-1) == batch.labels).float().mean())


def outputs(block: nn.Module, *ends: str) -> Iterator[nn.Parameter]:
    """Yield the parameters of the modules whose names end so."""
    for name, module in block.named_modules():
        if any(name == end or name.endswith(f".{end}") for end in ends):
            yield from module.parameters()


@torch.no_grad()
def rebuilt(family: str, trained: Recommender, layout: list[int | None], scale: float, seed: int) -> Recommender:
    """Return a deeper model: at each place the trained block of that index, or a block that adds nothing.

    Args:
        family: Name of the family.
        trained: The shallow model.
        layout: Index of a trained block, or None, for each place.
        scale: Factor on the output of each trained block.
        seed: For the weights of the blocks that add nothing.
    """
    deep = make(family, len(layout), seed)
    source, target = trained.state_dict(), deep.state_dict()
    prefix = _prefix(deep)
    for name in target:
        if not name.startswith(prefix) or "relative_attention_bias" in name:
            target[name].copy_(source[name])  # T5 keeps its positions in block 0, whichever block that is
    for place, origin in enumerate(layout):
        block = blocks(deep)[place]
        if origin is not None:
            given = {k: v for k, v in blocks(trained)[origin].state_dict().items() if "relative_attention" not in k}
            block.load_state_dict(given, strict=False)
        for parameter in outputs(block, ATTENTION_OUTPUT[family], FEED_FORWARD_OUTPUT[family]):
            parameter.mul_(0.0 if origin is None else scale)
    return deep.requires_grad_(True).eval()


def _prefix(model: Recommender) -> str:
    return next(name for name, module in model.named_modules() if module is blocks(model)) + "."


def picks(model: Recommender, n_student: int, n_permutations: int, seed: int, plant: str) -> dict[str, tuple[int, ...]]:
    """Return each arm's layer map, from two calibration samples of 128 examples."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "calibration"))
    samples = [[examples(128, generator, n_permutations)] for _ in range(2)]
    arms = {arm: (SELECTORS[name], SELECTORS[name].params_type(**given)) for arm, (name, given) in ARMS.items()}
    kinds = {kind for selector, params in arms.values() for kind in selector.needs(params)}
    evidence = measure_evidence(model, samples, logits, sorted(kinds), seed=seed)
    n_teacher = len(blocks(model))
    return {
        arm: selector.select(
            evidence.values, n_student, n_teacher=n_teacher, params=params, generator=stream(seed, "selector", plant)
        )
        for arm, (selector, params) in arms.items()
    }


def trials(family: str, n_teachers: int, n_layouts: int, steps: int) -> Iterator[tuple[str, str, bool | float]]:
    """Yield plant, arm and whether it found the truth; and the accuracies of the teachers, as plant ``accuracy``."""
    for seed in range(n_teachers):
        base = make(family, 3, seed)
        yield "accuracy", "base", train(base, seed, 3, [], steps)
        for number in range(n_layouts):
            rng = stream(seed, "layout", family, number)
            places = sorted(rng.choice(6, size=3, replace=False).tolist())
            layout = [places.index(i) if i in places else None for i in range(6)]
            planted = rebuilt(family, base, layout, 1.0, seed + 100 * number + 1)
            probe = examples(64, torch.Generator().manual_seed(0), 3)
            with torch.no_grad():
                torch.testing.assert_close(logits(planted, probe), logits(base, probe), atol=1e-3, rtol=1e-3)
            for arm, chosen in picks(planted, 3, 3, seed + 1000 * number, f"no_op/{family}").items():
                yield "no_op", arm, chosen == tuple(places)
        doubled = rebuilt(family, base, [0, 0, 1, 1, 2, 2], 0.5, seed)
        for arm, chosen in picks(doubled, 3, 3, seed, f"duplicate/{family}").items():
            yield "duplicate", arm, [layer // 2 for layer in chosen] == [0, 1, 2]
        carrier = int(stream(seed, "carrier", family).integers(6))
        model = make(family, 6, seed)
        held = [
            parameter
            for layer, block in enumerate(blocks(model))
            if layer != carrier
            for parameter in outputs(block, ATTENTION_OUTPUT[family])
        ]
        with torch.no_grad():
            for parameter in held:
                parameter.zero_()
        yield "accuracy", "hop", train(model, seed, 1, held, steps)
        for arm, chosen in picks(model, 2, 1, seed, f"hop/{family}").items():
            yield "hop", arm, carrier in chosen


def table(counts: dict[str, dict[str, list[bool]]]) -> str:
    """Return the table over some families, from what was found by family and by ``plant/arm``."""
    lines = ["| selector | no_op | duplicate | hop |", "|---|---|---|---|"]
    for arm in ARMS:
        cells = []
        for plant in PLANTS:
            found = [one[f"{plant}/{arm}"] for one in counts.values()]
            ends = interval([sum(own) / len(own) for own in found])
            span = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
            cells.append(f"{sum(map(sum, found))}/{sum(map(len, found))}{span}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(shares: list[float]) -> tuple[float, float] | None:
    """Return the 95% t interval of the mean of the families' shares, inside 0 to 1; None where they do not differ."""
    if len(set(shares)) < 2:
        return None
    low, high = stats.t.interval(0.95, len(shares) - 1, np.mean(shares), stats.sem(shares))
    return max(float(low), 0.0), min(float(high), 1.0)


def by_family(counts: dict[str, dict[str, list[bool]]]) -> str:
    """Return a table with one column a family, found of tried for ``no_op, duplicate, hop``."""
    tried = ", ".join(str(len(next(iter(counts.values()))[f"{plant}/random"])) for plant in PLANTS)
    lines = [f"| found of {tried} | {' | '.join(counts)} |", "|---" * (len(counts) + 1) + "|"]
    for arm in ARMS:
        cells = [" ".join(str(sum(one[f"{plant}/{arm}"])) for plant in PLANTS) for one in counts.values()]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(counts: dict[str, dict[str, list[bool]]]) -> None:
    """Print every family's table, all families in one, and the sum of all."""
    for family, one in counts.items():
        accuracy = " and ".join(f"{np.mean(one[f'accuracy/{kind}']):.3f}" for kind in ("base", "hop"))
        print(f"\n{family}: accuracy of base and hop teachers {accuracy}\n\n{table({family: one})}")
    print(f"\nby family\n\n{by_family(counts)}\n\nall\n\n{table(counts)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(ATTENTION_OUTPUT), choices=list(ATTENTION_OUTPUT))
    parser.add_argument("--teachers", type=int, default=4, help="base teachers of each family")
    parser.add_argument("--layouts", type=int, default=3, help="no-op plants in each base teacher")
    parser.add_argument("--steps", type=int, default=600, help="training steps of a teacher")
    parser.add_argument("--quick", action="store_true", help="one teacher of each family")
    parser.add_argument("--json", type=Path, help="also write what was found, by family, plant and arm")
    parser.add_argument("--table", type=Path, nargs="+", help="measure nothing: print the tables of such files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, dict[str, list]] = {}
    for path in options.table or ():
        counts |= json.loads(path.read_text())
    for family in () if options.table else options.families:
        counts[family] = defaultdict(list)
        for plant, arm, value in trials(
            family, 1 if options.quick else options.teachers, options.layouts, options.steps
        ):
            counts[family][f"{plant}/{arm}"].append(value)
        if options.json:
            options.json.write_text(json.dumps(counts, indent=1))
    report(counts)


if __name__ == "__main__":
    main()
