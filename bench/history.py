"""What became slower or faster between commits: ``python bench/history.py --help``.

Every commit is built once. Then, draw by draw, each gets a new process, because where memory comes to lie is luck. In a
draw the processes take short turns at each case, one after the other in an order that changes, so that all see the
machine in the same moods. Of two neighbours only the ratio of their times in the same rounds is kept. The median over
the draws has bounds by a bootstrap, and only bounds that lie wholly beyond the tolerance say that something changed.
The first commit takes part twice. If it differs from itself, nothing of the run is to be believed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from history_subjects import Subject, Worker, build, subjects_of
from history_verdict import CONFIDENCE, TOLERANCE, Change, change_of, log_ratio

Pair = tuple[int, int]
Ratios = dict[Pair, dict[str, list[float]]]


def draw(subjects: list[Subject], options: argparse.Namespace, order: random.Random) -> Ratios:
    """Time all cases once, with a new process for each subject."""
    ratios: Ratios = defaultdict(lambda: defaultdict(list))
    workers = [Worker(subject, options.threads) for subject in subjects]
    known = [worker.ask("cases") for worker in workers]
    for case in dict.fromkeys(name for names in known for name in names):
        if options.cases and not any(word in case for word in options.cases):
            continue
        able = [i for i, w in enumerate(workers) if w.ask("begin", case) is None]
        times: dict[int, list[float]] = {i: [] for i in able}
        for _ in range(options.rounds):
            for i in order.sample(able, len(able)):
                times[i].append(workers[i].ask("turn", options.turn))
        for old, new in pairs(len(subjects)):
            if old in times and new in times:
                ratios[old, new][case].append(log_ratio(times[old], times[new]))
    for worker in workers:
        worker.end()
    return ratios


def pairs(count: int) -> Iterator[Pair]:
    """Yield the control, which is the first subject twice, and then all neighbours."""
    yield 0, 1
    for new in range(2, count):
        yield (0 if new == 2 else new - 1), new


def measure(subjects: list[Subject], options: argparse.Namespace) -> dict[Pair, dict[str, Change]]:
    order, found = random.Random(0), defaultdict(lambda: defaultdict(list))
    for number in range(1, options.draws + 1):
        for pair, cases in draw(subjects, options, order).items():
            for case, values in cases.items():
                found[pair][case] += values
        print(f"draw {number} of {options.draws}", end="\r", file=sys.stderr, flush=True)
    return {
        pair: {case: change_of(values) for case, values in cases.items()}
        for pair, cases in found.items()
    }


def show(title: str, changes: dict[str, Change], options: argparse.Namespace) -> Counter[str]:
    print(f"\n{title}")
    verdicts: Counter[str] = Counter()
    for case, change in changes.items():
        verdict = change.verdict(options.tolerance)
        verdicts[verdict] += 1
        if verdict != "same" or options.all:
            bounds = f"{change.low:.3f} to {change.high:.3f}"
            print(f"  {case:<32} {change.ratio:6.3f}  {bounds}  {verdict}")
    print("  " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return verdicts


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="Exits with 1 if something is slower, and with 2 if the first commit differs from itself.",
    )
    parser.add_argument(
        "subjects",
        nargs="+",
        help="a commit, a range old..new, or 'installed', also with variables of the environment: "
        "HEAD,FUSEDOPT_ISA=x86_64_v2",
    )
    parser.add_argument("--every", type=int, default=1, help="of a range, every how manyth commit")
    parser.add_argument("--cases", nargs="+", help="only cases whose names have one of these words")
    parser.add_argument("--draws", type=int, default=12, help="processes per subject")
    parser.add_argument("--rounds", type=int, default=7, help="turns per case and process")
    parser.add_argument("--turn", type=float, default=0.005, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=1, help="threads of a step")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"what is no change; a change lies beyond it with {CONFIDENCE:.0%} confidence",
    )
    parser.add_argument("--all", action="store_true", help="show also what is the same")
    parser.add_argument("--json", type=Path, help="a file for the ratios and their bounds")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    chosen = [one for word in options.subjects for one in subjects_of(word, options.every)]
    if len(chosen) < 2:
        sys.exit("expected two commits or more, found one")
    for subject in chosen:
        build(subject.commit)
    subjects = [chosen[0], *chosen]
    began = time.monotonic()
    measured = measure(subjects, options)
    verdicts = {}
    for old, new in pairs(len(subjects)):
        changes = measured.get((old, new), {})
        title = f"{subjects[old].label}\n  -> {subjects[new].label}"
        verdicts[old, new] = show(
            f"control: {subjects[0].label}, twice" if new == 1 else title, changes, options
        )
    print(f"\n{time.monotonic() - began:.0f} s, {options.draws} draws")
    if options.json:
        options.json.write_text(
            json.dumps(
                [
                    {
                        "old": subjects[old].label,
                        "new": subjects[new].label,
                        "changes": {case: vars(change) for case, change in changes.items()},
                    }
                    for (old, new), changes in measured.items()
                ],
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
    control = verdicts.pop((0, 1))
    if control["slower"] or control["faster"]:
        print("The control differs from itself: measure again on a quieter machine.")
        return 2
    if control["unclear"] > control["same"]:
        print("Most of the control is unclear: take more draws, or a quieter machine.")
    return int(any(counts["slower"] for counts in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
