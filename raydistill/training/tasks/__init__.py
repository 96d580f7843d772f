"""The table of tasks: one file a task."""

from __future__ import annotations

from raydistill.config import Sweep
from raydistill.training.tasks.base import Columns, Task, Workload
from raydistill.training.tasks.next_item import NEXT_ITEM
from raydistill.training.tasks.preference import PREFERENCE

__all__ = ["NEXT_ITEM", "PREFERENCE", "TASKS", "Columns", "Task", "Workload", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (NEXT_ITEM, PREFERENCE)}


def task_of(sweep: Sweep) -> Task:
    """Return the task of a sweep."""
    return TASKS[sweep.task]
