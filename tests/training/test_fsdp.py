"""Training in shares (FSDP2) gives what one worker gives; two processes on the CPU, over gloo."""

from __future__ import annotations

import numpy as np
import pytest
from processes import outcomes_of_two

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def outcomes(request, tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp(f"fsdp-{request.param}")
    return outcomes_of_two("fsdp_workers.py", folder, request.param, timeout=150)


def test_the_loss_curve_is_that_of_one_worker(outcomes):
    for rank in "01":
        np.testing.assert_allclose(outcomes[rank]["curve"], outcomes["alone"]["curve"], rtol=1e-5)


def test_each_worker_holds_half_of_the_model(outcomes):
    whole = outcomes["alone"]["held"]
    assert [outcomes[rank]["held"] for rank in "01"] == pytest.approx([whole / 2] * 2, rel=0.1)
    assert outcomes["0"]["held"] + outcomes["1"]["held"] == whole


def test_the_model_is_whole_at_the_end_with_the_weights_of_one_worker(outcomes):
    for rank in "01":
        assert outcomes[rank]["best"] == outcomes["alone"]["best"]
        for name, values in outcomes["alone"]["weights"].items():
            np.testing.assert_allclose(outcomes[rank]["weights"][name], values, atol=2e-5, err_msg=name)


def test_all_workers_have_the_ranks_of_all_users(outcomes):
    assert outcomes["0"]["ranks"] == outcomes["1"]["ranks"]
    # Weights that differ in the last bit may swap two scores that are nearly equal.
    assert np.mean(np.array(outcomes["0"]["ranks"]) == np.array(outcomes["alone"]["ranks"])) > 0.95


def test_every_stack_of_an_encoder_decoder_is_shared(outcomes):
    assert [outcomes[f"stacks-{rank}"] for rank in "01"] == [["encoder", "decoder"]] * 2


def test_a_checkpoint_of_all_shares_continues_to_the_same_bits(outcomes):
    for rank in "01":
        assert outcomes[f"resumed-{rank}"]["curve"] == outcomes[rank]["curve"]
        assert outcomes[f"resumed-{rank}"]["weights"] == outcomes[rank]["weights"]
