"""What a client sees: results, errors, progress, keys, cancelling, and bad input."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.jobs.conftest import STEPS, processes_of, until

from loopworks.core.errors import Cancelled, Conflict, Damaged, Denied, Failed, Invalid, NoSpace, NotFound
from loopworks.jobs import Job, Jobs
from loopworks.jobs import folder as disk


def scratch(folder: Path, job_id: str) -> Path:
    return folder / "jobs" / job_id / "scratch"


def held(jobs: Jobs, folder: Path, *, deaf: bool = False) -> tuple[str, int]:
    """A job that runs until it is let go, and the process id of its child."""
    job_id = jobs.submit("test-hold", {"deaf": deaf})
    pid = scratch(folder, job_id) / "pid"
    until(lambda: pid.exists() and pid.read_text(), "the child to run")
    until(lambda: jobs.get(job_id).text == "holding", "the first progress")
    return job_id, int(pid.read_text())


def is_dead(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_job_gives_its_result_progress_log_and_metrics(shared: Jobs, shared_folder: Path) -> None:
    seen: list[Job] = []
    job_id = shared.submit("job.test-add", {"left": 2, "right": 3, "seed": 11}, title="sum")
    job = shared.follow(job_id, seen.append)
    assert job.status == "done"
    assert job.result == {"sum": 5, "location": str(shared_folder), "seed": 11}
    assert (job.title, job.step, job.attempts, job.share, job.text) == ("sum", "test-add", 1, 1.0, "half")
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.created_at <= job.started_at <= job.ended_at
    assert seen[0].status in ("queued", "running")
    assert seen[-1] == job
    log = shared.log(job_id)
    assert any(line.endswith(" adding 2 3") for line in log)
    assert any(line.endswith(" a warning") for line in log)
    assert shared.metrics(job_id) == {"loss": [(0, 1.0), (1, 0.5), (2, 1 / 3)]}
    assert json.loads(json.dumps(job.to_json()))["params"] == {"left": 2, "right": 3, "seed": 11}


def test_errors_come_back_as_the_class_they_had(shared: Jobs) -> None:
    with pytest.raises(Invalid, match="epochs must be at least 1; got 0") as caught:
        shared.run("test-refuse", {"epochs": 0})
    assert caught.value.hint == "give more"
    failed = shared.list(status="failed")
    assert [job.attempts for job in failed] == [1]
    assert failed[0].error == caught.value.to_json()


def test_an_unexpected_error_is_one_sentence_and_its_traceback_is_in_the_log_alone(shared: Jobs) -> None:
    with pytest.raises(Failed, match="ZeroDivisionError: nothing to divide by"):
        shared.run("test-break", {})
    job = shared.list()[0]
    assert job.attempts == 1
    assert "Traceback" not in json.dumps(job.to_json())
    assert any("Traceback" in line for line in shared.log(job.id))


def test_a_result_that_is_not_json_fails_the_job(shared: Jobs) -> None:
    with pytest.raises(Failed, match=r"test-odd-result.*result.path must be plain JSON"):
        shared.run("test-odd-result", {})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"folder": Path("x")}, "params.folder must be plain JSON"),
        ({"rate": float("nan")}, "params.rate must be a finite number"),
        ({"names": [{1: "one"}]}, r"a key of params.names\[0\] must be text"),
        ({"text": "\ud800"}, "params.text must be text that UTF-8 can hold"),
        ([1, 2], "params must be a JSON object"),
    ],
)
def test_parameters_that_are_not_plain_json_are_refused_before_anything_is_written(
    folder: Path, params: dict[str, object], message: str
) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as jobs, pytest.raises(Invalid, match=message):
        jobs.submit("test-add", params)
    assert not (folder / "jobs").exists()


def test_an_unknown_step_is_refused_with_the_known_ones(shared: Jobs) -> None:
    with pytest.raises(NotFound, match="job.nope") as caught:
        shared.submit("nope", {})
    assert "job.test-add" in caught.value.hint


def test_a_missing_workspace_and_bad_settings_are_refused(tmp_path: Path) -> None:
    with Jobs(tmp_path / "nowhere", preload=STEPS) as jobs, pytest.raises(NotFound, match="nowhere"):
        jobs.submit("test-add", {})
    with pytest.raises(Invalid, match="concurrency"):
        Jobs(tmp_path, concurrency=0)
    with pytest.raises(Invalid, match="postgresql://") as caught:
        Jobs(tmp_path, database="mysql://me:secret@host/db")
    assert "secret" not in caught.value.message


def test_jobs_are_found_by_the_start_of_their_id(jobs: Jobs, folder: Path) -> None:
    for number, job_id in enumerate(("aa1111111111", "aa2222222222", "bb1111111111")):
        jobs._folder.prepare()
        jobs._folder.create({**_spec(job_id), "created_at": f"2026-01-0{number + 1}T00:00:00+00:00"})
    assert jobs.get("b").id == "bb1111111111"
    assert jobs.get("aa1").id == "aa1111111111"
    with pytest.raises(Invalid, match="start of one job's id"):
        jobs.get("aa")
    with pytest.raises(NotFound, match="job 'cc' does not exist"):
        jobs.get("cc")
    with pytest.raises(NotFound):
        jobs.get("")
    with pytest.raises(NotFound):
        jobs.get("../../etc")
    assert [job.id for job in jobs.list(limit=2)] == ["bb1111111111", "aa2222222222"]
    with pytest.raises(Invalid, match="status"):
        jobs.list(status="odd")


def _spec(job_id: str) -> dict[str, object]:
    return {"id": job_id, "step": "test-add", "title": "", "params": {}, "key": None, "created_at": disk.now()}


def test_the_same_key_is_the_same_job_until_it_fails(shared: Jobs) -> None:
    first = shared.submit("test-add", {"left": 1, "right": 1}, key="round 1")
    assert shared.submit("test-add", {"left": 1, "right": 1}, key="round 1") == first
    assert shared.follow(first).status == "done"
    assert shared.submit("test-add", {"left": 1, "right": 1}, key="round 1") == first
    assert shared.run("test-add", {"left": 1, "right": 1}, key="round 1")["sum"] == 2
    with pytest.raises(Conflict, match="round 1"):
        shared.submit("test-add", {"left": 1, "right": 2}, key="round 1")
    failing = shared.submit("test-break", {}, key="round 2")
    assert shared.follow(failing).status == "failed"
    assert shared.submit("test-break", {}, key="round 2") != failing


def test_cancel_stops_a_running_job_at_once(shared: Jobs, shared_folder: Path) -> None:
    job_id, pid = held(shared, shared_folder)
    start = time.monotonic()
    job = shared.cancel(job_id)
    assert time.monotonic() - start < 2.0
    assert job.status == "cancelled"
    assert is_dead(pid)
    assert shared.cancel(job_id) == job

    def stop(seen: Job) -> None:
        shared.cancel(seen.id)

    with pytest.raises(Cancelled):
        shared.run("test-hold", {}, stop)


def test_cancel_kills_a_step_that_does_not_listen_and_what_it_started(shared: Jobs, shared_folder: Path) -> None:
    job_id = shared.submit("test-spawn", {})
    pid = scratch(shared_folder, job_id) / "pid"
    until(lambda: pid.exists() and pid.read_text(), "the child to run")
    grandchild = int((scratch(shared_folder, job_id) / "grandchild").read_text())
    start = time.monotonic()
    assert shared.cancel(job_id).status == "cancelled"
    assert time.monotonic() - start < 2.0
    assert is_dead(int(pid.read_text()))
    until(lambda: is_dead(grandchild), "the step's own child to be dead", 1.0)


def test_cancel_takes_a_waiting_job_out_of_the_queue(shared: Jobs, shared_folder: Path) -> None:
    first, _ = held(shared, shared_folder)
    second, third = shared.submit("test-hold", {}), shared.submit("test-add", {"left": 1, "right": 1})
    start = time.monotonic()
    assert shared.cancel(second).status == "cancelled"
    assert time.monotonic() - start < 0.5
    assert shared.get(second).attempts == 0
    assert shared.get(third).status == "queued"
    (scratch(shared_folder, first) / "let-go").touch()
    assert shared.follow(first).status == "done"
    assert shared.follow(third).status == "done"


def test_cancel_works_where_no_worker_runs(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=()) as jobs:
        job_id, _ = held(jobs, folder)
    assert not processes_of(folder)
    with Jobs(folder, preload=STEPS, warm=()) as jobs:
        assert jobs.get(job_id).status == "queued"
        assert jobs.cancel(job_id).status == "cancelled"
        assert not processes_of(folder)
        assert jobs.run("test-add", {"left": 1, "right": 1})["sum"] == 2
        assert jobs.get(job_id).status == "cancelled"


def test_one_job_runs_at_a_time_in_the_order_of_submission(shared: Jobs, shared_folder: Path) -> None:
    first, _ = held(shared, shared_folder)
    rest = [shared.submit("test-first-line", {}) for _ in range(3)]
    assert [shared.get(job_id).status for job_id in rest] == ["queued"] * 3
    (scratch(shared_folder, first) / "let-go").touch()
    times = []
    for job_id in rest:
        result = shared.follow(job_id).result
        assert result is not None
        times.append(result["at"])
    assert times == sorted(times)


def test_two_jobs_run_side_by_side_where_that_is_set(folder: Path) -> None:
    with Jobs(folder, preload=STEPS, warm=(), concurrency=2) as jobs:
        first, _ = held(jobs, folder)
        second, _ = held(jobs, folder)
        third = jobs.submit("test-hold", {})
        assert jobs.get(third).status == "queued"
        for job_id in (first, second, third):
            (scratch(folder, job_id) / "let-go").touch()
            assert jobs.follow(job_id).status == "done"


def test_retry_goes_on_from_the_checkpoint(shared: Jobs, shared_folder: Path) -> None:
    job_id = shared.submit("test-count", {"until": 6, "gate": 3})
    until(lambda: shared.get(job_id).text == "at 3", "three to be counted")
    assert shared.cancel(job_id).status == "cancelled"
    (scratch(shared_folder, job_id) / "go").touch()
    assert shared.retry(job_id).status in ("queued", "running")
    job = shared.follow(job_id)
    assert job.result == {"sum": 0 + 1 + 4 + 9 + 16 + 25}
    assert job.attempts == 2
    assert shared.metrics(job_id)["value"] == [(n, float(n * n)) for n in range(6)]
    with pytest.raises(Conflict, match="got done"):
        shared.retry(job_id)


def test_follow_gives_up_waiting_but_not_the_job(shared: Jobs, shared_folder: Path) -> None:
    job_id, _ = held(shared, shared_folder)
    assert shared.follow(job_id, timeout_s=0.1).status == "running"
    (scratch(shared_folder, job_id) / "let-go").touch()
    assert shared.follow(job_id).status == "done"


def test_a_flood_of_output_and_progress_neither_blocks_nor_is_lost(shared: Jobs) -> None:
    seen: list[Job] = []
    job_id = shared.submit("test-chatter", {"lines": 5000})
    job = shared.follow(job_id, seen.append)
    assert job.text == "line 4999"
    lines = shared.log(job_id)
    assert sum("x" * 200 in line for line in lines) == 5000
    assert lines[-1].endswith("no newline at the end")
    assert len(seen) < 60


def test_jobs_can_be_looked_at_in_a_read_only_folder_without_a_worker(jobs: Jobs, folder: Path) -> None:
    done = jobs.submit("test-add", {"left": 1, "right": 1})
    jobs.follow(done)
    jobs.close()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    reader = Jobs(folder)
    assert reader.get(done).result is not None
    assert [job.id for job in reader.list()] == [done]
    assert reader.log(done)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert not processes_of(folder)


def test_a_full_disk_refuses_a_submit_and_costs_a_running_job_only_log_lines(
    jobs: Jobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs._folder.prepare()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpace, match="must have room"):
            jobs.submit("test-add", {"left": 1, "right": 1})
    assert jobs.list() == []
    job_id, _ = held(jobs, folder)
    log = folder / "jobs" / job_id / "log.txt"
    log.unlink()
    log.symlink_to("/dev/full")  # every write says that the disk is full
    (scratch(folder, job_id) / "let-go").touch()
    assert jobs.follow(job_id).status == "done"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_refuses_a_submit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refused)
    with Jobs(folder, preload=STEPS, warm=()) as jobs, pytest.raises(Denied, match="must be writable to run jobs"):
        jobs.submit("test-add", {"left": 1, "right": 1})


def test_a_damaged_record_is_named_and_the_rest_goes_on(jobs: Jobs, folder: Path) -> None:
    jobs._folder.prepare()
    jobs._folder.create(_spec("aa1111111111"))
    (folder / "jobs" / "aa1111111111" / "state.json").write_text("{ half")
    with pytest.raises(Damaged, match="state.json"):
        jobs.get("aa1")
    assert jobs.run("test-add", {"left": 1, "right": 1})["sum"] == 2
    assert [problem.error for problem in jobs.check()] == ["damaged"]


def test_a_damaged_database_is_one_clear_error(jobs: Jobs, folder: Path) -> None:
    (folder / "jobs").mkdir()
    (folder / "jobs" / "jobs.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(Failed, match=r"jobs/jobs.db must be a database.*not a database"):
        jobs.run("test-add", {"left": 1, "right": 1})
    assert {problem.error for problem in jobs.check()} >= {"failed"}


def test_check_names_waiting_jobs_and_is_silent_when_all_is_well(jobs: Jobs, folder: Path) -> None:
    assert jobs.check() == []
    job_id, _ = held(jobs, folder)
    assert jobs.check() == []
    jobs.close()
    problems = jobs.check()
    assert [(p.error, f"job {job_id} waits and no worker runs" == p.message) for p in problems] == [("busy", True)]


def test_an_unguarded_script_can_run_a_job(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from loopworks.jobs import Jobs\n"
        "print('top')\n"
        f"jobs = Jobs(Path({str(folder)!r}), preload={STEPS!r}, warm=())\n"
        "print(jobs.run('test-add', {'left': 20, 'right': 22})['sum'])\n"
    )
    root = Path(__file__).parents[2]
    paths = [str(root), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("top\n42\n", "", 0)
    assert not processes_of(folder)
