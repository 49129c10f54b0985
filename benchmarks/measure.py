"""Measuring side by side: every round has each contender once, so that what slows the machine down
slows all of them down."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from collections.abc import Mapping
from statistics import median
from statistics import quantiles
from typing import TypedDict


class Result(TypedDict):
    """Of one contender, in milliseconds."""

    median: float
    lower: float
    """A quarter of the rounds took less."""
    upper: float
    """A quarter of the rounds took more."""


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, repeat: int = 1
) -> dict[str, Result]:
    """Time each action once a round, after a round that does not count.

    :param repeat: how often it is done in a row, where once is too quick to measure.
    """
    # Otherwise each contender's garbage collections walk over the modules of all the others.
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in actions}
    names = list(actions)
    for number in range(rounds + 1):
        # Each begins a round as often as the others.
        start = number % len(names)
        for name in names[start:] + names[:start]:
            action = actions[name]
            started = time.perf_counter()
            for _ in range(repeat):
                action()
            taken = (time.perf_counter() - started) * 1000 / repeat
            if number:
                times[name].append(taken)
    gc.unfreeze()
    return {name: summary(taken) for name, taken in times.items()}


def summary(taken: list[float]) -> Result:
    lower, middle, upper = quantiles(taken, n=4) if len(taken) > 1 else [median(taken)] * 3
    return {"median": middle, "lower": lower, "upper": upper}
