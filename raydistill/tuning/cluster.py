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
        UserError: The cluster that is named cannot be reached, or runs another Ray or Python, or wants another token.
    """
    _check_address(sweep)
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
    # Ray's guard of the room of several workers asks the dashboard's process whether their trial is alive.
    wanted = execution.dashboard or execution.workers > 1 or execution.gpus_per_trial > 1
    try:
        context = ray.init(address=address, include_dashboard=wanted, **options)
    except (ConnectionError, socket.gaierror, RuntimeError, ray.exceptions.AuthenticationError) as error:
        if isinstance(error, RuntimeError) and "Version mismatch" not in str(error):
            raise
        raise _refused(error, execution.address) from error
    url = context.dashboard_url
    return f"http://{url}" if url and execution.dashboard else None


def _check_address(sweep: Sweep) -> None:
    """Refuse an address for `ray job submit` or Ray Client: Tune must run here, and on a machine of the cluster."""
    named = os.environ.get("RAY_ADDRESS", "") if sweep.execution.address == "auto" else ""
    if "://" in named:
        raise UserError(
            f"RAY_ADDRESS is {named}, where a sweep can be submitted, and not be run from",
            where="RAY_ADDRESS",
            mend="submit the sweep with `ray job submit`, or set execution.address=local to run it here",
        )


def _refused(error: Exception, address: str) -> UserError:
    """Return the error of a cluster that cannot be joined, with what Ray says of it."""
    if isinstance(error, ray.exceptions.AuthenticationError):
        what = f"the Ray cluster at {address} does not let this process in: {error}"
        mend = "give this machine the cluster's token: ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    elif isinstance(error, RuntimeError):
        what = str(error).strip()
        mend = "install the same Ray and Python here as on the cluster: pip install -c constraints.txt -e ."
    else:
        what = f"no Ray cluster answers at {address}: {error}"
        # A wrong token too, since Ray then gives up asking for the cluster's name.
        mend = (
            "start one with `ray up cluster.yaml` and submit the sweep with `ray job submit`, or set "
            "execution.address=local; one that asks for tokens answers to its own alone (RAY_AUTH_MODE, RAY_AUTH_TOKEN)"
        )
    return UserError(what, where="execution.address", mend=mend)


def stop() -> None:
    """Leave Ray; a cluster that :func:`start` started ends."""
    ray.shutdown()
