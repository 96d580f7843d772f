"""What a machine must have before it works for a sweep, which it may have joined long after the sweep had started."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from raydistill.records import RunDirectory
from raydistill.tuning.places import Problem, problem_in_writing, reason, run_directory
from raydistill.tuning.refusals import UnseenError
from raydistill.tuning.versions import check_versions

AS_THE_OTHERS = "let that node see execution.storage and the run directory as the others do; the same command continues"
"""What to do where one node does not see what the others do."""


def check_machine(config: Mapping[str, Any]) -> None:
    """Refuse to work for the sweep whose run directory and versions are in ``config``, where this machine cannot.

    Raises:
        OtherCodeError: It runs other code.
        UnseenError: It does not see the run directory, or cannot write there.
    """
    check_versions(config["versions"])
    place = run_directory(config["run"])
    try:
        RunDirectory(config["run"]).sweep_file.stat()
    except OSError as error:
        problem = Problem("does not see", reason(error), AS_THE_OTHERS)
    else:
        problem = problem_in_writing(place)  # each of its trials would fail when all is done, as it writes its record
    if problem:
        raise UnseenError.of(socket.gethostname(), place, problem)
