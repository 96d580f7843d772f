"""One family of errors: what went wrong, where, and how to mend it."""

from __future__ import annotations


class RaydistillError(Exception):
    """Base of every error that raydistill raises on purpose.

    Args:
        what: One sentence that says what is wrong.
        where: File, line, key path or artifact, where there is one.
        mend: What would be right, or what to do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)

    def __reduce__(self):
        # Keyword-only arguments are lost by the default pickling of exceptions,
        # and these errors travel between processes.
        return (_rebuild, (type(self), self.what, self.where, self.mend))


def _rebuild(kind: type[RaydistillError], what: str, where: str | None, mend: str | None) -> RaydistillError:
    return kind(what, where=where, mend=mend)


class UserError(RaydistillError):
    """A mistake that the person who runs the command can mend; shown without a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """The sweep file, or an override of it, is not valid."""


class DataError(UserError):
    """A data file is missing, truncated, malformed or too small for what is asked."""


class ModelError(UserError):
    """A model family, checkpoint or layer map that cannot be used as asked."""


class EvidenceError(UserError):
    """Layer evidence cannot be measured, or a selector was given unusable evidence."""


class RunDirectoryError(UserError):
    """The run directory cannot be written, or belongs to another sweep."""


class CorruptArtifactError(RaydistillError):
    """An artifact on disk does not match its own hash; it is redone where that is possible."""


class TrialDivergedError(RaydistillError):
    """The loss or a score of a trial is no longer finite."""
