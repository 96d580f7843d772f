"""What a person sees while a sweep runs: one live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raydistill.records import Record, gain
from raydistill.training.trial_spec import TrialSpec

SEARCHING, CONFIRMING = "searching", "confirming with fresh seeds"

PLAIN_INTERVAL_S = 15.0
"""Seconds between two plain lines."""


class Progress:
    """Shows phase, arms with done, running and failed, the best so far, and the time left.

    Args:
        expected: Trials that each arm is expected to have, search and confirm together.
        metric: Validation metric of which the best is shown.
        console: Where to; standard output where None.
    """

    def __init__(self, expected: Mapping[str, int], metric: str, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._expected = dict(expected)
        self._metric = metric
        self._phase = "start"
        self._running: Counter[str] = Counter()
        self._ended: dict[str, Counter[str]] = {arm: Counter() for arm in expected}
        self._best: dict[str, tuple[float, str]] = {}
        self._started = self._counted_from = time.monotonic()
        self._kept = 0
        self._last_line = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=2, get_renderable=self._render)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)
            self._live = None
        elif self._total("ended"):
            self.console.print(self._line(), markup=False)

    def phase(self, text: str) -> None:
        """Say what happens now."""
        self._phase = text
        if self._live is None:
            self.console.print(f"[{_clock(time.monotonic() - self._started)}] {text}", markup=False)

    def say(self, warning: str) -> None:
        """Print a warning that stays in sight."""
        self.console.print(f"WARNING: {warning}", style="bold red", markup=False)

    def expect(self, expected: Mapping[str, int]) -> None:
        """Correct how many trials each arm will have."""
        self._expected = dict(expected)

    def keep(self, records: Sequence[Record]) -> None:
        """Count the trials of an earlier run."""
        for record in records:
            self._count(record)
        self._kept = self._total("ended")
        self._counted_from = time.monotonic()

    def started(self, spec: TrialSpec) -> None:
        """Count a trial that starts."""
        # The first arms are confirmed while the last ones are still searched.
        if spec.phase == "confirm" and self._phase != CONFIRMING:
            self.phase(CONFIRMING)
        elif spec.phase == "search" and self._phase not in (SEARCHING, CONFIRMING):
            self.phase(SEARCHING)
        self._running[spec.arm] += 1
        # Not where a trial ends: its place is then empty for a moment, and too few would be said to run.
        now = time.monotonic()
        if self._live is None and self._total("ended") and now - self._last_line >= PLAIN_INTERVAL_S:
            self._last_line = now
            self.console.print(self._line(), markup=False)

    def lost(self, spec: TrialSpec, reason: str) -> None:
        """Say that a trial starts again, since its process was lost; it goes on counting as running."""
        self.console.print(f"lost: {spec.name}: {reason.splitlines()[0]}; it starts again", markup=False)

    def ended(self, record: Record) -> None:
        """Count a trial that has ended; a failed one is named at once."""
        self._running[record.arm] -= 1
        self._count(record)
        if record.status == "failed":
            reason = (record.error or "no reason given").splitlines()[0]
            self.console.print(f"failed: {record.name}: {reason}", markup=False)

    def _count(self, record: Record) -> None:
        self._ended.setdefault(record.arm, Counter())[record.status] += 1
        value = record.validation.get(self._metric)
        if value is None or record.status != "success":
            return
        if record.arm not in self._best or gain(self._metric, value) > gain(self._metric, self._best[record.arm][0]):
            self._best[record.arm] = (value, record.name)

    def _total(self, what: str) -> int:
        if what == "running":
            return sum(self._running.values())
        return sum(sum(counts.values()) for counts in self._ended.values())

    def _remaining(self) -> str:
        ended = self._total("ended")
        fresh = ended - self._kept
        left = max(0, sum(self._expected.values()) - ended)
        if fresh < 3:
            return "time left unknown"
        return f"about {_clock((time.monotonic() - self._counted_from) / fresh * left)} left"

    def _line(self) -> str:
        failed = sum(counts["failed"] for counts in self._ended.values())
        parts = [
            f"[{_clock(time.monotonic() - self._started)}] {self._phase}:",
            f"{self._total('ended')}/{sum(self._expected.values())} trials,",
            f"{self._total('running')} running, {failed} failed,",
        ]
        if self._best:
            arm, (value, _) = max(self._best.items(), key=lambda item: gain(self._metric, item[1][0]))
            parts.append(f"best validation {self._metric} {value:.4f} ({arm}),")
        if self._total("ended") < sum(self._expected.values()):
            parts.append(self._remaining())
        return " ".join(parts).rstrip(",")

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for column in ("arm", "done", "running", "stopped early", "failed", f"best validation {self._metric}"):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for arm, expected in self._expected.items():
            counts = self._ended[arm]
            best = f"{self._best[arm][0]:.4f}" if arm in self._best else ""
            failed = Text(str(counts["failed"]), style="bold red" if counts["failed"] else "dim")
            table.add_row(
                arm,
                f"{sum(counts.values())}/{expected}",
                str(max(0, self._running[arm])),
                str(counts["stopped"]),
                failed,
                best,
            )
        return Group(Text(self._line(), style="bold"), table)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
