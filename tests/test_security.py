"""What SECURITY.md promises of the code itself: nothing that is read can run, and no key of a sweep changes that."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2Model

from raydistill.config import Sweep
from raydistill.errors import CorruptArtifactError, ModelError
from raydistill.models.checkpoint import load_backbone
from raydistill.training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for package in ("raydistill", "analysis") for path in sorted((ROOT / package).rglob("*.py"))]
RUN_WHAT_THEY_READ = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.load",
    "cloudpickle.loads",
    "joblib.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "shutil.unpack_archive",
}


def test_nothing_in_the_code_runs_or_unpacks_what_it_reads():
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            keywords = {key.arg: getattr(key.value, "value", None) for key in node.keywords}
            name = ast.unparse(node.func)
            unsafe = name in RUN_WHAT_THEY_READ or name.endswith((".extract", ".extractall"))
            # The dumper of sweep files is a safe one; what is read goes through the safe loader of config/tree.py.
            if unsafe or keywords.get("allow_pickle") is True or keywords.get("shell") is True:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert found == []


def keys(model: type) -> set[str]:
    """Return the names of all fields of a section and of the sections inside it."""
    names = set()
    for name, field in getattr(model, "model_fields", {}).items():
        names |= {name} | (keys(field.annotation) if isinstance(field.annotation, type) else set())
    return names


def test_no_key_of_a_sweep_lets_code_from_a_model_repository_run():
    assert {"teacher", "pretrained", "storage"} <= keys(Sweep)
    assert not {name for name in keys(Sweep) if "trust" in name or "remote" in name}


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    model, proof = tmp_path / "model", tmp_path / "it-ran"
    GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=8, n_positions=8)).save_pretrained(model)
    (model / "modeling_evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).touch()\n")
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": names}))
    with pytest.raises(ModelError):
        load_backbone(str(model), dtype="auto")
    assert not proof.exists()


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(tmp_path):
    proof = tmp_path / "it-ran"
    content = pickle.dumps(Payload(proof))
    for name in ("state.safetensors", "state.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptArtifactError):
        load_checkpoint(tmp_path)
    assert not proof.exists()
    pickle.loads(content)
    assert proof.exists()  # the payload works where it is let
