"""A full data update shared out among workers: each takes some members' passes, and all hold the same afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from law_lightning.agent.study import Study
from law_lightning.search.workers import Workers


class Part(NamedTuple):
    """Passes of one member that one worker takes in a row."""

    member: int
    first: int
    last: int  # the first pass that is not in it


def wrap_around(passes: Sequence[int], workers: int) -> list[list[Part]]:
    r"""Who takes which passes, each worker's in their order (McNaughton's rule, Management Science 6, 1959).

    The passes of a member follow one another; those of different members do not matter to each other. So all are done
    after :math:`\max(\max_m E_m, \lceil \sum_m E_m / N_a \rceil)` passes: laid out in a line, member by member, and cut
    into pieces of that length, one for each worker. Of a member that is cut, the worker of the second piece begins, as
    it has those passes first, and that of the first piece, which has them last, goes on.

    Args:
        passes: E_m, of each member; at least one each.
        workers: N_a.

    Returns:
        The parts of each worker.
    """
    length = max(*passes, -(-sum(passes) // workers))
    shares: list[list[Part]] = [[] for _ in range(workers)]
    ends = list(itertools.accumulate(passes))
    for member, (number, end) in enumerate(zip(passes, ends, strict=True)):
        worker = (end - number) // length
        later = max(0, end - (worker + 1) * length)  # passes that lie in the next worker's piece
        shares[worker].append(Part(member, later, number))
        if later:
            shares[worker + 1].append(Part(member, 0, later))
    return shares


def take_passes(studies: Sequence[Study], passes: Sequence[int], workers: Workers) -> None:
    """Take one's own share of the passes, and hear of the others'; all workers call this at once.

    Args:
        studies: of all members, alike in all workers.
        passes: of each study.
        workers: the group.
    """
    shares = wrap_around(passes, workers.size)
    sent = []
    for member, first, last in shares[workers.rank]:
        study = studies[member]
        if first > 0:
            study.take(workers.take_over(study.numbers(), workers.rank + 1))
        study.run(first, last)
        if last < passes[member]:
            sent.append(workers.hand_over(study.numbers(), workers.rank - 1))
    ends = {
        part.member: rank for rank, share in enumerate(shares) for part in share if part.last == passes[part.member]
    }
    arriving = [workers.broadcast(study.numbers(), ends[member]) for member, study in enumerate(studies)]
    for study, arrived in zip(studies, arriving, strict=True):
        study.take(arrived())
    for wait in sent:
        wait()
