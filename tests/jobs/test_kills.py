"""Kills that really happen: of the child, the fork server, the worker and the client, at moments that hurt."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.jobs.conftest import STEPS, processes_of, until
from tests.jobs.test_jobs import held, is_dead, scratch

from loopworks.core.errors import Busy, Failed, LoopworksError
from loopworks.jobs import Job, Jobs, lock
from loopworks.jobs.forks import Forks
from loopworks.jobs.worker import main

ROOT = Path(__file__).parents[2]
UNTIL = 8
SUM = sum(n * n for n in range(UNTIL))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> str:
    """URL of the jobs' database: SQLite in the workspace, and a real PostgreSQL."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def client(folder: Path, database: str) -> Iterator[Jobs]:
    """A client on either database."""
    with Jobs(folder, database=database, preload=STEPS, warm=()) as jobs:
        yield jobs


def counting(jobs: Jobs, folder: Path, at: int) -> str:
    """A count that waits after ``at`` steps, with their checkpoint on disk."""
    job_id = jobs.submit("test-count", {"until": UNTIL, "gate": at})
    until(lambda: jobs.get(job_id).text == f"at {at}", f"the count to be at {at}")
    return job_id


def pids(folder: Path, job_id: str) -> list[int]:
    """Processes that took part in a count, in order."""
    return [int(line) for line in (scratch(folder, job_id) / "pids").read_text().split()]


def worker_of(folder: Path) -> psutil.Process:
    """The workspace's worker."""
    pid = lock.holder(folder / "jobs" / "worker.lock")
    assert pid is not None
    return psutil.Process(pid)


def is_continued(job: Job, jobs: Jobs, *, attempts: int) -> None:
    """The job ended as an undisturbed one would have, though it was started more than once."""
    assert (job.status, job.result, job.attempts) == ("done", {"sum": SUM}, attempts)
    assert jobs.metrics(job.id)["value"] == [(n, float(n * n)) for n in range(UNTIL)]


def test_a_killed_child_continues_from_its_checkpoint(jobs: Jobs, folder: Path) -> None:
    job_id = counting(jobs, folder, 3)
    os.kill(pids(folder, job_id)[0], signal.SIGKILL)
    until(lambda: len(pids(folder, job_id)) == 2, "another child")
    (scratch(folder, job_id) / "go").touch()
    is_continued(jobs.follow(job_id), jobs, attempts=2)
    assert any("was killed by signal 9 (SIGKILL), perhaps out of memory" in line for line in jobs.log(job_id))


def test_a_killed_worker_is_replaced_and_the_job_continues(client: Jobs, folder: Path, database: str) -> None:
    job_id = counting(client, folder, 3)
    worker, child = worker_of(folder), pids(folder, job_id)[0]
    worker.kill()
    until(lambda: is_dead(child), "the child of the killed worker to die", 2.0)
    until(lambda: client.get(job_id).status == "queued", "the job to show as waiting")
    (scratch(folder, job_id) / "go").touch()
    with Jobs(folder, database=database, preload=STEPS, warm=()) as second:
        is_continued(second.follow(job_id), second, attempts=2)
        assert worker_of(folder).pid != worker.pid


def test_a_killed_client_takes_its_worker_along_and_the_next_client_continues(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "from pathlib import Path\n"
        "from loopworks.jobs import Jobs\n"
        f"jobs = Jobs(Path({str(folder)!r}), preload={STEPS!r}, warm=())\n"
        f"job = jobs.submit('test-count', {{'until': {UNTIL}, 'gate': 3}}, key='count')\n"
        "print(job, flush=True)\n"
        "jobs.follow(job)\n"
    )
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    with subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        job_id = first.stdout.readline().strip()
        with Jobs(folder, preload=STEPS, warm=()) as second:
            until(lambda: second.get(job_id).text == "at 3", "the count to be at 3")
            first.kill()
            until(lambda: not processes_of(folder), "the worker to go with its owner", 5.0)
            assert second.get(job_id).status == "queued"
            (scratch(folder, job_id) / "go").touch()
            assert second.submit("test-count", {"until": UNTIL, "gate": 3}, key="count") == job_id
            is_continued(second.follow(job_id), second, attempts=2)


def test_closing_the_client_interrupts_the_job_for_the_next_one(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as first:
        job_id = counting(first, folder, 5)
    assert not processes_of(folder)
    assert first.get(job_id).text == "interrupted; continues when a worker runs"
    (scratch(folder, job_id) / "go").touch()
    with Jobs(folder, preload=STEPS, warm=()) as second:
        is_continued(second.follow(job_id), second, attempts=2)


def test_four_clients_submit_at_once_and_every_job_runs_once(folder: Path, tmp_path: Path, database: str) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from loopworks.jobs import Jobs\n"
        f"with Jobs(Path({str(folder)!r}), database={database!r}, preload={STEPS!r}, warm=()) as jobs:\n"
        "    mine = [jobs.submit('test-add', {'left': int(sys.argv[1]), 'right': n}) for n in range(5)]\n"
        "    shared = jobs.submit('test-add', {'left': 0, 'right': 0}, key='shared')\n"
        "    print(json.dumps([shared, [jobs.follow(job).to_json() for job in mine]]), flush=True)\n"
        "    sys.stdin.read()\n"  # stays, so that its worker may serve the others
    )
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    clients = [
        subprocess.Popen(
            [sys.executable, str(script), str(number)],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        with ThreadPoolExecutor(4) as pool:
            said = list(pool.map(lambda p: p.stdout.readline() if p.stdout else "", clients))
    finally:
        for process in clients:
            process.communicate(timeout=20)
    answers = [json.loads(line) for line in said]
    assert len({shared for shared, _ in answers}) == 1
    for number, (_, found) in enumerate(answers):
        assert [job["result"]["sum"] for job in found] == [number + n for n in range(5)]
        assert {job["attempts"] for job in found} == {1}


def test_a_step_that_dies_every_time_fails_with_the_reason(jobs: Jobs) -> None:
    with pytest.raises(Failed, match=r"killed by signal 9 \(SIGKILL\), perhaps out of memory \(3 times\)"):
        jobs.run("test-die", {"times": 9})
    assert jobs.list()[0].attempts == 3
    assert jobs.run("test-die", {"times": 2, "signal": signal.SIGSEGV}) == {"starts": 3}


def test_a_killed_fork_server_is_started_again(jobs: Jobs, folder: Path) -> None:
    job_id = counting(jobs, folder, 2)
    (server,) = worker_of(folder).children()
    server.kill()
    until(lambda: len(pids(folder, job_id)) == 2, "a child of a new fork server")
    (scratch(folder, job_id) / "go").touch()
    is_continued(jobs.follow(job_id), jobs, attempts=2)


def test_everything_killed_at_once_still_continues(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as first:
        job_id = counting(first, folder, 4)
        for process in processes_of(folder):
            process.kill()
    (scratch(folder, job_id) / "go").touch()
    with Jobs(folder, preload=STEPS, warm=()) as second:
        is_continued(second.follow(job_id), second, attempts=2)


def test_an_interrupted_job_goes_before_those_that_waited(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as first:
        running = counting(first, folder, 2)
        waiting = first.submit("test-first-line", {})
        worker_of(folder).kill()
        (scratch(folder, running) / "go").touch()
        earlier, later = first.follow(running), first.follow(waiting)
        assert earlier.ended_at is not None
        assert later.started_at is not None
        assert earlier.ended_at <= later.started_at


def test_a_worker_that_keeps_dying_is_an_error_and_not_a_hang(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as jobs:
        job_id, _ = held(jobs, folder)
        halt = threading.Event()

        def slay() -> None:
            while not halt.wait(0.05):
                for process in processes_of(folder):
                    process.kill()

        killer = threading.Thread(target=slay)
        killer.start()
        try:
            with pytest.raises(LoopworksError, match="must stay alive"):
                jobs.follow(job_id)
        finally:
            halt.set()
            killer.join()


def test_two_workers_race_for_the_lock_and_one_wins(jobs: Jobs, folder: Path) -> None:
    held(jobs, folder)
    with pytest.raises(Busy, match=f"got another one, process {worker_of(folder).pid}"):
        main(folder, preload=STEPS, warm=())


def test_a_worker_in_the_foreground_serves_clients_until_sigterm(folder: Path) -> None:
    code = f"from pathlib import Path; from loopworks.jobs.worker import main; main(Path({str(folder)!r}), "
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    worker = subprocess.Popen(
        [sys.executable, "-c", code + f"preload={STEPS!r}, warm=())"], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        until(lambda: lock.is_held(folder / "jobs" / "worker.lock"), "the worker to have the lock")
        with Jobs(folder, preload=STEPS, warm=()) as jobs:
            job_id = counting(jobs, folder, 3)
            assert worker_of(folder).pid == worker.pid
        assert worker.poll() is None  # it is not the client's to end
        child = pids(folder, job_id)[0]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(5) == 0
        assert is_dead(child)
    finally:
        worker.kill()  # where an assertion failed, nobody else ends it
        worker.wait()
    assert Jobs(folder).get(job_id).status == "queued"


def test_a_lock_file_of_a_dead_process_stops_nobody(folder: Path) -> None:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "worker.lock").write_text(f"{os.getpid()}\n")  # a process id that somebody else has now
    with Jobs(folder, preload=STEPS, warm=()) as jobs:
        assert jobs.run("test-add", {"left": 1, "right": 1})["sum"] == 2


@pytest.mark.postgres
def test_two_folders_share_a_postgresql_without_touching_each_others_jobs(folder: Path, postgres_url: str) -> None:
    folders = [folder / "a", folder / "b"]
    for one in folders:
        one.mkdir()
    with (
        Jobs(folders[0], database=postgres_url, preload=STEPS, warm=()) as left,
        Jobs(folders[1], database=postgres_url, preload=STEPS, warm=()) as right,
    ):
        first, _ = held(left, folders[0])
        second, _ = held(right, folders[1])  # it does not wait for the other folder's job
        worker_of(folders[0]).kill()
        (scratch(folders[1], second) / "let-go").touch()
        assert right.follow(second).attempts == 1
        (scratch(folders[0], first) / "let-go").touch()
        assert left.follow(first).attempts == 2


def test_an_unreachable_database_is_one_clear_error_without_the_password(folder: Path) -> None:
    url = "postgresql://me:secret@127.0.0.1:9/jobs"
    with Jobs(folder, database=url, preload=STEPS, warm=()) as jobs:
        with pytest.raises(LoopworksError, match="jobs' database must answer") as caught:
            jobs.run("test-add", {"left": 1, "right": 1})
        assert caught.value.code == "unreachable"
        assert "secret" not in str(caught.value.to_json())
    assert "secret" not in (folder / "jobs" / "worker.log").read_text()


@pytest.mark.slow
@pytest.mark.train
def test_torch_works_in_a_child_that_was_forked_after_its_import(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=("numpy", "torch")) as jobs:
        assert jobs.run("test-torch", {})["grad"] == 512.0
        until(lambda: jobs.run("test-torch", {}) == {"was_there": True, "grad": 512.0}, "the warm fork server", 60.0)


def test_the_fork_server_has_one_python_thread_when_it_forks() -> None:
    forks = Forks(sys_path=[str(ROOT), *sys.path], preload=["tests.jobs.steps"], warm=["numpy", "sqlalchemy"])
    forks.start()
    try:
        until(forks.is_warm, "the warm server", 30.0)
    finally:
        forks.close()
