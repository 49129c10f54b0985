"""A thread of which each process has one."""

from __future__ import annotations

import threading
from abc import ABC
from abc import abstractmethod


class OneThread(ABC):
    """One thread for each process, started when there is something to do, and again where it ended.

    :param name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.reset()

    def reset(self) -> None:
        """Forget the thread and its lock: after a fork they are the parent's."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_starting = False

    @abstractmethod
    def _run(self) -> None:
        """What the thread does. One that ends forgets itself, under the lock."""

    def _is_to_start(self) -> bool:
        """Whether whoever asks, under the lock, is to :meth:`_start` it, without the lock.

        Under gevent who starts a thread lets others go on first, and a lock that was made before
        gevent came (as by ``gunicorn --preload``) would have them stop the process.
        """
        if self._is_starting or (self._thread and self._thread.is_alive()):
            return False
        self._is_starting = True
        return True

    def _start(self) -> None:
        try:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        finally:
            self._is_starting = False
