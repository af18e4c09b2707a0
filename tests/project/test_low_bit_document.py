"""docs/low_bit.md says what the library does: its program, its table of rules, its reader of files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import RULES

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "low_bit.md").read_text(encoding="utf-8")
ROWS = {
    name: [cell.strip() for cell in cells.split("|")]
    for name, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCUMENT, re.MULTILINE)
}
PROGRAMS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9}],
    "RMSprop": [{"momentum": 0.9}, {"centered": True}],
    "Adam": [{"amsgrad": True}],
    "AdamW": [{"amsgrad": True}],
}


def test_program_runs() -> None:
    pytest.importorskip("safetensors")
    scope: dict[str, Any] = {}
    for program in PROGRAMS:
        exec(program, scope)
    assert not scope["m"].flags.writeable
    assert scope["optimizer"].named_variables()["velocity/head"].shape == (64, 80)


def test_every_rule_has_a_row() -> None:
    assert ROWS.keys() == RULES.keys()


def names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("rule", ROWS)
def test_rules(rule: str) -> None:
    has_16, has_8, signed, unsigned = ROWS[rule]
    cls = getattr(fo, rule)
    assert has_16 in ("yes", "its vectors only")
    cls(slot_dtype="bfloat16")
    if has_8 == "no":
        with pytest.raises(ValueError, match="slot_dtype"):
            cls(slot_dtype="float8")
        assert signed == unsigned == ""
        return
    cls(slot_dtype="float8")
    assert has_8 == ("yes, unless `centered`" if rule == "RMSprop" else "yes")
    found: dict[str, bool] = {}
    for variant in VARIANTS.get(rule, [{}]):
        optimizer = cls(**variant)
        # Muon keeps its Adam's moments of vectors.
        optimizer.build({"w": np.ones((3, 2), np.float32), "v": np.ones(3, np.float32)})
        slots = {name.partition("/")[0] for name in optimizer.named_variables() if "/" in name}
        found |= {slot: slot in optimizer._signed_slots() for slot in slots}
    assert {slot for slot, is_signed in found.items() if is_signed} == names(signed)
    assert {slot for slot, is_signed in found.items() if not is_signed} == names(unsigned)


@pytest.fixture(scope="module")
def decoded() -> Any:
    (reader,) = re.findall(r"<!-- reader -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(reader, scope)
    return scope["decoded"]


@pytest.mark.parametrize("rule", [rule for rule, cells in ROWS.items() if cells[1] != "no"])
def test_reader_reads_files(rule: str, decoded: Any, tmp_path: Path) -> None:
    """Of every rule, with small and large numbers, infinities and a NaN."""
    safetensors = pytest.importorskip("safetensors.numpy")
    variables = {"table": np.zeros((90, 50), np.float32), "vector": np.zeros(70, np.float32)}
    (arguments, *_) = VARIANTS.get(rule, [{}])
    named: Any = dict.fromkeys(variables, "float8")
    optimizer = getattr(fo, rule)(slot_dtypes=named, **arguments)
    optimizer.build(variables)
    random = np.random.default_rng(1)
    for step in range(4):
        gradients = {}
        for name, w in variables.items():
            spread = 10.0 ** random.uniform(-12 * (step % 2), 0, w.shape)
            gradients[name] = (random.normal(size=w.shape) * spread).astype(np.float32)
        optimizer.apply(gradients)
    if rule != "Muon":  # whose products mix them with everything
        special = np.ones(70, np.float32)
        special[[3, 66, 69]] = np.inf, np.nan, -np.inf
        optimizer.apply({"vector": special})
    optimizer.save(tmp_path / "state")
    tensors = safetensors.load_file(tmp_path / "state")
    checked = 0
    for name, array in optimizer.named_variables().items():
        slot, _, variable = name.partition("/")
        if variable not in variables or tensors[name].dtype != np.uint8:
            continue
        has_sign = f"`{slot}`" in ROWS[rule][2]
        numbers = decoded(tensors[name], tensors[f"{slot}_scale/{variable}"], has_sign)
        np.testing.assert_array_equal(numbers[: array.size].reshape(array.shape), array)
        assert not numbers[array.size :].any()
        checked += 1
    assert checked >= 2
