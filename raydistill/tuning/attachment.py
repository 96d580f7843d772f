"""Opening what a sweep has prepared, on a machine of the cluster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError, CorruptArtifactError
from raydistill.records import RunDirectory
from raydistill.training.resources import Resources
from raydistill.tuning.machine import AS_THE_OTHERS, check_machine
from raydistill.tuning.refusals import UnseenError


def attach(config: Mapping[str, Any]) -> Resources:
    """Return the resources of the sweep whose run directory, cache and versions are in ``config``.

    Raises:
        OtherCodeError: This machine runs other code.
        UnseenError: It does not see the run directory or the prepared data, they are not whole, or it cannot write.
    """
    check_machine(config)
    try:
        return Resources.attach(RunDirectory(config["run"]), Path(config["cache"]))
    except (ConfigError, CorruptArtifactError) as error:
        # Before the first trial all nodes that there were saw them.
        raise UnseenError(
            f"node {socket.gethostname()} cannot open what the sweep has prepared: {error.what}",
            where=error.where,
            mend=f"{AS_THE_OTHERS}. Where it does see them: {error.mend}" if error.mend else AS_THE_OTHERS,
        ) from error
