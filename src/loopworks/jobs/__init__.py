"""Durable jobs: a step that was submitted runs to its end, whoever is killed in between."""

from loopworks.jobs.client import Jobs, Progress
from loopworks.jobs.job import Job

__all__ = ["Job", "Jobs", "Progress"]
