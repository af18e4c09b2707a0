"""How far a contestant's memory grows beyond variables and gradients.

Run as a program it measures one contestant and prints the bytes: one process each, as what one leaves
allocated would serve the next. Only Linux tells a peak that can be reset.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from fusedopt.bench.contestants import FUSEDOPT
from fusedopt.bench.limit import traffic_of
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import Results
from fusedopt.bench.workload import Workload
from peer_lists import PEERS
from sections import FLAGSHIP, main_variant

SECTION = "memory"
GROWTHS = "growths"
STATUS = Path("/proc/self/status")
WARM_UP_ELEMENTS = 2**17
STEPS = 3


@dataclass
class Growth:
    """How much one contestant's memory grew at most, over building and some steps."""

    name: str
    label: str
    elements: int
    growth_bytes: int
    slot_bytes: int


def growths(results: Results) -> list[Growth]:
    """Read what a run has measured."""
    return [Growth(**one) for one in results.more.get(GROWTHS, [])]


def measure(bench: Bench, elements: int) -> None:
    """Measure fusedopt and each of its peers."""
    workload = workload_of(elements)
    slot_bytes = int(traffic_of(workload).kept * elements)
    names = [FUSEDOPT.name, *(peer.name for peer in PEERS if peer in bench.peers)]
    bench.results.more[GROWTHS] = [
        asdict(Growth(name, workload.label, elements, growth_in_child(name, elements), slot_bytes))
        for name in names
    ]


def workload_of(elements: int) -> Workload:
    return Workload("memory", "", FLAGSHIP, main_variant(FLAGSHIP), ((elements,),))


def is_possible() -> bool:
    return STATUS.exists()


def growth_in_child(name: str, elements: int) -> int:
    """Measure a contestant in a new process."""
    command = [sys.executable, __file__, name, str(elements)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])  # libraries may write there, too


def growth(name: str, elements: int) -> int:
    """Measure a contestant in this process."""
    (contestant,) = (one for one in [FUSEDOPT, *PEERS] if one.name == name)
    for count in (WARM_UP_ELEMENTS, elements):
        workload = workload_of(count)
        variables, gradients = workload.variables(), workload.gradients()
        before = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        ready = contestant.prepare(workload, variables, gradients)
        for _ in range(STEPS):
            ready.step()
        grown = status_bytes("VmHWM") - before
    return grown


def status_bytes(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{STATUS} has no field {field}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant")
    parser.add_argument("elements", type=int)
    given = parser.parse_args()
    sys.stdout.write(f"{growth(given.contestant, given.elements)}\n")
