"""Measuring side by side: every round has each contender once, so that what slows the machine down
slows all of them down."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from collections.abc import Mapping
from statistics import median
from statistics import quantiles
from typing import TypedDict
from typing import TypeVar

Name = TypeVar("Name")


class Result(TypedDict):
    """Of one contender, in milliseconds."""

    median: float
    lower: float
    """A quarter of the rounds took less."""
    upper: float
    """A quarter of the rounds took more."""
    rounds: list[float]


def interleaved(
    actions: Mapping[Name, Callable[[], object]],
    rounds: int,
    repeat: Callable[[Name], int] = lambda name: 1,
) -> dict[Name, Result]:
    """Time each action once a round, after a round that does not count.

    :param repeat: how often each is done in a row, where once is too quick to measure.
    """
    # Otherwise each contender's garbage collections walk over the modules of all the others.
    gc.collect()
    gc.freeze()
    times: dict[Name, list[float]] = {name: [] for name in actions}
    names = list(actions)
    order = random.Random(0)
    for number in range(rounds + 1):
        # What ran before leaves its traces in memory and caches: nobody always follows the same.
        order.shuffle(names)
        for name in names:
            action, times_in_a_row = actions[name], repeat(name)
            started = time.perf_counter()
            for _ in range(times_in_a_row):
                action()
            taken = (time.perf_counter() - started) * 1000 / times_in_a_row
            if number:
                times[name].append(taken)
    gc.unfreeze()
    return {name: summary(taken) for name, taken in times.items()}


def summary(taken: list[float]) -> Result:
    lower, middle, upper = quantiles(taken, n=4) if len(taken) > 1 else [median(taken)] * 3
    return {"median": middle, "lower": lower, "upper": upper, "rounds": taken}


def ratio(one: Result, other: Result) -> float:
    """The median of the ratios of each round, in which both met the same machine."""
    pairs = zip(one["rounds"], other["rounds"], strict=True)
    return median(first / second for first, second in pairs)
