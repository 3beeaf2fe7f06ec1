"""MQTT, by paho: one connection that is ours to keep, so that all sources wait and come back in the same way."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from loopworks.core.errors import Denied, Missing, Unreachable
from loopworks.infer.live.definition import hidden

KEEP_S = 30
"""How often the broker and we tell each other that we are there."""


class Connection:
    """A connection to a broker, open within a ``with`` block."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """``mqtt://USER:PASSWORD@HOST:PORT``, or mqtts; nothing is opened yet."""
        self._url, self._timeout_s = url, timeout_s
        self._client: Any = None
        self._code: Any = None
        self._came: deque[tuple[str, bytes]] = deque()

    def __enter__(self) -> Self:
        """Connect.

        Raises: Missing: paho-mqtt is not installed. Unreachable: no broker. Denied: it does not let us in.
        """
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise Missing("paho-mqtt", "live", "MQTT") from None
        parts = urlsplit(self._url)
        client: Any = paho.Client(CallbackAPIVersion.VERSION2)
        client.connect_timeout = self._timeout_s
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set()
        client.on_connect = self._connected
        client.on_message = lambda _client, _data, message: self._came.append((message.topic, bytes(message.payload)))
        try:
            client.connect(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883), KEEP_S)
        except (OSError, ValueError) as error:
            raise Unreachable(f"MQTT broker {hidden(self._url)} must answer; got: {_reason(error)}") from None
        self._client = client
        self._turn(lambda: self._code is not None, "an answer")
        if self._code.is_failure:
            self.__exit__()
            raise Denied(f"MQTT broker {hidden(self._url)} must let us in; got: {self._code}")
        return self

    def __exit__(self, *_: object) -> None:
        """Take leave."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop(0.01)
            self._client = None

    def messages(self, topic: str, qos: int, stopped: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """Topic and payload of what comes, until ``stopped``; ``Unreachable`` once the broker has gone."""
        self._client.subscribe(topic, qos)
        while not stopped():
            while self._came:
                yield self._came.popleft()
            self._loop(0.2)

    def publish(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        """Send, and wait until the broker has it (qos 1 and 2) or it is on its way (0); ``Unreachable`` else."""
        sent = self._client.publish(topic, payload, qos, retain)
        self._turn(lambda: sent.rc != 0 or sent.is_published(), "a receipt")
        if sent.rc:
            raise Unreachable(f"MQTT broker {hidden(self._url)} must take a message; got code {sent.rc}")

    def rest(self) -> None:
        """Keep the connection alive while nothing is sent."""
        self._loop(0.01)

    def _connected(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._code = code

    def _turn(self, is_there: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self._timeout_s
        while not is_there():
            if time.monotonic() > end:
                raise Unreachable(
                    f"MQTT broker {hidden(self._url)} must send {what}; got none in {self._timeout_s:g} s"
                )
            self._loop(0.05)

    def _loop(self, timeout_s: float) -> None:
        if code := self._client.loop(timeout_s):
            raise Unreachable(f"MQTT broker {hidden(self._url)} must stay; the connection ended (code {int(code)})")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
