"""A complete run directory made of SIMULATED numbers, for tests of the analysis only.

Nothing in it was measured: ranks are drawn from a made-up distribution, costs and curves from formulas.
The sweep is called ``simulated-...`` and the data source ``simulated`` so that no picture made of it
can be mistaken for a result.

    python tests/analysis/fake_run.py FOLDER        # to look at a report with your own eyes
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.records import (
    Record,
    RunDirectory,
    atomic_write,
    content_hash,
    metric_per_user,
    write_json,
    write_ranks,
    write_record,
)

SELECTORS = (
    "fisher",
    "attention",
    "gradient",
    "hybrid",
    "block_influence",
    "taylor",
    "uniform",
    "head_tail",
    "tail",
    "random",
)
CONTROLS = ("teacher", "popularity", "scratch", "scratch_kd", "no_kd")
SCORED = ("fisher", "attention", "gradient", "hybrid", "block_influence", "taylor")
METRICS = ("ndcg@10", "hr@10", "mrr", "auc")


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What the simulated sweep looks like.

    Attributes:
        quality: Shift of the log-rank of an arm (higher is better); arms not named have 0.
        layers: Teacher depth.
        fail: Share of search trials that fail.
    """

    sweep: str = "simulated-ablation"
    source: str = "simulated"
    selectors: tuple[str, ...] = SELECTORS
    controls: tuple[str, ...] = CONTROLS
    keep_ratios: tuple[float, ...] = (0.25, 0.5)
    trials: int = 12
    seeds: int = 5
    draws: int = 4
    teachers: int = 1
    users: int = 300
    items: int = 240
    layers: int = 8
    epochs: int = 8
    seed: int = 0
    reference: str = "uniform"
    metric: str = "ndcg@10"
    protocol: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float] = field(
        default_factory=lambda: {
            "teacher": 0.35,
            "popularity": -1.2,
            "scratch": -0.5,
            "scratch_kd": -0.25,
            "no_kd": -0.2,
            "fisher": 0.2,
            "hybrid": 0.17,
            "attention": -0.05,
            "tail": -0.1,
            "random": -0.06,
        }
    )
    fail: float = 0.02
    title: str = "Item"


class Builder:
    task, candidates = "next_item", "full-catalogue"

    def __init__(self, root: Path, plan: Simulation) -> None:
        self.run, self.plan = RunDirectory(root), plan
        self.rng = np.random.default_rng(plan.seed)
        self.popularity = np.sort(self.rng.zipf(1.6, plan.items).clip(1, 400))[::-1].astype(np.int64)
        weights = self.popularity / self.popularity.sum()
        self.target = self.rng.choice(plan.items, plan.users, p=weights).astype(np.int32) + 1
        self.history = self.rng.integers(5, 60, plan.users).astype(np.int32)
        self.difficulty = 2.2 + 1.3 * self.rng.standard_normal(plan.users)
        self.difficulty -= 0.35 * np.log(self.popularity[self.target - 1]) - 0.5
        lists = np.stack([self.rng.permutation(plan.items)[:20] + 1 for _ in range(plan.users)])
        self.teacher_top, self.other_top = lists[:, :10], lists[:, 10:]
        self.clock = 1_760_000_000.0

    def layer_map(self, arm: str, n_student: int, draw: int | None) -> tuple[int, ...] | None:
        n = self.plan.layers
        if arm in ("teacher", "popularity", "scratch", "scratch_kd"):
            return None
        if arm == "head_tail":
            return tuple(sorted({*range((n_student + 1) // 2), *range(n - n_student // 2, n)}))
        if arm == "tail":
            return tuple(range(n_student))
        if arm in ("uniform", "no_kd"):
            return tuple(round(x) for x in np.linspace(0, n - 1, n_student))
        key = int(content_hash({"arm": arm, "draw": draw}, digits=8), 16)
        return tuple(sorted(np.random.default_rng(key).permutation(n)[:n_student].tolist()))

    def shift(self, arm: str, keep: float | None, config: dict[str, Any]) -> float:
        shift = self.plan.quality.get(arm, 0.0)
        if keep is not None:
            shift -= 0.35 * (0.5 - keep)
        if config.get("temperature") is not None:
            shift -= 0.25 * (np.log(config["temperature"]) - np.log(4.0)) ** 2
            shift -= 0.6 * (config["alpha_dist"] - 0.7) ** 2
        return shift

    def ranks(self, shift: float) -> dict[str, np.ndarray]:
        plan, rng = self.plan, self.rng
        noise = 0.05 * rng.standard_normal() + 0.45 * rng.standard_normal(plan.users)
        rank = np.exp(self.difficulty - shift + noise).astype(np.int64) + 1
        candidates = plan.items - self.history
        top = np.where(rng.random(self.teacher_top.shape) < 0.4, self.other_top, self.teacher_top)
        return {
            "user": np.arange(plan.users, dtype=np.int32),
            "target": self.target,
            "rank": np.minimum(rank, candidates).astype(np.int32),
            "candidates": candidates.astype(np.int32),
            "history_length": self.history,
            "target_popularity": self.popularity[self.target - 1].astype(np.int32),
            "top": top.astype(np.int32),
        }

    def metrics(self, ranks: dict[str, np.ndarray]) -> dict[str, float]:
        return {m: float(metric_per_user(m, ranks["rank"], ranks["candidates"]).mean()) for m in METRICS}

    def store(self, identity: str, ranks: dict[str, np.ndarray]) -> str:
        return write_ranks(self.run.ranks_file(identity), ranks)

    def cost(self, arm: str, n_student: int | None, phase: str) -> dict[str, Any]:
        if arm == "popularity":
            return {"evaluation_seconds": 0.02}
        depth, jitter = n_student or self.plan.layers, 1 + 0.04 * self.rng.standard_normal()
        backbone = 50_000 * depth
        cost: dict[str, Any] = {
            "parameters": backbone + 64 * (self.plan.items + 2),
            "backbone_parameters": backbone,
            "flops": 5.1e6 * depth,
            "training_seconds": (2.0 + 1.1 * depth) * jitter,
            "evaluation_seconds": 0.3 * jitter,
            "overhead_seconds": 0.4,
            "peak_memory_bytes": int(6e8 + 4e7 * depth * jitter),
        }
        if arm == "teacher":  # its own trial only evaluates it
            cost |= {"training_seconds": 0.0, "peak_memory_bytes": int(5e8)}
        if arm in SCORED:
            cost["evidence_seconds"] = 1.5 + SCORED.index(arm)
        if phase == "confirm":
            one = (0.6 + 0.45 * depth) * jitter
            cost["latency_ms"] = {"1": {"p50": one, "p95": 1.3 * one}, "32": {"p50": 9 * one, "p95": 10 * one}}
        return cost

    def trial(self, arm: str, phase: str, number: int, *, seed: int, keep: float | None = None, **known: Any) -> None:
        plan = self.plan
        config = known.get("config", {})
        n_student = None if keep is None else max(1, round(keep * plan.layers))
        ranks = self.ranks(self.shift(arm, keep, config))
        metrics = self.metrics(ranks)
        status = known.get("status", "success")
        content = {"arm": arm, "phase": phase, "number": number, "seed": seed, "keep": keep, "sweep": plan.sweep}
        teacher = known.get("teacher_seed", 0)
        identity = content_hash({**content, "draw": known.get("draw"), "teacher": teacher})
        digest = None
        if phase == "confirm" and status == "success":
            digest = self.store(identity, ranks)
        epochs = 0 if arm in ("teacher", "popularity") else {"success": plan.epochs, "stopped": 2, "failed": 1}[status]
        cost = self.cost(arm, n_student, phase) if status != "failed" else {"training_seconds": 1.0}
        started, self.clock = self.clock, self.clock + 12.0
        validation = {k: v * (1 + 0.02 * self.rng.standard_normal()) for k, v in metrics.items()}
        record = Record(
            id=identity,
            name=f"{phase} {arm} keep {keep} seed {seed}",
            sweep=plan.sweep,
            phase=phase,
            arm=arm,
            kind="control" if arm in CONTROLS else "selector",
            number=number,
            status=status,
            error="TrialDivergedError: the loss is not finite at epoch 1" if status == "failed" else None,
            seed=seed,
            teacher=self.teacher(teacher),
            teacher_seed=teacher,
            n_teacher_layers=plan.layers,
            n_student_layers=n_student,
            layer_map=None if n_student is None else self.layer_map(arm, n_student, known.get("draw")),
            keep_ratio=keep,
            configuration=config,
            draw=known.get("draw"),
            evidence=self.evidence(teacher) if arm in SCORED else None,
            epochs=epochs,
            validation={} if status == "failed" else validation,
            test=metrics if digest else None,
            cost=cost,
            curves=tuple(self.curve(e, epochs, validation["ndcg@10"]) for e in range(1, epochs + 1)),
            ranks_sha256=digest,
            started=started,
            finished=self.clock,
        )
        write_record(self.run.record_file(identity), record)

    def curve(self, epoch: int, epochs: int, final: float) -> dict[str, float]:
        done = 1 - np.exp(-epoch / 2.5)
        loss = 5.5 - 2.2 * done + 0.02 * self.rng.standard_normal()
        return {"epoch": epoch, "loss": loss, "ndcg@10": float(final * done), "seconds": 1.2}

    def teacher(self, seed: int) -> str:
        return f"simulatedteacher{seed}"

    def evidence(self, teacher: int) -> str:
        return content_hash({"evidence": self.plan.seed, "teacher": teacher})

    def scores(self, name: str, teacher: int) -> np.ndarray:
        """Return ``[sample, layer]``: a shape of the selector's own, shifted by the teacher, with noise."""
        depth = np.arange(self.plan.layers)
        key = np.random.default_rng(int(content_hash(name, digits=8), 16))
        base = 0.25 * (depth - self.plan.layers / 2) * key.choice([1, 1.6, -0.4]) + 0.2 * key.random(self.plan.layers)
        base += 0.3 * np.random.default_rng([teacher, len(name)]).standard_normal(self.plan.layers) * (teacher > 0)
        return np.exp(base + 0.12 * self.rng.standard_normal((3, self.plan.layers)))

    def write_evidence(self, teacher: int) -> None:
        plan, identity = self.plan, self.evidence(teacher)
        scores = {name: self.scores(name, teacher) for name in SCORED}
        rows = [(n, r, la, float(s[r, la])) for n, s in scores.items() for r in range(3) for la in range(plan.layers)]
        columns = list(zip(*rows, strict=True))
        names = ["selector", "replicate", "layer", "score"]
        table = pa.table({n: list(c) for n, c in zip(names, columns, strict=True)})
        with atomic_write(self.run.evidence(identity) / "scores.parquet") as path:
            pq.write_table(table, path)
        means = {name: own.mean(0) for name, own in scores.items()}
        about = {
            "teacher": self.teacher(teacher),
            "samples": 512,
            "replicates": 3,
            "kinds": {n: {"seconds": 1.5, "peak_memory_bytes": 5e8} for n in SCORED},
            "selectors": {
                n: {
                    "seconds": 1.5,
                    "depth_concentration": {"mean": float(m[-2:].mean() / m[:2].mean()), "standard_error": 0.1},
                    "stability": 0.8,
                }
                for n, m in means.items()
            },
            "layer_maps": {n: {str(k): list(self.layer_map(n, k, None)) for k in (2, 4)} for n in SCORED},
            "kendall": {a: {b: float(np.corrcoef(means[a], means[b])[0, 1]) for b in SCORED} for a in SCORED},
            "overlap": {},
        }
        write_json(self.run.evidence(identity) / "evidence.json", about)

    def write_items(self) -> None:
        n, genres = self.plan.items, ["Drama", "Comedy", "Action", "Horror"]
        table = pa.table(
            {
                "item": pa.array(np.arange(1, n + 1), pa.int32()),
                "title": [f"{self.plan.title} {i}" for i in range(1, n + 1)],
                "attributes": [[genres[i % 4]] + (["Classic"] if i % 7 == 0 else []) for i in range(n)],
                "popularity": pa.array(self.popularity, pa.int64()),
            }
        )
        with atomic_write(self.run.data / "items.parquet") as path:
            pq.write_table(table, path)

    def write_signature(self) -> None:
        plan = self.plan
        write_json(
            self.run.signature_file,
            {
                "schema": 1,
                "sweep": plan.sweep,
                "task": self.task,
                "data": {
                    "source": plan.source,
                    "hash": content_hash({"source": plan.source}),
                    "statistics": {"users": plan.users, "items": plan.items, "interactions": plan.users * 30},
                    "provenance": {"source": plan.source, "files": {}},
                },
                "protocol": {
                    "split": "leave_one_out",
                    "candidates": self.candidates,
                    "seen": "removed",
                    "ties": "against",
                    "max_length": 50,
                    "min_interactions": 5,
                    **plan.protocol,
                },
                "versions": {"raydistill": "0.1.0", "torch": "2.13", "python": "3.12"},
                "git": {"commit": "0" * 40, "dirty": False},
                "hardware": {"cpu": "simulated", "cores": 2, "gpus": []},
                "teacher": {"family": "gpt2", "layers": plan.layers, "hidden": 64},
                "training": {"epochs": plan.epochs, "epoch_examples": 1024, "batch_size": 64},
            },
        )

    def jobs(self) -> list[dict[str, Any]]:
        plan, jobs = self.plan, []
        for teacher in range(plan.teachers):
            for arm in (*plan.selectors, *plan.controls):
                if arm in ("teacher", "popularity"):
                    # As confirm does it: popularity once, filed under the first teacher.
                    if arm == "teacher" or teacher == 0:
                        seeds = {"seed": teacher, "teacher_seed": teacher}
                        jobs.append({"arm": arm, "keep_ratio": None, "draw": None, **seeds})
                    continue
                draws = range(plan.draws) if arm == "random" else (None,)
                jobs += [
                    {"arm": arm, "keep_ratio": keep, "seed": 100 + seed, "draw": draw, "teacher_seed": teacher}
                    for keep in plan.keep_ratios
                    for seed in range(plan.seeds)
                    for draw in draws
                ]
        return jobs

    def searched(self) -> list[str]:
        return [*self.plan.selectors, *(["scratch_kd"] if "scratch_kd" in self.plan.controls else [])]

    def write_plan(self) -> None:
        plan, searched = self.plan, self.searched()
        confirmed = Counter(job["arm"] for job in self.jobs())
        arms = [
            {"name": a, "kind": "control" if a in CONTROLS else "selector",
             "trials": plan.trials if a in searched else 0, "epochs": plan.epochs, "confirm_trials": confirmed[a]}
            for a in (*plan.selectors, *plan.controls)
        ]  # fmt: skip
        write_json(
            self.run.plan_file,
            {
                "sweep": plan.sweep,
                "task": self.task,
                "arms": arms,
                "strata": [
                    {"n_student_layers": max(1, round(k * plan.layers)), "keep_ratio": k} for k in plan.keep_ratios
                ],
                "search": {"trials": plan.trials, "epochs": plan.epochs},
                "confirm": {
                    "seeds": plan.seeds, "configurations": 1, "teachers": plan.teachers, "jobs": self.jobs(),
                },
                "analysis": {"metric": plan.metric, "reference": plan.reference, "margin": 0.02, "level": 0.05},
            },
        )  # fmt: skip

    def search(self) -> None:
        for arm in self.searched():
            for number in range(self.plan.trials):
                config = {
                    "temperature": float(np.exp(self.rng.uniform(0, np.log(10)))),
                    "alpha_dist": float(self.rng.uniform()),
                }
                config["alpha_task"] = 1 - config["alpha_dist"]
                chance = self.rng.random()
                status = "failed" if chance < self.plan.fail else "stopped" if chance < 0.25 else "success"
                keep = float(self.rng.choice(self.plan.keep_ratios))
                self.trial(arm, "search", number, seed=0, keep=keep, config=config, status=status,
                           draw=number if arm == "random" else None)  # fmt: skip

    def confirm(self) -> None:
        for number, job in enumerate(self.jobs()):
            distilled = job["arm"] in self.searched()
            config = {"temperature": 3.5, "alpha_dist": 0.65, "alpha_task": 0.35} if distilled else {}
            self.trial(job["arm"], "confirm", number, seed=job["seed"], keep=job["keep_ratio"], config=config,
                       draw=job["draw"], teacher_seed=job["teacher_seed"])  # fmt: skip


def build(root: Path, plan: Simulation | None = None, kind: type[Builder] = Builder) -> Path:
    """Return ``root`` after writing a simulated run directory into it."""
    builder = kind(Path(root), plan or Simulation())
    builder.write_signature()
    builder.write_plan()
    builder.write_items()
    for teacher in range(builder.plan.teachers):
        builder.write_evidence(teacher)
    builder.search()
    builder.confirm()
    return Path(root)


def share(root: Path, given: str, arm: str) -> None:
    """Make the confirmed students of an arm those of another, as a sweep does where both chose the same layers."""
    run = RunDirectory(root)
    records = [record for _, record in run.records() if record.phase == "confirm"]
    place = {(r.arm, r.teacher_seed, r.seed, r.keep_ratio): r for r in records}
    for own in (record for record in records if record.arm == arm):
        of = place[given, own.teacher_seed, own.seed, own.keep_ratio]
        shutil.copy(run.ranks_file(of.id), run.ranks_file(own.id))
        taken = ("layer_map", "configuration", "validation", "test", "cost", "curves", "ranks_sha256")
        known = {name: getattr(of, name) for name in taken}
        write_record(run.record_file(own.id), replace(own, **known, same_as=of.id))


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
