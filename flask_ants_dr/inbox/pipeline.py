"""One batch after the other: a worker claims and reads the next while the last is marked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from .delivery import Batch
from .delivery import Claim

_Dispatch = Callable[[Claim, Callable[[], bool], Callable[[], None], Callable[[Batch], None]], None]


class Pipeline:
    """Takes batches of an inbox for one thread. A context manager, at whose end nothing is left to
    be marked.

    No message of the next batch is begun before the last one is marked: what a process that is
    killed makes heard again is no more than if one waited for the other.

    :param claim: claims what is due.
    :param dispatch: dispatches it.
    """

    def __init__(self, claim: Callable[[], Claim], dispatch: _Dispatch) -> None:
        self._claim = claim
        self._dispatch = dispatch
        self._executor = ThreadPoolExecutor(1, "ants-dr-mark")
        self._marks: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown()

    def take(self, stop: Callable[[], bool]) -> int:
        """Claim messages that are due, dispatch them, and return how many there were.

        :param stop: asked before each message; those that were not begun are given back.
        :raises InboxUnavailable: the database failed. What was dispatched is marked, and what was
            claimed is given back, as soon as it works again.
        """
        claim = self._claim()
        self._dispatch(claim, stop, self._wait, self._close)
        return len(claim.rows)

    def _wait(self) -> None:
        marks, self._marks = self._marks, None
        if marks is not None:
            marks.result()

    def _close(self, batch: Batch) -> None:
        self._marks = self._executor.submit(batch.close)
