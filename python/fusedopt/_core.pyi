"""The compiled core. Private: use the package's classes and functions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

_Hyperparameter: TypeAlias = float | Callable[[int], float]
_Result = TypeVar("_Result")
_Steps = TypeVar("_Steps", float, npt.NDArray[Any])

def version() -> str: ...
def compiler() -> str: ...
def has_threads() -> bool: ...
def num_threads() -> int: ...
def num_threads_source() -> str: ...
def set_num_threads(count: int) -> None: ...
def compiled_levels() -> list[str]: ...
def supported_levels() -> list[str]: ...
def level() -> str: ...
def set_level(name: str) -> None: ...
def in_default_state(function: Callable[[], _Result]) -> _Result: ...

class PlainLoop:
    def __init__(
        self,
        tensors: Sequence[
            tuple[Sequence[npt.NDArray[np.uint32]], Sequence[npt.NDArray[np.uint32]]]
            | tuple[
                Sequence[npt.NDArray[np.float32]], Sequence[npt.NDArray[np.float16 | np.float32]]
            ]
        ],
    ) -> None: ...
    def __call__(self) -> None: ...

class PlainRowLoop:
    def __init__(
        self,
        tables: Sequence[npt.NDArray[np.float32]],
        values: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        ahead: int,
    ) -> None: ...
    def __call__(self) -> None: ...

def exponential_decay(
    step: _Steps,
    *,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool,
) -> _Steps: ...
def inverse_time_decay(
    step: _Steps,
    *,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool,
) -> _Steps: ...
def polynomial_decay(
    step: _Steps,
    *,
    initial_learning_rate: float,
    decay_steps: float,
    end_learning_rate: float,
    power: float,
    cycle: bool,
) -> _Steps: ...
def piecewise_constant_decay(
    step: _Steps, *, boundaries: Sequence[float], values: Sequence[float]
) -> _Steps: ...
def cosine_decay(
    step: _Steps,
    *,
    initial_learning_rate: float,
    decay_steps: float,
    alpha: float,
    warmup_target: float | None,
    warmup_steps: float,
) -> _Steps: ...
def cosine_decay_restarts(
    step: _Steps,
    *,
    initial_learning_rate: float,
    first_decay_steps: float,
    t_mul: float,
    m_mul: float,
    alpha: float,
) -> _Steps: ...

class Rule: ...

def rule(name: str, /, **values: Any) -> Rule: ...
def rule_defaults() -> dict[str, dict[str, Any]]: ...
def signed_slots(rule: Rule) -> set[str]: ...
def decoded_float8(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint16], is_signed: bool, name: str
) -> npt.NDArray[np.float32]: ...
def offers_memory(value: object) -> bool: ...
def value_array(value: object, who: str) -> npt.NDArray[Any]: ...

class Options:
    def __init__(self, **values: Any) -> None: ...

class BuiltError(ValueError): ...

def copies(arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]: ...

class Common:
    """What the three kinds of optimizer have in common, but for `apply`."""

    def variables(self) -> list[tuple[str, npt.NDArray[Any]]]: ...
    def state(self) -> list[tuple[str, npt.NDArray[Any]]]: ...
    def set_weights(self, values: Sequence[npt.NDArray[Any]]) -> None: ...
    def set_state(self, values: Sequence[npt.NDArray[Any] | None]) -> None: ...
    def between_steps(self, function: Callable[[], _Result]) -> _Result: ...
    def checked_arrays(self) -> list[npt.NDArray[Any]]: ...
    def catch_up(self, variable: object, indices: object) -> None: ...
    def finalize_variable_values(self, variables: Sequence[Any]) -> None: ...
    def begin_evaluation(self) -> None: ...
    def end_evaluation(self) -> None: ...
    def set_global_norm(self, global_norm: float | None) -> None: ...
    @property
    def objects(self) -> list[Any]: ...
    @property
    def arrays(self) -> list[npt.NDArray[Any]]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def built(self) -> bool: ...
    @property
    def evaluating(self) -> bool: ...
    @property
    def iterations(self) -> int: ...
    @property
    def calls(self) -> int: ...
    @property
    def global_norm(self) -> float | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def skipped_steps(self) -> int: ...

class Optimizer(Common):
    def __init__(self, rule: Rule, options: Options) -> None: ...
    def apply(
        self, gradients: Iterable[Any] | dict[str, Any], variables: Iterable[Any] | None
    ) -> bool: ...
    def exclude_from_weight_decay(self, variables: Sequence[Any]) -> None: ...
    def build(self, variables: Sequence[Any], names: Sequence[str]) -> None: ...
    def set_learning_rate(self, learning_rate: _Hyperparameter) -> None: ...
    def set_rule(self, rule: Rule) -> None: ...
    def set_options(self, options: Options) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def loss_scale_factor(self) -> float: ...

class MultiOptimizer(Common):
    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        loss_scale_factor: float | None,
        global_clipnorm: float | None,
        skip_nonfinite: bool,
    ) -> None: ...
    def apply(
        self, gradients: Iterable[Any] | dict[str, Any], variables: Iterable[Any] | None
    ) -> bool: ...
    def build(
        self, variables: Sequence[Any], names: Sequence[str], assignment: Sequence[int]
    ) -> None: ...
    def set_options(
        self,
        loss_scale_factor: float | None,
        global_clipnorm: float | None,
        skip_nonfinite: bool,
    ) -> None: ...
    @property
    def loss_scale_factor(self) -> float: ...

class LossScale(Common):
    def __init__(
        self, inner: Optimizer | MultiOptimizer, initial_scale: float, dynamic_growth_steps: int
    ) -> None: ...
    def apply(
        self, gradients: Iterable[Any] | dict[str, Any], variables: Iterable[Any] | None
    ) -> bool: ...
    @property
    def dynamic_scale(self) -> float: ...
    @dynamic_scale.setter
    def dynamic_scale(self, arg1: float) -> None: ...
    @property
    def dynamic_growth_steps(self) -> int: ...
    @dynamic_growth_steps.setter
    def dynamic_growth_steps(self, arg1: int) -> None: ...
    @property
    def step_counter(self) -> int: ...
    @property
    def consecutive_skipped_steps(self) -> int: ...

class HostedStep:
    """Takes steps on parameters whose state a host keeps, all groups in one sweep."""

    def __init__(self, rule: str) -> None: ...
    def run(
        self,
        groups: list[tuple[list[Any], dict[str, Any]]],
        state: dict[Any, Any],
        *,
        max_norm: float | None = None,
        unscale: float = 1.0,
        skip_nonfinite: bool = False,
        seed: int = 0,
        average_key: str | None = None,
        master_key: str | None = None,
        on_update: Callable[[list[Any]], object] | None = None,
    ) -> tuple[bool, float | None, list[Any]]:
        """Step every parameter that has a gradient.

        A group is its parameters and its settings: `learning_rate`, and if they differ from the
        defaults, the rule's hyperparameters, `weight_decay`, `maximize` and `ema_momentum`.

        `state` has a dict for each parameter with a gradient, with the rule's slots, `"step"` and
        whatever number the rule keeps (`"mu_product"` of TorchNAdam). Numbers are arrays of one
        element, which are written in place, or Python's, which are replaced. TorchSGD keeps no
        count. A `"step"` of 0 tells it that `momentum_buffer` begins with this gradient, and the
        step removes it again.

        Returns whether the step was taken, the norm if it was needed, and the parameters whose
        state is incomplete. If there are any of these, nothing was done. After a step, `on_update`
        is called with the parameters that have a gradient.
        """

def hosted_update(
    rule: str,
    variable: Any,
    gradient: Any,
    slots: Sequence[Any],
    settings: dict[str, Any],
    step: int,
    *,
    average: Any = None,
    clipnorm: float | None = None,
) -> float | None:
    """Update one variable. `step` is the number of the update, from 1.

    `clipnorm` multiplies the gradient by `clipnorm / norm` if its norm is larger. Returns the norm
    if it was needed.
    """
