"""Joining a cluster that will not have it: said with what Ray itself raises, and how to mend it."""

from __future__ import annotations

import os

import pytest
import ray
from ray._private.utils import check_version_info
from tuning_zoo import small_sweep

from raydistill.errors import UserError
from raydistill.tuning import cluster


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    for name in (*cluster._QUIET, "RAY_ADDRESS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back at the end
        monkeypatch.delenv(name)
    return small_sweep(tmp_path, "execution.address=10.0.0.1:6379")


def other_versions(**_):
    check_version_info({"ray_version": "1.0.0", "python_version": "3.8.1"}, "node 10.0.0.2")


def wrong_token(**_):
    raise ray.exceptions.AuthenticationError("the token is wrong")


def silence(**_):
    raise ConnectionError("nobody there")


def broken(**_):
    raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("init", "says", "mend"),
    [
        (other_versions, "Ray: 1.0.0", "install the same Ray and Python"),
        (wrong_token, "the token is wrong", "give this machine the cluster's token"),
        (silence, "no Ray cluster answers at 10.0.0.1:6379", "ray job submit"),
        (silence, "nobody there", "RAY_AUTH_TOKEN"),
    ],
)
def test_a_cluster_that_cannot_be_joined(sweep, monkeypatch, init, says, mend):
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError) as caught:
        cluster.start(sweep)
    assert says in caught.value.what
    assert mend in caught.value.mend
    assert caught.value.where == "execution.address"


def test_other_errors_of_ray_keep_their_traceback(sweep, monkeypatch):
    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(RuntimeError, match="something else"):
        cluster.start(sweep)


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265"])
def test_an_address_for_jobs_or_ray_client_is_refused(sweep, monkeypatch, tmp_path, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(UserError, match="can be submitted") as caught:
        cluster.start(small_sweep(tmp_path))
    assert "ray job submit" in caught.value.mend
