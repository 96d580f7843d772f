"""The notebook in docs/ runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "analysis.ipynb"


@pytest.mark.long
def test_the_notebook_runs_on_a_run_directory_and_is_kept_without_outputs(run_dir, monkeypatch, capsys):
    monkeypatch.setenv("RAYDISTILL_RUN", str(run_dir))
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 8
    names: dict = {}
    for index, cell in enumerate(cells):
        assert cell["outputs"] == []  # what is shown must be the reader's own
        exec(compile("".join(cell["source"]), f"cell {index}", "exec"), names)
    assert names["run"].root == run_dir
    assert set(names["drawn"]) >= {"difference_to_reference", "layer_importance"}
    assert "ties" in capsys.readouterr().out
