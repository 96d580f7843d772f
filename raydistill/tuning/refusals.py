"""What ends a sweep from inside a trial: a machine, or the cluster, that cannot run any."""

from __future__ import annotations

from typing import Any

from raydistill.errors import UserError
from raydistill.tuning.places import Place, Problem

REFUSED = "refused"
"""Key in a Tune result that says why a trial was not run."""


class RefusedError(UserError):
    """No trial is to blame, and the next would fare no better: the sweep ends, and none is recorded as failed."""


class OtherCodeError(RefusedError):
    """A node runs other code than the sweep; the sweep ends, since what it would record there cannot be trusted."""

    @classmethod
    def of(cls, host: str, other: list[str]) -> OtherCodeError:
        """Return the error of a node, from what is different there."""
        return cls(
            f"node {host} runs {', '.join(other)}",
            where=host,
            mend="bring the same code to all nodes: `ray up cluster.yaml` copies and installs it again; the same "
            "command then continues",
        )


class UnseenError(RefusedError):
    """A node does not see what the sweep has written, sees something else, or cannot write beside it."""

    @classmethod
    def of(cls, host: str, place: Place, problem: Problem) -> UnseenError:
        """Return the error of a node, from what it cannot do in a place, and why."""
        said = f"node {host} {problem.what} {place.name}: {problem.why}"
        return cls(said, where=place.address, mend=problem.mend or place.mend)


class NoRoomError(RefusedError):
    """The workers of one run fit on no nodes that there are."""


def refusal(error: RefusedError) -> dict[str, Any]:
    """Return the result of a trial that was not run; it ends the sweep.

    It is no exception, since Tune passes on no more than the text of one.
    """
    return {REFUSED: {"what": error.what, "where": error.where, "mend": error.mend}}
