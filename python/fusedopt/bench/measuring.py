"""One run: who takes part, how carefully, and what has been measured so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fusedopt.bench import environment
from fusedopt.bench.contestants import FUSEDOPT, Contestant, installed, prepare
from fusedopt.bench.limit import Traffic, has_elements, limit_step, staggered, traffic_of
from fusedopt.bench.results import LIMIT, WHOLE, Entry, Measurement, Results
from fusedopt.bench.timing import QUICK, Effort, Participant, race
from fusedopt.bench.watch import Watch
from fusedopt.bench.workload import FLOAT_BYTES, Absent, Array, Ready, Workload, power_of_two
from fusedopt.runtime import _core

LIMITS = "limits"
# How many arrays a plain loop updates and how many it only reads.
LOOPS = {"read": (0, 2), "copy": (1, 1), "update": (1, 0)}


class Bench:
    """What measures, and keeps the results.

    Of the known peers those take part whose packages are wanted and installed.
    """

    def __init__(
        self,
        known: Sequence[Contestant],
        wanted: Collection[str],
        threads: list[int],
        effort: Effort,
        libraries: Sequence[str] = ("numpy",),
    ) -> None:
        self.peers = [peer for peer in known if peer.package in wanted and installed(peer)]
        self.effort = effort
        self.results = Results(environment.describe(libraries), threads, is_quick=effort == QUICK)
        for peer in known:
            if peer not in self.peers:
                why = "left out" if installed(peer) else f"{peer.package} is not installed"
                self.results.absent[peer.name] = why

    def fitting(
        self, workload: Workload, traffic: Traffic, peers: list[Contestant]
    ) -> list[Contestant] | None:
        """Find the first peers whose state fits in memory next to fusedopt's; None if not even that does.

        Whatever is left out is noted.
        """
        available = environment.available_bytes()
        # Ours and two for temporaries.
        one = int((traffic.widths[0] + traffic.kept) * workload.elements)
        room = available // one - 3
        name = f"{workload.label}, {workload.name}"
        if room < 0:
            self.results.absent[name] = "too little memory"
            return None
        for peer in peers[room:]:
            self.results.absent[f"{peer.name} on {name}"] = "too little memory"
        return peers[:room]

    def measure(self, workload: Workload, known: list[Contestant]) -> None:
        """Time a workload with those for whom there is memory."""
        traffic, whole = traffic_of(workload), workload.whole()
        peers = self.fitting(workload, traffic_of(whole), known)
        if peers is None:
            return
        environment.set_threads(self.results.threads[-1])
        gradients = workload.gradients()
        ours = prepare(FUSEDOPT, workload, gradients)
        limit = limit_step(traffic, tensors_of(ours, gradients))
        participants = [
            Participant(LIMIT, threads, limit) for threads in self.results.threads if limit
        ]
        participants += self.turns(FUSEDOPT, ours)
        if whole is not workload:
            gradients = whole.gradients()
            theirs = prepare(FUSEDOPT, whole, gradients)
            participants += [Participant(WHOLE, n, theirs.step) for n in self.results.threads]
        for peer in peers:
            ready = self.ready(peer, whole, gradients)
            if ready:
                participants += self.turns(peer, ready)
        self.race(workload, workload.name, traffic.bytes, LIMIT, participants)

    def measure_limits(self, elements: int) -> None:
        """Time the plainest loops over the memory, all in the same rounds."""
        environment.set_threads(self.results.threads[-1])
        arrays = staggered(max(map(sum, LOOPS.values())), elements)
        found = {}
        for name, (updated, read) in LOOPS.items():
            loop = _core.PlainLoop([(arrays[:updated], arrays[updated : updated + read])])
            found[name] = [Participant(name, threads, loop) for threads in self.results.threads]
        doubts = self.watched([one for each in found.values() for one in each])
        for name, (updated, read) in LOOPS.items():
            entries = [
                Entry(LIMIT, one.threads, one.seconds, doubts[id(one)]) for one in found[name]
            ]
            moved = FLOAT_BYTES * (2 * updated + read)
            size = power_of_two(elements)
            self.results.measurements.append(
                Measurement(LIMITS, name, size, elements, 1, moved, LIMIT, entries)
            )

    def ready(
        self, contestant: Contestant, workload: Workload, gradients: list[Array]
    ) -> Ready | None:
        """Prepare a contestant, or note why it cannot take part."""
        try:
            return prepare(contestant, workload, gradients)
        except Absent as absent:
            self.results.absent[f"{contestant.name} on {workload.label}"] = str(absent)
            return None

    def turns(self, contestant: Contestant, ready: Ready) -> list[Participant]:
        """Its step on each number of threads."""
        return [
            Participant(contestant.name, threads, ready.step)
            for threads in contestant.thread_counts(self.results.threads)
        ]

    def race(
        self,
        workload: Workload,
        name: str,
        moved_bytes: float | None,
        baseline: str,
        participants: list[Participant],
    ) -> None:
        """Time everybody and keep the times."""
        doubts = self.watched(participants)
        self.results.measurements.append(
            Measurement(
                workload.section,
                workload.label,
                name,
                workload.elements,
                len(workload.shapes),
                moved_bytes,
                baseline,
                [
                    Entry(one.name, one.threads, one.seconds, doubts[id(one)])
                    for one in participants
                ],
            )
        )

    def watched(self, participants: list[Participant]) -> dict[int, str]:
        """Time everybody, and return why the times of each are not to be believed."""
        watch = Watch()
        race(participants, self.effort, environment.set_threads)
        others = watch.others()
        doubts = {id(one): watch.doubt(one, others) for one in participants}
        if not self.results.is_quick:
            return doubts
        self.results.busy += filter(None, doubts.values())
        return dict.fromkeys(doubts, "")


def tensors_of(ours: Ready, gradients: list[Array]) -> list[list[Array]]:
    """Find each tensor's state and gradient, fusedopt's own: where arrays lie shows in the times."""
    return [
        [variable, *(slot for slot in slots if has_elements(slot, variable)), gradient]
        for variable, slots, gradient in zip(ours.variables, ours.slots(), gradients, strict=True)
    ]
