"""What numbers may be compared with: data, protocol, versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess

from tuning_zoo import small_sweep

from raydistill import __version__
from raydistill.records import protocol_signature
from raydistill.training.tasks import NEXT_ITEM
from raydistill.tuning import signature as signature_module
from raydistill.tuning.signature import signature


def test_it_names_data_protocol_teacher_and_versions(tmp_path):
    sweep = small_sweep(tmp_path)
    data = NEXT_ITEM.prepared_data(sweep, tmp_path / "cache")
    content = json.loads(json.dumps(signature(sweep, data)))
    assert (content["schema"], content["sweep"], content["task"]) == (1, "small", "next_item")
    assert content["data"]["hash"] == data.hash
    assert content["data"]["statistics"]["users"] == data.n_users
    assert content["data"]["provenance"]["source"] == "synthetic"
    assert content["protocol"] == {
        "split": "leave_one_out",
        "candidates": "full-catalogue",
        "seen": "masked",
        "ties": "against-the-model",
        "max_length": 8,
        "min_interactions": 1,
    }
    assert content["teacher"]["layers"] == 8
    budget = {"epochs": 9, "batch_size": 32, "lr": 1e-3}
    assert {name: content["training"][name] for name in budget} == budget
    assert "epoch_examples" not in content["training"]  # all of them
    cut = signature(small_sweep(tmp_path, "training.epoch_examples=64"), data)
    assert cut["training"]["epoch_examples"] == 64
    assert content["versions"]["torch"] == importlib.metadata.version("torch")
    assert content["versions"]["python"] == platform.python_version()
    line = protocol_signature(content)
    assert line.startswith(f"data:synthetic.{data.hash[:8]}|")
    assert line.endswith(f"raydistill:{__version__}")


def test_another_protocol_has_another_line(tmp_path):
    lines = set()
    for override in ("data.max_length=8", "data.max_length=9", "data.min_interactions=2", "data.n_users=61"):
        sweep = small_sweep(tmp_path, override)
        lines.add(protocol_signature(signature(sweep, NEXT_ITEM.prepared_data(sweep, tmp_path / "cache"))))
    assert len(lines) == 4


def test_the_commit_is_said_with_whether_the_tree_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "raydistill" / "tuning"
    package.mkdir(parents=True)
    monkeypatch.setattr(signature_module, "__file__", str(package / "signature.py"))
    assert signature_module._git_commit() is None
    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "a")
    assert signature_module._git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("b")
    assert signature_module._git_commit() == git("rev-parse", "HEAD") + "+changes"
