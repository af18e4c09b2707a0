"""DeepSpeed's Adam for the CPU, which is a PyTorch optimizer: one sweep per tensor."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from fusedopt.bench import pytorch
from fusedopt.bench.peer_settings import made, settings_of
from fusedopt.bench.workload import Absent, Array, Ready, Workload


def in_deepspeed(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    return pytorch.ready(workload, optimizer_of(workload, variables), variables, gradients)


def optimizer_of(workload: Workload, variables: list[Array]) -> Any:
    if workload.rule not in ("Adam", "AdamW"):
        raise Absent("no such rule")
    deepspeed: Any = importlib.import_module("deepspeed.ops.adam")
    settings = settings_of(workload)
    arguments = {
        "lr": settings["learning_rate"],
        "betas": (settings["beta_1"], settings["beta_2"]),
        "eps": settings["epsilon"],
        "weight_decay": settings["weight_decay"] or 0.0,
        "amsgrad": settings["amsgrad"],
        "adamw_mode": workload.rule == "AdamW",
    }
    try:
        return made(
            partial(deepspeed.DeepSpeedCPUAdam, pytorch.parameters_of(variables)), arguments
        )
    except RuntimeError as error:  # it is compiled when it is first made
        raise Absent(f"cannot be made: {str(error).splitlines()[0]}") from error
