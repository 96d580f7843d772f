"""Saved students: what the files hold, and that they load where raydistill is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_zoo import CASES, build, inputs_of, result
from safetensors import safe_open

from raydistill.models import FAMILIES, blocks, depth, family_of, keep_layers, model_hash, stacks_of

# One case of every family, with the layer map and the class by which transformers' own readers load it.
PLAIN = {
    "BertForSequenceClassification": ([2], "AutoModelForSequenceClassification"),
    "RobertaForMaskedLM": ([0, 3], "AutoModelForMaskedLM"),
    "DistilBertForSequenceClassification": ([1, 2], "AutoModelForSequenceClassification"),
    "GPT2-scaled-by-index": ([1, 3], "AutoModelForCausalLM"),
    "T5ForConditionalGeneration": ({"encoder": [1, 3], "decoder": [2]}, "AutoModelForSeq2SeqLM"),
    "Llama-tied": ([0, 3], "AutoModelForCausalLM"),
    "Mistral-sliding": ([0, 3], "AutoModelForCausalLM"),
    "Qwen2-sliding": ([1, 3], "AutoModelForCausalLM"),
    "Qwen3-alternating": ([0, 1], "AutoModelForCausalLM"),
    "GemmaForCausalLM": ([3], "AutoModelForCausalLM"),
    "Gemma2-alternating": ([1, 3], "AutoModelForCausalLM"),
    "Gemma3-alternating": ([0, 3], "AutoModelForCausalLM"),
}


@pytest.mark.parametrize("name", CASES)
def test_round_trip_changes_no_bit(name, tmp_path):
    teacher = build(name)
    layer_maps = {stack.name: [0, depth(teacher, stack.name) - 1] for stack in stacks_of(teacher)}
    student = keep_layers(teacher, layer_maps)
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path, attn_implementation=teacher.config._attn_implementation)
    assert torch.equal(result(loaded), result(student))
    recorded = loaded.config.raydistill
    assert recorded["teacher"] == model_hash(teacher)
    assert recorded["layer_map"] == (layer_maps if len(layer_maps) > 1 else next(iter(layer_maps.values())))


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "T5ForConditionalGeneration", "Gemma2-alternating"])
def test_files_hold_nothing_of_the_removed_blocks(name, tmp_path):
    teacher = build(name)
    student = keep_layers(teacher, {stack.name: [1] for stack in stacks_of(teacher)})
    student.save_pretrained(tmp_path)
    # T5's position bias stays in block 0 by design.
    removed = [
        parameter
        for stack in stacks_of(teacher)
        for i, block in enumerate(blocks(teacher, stack.name))
        if i != 1
        for key, parameter in block.named_parameters()
        if "relative_attention_bias" not in key
    ]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        saved = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118 - not a mapping
    assert sum(tensor.numel() for tensor in saved) == sum(parameter.numel() for parameter in student.parameters())
    assert removed
    for parameter in removed:
        assert not any(tensor.shape == parameter.shape and torch.equal(tensor, parameter) for tensor in saved)


SCRIPT = """
import json, sys
sys.modules["raydistill"] = None  # importing it raises ImportError, even where it is installed
import torch, transformers
for case in json.loads(sys.argv[1]):
    model = getattr(transformers, case["class"]).from_pretrained(case["folder"]).eval()
    inputs = torch.load(case["folder"] + "/inputs.pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert torch.equal(logits, torch.load(case["folder"] + "/logits.pt")), case
    auto = getattr(transformers, case["auto"]).from_pretrained(case["folder"]).eval()
    with torch.no_grad():
        assert torch.equal(auto(**inputs).logits, logits), case
    base = transformers.AutoModel.from_pretrained(case["folder"]).eval()
    if model.base_model is not model:  # T5 with an output table does not have its base model as a part
        with torch.no_grad():
            assert torch.equal(base(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state), case
    assert base.config.raydistill["layer_map"] == case["layer_map"], case
print("same")
"""


@pytest.mark.long
def test_students_load_without_raydistill(tmp_path: Path):
    families = {family_of(CASES[name].config_class(**CASES[name].settings)).name for name in PLAIN}
    assert families == set(FAMILIES)
    cases = []
    for name, (layer_map, auto) in PLAIN.items():
        student = keep_layers(build(name), layer_map)
        folder = tmp_path / name
        student.save_pretrained(folder)
        torch.save(inputs_of(student), folder / "inputs.pt")
        torch.save(result(student), folder / "logits.pt")
        cases.append({"class": type(student).__name__, "auto": auto, "folder": str(folder), "layer_map": layer_map})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "same"
