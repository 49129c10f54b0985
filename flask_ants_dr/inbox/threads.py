"""A thread of which each process has one."""

from __future__ import annotations

import threading
from abc import ABC
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager


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

    @contextmanager
    def _needed(self) -> Iterator[None]:
        """The lock, for what gives the thread something to do; after it the thread is started,
        unless it runs.

        Not under the lock: under gevent who starts a thread lets others go on first, and a lock
        that was made before gevent came (as by ``gunicorn --preload``) would have them stop the
        process.
        """
        with self._changed:
            yield
            if self._is_starting or (self._thread and self._thread.is_alive()):
                return
            self._is_starting = True
        try:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        finally:
            self._is_starting = False
