"""Bad input: every mistake at once, each with its place, its rule and what would be right."""

from __future__ import annotations

import pickle
import re

import pytest

from raydistill.config import load_sweep
from raydistill.errors import ConfigError


def blocks(error: ConfigError) -> dict[str, dict[str, str]]:
    """Return the mistakes of an error by key path, as label and text."""
    result: dict[str, dict[str, str]] = {}
    for block in error.what.split("\n\n")[1:]:
        title, *lines = [line[2:] for line in block.split("\n")]
        entry: dict[str, str] = {}
        for line in lines:
            match = re.match(r"  (where|given|rule|allowed|closest): +(.*)", line)
            if match:
                entry[match[1]] = match[2]
            else:
                entry[list(entry)[-1]] += " " + line.strip()
        result[title] = entry
    return result


def refused(load, *overrides: str, **text: str) -> dict[str, dict[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, **text)
    return blocks(caught.value)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(load):
    text = """\
name: a b
task: next_itm
data: {source: file, varant: 7, split: leave_one, variant: 3}
teacher: {family: gpt3, layers: 8, hidden: 64, heads: 3, epochs: 30}
selectors: [scroe, uniform, {name: score, labels: mine}, 3]
controls: [teachr]
training: {epochs: true, lr: .nan, batch_size: 3.5}
search:
  trials: 0
  trials: 4
  space:
    temperature: {log_uniform: [0, 10]}
    keep_ratio: {choice: []}
    alpha_dst: {uniform: [0, 1]}
confrm: {seeds: 2}
analysis: {margin: 0.02}
"""
    found = refused(load, text=text)
    assert list(found) == [
        "name",
        "confirm",  # a key that is missing belongs to the whole file, so to its first line
        "task",
        "data.split",
        "data.variant",
        "data.varant",
        "teacher.heads",
        "teacher.family",
        "selectors.0",
        "selectors.2.labels",
        "selectors.3",
        "controls.0",
        "training.epochs",
        "training.batch_size",
        "training.lr",
        "search.trials",
        "search.space.temperature.log_uniform",
        "search.space.keep_ratio.choice",
        "search.space.alpha_dst",
        "confrm",
    ]


def test_the_message_counts_its_mistakes(load):
    with pytest.raises(ConfigError, match=r"^3 mistakes in .*sweep\.yaml\n\n"):
        load("search.trials=0", "confirm.seeds=0", "training.epochs=0")


WHOLE = """\
1 mistake in {file}

  search.early_stopping
    where:   {file}:13
    given:   ahsa
    rule:    must be one of the allowed values
    allowed: asha, none
    closest: asha"""


def test_the_whole_message(load, minimal, tmp_path):
    text = minimal.replace("confirm:", "  early_stopping: ahsa\nconfirm:")
    with pytest.raises(ConfigError) as caught:
        load(text=text)
    assert str(caught.value) == WHOLE.format(file=tmp_path / "sweep.yaml")
    assert caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("override", "path", "rule"),
    [
        ("search.trials=0", "search.trials", "must be at least 1"),
        ("search.trials=many", "search.trials", "must be a whole number"),
        ("search.trials=true", "search.trials", "must be a whole number"),
        ("search.trials='4'", "search.trials", "must be a whole number"),
        ("search.trials=", "search.trials", "must be a whole number"),
        ("training.epochs=1.5", "training.epochs", "must be a whole number"),
        ("training.lr=0", "training.lr", "must be greater than 0"),
        ("training.lr=.inf", "training.lr", "must be a finite number"),
        ("training.lr=1e999", "training.lr", "must be a finite number"),
        ("training.lr=false", "training.lr", "must be a number"),
        ("training=3", "training", "must be a mapping of keys to values"),
        ("teacher.dropout=1", "teacher.dropout", "must be less than 1"),
        ("teacher.heads=5", "teacher.heads", "hidden must be a multiple of heads: 64 is not a multiple of 5"),
        ("teacher.heads=null", "teacher.heads", "required where the teacher is built from a family, but not given"),
        ("teacher.pretrained=x", "teacher", "exactly one of family and pretrained is given"),
        (
            "teacher={pretrained: x, layers: 3, epochs: 1}",
            "teacher.layers",
            "a pretrained teacher brings its own shape",
        ),
        ("teacher.epochs=0", "teacher.epochs", "must be at least 1 where the teacher is built from a family"),
        ("teacher.family=gtp2", "teacher.family", "no such model family"),
        ("teacher.layrs=3", "teacher.layrs", "no such key"),
        ("data.source=invneted", "data.source", "no such source"),
        ("data.usrs=3", "data.usrs", "no such key"),
        ("data.users=x", "data.users", "must be a whole number"),
        ("data={}", "data.source", "required, but not given"),
        ("data.time_cuts=[0.9, 0.8]", "data.time_cuts", "the first cut must be before the second"),
        ("data.time_cuts=[0.9]", "data.time_cuts", "must have at least 2 entries"),
        ("data={source: file}", "data.variant", "required, but not given"),
        ("data={source: file, variant: smal}", "data.variant", "must be one of the allowed values"),
        (
            "data={source: file, variant: small, parts: 3}",
            "data.parts",
            "must be a list, or must be one of",
        ),
        ("data={source: file, variant: small, parts: [a, 3]}", "data.parts.1", "must be text"),
        ("data={source: [file]}", "data.source", "must be text"),
        ("selectors=[]", "selectors", "must be a list of at least one selector"),
        ("selectors=score", "selectors", "must be a list of at least one selector"),
        ("selectors.0={name: scor}", "selectors.0.name", "no such selector"),
        ("selectors.0=scor", "selectors.0", "no such selector"),
        ("selectors.0={label: a}", "selectors.0.name", "required, but not given"),
        ("selectors.0={name: score, draws: 3}", "selectors.0.draws", "no such key"),
        ("selectors.0={name: score, label: a/b}", "selectors.0.label", "must start with a letter or digit"),
        ("selectors.0={name: mix, weights: {a: 0}}", "selectors.0", "one weight must be above zero"),
        (
            "selectors=[uniform, score, score]",
            "selectors.2",
            "another arm is called 'score'; give this one a label of its own",
        ),
        ("selectors.0={name: score, label: teacher}", "selectors.0.label", "a control has this name"),
        ("controls=[teacher, teacher]", "controls.1", "every control is named once"),
        ("controls=teacher", "controls", "must be a list"),
        ("search.space={}", "search.space.keep_ratio", "required, but not given"),
        ("search.space.keep_ratio.choice=[]", "search.space.keep_ratio.choice", "at least one value is needed"),
        ("search.space.keep_ratio.choice=[0, 0.5]", "search.space.keep_ratio.choice", "greater than 0 and at most 1"),
        ("search.space.keep_ratio.choice=[1.5]", "search.space.keep_ratio.choice", "greater than 0 and at most 1"),
        ("search.space.keep_ratio.choice=[0.5, 0.5]", "search.space.keep_ratio.choice", "every value is given once"),
        (
            "search.space.keep_ratio.choice=[0.06]",
            "search.space.keep_ratio.choice.0",
            "keeps nothing: 0.06 x 8 layers is less than half a layer; 0.125 keeps one",
        ),
        (
            "search.space.keep_ratio={uniform: [0.05, 0.5]}",
            "search.space.keep_ratio.uniform.0",
            "keeps nothing: 0.05 x 8 layers is less than half a layer; 0.125 keeps one",
        ),
        (
            "search.space.keep_ratio.choice=[0.25, 0.26]",
            "search.space.keep_ratio.choice.1",
            "0.25 and 0.26 both keep 2 of 8 layers; leave one out",
        ),
        ("search.space.temperature.choice=[1]", "search.space.temperature", "exactly one of the allowed keys is given"),
        ("search.space.temperature={}", "search.space.temperature", "exactly one of the allowed keys is given"),
        (
            "search.space.temperature={uniform: [2, 1]}",
            "search.space.temperature.uniform",
            "low must be less than high",
        ),
        (
            "search.space.temperature={uniform: [2, 2]}",
            "search.space.temperature.uniform",
            "low must be less than high",
        ),
        ("search.space.temperature={uniform: [1]}", "search.space.temperature.uniform", "two numbers are needed"),
        ("search.space.temperature={int: [1, 2.5]}", "search.space.temperature.int.1", "must be a whole number"),
        ("search.space.lr={log_uniform: [0, 1]}", "search.space.lr.log_uniform", "both bounds must be greater than 0"),
        ("search.space.alpha_dist={uniform: [0, 2]}", "search.space.alpha_dist.uniform", "at least 0 and at most 1"),
        ("search.space.alpha_hidden={choice: [-1]}", "search.space.alpha_hidden.choice", "at least 0, and -1 is not"),
        ("search.space.temprature={choice: [1]}", "search.space.temprature", "no such key"),
        ("search.objectives={}", "search.objectives", "must have at least 1 entries"),
        ("search.objectives={flops: min}", "search.objectives", "one objective must be a quality"),
        ("search.objectives={ndcg@10: min}", "search.objectives.ndcg@10", "must be max: more is better"),
        ("search.objectives={mrr: max, flops: max}", "search.objectives.flops", "must be min: less is better"),
        ("search.objectives={ndcg10: max, mrr: max}", "search.objectives.ndcg10", "no such key"),
        ("confirm.configurations=13", "confirm.configurations", "must be at most search.trials, which is 12"),
        ("analysis.metric=ndcg@0", "analysis.metric", "must be a metric of the task"),
        ("analysis.metric=accuracy", "analysis.metric", "must be a metric of the task"),
        ("analysis.reference=tail", "analysis.reference", "must be an arm of this sweep"),
        ("selectors=[tail]", "analysis.reference", "required where uniform is not an arm, but not given"),
        ("analysis.level=0.5", "analysis.level", "must be less than 0.5"),
        ("execution.concurrency=0", "execution.concurrency", "must be auto or a whole number of at least 1"),
        ("execution.gpus_per_trial=1.5", "execution.gpus_per_trial", "must be a share of one GPU"),
        ("execution.gpus_per_worker=2", "execution.gpus_per_worker", "must be at most 1: a worker uses one GPU"),
        ("execution={workers: 2, gpus_per_worker: 0.5}", "execution.gpus_per_worker", "must be 0 or 1 with several"),
        ("execution.strategy=fsdp", "execution.strategy", "needs workers of at least 2: one process"),
        ("execution={strategy: fsdp, gpus_per_trial: 2}", "execution.strategy", "nobody to share the model with"),
        ("execution={workers: 2, gpus_per_trial: 2}", "execution.gpus_per_trial", "several workers, 0: leave it out"),
        (
            "execution={workers: 2, gpus_per_worker: 1, gpus_per_trial: 0.5}",
            "execution.gpus_per_trial",
            "is workers times gpus_per_worker with several workers, 2: leave it out",
        ),
        ("execution.address=nowhere", "execution.address", "must be auto, local or HOST:PORT"),
        ("execution.address=ray://head:10001", "execution.address", "submit the sweep with `ray job submit`"),
        ("task=next", "task", "no such task"),
        ("name=../x", "name", "must start with a letter or digit"),
        ("prompt={template: x}", "prompt", "no such key"),
    ],
)
def test_one_wrong_value(load, override, path, rule):
    found = refused(load, override)
    assert list(found) == [path]
    assert found[path]["rule"].startswith(rule) or rule in found[path]["rule"]
    if "where" in found[path] and not found[path]["where"].startswith("--set"):
        # A rule between two places may name the other one, or the key may be missing: then it is a place in the file.
        assert re.search(r"sweep\.yaml:\d+$", found[path]["where"])


@pytest.mark.parametrize(
    "execution",
    [
        "{workers: 2, strategy: fsdp}",
        "{workers: 4, gpus_per_worker: 1, strategy: fsdp}",
        "{workers: 2, gpus_per_worker: 1, gpus_per_trial: 2, strategy: fsdp}",
        "{gpus_per_trial: 2}",
        "{gpus_per_worker: 0.5, gpus_per_trial: 0.25}",
    ],
)
def test_what_workers_and_gpus_can_do_is_accepted(load, execution):
    load(f"execution={execution}")


@pytest.mark.parametrize("key", ["name", "task", "data", "teacher", "selectors", "controls", "training", "search"])
def test_a_required_section_that_is_missing(load, minimal, key):
    text = re.sub(rf"^{key}:.*\n(  .*\n)*", "", minimal, flags=re.M)
    found = refused(load, text=text)
    missing = found.get(key) or next(entry for path, entry in found.items() if path.startswith(key + "."))
    assert missing["rule"].startswith("required, but not given")


@pytest.mark.parametrize(
    ("key", "section"),
    [("trials", "search"), ("space", "search"), ("seeds", "confirm"), ("epochs", "training")],
)
def test_what_the_sweep_compares_has_no_default(load, minimal, key, section):
    text = re.sub(rf"(  | ?){key}:( [^\n,}}{{]*|\n(    .*\n)*)", " ", minimal)
    if section in ("search",) and key == "trials":
        text = minimal.replace("  trials: 12\n", "")
    if key == "space":
        text = minimal[: minimal.index("  space:")] + minimal[minimal.index("confirm:") :]
    if key == "epochs":
        text = minimal.replace("training: {epochs: 8, ", "training: {")
    found = refused(load, text=text)
    assert found[f"{section}.{key}"]["rule"] == "required, but not given"


@pytest.mark.parametrize(
    ("override", "path", "closest"),
    [
        ("serch.trials=3", "serch", "search"),
        ("training.batchsize=3", "training.batchsize", "batch_size"),
        ("selectors.0=unifrm", "selectors.0", "uniform"),
        ("controls=[scrach_kd]", "controls.0", "scratch_kd"),
        ("data.source=invnted", "data.source", "invented"),
        ("teacher.family=brt", "teacher.family", "bert"),
        ("task=nextitem", "task", "next_item"),
        ("analysis.metric=nddcg@K", "analysis.metric", "ndcg@K"),
        ("search.space.keepratio={choice: [1]}", "search.space.keepratio", "keep_ratio"),
        ("search.space.keep_ratio.choise=[1]", "search.space.keep_ratio.choise", "choice"),
        ("data.user=3", "data.user", "users"),
    ],
)
def test_the_closest_name_is_offered_from_the_tables(load, override, path, closest):
    found = refused(load, override)[path]
    assert found["closest"] == closest
    assert closest in found["allowed"].split(", ")
    assert found["where"] == f"--set {override}"


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("search.trials", "an override is KEY=VALUE"),
        ("=3", "an override is KEY=VALUE"),
        ("search..trials=3", "an override is KEY=VALUE"),
        ("search.trials=[", "this is not YAML"),
        ("selectors.7=uniform", "'7' is no position of the list selectors: 0 to 1 are"),
        ("selectors.first=uniform", "'first' is no position of the list selectors: 0 to 1 are"),
        ("search.trials.x=3", "search.trials is one value and holds no 'x'"),
        ("evidence={samples: 3, samples: 4}", "the key is given twice"),
    ],
)
def test_a_broken_override_is_named(load, override, rule):
    found = refused(load, override)
    assert len(found) == 1
    entry = next(iter(found.values()))
    assert rule in entry["rule"]
    assert entry["where"] == f"--set {override}"


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ("", 1, "a sweep is a mapping"),
        ("- a\n- b\n", 1, "a sweep is a mapping"),
        ("a: 1\nb: [1, 2\n", 3, "this is not YAML"),
        ("a: 1\n\tb: 2\n", 2, "this is not YAML"),
        ("a: 1\nb: x\x00y\n", 2, "this is not YAML"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "the tag"),
        ("a: &x 1\nb: *x\n", 1, "names a place"),
        ("a: 1\nb: *x\n", 2, "refers to another place"),
        ("a: 1\n---\nb: 2\n", 2, "this is not YAML"),
        ("[" * 5000, 1, "nested too deeply"),
    ],
)
def test_text_that_is_no_sweep(load, text, line, rule):
    found = refused(load, text=text)
    assert list(found) == ["the whole file"]
    assert rule in found["the whole file"]["rule"]
    assert found["the whole file"]["where"].endswith(f"sweep.yaml:{line}")


def test_duplicate_keys_are_refused_with_both_lines(load, minimal):
    found = refused(load, text=minimal + "evidence:\n  samples: 5\n  samples: 6\nname: again\n")
    assert found["evidence.samples"]["rule"] == "the key is given twice, first in line 16; keep one"
    assert found["evidence.samples"]["where"].endswith(":17")
    assert found["name"]["rule"] == "the key is given twice, first in line 1; keep one"
    assert found["name"]["where"].endswith(":18")


def test_a_number_too_long_for_python(load):
    found = refused(load, "search.trials=" + "9" * 5000)
    assert found["search.trials"]["rule"] == "a number this long cannot be read"
    assert len(found["search.trials"]["given"]) == 70


def test_not_utf8_and_a_folder(tmp_path, tables):
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_sweep(file, tables=tables)
    with pytest.raises(ConfigError, match="directory"):
        load_sweep(tmp_path, tables=tables)


def test_mistakes_in_the_sections_of_a_task(load, minimal):
    text = minimal.replace("next_item", "preference")
    assert refused(load, text=text)["prompt"]["rule"] == "required, but not given"
    found = refused(load, text=text + "prompt: {template: x, max_token: 3}\nthresold: 1\n")
    assert found["prompt.max_token"]["closest"] == "max_tokens"
    assert found["thresold"]["closest"] == "threshold"


def test_a_list_index_is_shown_where_it_is_wrong(load):
    found = refused(load, "search.space.keep_ratio.choice=[0.25, half]")
    assert found["search.space.keep_ratio.choice.1"]["rule"] == "must be a number"
    assert found["search.space.keep_ratio.choice.1"]["given"] == "half"
