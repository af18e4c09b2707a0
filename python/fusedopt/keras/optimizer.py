"""A Keras optimizer whose steps one of fusedopt's optimizers takes.

`apply` replaces Keras's as a whole. Scaling, accumulation, clipping, decay, the rule and averages are one sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import is_not
from typing import Any

from fusedopt.keras.host import in_stateless_scope, keras
from fusedopt.keras.memory import memory
from fusedopt.keras.state import State


@keras.saving.register_keras_serializable("fusedopt")
class Optimizer(State):
    """Any optimizer of fusedopt as an optimizer of Keras.

    Parameters
    ----------
    optimizer : fusedopt.Optimizer
        Not built yet. All options are its own: the learning rate, weight decay, clipping, averages, accumulation, the
        name. They can be read and assigned here, too. A `fusedopt.LossScaleOptimizer` makes a `LossScaleOptimizer` of
        this module, and a `fusedopt.MultiOptimizer` a `MultiOptimizer`.

    Raises
    ------
    ValueError
        If Keras runs on JAX or TensorFlow, whose variables cannot be updated in place, or if ``optimizer`` is built or
        part of another one. Also if it keeps slots in fewer bits (``slot_dtype``), because Keras's variables share
        memory with the slots.
    TypeError
        If it is no optimizer of fusedopt, or for any other argument.

    Notes
    -----
    The numbers are Keras's, but for the order of roundings. A step updates the memory of the model's variables in
    one sweep, on as many threads as `fusedopt.set_num_threads` says.

    The learning rate may be a number, or a schedule or callable of either library. Callbacks such as
    ``LearningRateScheduler`` and ``ReduceLROnPlateau`` assign it as usual.

    ``variables`` has as many entries, in the same order, as in Keras's optimizer of that name, so
    ``.weights.h5`` files go both ways. They share memory with the state of ``fused``, the optimizer given here. State
    is float32, or float64 for float64 variables. If variables have 16 bits, a file also holds their float32 master
    copies, with which training goes on bit for bit. Keras's own optimizers skip such a file with a warning.

    If the number of values in a file is wrong, Keras warns, and trains on without them. Here it is an error.

    On the NumPy backend Keras has no ``fit``, so it is for loops of your own. `apply` writes into the arrays of the
    variables.

    A model that Keras's own optimizer has trained goes on like this::

        old = model.optimizer
        new = fusedopt.keras.Optimizer(fusedopt.deserialize(keras.optimizers.serialize(old)))
        new.build(model.trainable_variables)
        new.set_weights(old.variables)
        model.compile(new, loss=model.loss)

    Examples
    --------
    ::

        import fusedopt as fo
        import fusedopt.keras

        optimizer = fusedopt.keras.Optimizer(fo.Lion(1e-4, global_clipnorm=1.0, use_ema=True))
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.compile(optimizer, loss="mse")
        model.fit(x, y, callbacks=[keras.callbacks.ReduceLROnPlateau("loss")])
    """

    def build(self, variables: Iterable[Any]) -> None:
        """Take the variables to update, and make the state.

        Building again with more variables adds those, as `fusedopt.Optimizer.build` does.

        Parameters
        ----------
        variables : sequence of keras.Variable
            Those with ``overwrite_with_gradient``, as float8 training has them, get no state.

        Raises
        ------
        ValueError, TypeError
            If a variable cannot be updated in place, for example one that is not in CPU memory.
        """
        self._require_whole("build")
        self._require_whole_slots()  # it may have been assigned
        variables = list(variables)
        self._follow()
        own = self._sharing
        updated = [v for v in variables if not self._overwrite_variable_with_gradient(v)]
        known = {id(v) for v in own.updated}
        places = [memory.place(v) for v in updated]
        names = _names(updated)
        pairs = zip(updated, places, strict=True)
        self._exclude({id(v): place for v, place in pairs if id(v) not in known}, updated)
        self.fused.build(dict(zip(names, places, strict=True)))
        own.updated, own.places = updated, places
        self._place(variables, {id(v): name for v, name in zip(updated, names, strict=True)})
        self._share()

    @memory.uncompiled
    def apply(self, grads: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
        """Take one step.

        Parameters
        ----------
        grads : sequence of tensors or arrays
            One gradient for each variable; None if there is none.
        trainable_variables : sequence of keras.Variable, optional
            The variables of these gradients, all that were built or some, in any order; builds on first use.

        Raises
        ------
        ValueError, TypeError
            If the call is invalid, or a variable is no longer what it was when it was built; then nothing has changed.

        Warns
        -----
        UserWarning
            If some gradients are None; those variables are left as they are.
        """
        self._require_whole("apply")
        if in_stateless_scope():
            raise ValueError("apply: expected no stateless scope, found one; call stateless_apply")
        gradients = list(grads)
        if not gradients:
            return
        variables = self._variables_of_step(gradients, trainable_variables)
        gradients, variables = self._filter_empty_gradients(gradients, variables)
        self._follow()
        replaced: list[tuple[Any, Any]] = []
        updated: list[tuple[Any, Any]] = []
        for gradient, variable in zip(gradients, variables, strict=True):
            is_replaced = self._overwrite_variable_with_gradient(variable)
            (replaced if is_replaced else updated).append((gradient, variable))
        member = self._member()
        count = int(member._iterations) if replaced else 0
        if updated and not self._update(updated):
            return
        for gradient, variable in replaced:
            member._replace(variable, gradient, count + 1)
        if not updated:
            member._iterations.assign_add(1)
            self._follow()
        for _, variable in updated:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def _member(self) -> Any:
        """The front of the optimizer that counts the steps."""
        return self

    def _update(self, pairs: Sequence[tuple[Any, Any]]) -> bool:
        """Take the step of the optimizer, and return whether it took it."""
        own = self._sharing
        gradients = [gradient for gradient, _ in pairs]
        variables = [variable for _, variable in pairs]
        places = None
        if len(variables) != len(own.updated) or any(map(is_not, variables, own.updated)):
            places = [variable._value for variable in variables]
        has_stepped = self.fused._core.apply(gradients, places)
        memory.note_writes(own.updated)
        return bool(has_stepped)

    def _replace(self, variable: Any, gradient: Any, step: int) -> None:
        """Put a gradient into the variable that it overwrites, as Keras does: under accumulation the largest one."""
        if self.gradient_accumulation_steps:
            largest = self._accumulated_gradients[self._get_variable_index(variable)]
            largest.assign(keras.ops.maximum(gradient, largest))
            if step % self.gradient_accumulation_steps:
                return
            gradient = keras.ops.copy(largest)
            largest.assign(keras.ops.zeros_like(gradient))
        variable.assign(gradient)

    def _variables_of_step(
        self, gradients: Sequence[Any], given: Iterable[Any] | None
    ) -> Sequence[Any]:
        if given is None:
            if not self.built:
                raise ValueError("apply: the optimizer is not built; give the variables, too")
            variables: Sequence[Any] = self._trainable_variables
        else:
            variables = list(given)
        if len(gradients) != len(variables):
            raise ValueError(
                f"apply: expected {len(variables)} gradients, one for each variable, found {len(gradients)}"
            )
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        return variables

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Any], list[Any]]:
        """Compute a step without changing anything.

        Parameters
        ----------
        optimizer_variables : sequence of tensors or arrays
            Values for `variables`.
        grads, trainable_variables : sequence of tensors or arrays
            Gradients, and values of the variables, in the order of `build`.

        Returns
        -------
        tuple of two lists
            New tensors: the updated variables, and the updated optimizer variables.

        Raises
        ------
        ValueError
            If the optimizer is not built, a number or shape is wrong, or one of the variables is overwritten by
            its gradient.
        """
        self._require_whole("stateless_apply")
        if len(self._sharing.updated) != len(self._trainable_variables):
            raise ValueError(
                "stateless_apply: expected no variable that its gradient overwrites; call apply"
            )
        self._follow()
        new, state = self.fused.stateless_apply(optimizer_variables, grads, trainable_variables)
        pairs = zip(new, self._sharing.updated, strict=True)
        tensors = [keras.ops.convert_to_tensor(value, v.dtype) for value, v in pairs]
        for i, (gradient, variable) in enumerate(zip(grads, self._sharing.updated, strict=True)):
            if gradient is not None and variable.constraint is not None:
                tensors[i] = variable.constraint(tensors[i])
        pairs = zip(state, self.variables, strict=True)
        return tensors, [keras.ops.convert_to_tensor(value, v.dtype) for value, v in pairs]

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the variables with their moving averages, as ``fit`` does at its end.

        Parameters
        ----------
        var_list : sequence of keras.Variable
            All built variables, in their order. Without ``use_ema`` nothing happens.

        Raises
        ------
        ValueError
            If the optimizer keeps averages, and is not built or the list is another one.
        """
        self._follow()
        own = self._sharing
        if not any(part.use_ema for part in (self, *self._every_part())):
            return
        given = [v for v in var_list if not self._overwrite_variable_with_gradient(v)]
        known = {id(v) for v in own.updated}
        unknown = [v.path for v in given if id(v) not in known]
        if unknown:
            raise ValueError(
                f"finalize_variable_values: expected the built variables, found {', '.join(unknown)}"
            )
        self.fused.finalize_variable_values([v._value for v in given])
        memory.note_writes(given)


def _names(variables: Sequence[Any]) -> list[str]:
    """Return the paths of variables, told apart by numbers if two have the same."""
    seen: Counter[str] = Counter()
    names = []
    for variable in variables:
        name = variable.path
        while seen[name]:
            name = f"{variable.path}_{seen[variable.path]}"
            seen[variable.path] += 1
        seen[name] += 1
        names.append(name)
    return names
