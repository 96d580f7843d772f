"""Starting or joining Ray, quietly."""

from __future__ import annotations

import logging
import os
import socket

import ray

from raydistill.config import Sweep
from raydistill.errors import UserError

# Read when Ray's modules are imported or its processes start, so set before either.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # also the poll of the training controller: 2 s by default
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's own lets fit() return after Ctrl+C as if all trials had ended
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the records are the truth, Tune's snapshot is not used
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def start(sweep: Sweep) -> str | None:
    """Start Ray, or join the cluster that the sweep names, and return the dashboard's address.

    Raises:
        UserError: The cluster that is named cannot be reached.
    """
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are in the records and the display
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    execution = sweep.execution
    options = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
        "runtime_env": {"env_vars": {name: os.environ[name] for name in _QUIET}},
    }
    # Without an address Ray joins the cluster of RAY_ADDRESS or of `ray start` on this machine, else starts one.
    address = None if execution.address == "auto" else execution.address
    try:
        context = ray.init(address=address, include_dashboard=execution.dashboard, **options)
    except (ConnectionError, socket.gaierror) as error:
        raise UserError(
            f"no Ray cluster answers at {execution.address}: {error}",
            where="execution.address",
            mend="start one with `ray up cluster.yaml`, or set execution.address=local",
        ) from error
    url = context.dashboard_url
    return f"http://{url}" if url else None


def stop() -> None:
    """Leave Ray; a cluster that :func:`start` started ends."""
    ray.shutdown()
