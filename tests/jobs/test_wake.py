"""A program that submits without following, such as a server, still gets its jobs done."""

from pathlib import Path

from tests.jobs.conftest import STEPS, until

from loopworks.jobs import Jobs


def test_waking_takes_up_what_a_command_that_has_ended_left(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as server:
        assert server.wake() is False  # nothing waits
        with Jobs(folder, preload=STEPS, warm=()) as command:
            job = command.submit("test-add", {"left": 20, "right": 22})
        until(lambda: server.wake() or server.get(job).is_ended, "a worker, or the end of the job")
        until(lambda: server.get(job).is_ended, "the job to end without anybody following it")
        assert (server.get(job).result or {})["sum"] == 42
        until(lambda: not server.wake(), "nothing to be left to do")
