# SPDX-License-Identifier: Apache-2.0
"""The batches of a trained model, dealt out to several processes, and their results, which all of them get.

Each batch is computed by one process on its own devices, in the shape that it has in a single process: so the results are the
same to the bit, and the main process writes the same files.
"""

import itertools
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.base.errors import Interrupted, UserError
from bert_jax.base.stopping import end_line
from bert_jax.mesh import distributed

EXCHANGED = 8  # results of each process that are exchanged at once
EXCHANGES = itertools.count(1)  # the same in every process, as of `distributed.meet`


@contextmanager
def dealt_out[Item, Result](
    items: Iterable[Item],
    work: Callable[[Iterator[Item]], Iterator[Result]],
    occasion: str,
    at_once: int = EXCHANGED,
) -> Iterator[Iterator[Result]]:
    """Give what `work` makes of all items, in their order; each item is worked on by one process, and all get the results.

    All go on behind it, or none, as with `all_or_none`: also where one fails in what it does with the results.

    Args:
      items: the same in every process, which takes its own of them.
      work: yields a result for each item that it takes, in their order; pickle can hold it.
      occasion: what is exchanged, in words.
      at_once: results of each process that are held before all exchange them.

    Raises:
      UserError: what `work` raised, in every process the first one in the order of the items; another process gave up.
      TryAgain: a process did not come, see `meet`.
      Interrupted: one of the processes got SIGTERM.
    """
    if jax.process_count() == 1:
        yield work(iter(items))
        return
    own = work(itertools.islice(items, jax.process_index(), None, jax.process_count()))
    deal = _Deal(own, f"exchange of {occasion}", at_once)
    with distributed.all_or_none():
        try:
            yield deal.results()
        except Exception:
            if deal.goes_on:
                deal.exchange([distributed.gave_up(jax.process_index())])
            raise


class _Deal[Result]:
    """The exchanges of results: `goes_on` says whether all come to another one."""

    def __init__(self, own: Iterator[Result], occasion: str, at_once: int):
        self.goes_on = True
        self._own, self._occasion, self._at_once = own, occasion, at_once

    def results(self) -> Iterator[Result]:
        """Yield the results of all processes, in the order of the items."""
        while self.goes_on:
            part, bug = self._next()
            parts = self.exchange(part)
            for place in range(self._at_once):
                for result in (part[place] for part in parts if place < len(part)):
                    if isinstance(result, UserError):
                        raise bug or result
                    yield result
            if self.goes_on and distributed.stop_agreed(next(EXCHANGES)):
                self.goes_on = False
                raise Interrupted(end_line(signal.SIGTERM), signal.SIGTERM)

    def exchange(self, part: list[Result | UserError]) -> list[list[Result | UserError]]:
        """Return the parts of all processes: fewer results than are exchanged at once are the last, and an error ends it."""
        self.goes_on = False
        distributed.meet(self._occasion, distributed.MEETING_SECONDS)
        parts = _everyones(part)
        failed = any(isinstance(result, UserError) for part in parts for result in part)
        self.goes_on = not failed and min(map(len, parts)) == self._at_once
        return parts

    def _next(self) -> tuple[list[Result | UserError], Exception | None]:
        """Return the next own results, behind them an error that all shall raise; and the error itself where it is a bug."""
        part: list[Result | UserError] = []
        try:
            for result in itertools.islice(self._own, self._at_once):
                part.append(result)
        except UserError as error:
            return [*part, error], None
        except Exception as error:
            return [*part, distributed.gave_up(jax.process_index())], error
        return part, None


def _everyones[Content](own: Content) -> list[Content]:
    """Return what each process has, in every process; of one size on the way, as collectives want it."""
    content = np.frombuffer(pickle.dumps(own), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content))).tolist()
    padded = np.zeros(1 << (max(sizes) - 1).bit_length(), np.uint8)  # few sizes, few compilations
    padded[: len(content)] = content
    rows = multihost_utils.process_allgather(padded)  # [processes, bytes]
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
