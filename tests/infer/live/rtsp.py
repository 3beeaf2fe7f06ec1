"""A camera that speaks RTSP (RFC 2326) and sends H.264 by RTP (RFC 6184) over TCP or UDP, with real faults."""

import base64
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.infer.live.conftest import Server

PAYLOAD = 1300
"""Bytes of one RTP packet, less than what a network takes."""
REALM = "camera"


def encoded(pictures: Sequence[NDArray[np.uint8]]) -> list[list[bytes]]:
    """The pictures as H.264, each a key frame with its own parameter sets: lists of NAL units."""
    import av

    height, width = pictures[0].shape[:2]
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = Fraction(1, 25)
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "1", "bf": "0"}
    packets = []
    for i, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = i
        packets += codec.encode(frame)
    packets += codec.encode(None)
    units = [re.split(rb"\x00\x00\x00?\x01", bytes(packet)) for packet in packets]
    return [[unit for unit in some if unit] for some in units]


class RtspCamera(Server):
    """Plays its pictures again and again; ``frames`` ends a connection, ``stall`` silences it, after so many."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        *,
        frames: int = 1 << 30,
        stall: int = 1 << 30,
        pause_s: float = 0.02,
        auth: str = "",
        then: Sequence[NDArray[np.uint8]] = (),
        port: int = 0,
    ) -> None:
        """``auth``: Basic or Digest, for user:secret; ``then``: pictures of another size, from the 40th on."""
        self._units = encoded(pictures)
        self._then = encoded(then) if then else []
        self.frames, self.stall, self.pause_s, self.auth = frames, stall, pause_s, auth
        self.connections = self.refused = 0
        self.transports: list[str] = []
        self._ended = threading.Event()
        super().__init__(port)

    @property
    def url(self) -> str:
        return f"rtsp://user:secret@127.0.0.1:{self.port}/street"

    def close(self) -> None:
        self._ended.set()
        super().close()

    def serve(self, client: socket.socket) -> None:
        self.connections += 1
        gone = threading.Event()
        player: threading.Thread | None = None
        sent: socket.socket | None = None
        try:
            for method, url, head in _requests(client):
                lines = [f"CSeq: {head.get('cseq', '0')}"]
                body = ""
                if self.auth and method != "OPTIONS" and not self._lets_in(method, head):
                    self.refused += 1
                    nonce = ', nonce="abc"' if self.auth == "Digest" else ""
                    lines.append(f'WWW-Authenticate: {self.auth} realm="{REALM}"{nonce}')
                    _say(client, "401 Unauthorized", lines, "")
                    continue
                if method == "OPTIONS":
                    lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
                elif method == "DESCRIBE":
                    body = (
                        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=street\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                        "a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
                    )
                    lines += [f"Content-Base: {url}/", "Content-Type: application/sdp"]
                elif method == "SETUP":
                    asked = head["transport"]
                    self.transports.append(asked)
                    if "TCP" in asked:
                        lines.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
                    else:
                        port = int(asked.split("client_port=")[1].split("-")[0])
                        sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        sent.bind(("127.0.0.1", 0))
                        sent.connect(("127.0.0.1", port))
                        own = sent.getsockname()[1]
                        told = f"client_port={port}-{port + 1};server_port={own}-{own + 1}"
                        lines.append(f"Transport: RTP/AVP;unicast;{told}")
                    lines.append("Session: 7;timeout=60")
                elif method == "PLAY":
                    lines.append("Session: 7")
                _say(client, "200 OK", lines, body)
                if method == "PLAY":
                    player = threading.Thread(target=self._play, args=(client, sent, gone), daemon=True)
                    player.start()
                elif method == "TEARDOWN":
                    return
        finally:
            gone.set()
            if player is not None:
                player.join(10)
            if sent is not None:
                sent.close()

    def _lets_in(self, method: str, head: dict[str, str]) -> bool:
        given = head.get("authorization", "")
        if self.auth == "Basic":
            return given == "Basic " + base64.b64encode(b"user:secret").decode()
        facts = dict(re.findall(r'(\w+)="([^"]*)"', given))
        first, second = _md5(f"user:{REALM}:secret"), _md5(f"{method}:{facts.get('uri')}")
        return facts.get("response") == _md5(f"{first}:abc:{second}")

    def _play(self, client: socket.socket, sent: socket.socket | None, gone: threading.Event) -> None:
        sequence = 0
        try:
            for count in range(self.frames):
                if count >= self.stall:
                    gone.wait()
                if gone.is_set() or self._ended.is_set():
                    return
                units = self._then if self._then and count >= 40 else self._units
                for packet in _packets(units[count % len(units)], sequence, count * 3600):
                    sequence += 1
                    if sent is not None:
                        sent.send(packet)
                    else:
                        client.sendall(struct.pack("!BBH", 0x24, 0, len(packet)) + packet)
                time.sleep(self.pause_s)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client has gone


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _say(client: socket.socket, status: str, lines: list[str], body: str) -> None:
    head = [f"RTSP/1.0 {status}", *lines, f"Content-Length: {len(body)}", "", ""]
    client.sendall("\r\n".join(head).encode() + body.encode())


def _requests(client: socket.socket) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Method, URL and headers of what comes; reports of the receiver between them are skipped."""
    data = b""
    while True:
        while data[:1] == b"$" and len(data) >= 4 and len(data) >= 4 + (size := struct.unpack("!H", data[2:4])[0]):
            data = data[4 + size :]
        if data[:1] != b"$" and b"\r\n\r\n" in data:
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            method, url, _ = first.split(" ")
            yield method, url, {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            continue
        if not (more := client.recv(65536)):
            return
        data += more


def _packets(units: list[bytes], sequence: int, clock: int) -> Iterator[bytes]:
    """One picture as RTP: a unit that is too long goes in fragments (FU-A)."""
    parts: list[bytes] = []
    for unit in units:
        if len(unit) <= PAYLOAD:
            parts.append(unit)
            continue
        kind, body = unit[0], unit[1:]
        pieces = [body[at : at + PAYLOAD] for at in range(0, len(body), PAYLOAD)]
        for i, piece in enumerate(pieces):
            edge = (0x80 if i == 0 else 0) | (0x40 if i == len(pieces) - 1 else 0)
            parts.append(bytes([kind & 0x60 | 28, edge | kind & 0x1F]) + piece)
    for i, part in enumerate(parts):
        last = 0x80 if i == len(parts) - 1 else 0
        yield struct.pack("!BBHII", 0x80, 96 | last, (sequence + i) & 0xFFFF, clock & 0xFFFFFFFF, 7) + part
