"""One worker per workspace: a lock that the kernel frees when its holder ends, however it ends."""

import errno
import fcntl
import os
import time
from pathlib import Path


def take(path: Path, wait_s: float = 0.0) -> int | None:
    """Hold the lock at ``path``; the descriptor to close later, or ``None`` where another process holds it.

    The file's text is the holder's process id, for people; nothing trusts it, so a reused id does no harm.

    Args:
        path: a file that is created where it is missing and never removed (removing it would let two in).
        wait_s: how long to try; a probe by ``is_held`` takes the lock for some microseconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                os.close(descriptor)
                raise
        if time.monotonic() >= deadline:
            os.close(descriptor)
            return None
        time.sleep(0.01)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:  # a full disk: the text is for people only, the lock holds without it
        if error.errno != errno.ENOSPC:
            os.close(descriptor)
            raise
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock; works in a read-only folder too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return True
    finally:
        os.close(descriptor)
    return False


def holder(path: Path) -> int | None:
    """Process id that the last holder wrote, or ``None``."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None
