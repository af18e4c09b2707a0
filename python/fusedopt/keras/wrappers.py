"""Optimizers around others, with a front for each of those, as Keras has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import fusedopt
from fusedopt.arrays import Array
from fusedopt.keras.host import KerasLossScaleOptimizer, keras
from fusedopt.keras.optimizer import Optimizer


def _front_of(part: fusedopt.Optimizer) -> Any:
    front: Any = Optimizer.__new__(Optimizer, part)
    front._wrap(part)
    return front


@keras.saving.register_keras_serializable("fusedopt")
class LossScaleOptimizer(Optimizer, KerasLossScaleOptimizer):
    """A `fusedopt.LossScaleOptimizer` as an optimizer of Keras, which checks the gradients in the step's own sweeps.

    Under the policy ``mixed_float16`` Keras puts a loss-scaling optimizer of its own around others, and leaves this one
    as it is. Its files go both ways with those of ``keras.optimizers.LossScaleOptimizer``. If Keras's own wrapper is
    around `fusedopt.Nadam` or `fusedopt.Adafactor`, they go only one way, back into the same: around its own optimizers
    of those names Keras leaves a part of the state out, so its files are refused.

    ``inner_optimizer`` has the options of the optimizer inside. A gradient that overwrites its variable, as float8
    training has them, is not checked.

    Parameters
    ----------
    optimizer : fusedopt.LossScaleOptimizer
        Not built yet.

    Examples
    --------
    ::

        keras.mixed_precision.set_global_policy("mixed_float16")
        model.compile(fusedopt.keras.Optimizer(fo.LossScaleOptimizer(fo.AdamW())), loss="mse")
    """

    _wraps: ClassVar[type] = fusedopt.LossScaleOptimizer

    def _wrap(self, optimizer: fusedopt.Optimizer) -> None:
        super()._wrap(optimizer)
        vars(self)["inner_optimizer"] = _front_of(self.fused.inner_optimizer)

    def _parts(self) -> Sequence[Any]:
        return (self.inner_optimizer,)

    def _member(self) -> Any:
        return self.inner_optimizer._member()

    def _take(self, state: Mapping[str, Array], root: Any) -> None:
        own, inner = _divided(state, r"loss_scale/(.*)")
        super()._take(own, root)
        self.inner_optimizer._take(inner, root)

    def _place(self, variables: Sequence[Any], names: Mapping[int, str]) -> None:
        super()._place(variables, names)
        self.inner_optimizer._place(variables, names)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Let the inner optimizer leave variables out of weight decay.

        Parameters
        ----------
        var_list : sequence of keras.Variable, optional
            These variables.
        var_names : sequence of str, optional
            Regular expressions. Variables in whose name one is found.
        """
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def dynamic_scale(self) -> Any:
        """The scale, as a variable of Keras's. A number can be assigned."""
        self._follow()
        return self._sharing.known["dynamic_scale"]

    @dynamic_scale.setter
    def dynamic_scale(self, scale: float) -> None:
        self._follow()
        self.fused.dynamic_scale = scale

    @property
    def step_counter(self) -> Any:
        """Good steps since the scale last changed, as a variable of Keras's."""
        self._follow()
        return self._sharing.known["step_counter"]


@keras.saving.register_keras_serializable("fusedopt")
class MultiOptimizer(Optimizer):
    """A `fusedopt.MultiOptimizer` as an optimizer of Keras.

    The keys of its map stand for the paths of the model's variables. The fronts in ``optimizers`` have the learning
    rates and other options; Keras's callbacks look for them there.

    Parameters
    ----------
    optimizer : fusedopt.MultiOptimizer
        Not built yet.

    Examples
    --------
    ::

        optimizers = fo.OptimizerMap(fo.AdamW(1e-3), {".*embedding.*": fo.SGD(0.1)})
        model.compile(fusedopt.keras.Optimizer(fo.MultiOptimizer(optimizers)), loss="mse")
    """

    _wraps: ClassVar[type] = fusedopt.MultiOptimizer

    def _wrap(self, optimizer: fusedopt.Optimizer) -> None:
        super()._wrap(optimizer)
        self._sharing.parts = [_front_of(part) for part in self.fused.optimizers]

    @property
    def optimizers(self) -> list[Any]:
        """The front of each optimizer, in the order of the map's keys, the default one last."""
        return list(self._sharing.parts)

    def _parts(self) -> Sequence[Any]:
        return self._sharing.parts

    def _take(self, state: Mapping[str, Array], root: Any) -> None:
        theirs, own = _divided(state, r"(\d+/.*)")
        super()._take(own, root)
        for k, part in enumerate(self._parts()):
            part._take(_divided(theirs, rf"{k}/(.*)")[0], root)

    def _place(self, variables: Sequence[Any], names: Mapping[int, str]) -> None:
        replaced = [v.path for v in variables if id(v) not in names]
        if replaced:
            raise ValueError(
                f"{type(self).__name__}: expected no variable that its gradient overwrites, "
                f"found {', '.join(replaced)}"
            )
        super()._place(variables, names)
        for k, part in enumerate(self._parts()):
            own = [variables[i] for i in self.fused._variables_of(k)]
            part._place(own, {id(v): names[id(v)] for v in own})

    @property
    def learning_rate(self) -> Any:
        """Nothing: each of the `optimizers` has its own."""
        raise AttributeError("MultiOptimizer has no learning rate; its optimizers have")

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.fused.learning_rate = learning_rate


def _divided(state: Mapping[str, Array], pattern: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Divide state into what a pattern matches, by the name that its group has, and the rest."""
    found = {name: re.fullmatch(pattern, name, re.DOTALL) for name in state}
    return (
        {match[1]: state[name] for name, match in found.items() if match},
        {name: state[name] for name, match in found.items() if not match},
    )
