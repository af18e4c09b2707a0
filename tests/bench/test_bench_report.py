"""What a run is shown as: marked blocks of the documents, tables and pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import fusedopt as fo
import pytest
from bench_runs import PNG, RECORDED, ROOT
from fusedopt.bench import costs, picture, report, rules
from fusedopt.bench.measuring import Bench
from fusedopt.bench.results import FUSEDOPT, load
from fusedopt.bench.timing import QUICK


@pytest.mark.parametrize("name", ["docs/reference/rules.md", "docs/performance.md"])
def test_tables_are_derived(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    derived = report.with_blocks(load(RECORDED), text, name, costs.BLOCKS)
    assert text == derived, (
        "derive it again: python -m fusedopt.bench --load bench/results/rules.json "
        "--markdown docs/reference/rules.md docs/performance.md"
    )


def test_the_table_names_every_rule() -> None:
    text = (ROOT / "docs/reference/rules.md").read_text(encoding="utf-8")
    assert [one.label for one in rules.workloads(1) if f"| `{one.label}` |" not in text] == []


def test_a_file_without_blocks_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious.md"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match=r"precious\.md: expected a line <!-- rules: begin -->"):
        report.write(load(RECORDED), path, costs.BLOCKS)
    assert path.read_text() == "mine\n"


def test_a_rule_without_a_limit_is_timed_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Muon(fo.SGD):
        """Products of matrices."""

    monkeypatch.setattr(fo, "Muon", Muon, raising=False)
    monkeypatch.setattr(fo, "__all__", sorted({*fo.__all__, "Muon"}))
    bench = Bench([], [], [1], QUICK)
    before = fo.get_num_threads()
    try:
        for workload in rules.workloads(2**20):
            if workload.rule == "Muon":
                assert workload.elements == rules.MOST_ELEMENTS_OF_PRODUCTS
                bench.measure(workload, [])
    finally:
        fo.set_num_threads(before)
    assert [one.ratio(FUSEDOPT, 1) for one in bench.results.of(rules.SECTION)] == [None]
    row: Any = costs.cost_table(bench.results, 1).rows[0]
    assert (row[0], row[2], row[5]) == ("Muon", "-", "-")
    assert "| `Muon` | Products of matrices. |  | - | - |" in costs.rules_block(bench.results)
    picture.draw(bench.results, tmp_path / "alone.png")
    both = copy.deepcopy(load(RECORDED))
    both.measurements += bench.results.measurements
    picture.draw(both, tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(PNG)
