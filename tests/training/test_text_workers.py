"""Two workers on prompts, whole models or shares of them, give what one worker gives; on the CPU, over gloo."""

from __future__ import annotations

import numpy as np
import pytest
from processes import outcomes_of_two

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict]:
    return outcomes_of_two("text_workers.py", tmp_path_factory.mktemp("text-workers"), timeout=240)


@pytest.fixture(params=["ddp-0", "ddp-1", "fsdp-0", "fsdp-1"])
def together(request, outcomes) -> dict:
    return outcomes[request.param]


def test_curve_and_adapters_are_those_of_one_worker(together, outcomes):
    alone = outcomes["alone"]
    np.testing.assert_allclose(together["curve"], alone["curve"], rtol=1e-5)
    assert alone["curve"][-1][0] < alone["curve"][0][0]
    assert any("lora_" in name for name in alone["trained"])
    assert together["trained"].keys() == alone["trained"].keys()
    for name, values in alone["trained"].items():
        np.testing.assert_allclose(together["trained"][name], values, atol=2e-5, err_msg=name)


def test_every_worker_has_the_scores_of_all_lists(together, outcomes):
    alone = outcomes["alone"]["scores"]
    assert together["scores"].keys() == alone.keys()
    for name, values in alone.items():
        np.testing.assert_allclose(together["scores"][name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_cache_made_in_shares_is_whole(together, outcomes):
    alone = outcomes["alone"]
    np.testing.assert_allclose(together["cache"]["logits"], alone["cache"]["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together["cache"]["hidden"], alone["cache"]["hidden"], atol=2e-3)
    assert together["files"] == alone["files"]
