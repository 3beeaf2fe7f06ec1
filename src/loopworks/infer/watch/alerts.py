"""Telling others: webhooks with a signature, a deadline and retries, in a thread of their own."""

import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import queue
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loopworks.infer.watch.rules import Alert

log = logging.getLogger(__name__)
SIGNATURE, MOMENT = "X-Loopworks-Signature", "X-Loopworks-Timestamp"
MOST_WAITING = 256
FIRST_PAUSE_S = 1.0
Told = Callable[[str, Mapping[str, Any]], None]
"""Takes a deployment and what became of an alert."""


def sign(secret: str, moment: str, body: bytes) -> str:
    """The signature of an alert: ``sha256=`` and the HMAC of ``MOMENT.BODY``, so that none can be replayed later."""
    return "sha256=" + hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class _Waiting:
    alert: Alert
    deployment: str
    body: bytes


class Alerts:
    """Sends alerts one after the other; closing gives up what waits."""

    def __init__(self, secret: str, told: Told, *, first_pause_s: float | None = None) -> None:
        """Sign with ``secret`` (empty: not at all) and say by ``told`` what became of each."""
        self._secret, self._told = secret, told
        self._pause_s = FIRST_PAUSE_S if first_pause_s is None else first_pause_s
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MOST_WAITING)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, alert: Alert, deployment: str, event: Mapping[str, Any]) -> None:
        """Queue an alert; where too many wait, it is given up and that is told."""
        body = json.dumps(event, ensure_ascii=False, default=str).encode()
        try:
            self._queue.put_nowait(_Waiting(alert, deployment, body))
        except queue.Full:
            self._say(_Waiting(alert, deployment, body), 0, "too many alerts wait")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="watch-alerts", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until all that was queued has been delivered or given up."""
        self._queue.join()

    def close(self) -> None:
        """Stop after the try that is under way."""
        self._stopping.set()
        if self._thread is not None:
            with contextlib.suppress(queue.Full):  # the thread looks at the flag after each alert anyway
                self._queue.put_nowait(None)
            self._thread.join()

    def _work(self) -> None:
        while (one := self._queue.get()) is not None and not self._stopping.is_set():
            try:
                self._deliver(one)
            finally:
                self._queue.task_done()

    def _deliver(self, one: _Waiting) -> None:
        pause, error = self._pause_s, ""
        for tried in range(1, one.alert.tries + 1):
            error = self._post(one)
            if not error:
                self._say(one, tried, "")
                return
            if tried == one.alert.tries or self._stopping.wait(pause):
                break
            pause *= 2
        self._say(one, tried, error)

    def _post(self, one: _Waiting) -> str:
        """Why it did not arrive; empty where it did. Redirects are not followed."""
        parts = urlsplit(one.alert.url)
        moment = str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "loopworks", MOMENT: moment}
        if self._secret:
            headers[SIGNATURE] = sign(self._secret, moment, one.body)
        host, timeout = parts.hostname or "", one.alert.timeout_s
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                    host, parts.port, timeout=timeout, context=context
                )
            else:
                connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
            try:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.request("POST", path, one.body, headers)
                status = connection.getresponse().status
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return str(error) or type(error).__name__
        return "" if 200 <= status < 300 else f"status {status}"

    def _say(self, one: _Waiting, tries: int, error: str) -> None:
        host = urlsplit(one.alert.url).hostname  # not the whole URL: it may hold a secret
        if error:
            log.warning("alert failed deployment=%s host=%s tries=%d error=%s", one.deployment, host, tries, error)
        self._told(one.deployment, {"host": host, "is_delivered": not error, "tries": tries, "error": error})
