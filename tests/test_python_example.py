"""The example of the documentation runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from raydistill import Recommender

ROOT = Path(__file__).resolve().parent.parent


def test_the_example_for_python_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(blocks[0], "docs/python.md", "exec"), names)
    assert re.search(r"student of 2 layers: validation ndcg@10 0\.\d{4}", capsys.readouterr().out)
    student = Recommender.from_pretrained(tmp_path / "example" / "student")
    assert student.backbone.config.num_hidden_layers == 2
    assert names["result"].best_epoch in (1, 2)
