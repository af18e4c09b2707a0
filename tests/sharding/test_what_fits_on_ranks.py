"""Ranks take of a file what fits, as a single process does, with the same report on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
import ranks

pytest.importorskip("safetensors")

from test_files_of_ranks import single, stage


def grown() -> dict[str, Any]:
    """The variables of the files, one less, one more, and one of another shape."""
    variables = ranks.variables()
    del variables["table"]
    variables["new"] = np.ones(2500, np.float32)
    variables["kernel"] = variables["kernel"].reshape(100, 40)
    return variables


PARTIAL: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "adam": (fo.Adam, lambda: fo.Adam(amsgrad=True)),
    "another rule": (fo.Adam, lambda: fo.SGD(0.1, momentum=0.9)),
    "schedule-free": (fo.Adam, lambda: fo.ScheduleFreeAdamW(0.1)),
    "loss scale": (fo.Adam, lambda: fo.LossScaleOptimizer(fo.AdamW())),
    "16 bits": (lambda: fo.Adam(slot_dtype="bfloat16"), fo.Adam),
}


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("per_rank", [False, True])
@pytest.mark.parametrize(("source", "new"), PARTIAL.values(), ids=PARTIAL)
def test_what_fits(
    source: Callable[[], Any],
    new: Callable[[], Any],
    per_rank: bool,
    convert: bool,
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    if per_rank and source is fo.Adam:
        stage(4, source, path, range(2))
    else:
        single(source, range(2))[0].save(path, variables=True)

    def loaded(optimizer: Any, rank: int) -> Any:
        variables = grown()
        optimizer.build(variables)
        report = optimizer.load(path, strict=False, convert_slots=convert)
        for step in range(2):
            random = np.random.default_rng(step)
            gradients = {
                name: random.normal(0, 1, w.shape).astype(w.dtype) for name, w in variables.items()
            }
            if rank:
                gradients = {name: np.zeros_like(g) for name, g in gradients.items()}
            optimizer.apply(gradients)
        return report, optimizer.iterations, ranks.digest(variables.values())

    expected = loaded(new(), 0)
    assert expected[0].missing
    assert expected[0].unexpected
    found = ranks.run(3, lambda threads: loaded(fo.Sharded(new(), threads), threads.rank))
    assert ranks.finished(found) == [expected] * 3
