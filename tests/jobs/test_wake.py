"""A program that submits without following, such as a server, still gets its jobs done."""

from pathlib import Path

from tests.jobs.conftest import STEPS, until

from loopworks.jobs import Jobs


def test_waking_starts_a_worker_only_where_a_job_waits(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as jobs:
        assert jobs.wake() is False
        job = jobs.submit("test-add", {"left": 20, "right": 22})
        assert jobs.wake() is True
        assert jobs.wake() is False  # it works on it already
        until(lambda: jobs.get(job).is_ended, "the job to end without anybody following it")
        assert jobs.get(job).result == {"sum": 42}
