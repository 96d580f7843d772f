"""What a machine must have before it works for a sweep, which it may have joined long after the sweep had started."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from raydistill.records import RunDirectory
from raydistill.tuning.places import Problem, problem_in_writing, run_directory
from raydistill.tuning.refusals import UnseenError
from raydistill.tuning.versions import check_versions


def check_machine(config: Mapping[str, Any]) -> None:
    """Refuse to work for the sweep whose run directory and versions are in ``config``, where this machine cannot.

    Raises:
        OtherCodeError: It runs other code.
        UnseenError: It does not see the run directory, or cannot write there.
    """
    check_versions(config["versions"])
    place, file = run_directory(config["run"]), RunDirectory(config["run"]).sweep_file
    problem = (
        problem_in_writing(place)  # each of its trials would fail when all is done, as it writes its record
        if file.is_file()
        else Problem("does not see", f"there is no {file.name}")
    )
    if problem:
        raise UnseenError.of(socket.gethostname(), place, problem)
