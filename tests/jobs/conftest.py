"""Workspaces whose workers and children are gone when the test ends, and a PostgreSQL server where one is installed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.conftest import Postgres

from loopworks.jobs import Jobs

STEPS = ("tests.jobs.steps",)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Workers of the workspace and everything under them, also orphans that still have its files open."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            line = process.cmdline()
            if "loopworks.jobs.worker" in line and str(folder) in line:
                found |= {p.pid: p for p in [process, *process.children(recursive=True)]}
            elif any(name.startswith("loopworks.jobs.forkserver") for name in line) and any(
                f.path.startswith(str(folder)) for f in process.open_files()
            ):
                found[process.pid] = process
    return list(found.values())


def until(is_true: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    """Wait for a fact; fail, naming it, where it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.01)


def ended(workspace: Path) -> None:
    """Fail where a process of the workspace is left behind, and end it."""
    try:
        until(lambda: not processes_of(workspace), "all processes of the workspace to end", 6.0)
    except AssertionError:
        left = processes_of(workspace)
        names = [" ".join(process.cmdline()) for process in left]
        for process in left:
            process.kill()
        pytest.fail(f"processes left behind: {names}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A workspace folder; fails the test that leaves a process behind."""
    workspace = tmp_path / "ws"
    workspace.mkdir()
    yield workspace
    ended(workspace)


@pytest.fixture
def jobs(folder: Path) -> Iterator[Jobs]:
    """A client with the test steps, without the slow imports ahead."""
    with Jobs(folder, preload=STEPS, warm=()) as client:
        yield client


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace of several tests."""
    workspace = tmp_path_factory.mktemp("shared")
    yield workspace
    ended(workspace)


@pytest.fixture(scope="module")
def shared(shared_folder: Path) -> Iterator[Jobs]:
    """A client whose worker several tests use, because starting one takes a second or two."""
    with Jobs(shared_folder, preload=STEPS, warm=()) as client:
        yield client


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """URL of an empty database for queues."""
    postgres.run("CREATE DATABASE jobs")
    yield postgres.url("jobs")
    postgres.run("DROP DATABASE jobs WITH (FORCE)")
