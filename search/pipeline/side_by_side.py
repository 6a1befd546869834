"""Layers do not depend on each other: several are searched at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item, Callable[[], None]], Result],
    items: Sequence[Item],
    n_threads: int,
    n_each: int = 1,
) -> list[Result]:
    """Return the function of every item, of as many at the same time as there are threads.

    Each runs on one thread whatever their number, so that what it returns does not depend on it,
    unless it is given more.
    Python's lock is free while matrices are decomposed, which is where the time goes.

    Args:
        function: Of an item and of what it calls now and then, which ends it by an exception when
            another one has failed or the user wants no more.
        items: Begun in this order.
        n_threads: At least 1.
        n_each: Threads that torch's operations take in each.

    Returns:
        In the order of the items.
    """
    is_over = Event()
    failures: list[BaseException] = []

    def go_on() -> None:
        if is_over.is_set():
            raise CancelledError

    def run(item: Item) -> Result:
        go_on()
        try:
            return function(item, go_on)
        except BaseException as error:
            failures.append(error)  # the first is what the others are ended for
            is_over.set()
            raise

    with threads(n_each):
        if n_threads == 1 or len(items) == 1:
            return [run(item) for item in items]
        pool = ThreadPoolExecutor(n_threads)
        try:
            futures = [pool.submit(run, item) for item in items]
            wait(futures, return_when=FIRST_EXCEPTION)
            if failures:
                raise failures[0]
            return [future.result() for future in futures]
        finally:
            is_over.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let every operation of torch take a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
