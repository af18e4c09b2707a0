"""More threads against one: the same step in the same memory."""

from __future__ import annotations

from fusedopt.bench.contestants import FUSEDOPT, Contestant, prepare
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import NO_THREADS
from fusedopt.bench.timing import Participant
from fusedopt.bench.workload import Workload

ONE_THREAD = "one thread"


def measure(bench: Bench, workload: Workload, _: list[Contestant]) -> None:
    """Time one thread and every number of threads.

    One thread is entered as a contestant without threads, so it is compared with every number of them. Compared with
    1 it shows the noise.
    """
    ours = prepare(FUSEDOPT, workload, workload.gradients())
    one = Participant(ONE_THREAD, NO_THREADS, ours.step)
    participants = [one, *bench.turns(FUSEDOPT, ours)]
    bench.race(workload, workload.name, traffic_of(workload).bytes, ONE_THREAD, participants)
