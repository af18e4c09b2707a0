"""The goals: which measurements they are about, and who meets them."""

from __future__ import annotations

import goals
from fusedopt.bench.results import FUSEDOPT, LIMIT, Entry, Measurement, Results


def made_up(
    section: str, label: str, name: str, elements: int, times: dict[str, float], tensors: int = 1
) -> Measurement:
    """A measurement on 2 threads; the first of the times is the baseline's."""
    entries = [Entry(who, 2, [time, 2 * time]) for who, time in times.items()]
    return Measurement(section, label, name, elements, tensors, 28, next(iter(times)), entries)


def goals_of(results: Results) -> list[str]:
    return [
        f"{goal.text};{goal.bound};{goal.unit};{goal.measured[2].who};{goal.is_met(2)}"
        for goal in goals.goals(results)
    ]


def test_the_goals_of_large_arrays() -> None:
    foreach = "PyTorch foreach"
    results = Results({}, [2])
    for label, power, ours, theirs in (
        ("AdamW", 24, 1.06, None),
        ("SGD(momentum=0.9)", 26, 1.03, 2.0),
        ("Lion", 24, 2.0, None),
        ("Lion", 26, 1.02, None),
        ("Lamb", 24, 2.0, None),
        ("Lamb", 26, 1.1, None),
        ("Adafactor", 26, 2.0, 3.0),
        ("Muon", 26, 2.0, None),
        ("Nadam", 22, 2.0, 2.0),
        ("Nadam", 24, 2.0, 5.1),
        ("Nadam", 26, 1.0, 2.4),
    ):
        times = {LIMIT: 1.0, FUSEDOPT: ours} | ({foreach: theirs} if theirs else {})
        results.measurements.append(made_up("sizes", label, f"2^{power}", 2**power, times))
    assert goals_of(results) == [
        "AdamW, 2^24 elements;1.05;times the limit;;False",
        "SGD(momentum=0.9), 2^26 elements;1.02;times the limit;;False",
        "Lion, 2^26 elements;1.02;times the limit;;True",
        "Lamb, 2^26 elements;1.11;times the limit;;True",
        "Nadam, 2^26 elements;1.02;times the limit;;True",
        f"Nadam, 2^24 elements;0.4;times {foreach}'s time;;True",
        f"Nadam, 2^26 elements;0.4;times {foreach}'s time;;False",
    ]


def test_the_goals_of_small_arrays() -> None:
    results = Results({}, [2])
    for label, micro in (("AdamW", 0.5), ("Lion", 1.0)):
        times = {LIMIT: 1e-6, FUSEDOPT: micro * 1e-6}
        results.measurements.append(made_up("sizes", label, "2^6", 64, times))
    for label, tensor in (("AdamW", 0.1e-6), ("AdamW(global_clipnorm=1.0)", 0.05e-6)):
        times = {LIMIT: 1.0, FUSEDOPT: 1000 * tensor}
        results.measurements.append(
            made_up("tensors", label, "1,000 of 64", 64000, times, tensors=1000)
        )
    assert goals_of(results) == [
        "AdamW, 1,000 of 64;0.2;us per tensor;;True",
        "AdamW(global_clipnorm=1.0), 1,000 of 64;0.06;us per tensor;;False",
        "AdamW, one tensor of 64;0.6;us per call;;False",
        "the slowest rule, one tensor of 64;2.0;us per call;Lion;True",
    ]


def test_the_goals_of_matrices_threads_and_values() -> None:
    results = Results({}, [1, 2])
    results.measurements = [
        made_up("matrices", "Adafactor", "4096 x 4096", 2**24, {"3 sweeps": 1, FUSEDOPT: 1.01}),
        made_up("matrices", "Muon", "1024 x 1024", 2**20, {"its products": 1, FUSEDOPT: 1.29}),
        made_up("matrices", "Muon", "64 x 64", 2**12, {"its products": 1, FUSEDOPT: 2}),
    ]
    for name, ours in (("2^13", 1.02), ("2^14", 1.04), ("2^15", 0.6)):
        one = made_up("threads", "AdamW", name, 1, {"one thread": 1, FUSEDOPT: ours})
        one.entries[0].threads = 0
        one.entries.append(Entry(FUSEDOPT, 1, [9.0, 18.0]))
        results.measurements.append(one)
    for name, label, huge in (("fusedopt, 2^16", "Lion", 1.2), ("naive NumPy, 2^16", "AdamW", 9)):
        results.measurements.append(
            made_up("values", label, name, 1, {"ordinary": 1, "1e30": huge})
        )
    assert goals_of(results) == [
        "Adafactor, 4096 x 4096;1.0;times 3 sweeps;;False",
        "Muon, 1024 x 1024;1.3;times its products;;True",
        "AdamW, the worst of all sizes;1.05;times one thread's time;2^14;True",
        "the worst rule, zero, subnormal and huge numbers;1.1;times that of ordinary ones;Lion;False",
    ]


def test_the_goals_of_the_mixed_pipeline() -> None:
    results = Results({}, [2])
    for name, elements, tensors in (("2^26", 2**26, 1), ("1,000 of 1,024", 1_024_000, 1000)):
        times = {LIMIT: 1.0, FUSEDOPT: 1.2}
        results.measurements.append(made_up("mixed", "AdamW", name, elements, times, tensors))
    assert goals_of(results) == [
        "mixed pipeline, AdamW, 2^26 elements;1.05;times the limit;;False",
        "mixed pipeline, AdamW, 1,000 of 1,024;1.3;times the limit;;True",
    ]
