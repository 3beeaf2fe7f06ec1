"""The process that owns a workspace's queue: it starts jobs, stops them, and goes when its owner goes.

``python -m loopworks.jobs.worker --folder F`` is started by the first client that needs it. Standard input is the
owner: one JSON line of set-up, then nothing, and its end means that the owner closed it or was killed. ``main`` is the
same in the foreground, until SIGTERM or Ctrl-C. Whatever happens here, the jobs are on disk: a worker that is killed
is replaced by the next client, which finds them.
"""

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from loopworks.core.errors import Busy, Cancelled, Failed, LoopworksError
from loopworks.jobs import folder as disk
from loopworks.jobs import lock
from loopworks.jobs.attempt import GRACE_S, Attempt
from loopworks.jobs.durable import TRIES, Durable, url_of
from loopworks.jobs.folder import JobsFolder
from loopworks.jobs.forks import WARM, Forks
from loopworks.jobs.job import ENDED

log = logging.getLogger("loopworks.jobs.worker")  # __name__ is __main__ where a client starts this

_TICK_S = 0.025
_CHECK_S = 5.0
_RESUME_S = 5.0
_ARRIVE_S = 0.05
_HALF_MADE_S = 60.0


def main(
    folder: Path,
    *,
    database: str = "",
    concurrency: int = 1,
    preload: Sequence[str] = (),
    warm: Sequence[str] = WARM,
) -> None:
    """Work in the foreground until SIGTERM or Ctrl-C; ends the process.

    Raises: Busy: another worker owns this workspace's queue. Unreachable, Failed, Denied: it cannot be used.
    """
    worker = Worker(
        folder, database=database, concurrency=concurrency, preload=preload, warm=warm, sys_path=list(sys.path)
    )
    worker.start()
    worker.work(None)


class Worker:
    """Owner of one workspace's queue."""

    def __init__(
        self,
        folder: Path,
        *,
        database: str,
        concurrency: int,
        preload: Sequence[str],
        warm: Sequence[str],
        sys_path: Sequence[str],
    ) -> None:
        """Nothing is taken or started yet; see ``start``."""
        self._folder = JobsFolder(folder.resolve())
        self._database = database
        self._concurrency = concurrency
        self._forks = Forks(sys_path=sys_path, preload=preload, warm=warm)
        self._state = threading.Condition()
        self._open: dict[tuple[str, int], int] = {}  # (job id, round) -> its place in the order, see _admit
        self._waiting: set[tuple[str, int]] = set()  # those of them that wait in this process for their turn
        self._started: set[tuple[str, int]] = set()  # those that had their turn
        self._running: dict[str, Attempt] = {}
        self._parked: set[str] = set()
        self._broken: set[tuple[str, int]] = set()
        self._settled_at = 0.0
        self._checked_at = 0.0
        self._is_ending = False
        self._asked_to_end = False
        self._durable: Durable | None = None

    def start(self) -> None:
        """Take the lock, start the fork server, open the database.

        Raises: Busy: another worker has the lock. LoopworksError: why the work cannot be done.
        """
        self._folder.prepare()
        with disk.writing(self._folder.path):
            self._lock = lock.take(self._folder.lock, wait_s=0.3)
        if self._lock is None:
            pid = lock.holder(self._folder.lock)
            raise Busy(f"the workspace's queue must have one worker; got another one, process {pid}")
        self._forks.start()  # imports the plug-ins while this process imports DBOS
        for job_id, round_ in self._folder.marked():
            self._admit(job_id, round_)
        self._settled_at = time.monotonic() + _RESUME_S
        self._durable = Durable(
            url=url_of(self._folder.workspace, self._database),
            identity=self._folder.identity(),
            concurrency=self._concurrency,
            run=self._run,
            publish=self._publish,
        )
        self._durable.launch()
        for job_id, round_ in sorted(self._open, key=self._open.__getitem__):
            self._check(job_id, round_)

    def work(self, owner: int | None) -> NoReturn:
        """Serve the queue until ``owner`` (a descriptor) ends, or a signal comes; ends the process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1)  # kill -USR1 writes every thread's place to jobs/worker.log
        parent = os.getppid()
        log.info("worker started pid=%d folder=%s", os.getpid(), self._folder.workspace)
        while not self._asked_to_end:
            ready, _, _ = select.select([] if owner is None else [owner], [], [], _TICK_S)
            if ready and owner is not None and not os.read(owner, 4096):
                break
            if owner is not None and os.getppid() != parent:
                break  # a process that the owner forked may hold the pipe open
            try:
                self._look()
            except Exception:  # the top of the worker: one bad job folder must not end the others
                log.exception("looking for work failed")
                time.sleep(1.0)
        self._end()

    def _asked(self, *_: object) -> None:
        self._asked_to_end = True

    def _look(self) -> None:
        """See what is new on disk: jobs, wishes to cancel, and now and then jobs that DBOS lost."""
        if self._durable is None:
            raise AssertionError
        new = [job for job in self._folder.marked() if job not in self._open and job not in self._broken]
        new = [job for job in new if self._admit(*job)]
        for job_id, round_ in sorted(new, key=self._open.__getitem__):
            self._durable.start(job_id, round_, at_once=len(self._open) <= self._concurrency)
        for job_id in self._folder.cancels():
            with self._noting(job_id, 0):
                self._cancel(job_id)
        if time.monotonic() - self._checked_at > _CHECK_S:
            self._checked_at = time.monotonic()
            for job_id, round_ in list(self._open):
                with self._noting(job_id, round_):
                    self._check(job_id, round_)

    @contextlib.contextmanager
    def _noting(self, job_id: str, round_: int) -> Iterator[None]:
        """One damaged job folder must not stop the others: say so once, and leave it alone."""
        try:
            yield
        except LoopworksError as error:
            if (job_id, round_) not in self._broken:
                log.error("job cannot be handled job=%s: %s", job_id, error.message)
            self._broken.add((job_id, round_))
            self._leave(job_id, round_)

    def _admit(self, job_id: str, round_: int) -> bool:
        """Take in a job that is marked as open; whether there is something to do for it."""
        with self._noting(job_id, round_):
            place = self._folder.marked_at(job_id, round_)
            if not (self._folder.path / job_id).is_dir():
                if time.time() - place / 1e9 > _HALF_MADE_S:
                    self._folder.unmark(job_id, round_)  # its maker was killed before the job was there
                return False
            state = self._folder.state(job_id)
            if state["round"] == round_ and state["status"] not in ENDED:
                with self._state:
                    self._open[job_id, round_] = place
                return True
            if state["round"] >= round_:
                self._folder.unmark(job_id, round_)
        return False

    def _leave(self, job_id: str, round_: int) -> None:
        """Forget a job; those that wait may look again."""
        with self._state:
            self._open.pop((job_id, round_), None)
            self._started.discard((job_id, round_))
            self._state.notify_all()

    def _check(self, job_id: str, round_: int) -> None:
        """Fail a job whose workflow ended without saying so, for instance because its database was full."""
        if self._durable is None or job_id in self._running:
            return
        if not (self._folder.path / job_id).is_dir():  # somebody removed it
            self._folder.unmark(job_id, round_)
            self._leave(job_id, round_)
            return
        status = self._durable.status(job_id, round_)
        if status is None:
            self._durable.start(job_id, round_, at_once=False)
        elif status not in ("ENQUEUED", "PENDING", "DELAYED") and self._folder.state(job_id)["status"] not in ENDED:
            self._publish(job_id, round_, {"kind": "lost", "why": f"its workflow ended as {status} without a result"})

    def _cancel(self, job_id: str) -> None:
        with self._state:
            attempt = self._running.get(job_id)
            waiting = None if attempt else next((job for job in self._open if job[0] == job_id), None)
            if waiting is not None:
                del self._open[waiting]  # in the same breath, so that it cannot start any more; see _take_turn
                self._state.notify_all()
        if attempt is not None:
            attempt.stop(cancel=True)
        elif waiting is not None:
            self._publish(*waiting, {"kind": "cancelled", "error": None})
        elif not (self._folder.path / job_id).is_dir() or self._folder.state(job_id)["status"] in ENDED:
            (self._folder.path / "cancel" / job_id).unlink(missing_ok=True)

    def _run(self, job_id: str, round_: int) -> dict[str, Any]:
        """One attempt, in a thread of DBOS, once it is the job's turn."""
        attempt = self._take_turn(job_id, round_)
        if attempt is None:
            return {"kind": "settled"}
        try:
            outcome = attempt.run()
        except Exception as error:  # the top of a job's thread: a fault of ours must not leave the job hanging
            log.exception("attempt failed job=%s", job_id)
            outcome = {"kind": "failed", "error": Failed(f"the worker failed: {error!r}").to_json()}
        finally:
            with self._state:
                del self._running[job_id]
                self._state.notify_all()
        if outcome["kind"] == "died" and attempt.is_cancelled:
            outcome = {"kind": "cancelled", "error": None}
        if self._is_ending and not attempt.is_cancelled and outcome["kind"] != "done":
            self._park(job_id, attempt)
        if outcome["kind"] == "died":
            attempt.log.add([
                f"loopworks: the step's process {outcome['why']}; one that dies is started up to {TRIES} times"
            ])
        return outcome

    def _take_turn(self, job_id: str, round_: int) -> Attempt | None:
        """Wait until the job may run; ``None`` where it has ended in the meantime (cancelled while it waited)."""
        me = (job_id, round_)
        patient_until = max(time.monotonic() + _ARRIVE_S, self._settled_at)
        with self._state:
            self._waiting.add(me)
            self._state.notify_all()
            while me in self._open and not self._may_run(me, patient_until):
                self._state.wait(_ARRIVE_S if time.monotonic() < patient_until else None)
            self._waiting.discard(me)
            self._state.notify_all()
            if me not in self._open:
                return None
            state = self._folder.state(job_id)
            self._started.add(me)
            attempt = self._running[job_id] = Attempt(self._folder, job_id, state, self._forks)
            return attempt

    def _may_run(self, me: tuple[str, int], patient_until: float) -> bool:
        """Oldest first. DBOS brings jobs in threads, so an older one may be a moment late: wait for it, but not long.

        It may be seconds late where DBOS recovers what a killed worker ran: that goes before what only waited.
        """
        held = {job for job in self._started if job in self._open}  # a slot is free once its job's end is on disk
        if self._is_ending or len(held - {me}) >= self._concurrency:
            return False
        if me in held:
            return True  # another try, in the slot that it has
        older = {job for job, place in self._open.items() if place < self._open[me]} - held
        return not older & self._waiting and (not older or time.monotonic() >= patient_until)

    def _publish(self, job_id: str, round_: int, outcome: dict[str, Any]) -> None:
        """Write how the job ended; insists where the disk is full, because nobody would ever know otherwise."""
        state = self._folder.state(job_id)
        if state["round"] == round_ and state["status"] not in ENDED and outcome["kind"] != "settled":
            end = _ended(state, outcome)
            while True:
                try:
                    self._folder.write_state(job_id, end)
                    break
                except OSError as error:
                    log.warning("the end of a job could not be written job=%s: %s", job_id, error)
                    time.sleep(1.0)
            log.info("job ended job=%s status=%s", job_id, end["status"])
        self._folder.unmark(job_id, round_)
        self._leave(job_id, round_)

    def _park(self, job_id: str, attempt: Attempt) -> NoReturn:
        """Leave the workflow unfinished for the next worker: its thread must not return into DBOS any more."""
        state = {**attempt.state, "status": "queued", "text": "interrupted; continues when a worker runs"}
        attempt.log.add(["loopworks: interrupted because the worker ended; continues when one runs"])
        with contextlib.suppress(OSError):  # a full disk: readers see that no worker runs
            self._folder.write_state(job_id, state)
        with self._state:
            self._parked.add(job_id)
            self._state.notify_all()
        threading.Event().wait()
        raise AssertionError

    def _end(self) -> NoReturn:
        """Stop what runs, leave it pending, and go; a kill in the middle of this does no harm either."""
        with self._state:
            self._is_ending = True
            running = dict(self._running)
        for attempt in running.values():
            attempt.stop(cancel=False)
        with self._state:
            self._state.wait_for(self._is_settled, GRACE_S + 1.0)
        self._forks.close()
        log.info("worker ended pid=%d", os.getpid())
        logging.shutdown()
        os._exit(0)  # parked workflows hold their threads; an orderly exit would wait for them for ever

    def _is_settled(self) -> bool:
        """Whether every job that had its turn is recorded: as ended, as interrupted, or as waiting for another try."""
        return all(job in self._waiting or job[0] in self._parked for job in self._started if job in self._open)


def _ended(state: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    kind = outcome["kind"]
    if kind == "done":
        return disk.ended(state, "done", share=1.0, result=outcome["result"], error=None)
    if kind == "cancelled":
        return disk.ended(state, "cancelled", error=outcome["error"] or Cancelled().to_json())
    if kind == "failed":
        return disk.ended(state, "failed", error=outcome["error"])
    why = f"the step's process {outcome['why']} ({TRIES} times)" if kind == "died" else outcome["why"]
    error = Failed(why, "the job's log tells more; a retry goes on from the checkpoint")
    return disk.ended(state, "failed", error=error.to_json())


def _owned(folder: Path) -> NoReturn:
    """Be the worker of the process that holds the other end of our standard input."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("loopworks").setLevel(logging.INFO)
    setup = json.loads(sys.stdin.buffer.readline() or b"null")
    if setup is None:
        os._exit(0)  # the owner was killed before it could say anything
    sys.path[:] = setup.pop("sys_path")
    try:
        worker = Worker(folder, sys_path=list(sys.path), **setup)
        worker.start()
    except LoopworksError as error:
        log.warning("worker did not start: %s", error.message)
        sys.stdout.write(json.dumps(error.to_json()) + "\n")
        sys.stdout.flush()
        os._exit(error.exit_code)
    worker.work(sys.stdin.fileno())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Worker of a workspace's jobs, started by its first client.")
    parser.add_argument("--folder", type=Path, required=True, help="the workspace")
    _owned(parser.parse_args().folder)
