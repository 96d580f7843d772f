"""Training workers that stay for the next trial of their actor, as Ray Tune's own reused actors do.

Ray Train starts its workers anew for every run, and importing torch, transformers and Ray in each is nearly all that
the start of a sharded trial takes. Here workers whose run has ended well are handed to the next run, with the room
that they hold. Everything else is Ray's: it joins the workers anew for each run, watches them, and replaces all of
them by new ones where one is lost or has failed.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import ray
import torch
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.preemption_callback import PreemptionCallback
from ray.train.v2._internal.constants import GET_ACTOR_TIMEOUT_S
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import PlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupContext, WorkerGroupState
from ray.train.v2._internal.state.util import is_actor_alive
from ray.util.state.exception import RayStateApiException

from raydistill.tuning.capacity import alive_nodes, can_grow

IDLE_S = 60.0
"""Seconds that workers without a run hold their room, for which another actor's trial may be waiting."""

ANSWER_S = 10.0
"""Seconds in which a kept worker must answer before it is given a run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """Workers without a run, the room that they hold, and what was asked for when they were started."""

    workers: list[Worker]
    room: PlacementGroupHandle
    asked: tuple[Any, ...]

    def answer(self) -> bool:
        """Return whether all of them are there still, and have left the group in which they worked together."""
        calls = [worker.execute_async(torch.distributed.is_initialized) for worker in self.workers]
        try:
            return not any(ray.get(calls, timeout=ANSWER_S))
        except ray.exceptions.RayError as error:
            log.warning("the workers of the trial before are not there any more, new ones are started: %s", error)
            return False

    def end(self) -> None:
        """End the processes and give their room back."""
        for worker in self.workers:
            ray.kill(worker.actor)
        self.room.shutdown()


class Shelf:
    """Where an actor's workers wait between two trials; one set, and not for long."""

    def __init__(self, idle: float = IDLE_S):
        self._idle = idle
        self._lock = threading.Lock()
        self._kept: Kept | None = None
        self._timer: threading.Timer | None = None

    def put(self, kept: Kept) -> None:
        """Keep these for the next trial, or end them when none has come in time."""
        self.clear()
        with self._lock:
            self._kept = kept
            self._timer = threading.Timer(self._idle, self.clear)
            self._timer.daemon = True
            self._timer.start()

    def take(self, asked: tuple[Any, ...]) -> Kept | None:
        """Return the kept workers, for good, where they are what is asked for and answer; end them where not."""
        kept = self._pop()
        if kept is None or (kept.asked == asked and kept.answer()):
            return kept
        kept.end()
        return None

    def clear(self) -> None:
        """End the kept workers, where there are any."""
        kept = self._pop()
        if kept is not None:
            kept.end()

    def _pop(self) -> Kept | None:
        with self._lock:
            kept, self._kept = self._kept, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return kept


class _LeftState(WorkerGroupState):
    """The state of a group whose workers and room outlive it."""

    def shutdown(self) -> None:
        ray.kill(self.sync_actor)


class LastingWorkerGroup(WorkerGroup):
    """A group that takes over the workers of the one before, and leaves its own to the next."""

    shelf: ClassVar[Shelf] = Shelf()

    def _create_placement_group(
        self, scaling_config: ray.train.ScalingConfig, worker_group_context: WorkerGroupContext
    ) -> PlacementGroupHandle:
        self._taken = self.shelf.take(self._asked())
        if self._taken is not None:
            return self._taken.room
        return super()._create_placement_group(scaling_config, worker_group_context)

    def _create_workers(self, num_workers: int, *arguments: Any, **settings: Any) -> list[Worker]:
        taken, self._taken = self._taken, None
        if taken is None:
            return super()._create_workers(num_workers, *arguments, **settings)
        return self._assign_worker_ranks(taken.workers)

    def _start(self) -> None:
        # Ray leaves a group to itself that fails after its workers are known and before they train.
        with ExitStack() as undo:
            undo.callback(self._give_up)
            super()._start()
            undo.pop_all()

    def _give_up(self) -> None:
        if self.has_started():
            self._worker_group_state.shutdown()
            self._clear_state()

    def _may_stay(self) -> bool:
        """Return whether the workers have ended well, none on a machine that is being taken away, and are guarded."""
        status = self.get_latest_poll_status()
        if status is None or not status.finished or status.errors or status.get_preemption_info() is not None:
            return False
        # Ray has a single worker keep its group of one, which it could not make a second time.
        return len(self) > 1 and _is_guarded()

    def shutdown(self) -> None:
        if not self._may_stay():
            super().shutdown()
            return
        state = self.get_worker_group_state()
        left = Kept(state.workers, state.placement_group_handle, self._asked())
        self._worker_group_state = _LeftState(**vars(state))
        with ExitStack() as undo:
            undo.callback(left.end)
            super().shutdown()
            undo.pop_all()
        self.shelf.put(left)

    def _asked(self) -> tuple[Any, ...]:
        context = self.get_worker_group_context()
        return context.num_workers, tuple(sorted(context.resources_per_worker.items())), context.placement_strategy


def _is_guarded() -> bool:
    """Return whether the guard can tell that this actor has ended: it asks the process of Ray's dashboard."""
    try:
        return is_actor_alive(ray.get_runtime_context().get_actor_id(), GET_ACTOR_TIMEOUT_S)
    except RayStateApiException:
        return False


class LastingCleaner(PlacementGroupCleanerCallback):
    """One helper process an actor, in place of one a run, that gives the workers' room back should the actor be lost.

    Ray itself would hold that room to the end of the job.
    """

    _kept: ClassVar[ray.actor.ActorHandle | None] = None

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        if self._kept is not None:
            try:
                ray.get(self._kept.start_monitoring.remote(), timeout=ANSWER_S)
            except ray.exceptions.RayError as error:
                log.warning("the guard of the workers' room is not there any more, one is started: %s", error)
            else:
                self._cleaner = self._kept
                self._controller_actor_id = ray.get_runtime_context().get_actor_id()
                return
        super().after_controller_start(train_run_context)
        type(self)._kept = self._cleaner

    def _stop_cleaner(self) -> None:
        self._cleaner = None  # it watches on, and ends when the actor has ended


class LastingController(TrainController):
    """Ray Train's controller over workers that stay."""

    worker_group_cls = LastingWorkerGroup

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if len(alive_nodes()) == 1 and not can_grow():
            # Ray's watch for machines that are being taken away is one more process: this one would be taken with all.
            self._worker_group_callbacks_to_propagate = [
                each for each in self._worker_group_callbacks_to_propagate if not isinstance(each, PreemptionCallback)
            ]
