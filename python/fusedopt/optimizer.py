"""What every optimizer can do: build, step, and give and take its state.

One class, most of it docstrings: what Keras puts on its base class is here on one, too.
"""

from __future__ import annotations

import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from fusedopt import arguments, copying, files
from fusedopt.losses import scaled
from fusedopt.partial_loading import LoadReport, compare, follow_variables
from fusedopt.runtime import _core
from fusedopt.schedules import LearningRateSchedule
from fusedopt.serialized import serialized
from fusedopt.state import Array, checked_values

_Result = TypeVar("_Result")
_PREPARED = (list, tuple, dict)  # gradients that the core takes as they are
LearningRate = float | LearningRateSchedule | Callable[[], float]
Core = _core.Optimizer
Self = TypeVar("Self", bound="Optimizer")


class Optimizer:
    """The base of all optimizers. Use one of its subclasses.

    A step runs in this order, in one sweep over memory: unscale the gradient, accumulate and average
    it, clip, decay the variable (``w <- w - learning_rate * weight_decay * w``), apply the rule, update the
    moving average. A call is checked entirely before the first byte is written.

    A NaN in a gradient or in the state makes what is computed from it NaN, as in Keras. An infinite
    weight stays infinite under weight decay, which makes it NaN in Keras.

    float64 variables compute in float64; all others in float32 with float32 state. float16 and
    bfloat16 variables keep a float32 master copy, so small updates are not lost; what you write into
    such a variable between two steps replaces the master's value.

    Notes
    -----
    Optimizers can be copied and pickled, built or not. A copy goes on bit for bit.

    - ``copy.deepcopy`` and ``pickle`` copy the variables, too. If they copy an object that holds both a model and its
      optimizer, the new optimizer updates the arrays of the new model. Each must hold the same array object that was
      given to `build`: NumPy copies another view of it as an array of its own.
    - ``copy.copy`` makes an optimizer with state of its own on the same variables.
    - Functions, such as a callable learning rate, are copied as Python copies them: a plain function stays the same,
      a bound method belongs to the copy of its object. ``pickle`` refuses a lambda; ``cloudpickle`` takes it.
    - State and variables are of one moment, even if another thread steps. For this a pickle holds the values of the
      variables twice.
    - An optimizer inside a `LossScaleOptimizer` or `MultiOptimizer` is copied together with it.

    Examples
    --------
    >>> import fusedopt as fo
    >>> optimizer = fo.SGD(learning_rate=0.1, global_clipnorm=1.0, use_ema=True)
    >>> isinstance(optimizer, fo.Optimizer)
    True

    References
    ----------
    Keras 3, ``keras.optimizers.Optimizer``. Differences on purpose: gradients are widened to the
    computing type before anything is done to them; norms are summed in double; bias corrections
    and other scalars are computed in double; bad hyperparameters are refused.
    """

    _owner: weakref.ref[Optimizer] | None = None  # the wrapper around this optimizer
    _names: dict[str, int]
    _excluded_variables: list[Any]
    _excluded_names: list[str]
    _excluded_addresses: set[tuple[int, int]]
    _excluded_indices: list[int]
    _learning_rate: LearningRate
    _core: Core

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError(f"{type(self).__name__}: expected one of its subclasses")

    if not TYPE_CHECKING:  # which would allow every name

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse a name that means nothing; subclasses may have attributes of their own."""
            is_own = type(self).__module__.split(".")[0] == "fusedopt"
            is_known = name.startswith("_") or hasattr(type(self), name)
            if not is_known and (is_own or arguments.is_slip(name)):
                raise AttributeError(self._no_attribute(name))
            super().__setattr__(name, value)

    def _no_attribute(self, name: str) -> str:
        known = [each for each in dir(type(self)) if not each.startswith("_")]
        meant = arguments.hint(name, known)
        return f"{type(self).__name__!r} object has no attribute {name!r}" + (
            f"; {meant}" if meant else ""
        )

    @classmethod
    def _name_or_default(cls, name: str | None) -> str:
        """Name an optimizer after its class as Keras does, in snake case: RMSprop is rm_sprop."""
        if name is not None:
            return arguments.text("name", name)
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", cls.__name__)
        return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()

    def __repr__(self) -> str:
        """Show the class, the arguments that differ from the defaults, and how far it is."""
        state = f"{self.iterations} iterations" if self.built else "not built"
        shown = ", ".join(self._repr_arguments())  # type: ignore[attr-defined]
        return f"<{type(self).__name__}({shown}), {state}>"

    def _note_loss_scale(self, factor: float | None) -> None:
        """Take note that an optimizer around this one has set the core's factor."""
        vars(self)["loss_scale_factor"] = factor

    # Variables

    @property
    def built(self) -> bool:
        """Whether `build` has been called."""
        return self._core.built

    def build(self, variables: Sequence[Any] | Mapping[str, Any]) -> None:
        """Take the variables to update and allocate the optimizer's state.

        Parameters
        ----------
        variables : sequence or dict of numpy.ndarray
            float32, float64, float16 or bfloat16 (``ml_dtypes``), C-contiguous, writable, aligned,
            not overlapping. Other objects that share writable CPU memory are welcome too. They
            are kept alive, and NumPy refuses to resize them as long as the optimizer is. Each step
            checks that they still have the memory, dtype and shape of the build. With a dict,
            the names serve messages, `exclude_from_weight_decay` and gradients given by name.
            A masked array is refused, even if no element is masked; give its ``.data``.

        Raises
        ------
        ValueError, TypeError
            If a variable cannot be updated in place. The message names it, what was found and
            what to do. Also, if the optimizer is built, for a variable that is missing or has another
            name. Then nothing has changed.

        Notes
        -----
        Building again adds variables, for example some that are unfrozen in mid-training. All built ones must be
        given again, in any order; they are recognised by their memory. They keep their state bit for bit, their
        names, and their exclusion from weight decay. New ones start as in a first build. `iterations` and the
        learning rate go on. Views in `variables` that were taken before stay live. Variables that have no names
        yet can be given some.

        In the middle of an accumulation, the sum of a new variable starts at zero, as if its gradients had been zero
        so far. After the first update, the moving average of a new variable starts at the value that
        the variable has when the next step begins.

        Given the same variables, `build` does nothing. To freeze variables, leave their gradients out.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.Adam()
        >>> optimizer.build({"dense/kernel": np.zeros((3, 2)), "dense/bias": np.zeros(2)})
        >>> len(optimizer.variables)
        6
        """
        names, arrays = named(variables)
        if self._is_built_on(names, arrays):
            return
        self._pass_exclusions(names, arrays, names)
        self._core.build(arrays, names)
        self._note_built()

    def _pass_exclusions(
        self, names: Sequence[str], arrays: Sequence[Any], all_names: Sequence[str]
    ) -> None:
        """Tell the core which of these variables weight decay leaves out.

        Variables that are built already stay as they are. Warn of a pattern that finds nothing in `all_names`, which
        are those of all optimizers that are built together.
        """
        excluded = list(self._excluded_variables)
        built = [address(array) for array in self._core.arrays]
        known = set(built)
        for pattern in self._excluded_names:
            excluded += [
                array
                for name, array in zip(names, arrays, strict=False)
                if re.search(pattern, name)
                and not (known and address(as_array(array, f"variable {name!r}")) in known)
            ]
            if not any(re.search(pattern, name) for name in all_names):
                warnings.warn(
                    f"exclude_from_weight_decay: no variable's name matches {pattern!r}",
                    stacklevel=3,
                )
        self._core.exclude_from_weight_decay(excluded)
        self._excluded_addresses = {
            address(as_array(variable, "exclude_from_weight_decay")) for variable in excluded
        } | {built[i] for i in self._excluded_indices}

    def _note_built(self) -> None:
        self._names = {name: i for i, name in enumerate(self._core.names)}
        self._excluded_variables = []
        self._excluded_indices = [
            i
            for i, array in enumerate(self._core.arrays)
            if address(array) in self._excluded_addresses
        ]

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[Any] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Leave variables out of weight decay. Call it before `build`; a second call replaces the first.

        Before building again with more variables, ``var_list`` can name new ones. ``var_names`` stay those of before
        the first build.

        Parameters
        ----------
        var_list : sequence of numpy.ndarray, optional
            Variables, recognised by their memory. In a `MultiOptimizer` another optimizer may update them.
        var_names : sequence of str, optional
            Regular expressions, searched for in the names given to `build`.

        Raises
        ------
        ValueError
            If the optimizer is built and the call names anything but new variables; at `build`, if a
            variable of ``var_list`` is not among its variables, or those of the `MultiOptimizer` that
            it is in. A pattern that matches none of their names only warns.
        TypeError
            If an argument is of another kind.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.AdamW()
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
        >>> optimizer.build({"kernel": np.ones(3), "bias": np.ones(3)})
        """
        names = arguments.patterns("var_names", var_names)
        if var_list is not None:
            _require_iterable("var_list", var_list)
        variables = [] if var_list is None else list(var_list)
        if self.built:
            built = {address(array) for array in self._core.arrays}
            found = {address(as_array(w, "exclude_from_weight_decay")) for w in variables}
            if names or not variables or not built.isdisjoint(found):
                raise ValueError(
                    "exclude_from_weight_decay: expected before build, found the optimizer built; "
                    "from now on give only variables that a later build adds"
                )
        else:
            self._excluded_names = names
        self._excluded_variables = variables

    def _is_built_on(self, names: Sequence[str], variables: Sequence[Any]) -> bool:
        """Whether these are the built variables, in their order and by their names."""
        if not self.built or (names and list(names) != self._variable_names()):
            return False
        found = [address(as_array(w, f"build: variable {i}")) for i, w in enumerate(variables)]
        return found == [address(array) for array in self._core.checked_arrays()]

    # Steps

    def apply(
        self,
        grads: Iterable[Any] | Mapping[str, Any],
        trainable_variables: Iterable[Any] | None = None,
    ) -> None:
        """Take one step.

        Parameters
        ----------
        grads : sequence or dict of numpy.ndarray
            One gradient for each built variable, in their order; None where there is none. A
            dict by name may leave variables out. float16, bfloat16, float32 or float64,
            whatever the variable's type; also read-only, and also objects that share CPU memory
            (buffer protocol, ``__array_interface__``, ``__array__``). A gradient that is not
            C-contiguous is gathered element by element, which is slower. A masked array is
            refused, even if no element is masked; give its ``.filled(0)`` or ``.data``. Without
            variables beside it, an empty sequence changes nothing, as in Keras.
        trainable_variables : sequence of numpy.ndarray, optional
            The variables these gradients belong to, in any order; builds on first use. As many as
            gradients: an empty list of gradients beside variables, which Keras ignores, is a
            ValueError.

        Raises
        ------
        ValueError, TypeError
            If anything is wrong with the call, or a variable's memory, dtype or shape is no
            longer that of the build; then nothing has changed, but that an optimizer which
            the call has built stays built. A learning-rate function that fails or returns something
            that is not a finite number >= 0 stops the step as well.

        Warns
        -----
        UserWarning
            If some gradients are None; those variables are left as they are.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.zeros(2)
        >>> optimizer = fo.SGD(learning_rate=1.0)
        >>> optimizer.build({"w": w})
        >>> optimizer.apply({"w": np.array([1.0, -1.0])})
        >>> w
        array([-1.,  1.])
        """
        # Preparing takes a tenth of the time of a small step, and most calls need none.
        if trainable_variables is not None or type(grads) not in _PREPARED:
            grads, trainable_variables = self._prepare(grads, trainable_variables)
        self._core.apply(grads, trainable_variables)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> int:
        """Take one step with (gradient, variable) pairs.

        Returns
        -------
        int
            The number of steps taken so far.
        """
        pairs = list(grads_and_vars)
        for position, pair in enumerate(pairs):
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise ValueError(
                    f"grads_and_vars: expected (gradient, variable) at position {position}, "
                    f"found {type(pair).__name__}"
                )
        self.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
        return self._core.calls

    def _prepare(
        self, grads: Iterable[Any] | Mapping[str, Any], variables: Iterable[Any] | None
    ) -> tuple[Iterable[Any], Iterable[Any] | None]:
        if variables is None:
            if type(grads) in _PREPARED:
                return grads, None
            if isinstance(grads, Mapping):
                return {name: grads[name] for name in grads}, None
            _require_iterable("grads", grads)
            return list(grads), None
        if isinstance(grads, Mapping):
            raise TypeError("grads: expected a sequence beside trainable_variables, found a dict")
        _require_iterable("grads", grads)
        _require_iterable("trainable_variables", variables)
        gradients, variables = list(grads), list(variables)
        if not self.built and variables:
            if len(gradients) != len(variables):
                raise ValueError(
                    f"apply: expected {len(variables)} gradients, one for each variable, "
                    f"found {len(gradients)}"
                )
            self.build(variables)
        return gradients, variables

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Array], list[Array]]:
        """Compute a step without changing anything.

        Parameters
        ----------
        optimizer_variables : sequence of numpy.ndarray
            Values for `variables`.
        grads, trainable_variables : sequence of numpy.ndarray
            Gradients, and values of the variables, in the order of `build`.

        Returns
        -------
        tuple of two lists
            New arrays: the updated variables, and the updated optimizer variables.

        Raises
        ------
        ValueError, TypeError
            If the optimizer is not built, or as `apply` and `set_weights` do.
        """
        if not self.built:
            raise ValueError("stateless_apply: the optimizer is not built; call build first")
        _require_iterable("trainable_variables", trainable_variables)
        given = [
            as_array(variable, f"stateless_apply: {self._describe(i)}")
            for i, variable in enumerate(trainable_variables)
        ]
        values = self._arrays_for_state(optimizer_variables)
        # They may be this optimizer's own, which another thread steps.
        copies, values = self._between_steps(
            "stateless_apply",
            lambda: [
                [np.array(array, order="C") for array in arrays] for arrays in (given, values)
            ],
        )
        own = [(array.shape, array.dtype) for array in self._core.arrays]
        found = [(array.shape, array.dtype) for array in copies]
        if found != own:
            raise ValueError(
                "stateless_apply: expected variables of the built shapes and dtypes "
                f"({', '.join(f'{dtype}{shape}' for shape, dtype in own)}), "
                f"found {', '.join(f'{dtype}{shape}' for shape, dtype in found) or 'none'}"
            )
        other = copying.like(self, copies)
        other.set_weights(values)
        other.apply(grads)
        return copies, [np.array(variable) for variable in other.variables]

    def _variable_names(self) -> list[str]:
        return list(self._names)

    def _describe(self, index: int) -> str:
        names = self._variable_names()
        return f"variable {index}" + (f" ({names[index]!r})" if index < len(names) else "")

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the variables with their moving averages, at the end of training.

        Parameters
        ----------
        var_list : sequence of numpy.ndarray
            All built variables, in their order. Without ``use_ema`` nothing happens.

        Raises
        ------
        ValueError
            If the optimizer is not built, the list is another one, or a variable's memory, dtype
            or shape is no longer that of the build.
        TypeError
            If an item of the list gives no array, or one with a mask.
        """
        variables = var_list.values() if isinstance(var_list, Mapping) else var_list
        _require_iterable("var_list", variables)
        self._core.finalize_variable_values(list(variables))

    def scale_loss(self, loss: Any) -> Any:
        """Return the loss times ``loss_scale_factor``, for computing gradients from.

        Parameters
        ----------
        loss : float, array or tensor
            float16 and bfloat16 are widened to float32 first, because the product would overflow.
            Other types stay what they are.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> float(fo.SGD(loss_scale_factor=32768.0).scale_loss(np.float16(3.0)))
        98304.0
        """
        factor: float | None = vars(self)["loss_scale_factor"]
        return loss if factor is None else scaled(loss, factor)

    # State

    @property
    def iterations(self) -> int:
        """The number of updates so far: steps, divided by ``gradient_accumulation_steps``."""
        return self._core.iterations

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step. A schedule or callable is evaluated.

        Whatever the constructor takes can be assigned. As in Keras, a number cannot take the place of a
        schedule, but a callable that returns it can.
        """
        return self._core.learning_rate

    @property
    def global_norm(self) -> float | None:
        """The norm over all gradients of the last update, before clipping; None without ``global_clipnorm``."""
        return self._core.global_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps ``skip_nonfinite`` has skipped so far.

        The count is saved with the state if ``skip_nonfinite`` is on. It is not one of `variables`.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.ones(2)
        >>> optimizer = fo.SGD(learning_rate=1.0, skip_nonfinite=True)
        >>> optimizer.build([w])
        >>> optimizer.apply([np.array([0.5, np.nan])])
        >>> w, optimizer.iterations, optimizer.skipped_steps
        (array([1., 1.]), 0, 1)
        """
        return self._core.skipped_steps

    @property
    def variables(self) -> list[Array]:
        """Live views of all state, in Keras's order.

        The iteration counter, the learning rate if it is a number, moving averages, gradient
        accumulators, then the rule's slots. Writing into a view changes the optimizer. While another
        thread steps, the views change one after the other; `save_own_variables` copies all of one moment.
        """
        return list(self.named_variables().values())

    def named_variables(self) -> dict[str, Array]:
        """Return `variables` by name.

        Returns
        -------
        dict of numpy.ndarray
            Live views, in the order of `variables`. State of the whole optimizer has a plain name, such as
            ``"iteration"``. State of a variable has the name of the slot and that of the variable, as given to `build`,
            such as ``"momentum/dense/kernel"``. Variables without names are numbered. A `MultiOptimizer` puts the
            number of the optimizer before the name, and a `LossScaleOptimizer` puts ``"loss_scale"`` before its own.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.SGD(momentum=0.9, use_ema=True)
        >>> optimizer.build({"kernel": np.zeros(2)})
        >>> list(optimizer.named_variables())
        ['iteration', 'learning_rate', 'average/kernel', 'momentum/kernel']
        >>> optimizer.named_variables()["momentum/kernel"]
        array([0., 0.])
        """
        return dict(self._core.variables())

    # Averages

    @property
    def averages(self) -> dict[str, Array]:
        """Live views of the moving averages, by the names of their variables.

        Variables without names are numbered. Empty without ``use_ema``. The averages of 16-bit variables are float32.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
        >>> optimizer.build({"w": np.zeros(1)})
        >>> for _ in range(2):
        ...     optimizer.apply({"w": np.ones(1)})
        >>> optimizer.averages
        {'w': array([-1.5])}
        """
        return {
            key.removeprefix("average/"): array
            for key, array in self._core.variables()
            if key.startswith("average/")
        }

    @contextmanager
    def evaluation_weights(self) -> Iterator[dict[str, Array]]:
        r"""Put the weights to evaluate with into the variables, for a ``with`` block.

        With ``use_ema`` these are the moving averages, rounded to the variables' types. For `ScheduleFreeAdamW`
        without ``use_ema`` they are :math:`x = z + (w - z) / \beta_1`, of the :math:`\beta_1` that the next step would
        take. Before the first step the variables stay as they are. So do, in a `MultiOptimizer`, the variables of
        optimizers that have neither.

        After the block the variables hold, bit for bit, what they held before, also if the block raises. What the block
        writes into them is lost. Training goes on as if nothing had happened.

        Inside the block steps, copies, `save`, `load`, `set_weights` and the like are refused, on every thread.
        The block takes as much memory again as the variables.

        Yields
        ------
        dict of numpy.ndarray
            The variables by name; numbered if they have none.

        Raises
        ------
        ValueError
            If the optimizer is not built or has no such weights, inside another such block, or if a variable's memory,
            dtype or shape is no longer that of the build.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.zeros(1)
        >>> optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
        >>> optimizer.build([w])
        >>> for _ in range(2):
        ...     optimizer.apply([np.ones(1)])
        >>> with optimizer.evaluation_weights():
        ...     print(w)
        [-1.5]
        >>> w
        array([-2.])
        """
        self._require_training("evaluation_weights")
        if not self.built:
            raise ValueError("evaluation_weights: the optimizer is not built; call build first")
        lent = dict(self._named_arrays())
        places = [address(array) for array in lent.values()]
        self._core.begin_evaluation()
        try:
            yield lent
        finally:
            if [address(array) for array in self._core.arrays] != places:
                raise ValueError(
                    "evaluation_weights: expected the variables' memory as before, found it moved inside the block; "
                    "the weights in training cannot be brought back"
                )
            self._core.end_evaluation()

    def _require_training(self, who: str) -> None:
        if self._core.evaluating:
            raise ValueError(
                f"{who}: expected the weights in training, found the variables lent to an evaluation; "
                "leave the block of evaluation_weights first"
            )

    def _between_steps(self, who: str, function: Callable[[], _Result]) -> _Result:
        self._require_training(who)
        return self._core.between_steps(function)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy values into `variables`.

        Parameters
        ----------
        weights : sequence of numpy.ndarray
            As many as `variables`, of the same shapes and kinds; they are cast.

        Raises
        ------
        ValueError
            If the optimizer is not built, or count, a shape, a kind or a value is wrong; then
            nothing has changed.
        TypeError
            If an object gives no array, or one with a mask; then nothing has changed.
        """
        if not self.built:
            raise ValueError("set_weights: the optimizer is not built; call build first")
        values = self._arrays_for_state(weights)
        self._between_steps("set_weights", lambda: self._set_values(values))

    def _arrays_for_state(self, weights: Sequence[Any]) -> list[Array]:
        _require_iterable("weights", weights)
        weights = list(weights)
        own = self.named_variables()
        if len(weights) != len(own):
            raise ValueError(f"set_weights: expected {len(own)} arrays, found {len(weights)}")
        return [
            as_array(value, f"set_weights: array {i} ({name})")
            for i, (name, value) in enumerate(zip(own, weights, strict=True))
        ]

    def _set_values(self, values: list[Array]) -> None:
        own = list(self.named_variables().items())
        self._core_set_weights(checked_values("set_weights", own, values))

    def _core_set_weights(self, values: list[Array]) -> None:
        self._core.set_weights(values)

    def save_own_variables(self, store: MutableMapping[str, Any]) -> None:
        """Put copies of `variables` into a mapping, under "0", "1" and so on, as Keras does.

        All of them are of one moment, even if another thread steps.
        """
        copies = self._between_steps("save_own_variables", lambda: _core.copies(self.variables))
        for position, copy in enumerate(copies):
            store[str(position)] = copy

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Take `variables` from a mapping that `save_own_variables` filled, here or in Keras.

        Raises
        ------
        ValueError
            As `set_weights` does, or if the keys are others; then nothing has changed.
        """
        if not self.built:
            raise ValueError("load_own_variables: the optimizer is not built; call build first")
        if not hasattr(store, "keys"):
            raise TypeError(f"store: expected a mapping, found {type(store).__name__}")
        keys = set(store.keys())
        count = len(self.variables)
        expected = [str(position) for position in range(count)]
        if keys != set(expected):
            raise ValueError(
                f"load_own_variables: expected the keys '0' to '{count - 1}', "
                f"found {len(keys)} keys: {sorted(map(repr, keys))[:8]}"
            )
        self.set_weights([store[key] for key in expected])

    def save(self, path: str | bytes | os.PathLike[Any], variables: bool = False) -> None:
        """Write all state to one file, whole or not at all.

        The file is in the safetensors format (package ``safetensors``, extra ``files``). It holds
        everything in `variables`, what it takes besides to go on bit for bit (master copies of 16-bit
        variables), a checksum of each array, and the configuration, without functions. All of it is
        of one moment, even if another thread steps. That thread waits only while the state is copied
        to memory: a save needs as much memory again as what it saves.

        The file is written beside the old one and takes its place when it is whole. A crash or a full
        disk leaves the old file as it was. What a killed process has left there (a file whose name begins
        with a dot and ends with ``.saving``) is removed by the next save to the same path; on Windows it
        stays. Otherwise the path is treated as `open` treats it. Links are followed. A new file has
        the mode that the umask leaves; an old file's mode is kept, and its owner if the system allows.
        Another hard link to the old file keeps the old contents.

        Parameters
        ----------
        path : str, bytes or path
            The file to write or replace.
        variables : bool
            Also write the variables given to `build`, as ``variable/<name>``. `load` restores them.

        Raises
        ------
        ValueError
            If the optimizer is not built, or a `load` has failed half-way.
        ImportError
            If safetensors is not installed.
        OSError
            If the file cannot be written. PermissionError also if the file could be written but its
            folder takes no new one. The error names `path` and has the system's ``errno``.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> w = np.zeros(3)
        >>> optimizer = fo.Adam()
        >>> optimizer.build({"w": w})
        >>> optimizer.apply({"w": np.ones(3)})
        >>> new_w = np.zeros(3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "adam.safetensors"
        ...     optimizer.save(path, variables=True)
        ...     other = fo.Adam()
        ...     other.build({"w": new_w})
        ...     other.load(path)
        >>> other.iterations, (new_w == w).all()
        (1, np.True_)
        """
        if not self.built:
            raise ValueError("save: the optimizer is not built; call build first")
        with_variables = arguments.flag("variables", variables)
        files.write(path, *self._between_steps("save", lambda: self._moment(with_variables)))

    def _moment(self, with_variables: bool) -> tuple[list[tuple[str, Array]], dict[str, Any]]:
        """Copy what is saved, and the configuration."""
        named = self._saved(with_variables)
        self._require_whole("save")
        copies = _core.copies([array for _, array in named])
        return [
            (name, copy) for (name, _), copy in zip(named, copies, strict=True)
        ], self._description()

    def _saved(self, with_variables: bool) -> list[tuple[str, Array]]:
        """Return live views of what is saved."""
        state = self._core_state()
        if not with_variables:
            return state
        return state + [(files.VARIABLE + name, array) for name, array in self._named_arrays()]

    def _named_arrays(self) -> list[tuple[str, Array]]:
        """Return the variables by name, or numbered."""
        arrays = self._core.checked_arrays()
        names = self._variable_names() or [str(position) for position in range(len(arrays))]
        return list(zip(names, arrays, strict=True))

    def _require_whole(self, who: str) -> None:
        if any(count < 0 for _, count in self._own_counts()):
            raise ValueError(
                f"{who}: expected a whole state, found an iteration below 0, as a failed load leaves it; "
                "load a whole file first"
            )

    def _own_counts(self) -> list[tuple[str, Array]]:
        """Return live views of the counters without which no step is taken."""
        return [
            (name, array)
            for name, array in self._core.state()
            if name.rsplit("/", 1)[-1] == "iteration" and array.dtype.kind == "i"
        ]

    @overload
    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = ...,
        *,
        strict: Literal[True] = ...,
    ) -> None: ...
    @overload
    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = ...,
        *,
        strict: Literal[False],
    ) -> LoadReport: ...
    def load(
        self,
        path: str | bytes | os.PathLike[Any],
        variables: bool | None = None,
        *,
        strict: bool = True,
    ) -> LoadReport | None:
        """Take the state from a file that `save` wrote.

        It replaces everything in `variables`, so the learning rate if it is a number, the counters,
        averages and accumulators, and also master copies of 16-bit variables and loss scales. The other
        hyperparameters stay as they are, and so does a schedule or callable. Whether the learning rate
        is a number or not must be the same here and in the file.

        The file is read twice in small pieces, so that loading takes hardly any memory. The first time all
        of it is checked, and nothing has changed. If reading fails only the second time (a broken
        disk, or another process that writes into the file meanwhile), the state is half of the file. Then
        the error says so, and steps and saves are refused until a load succeeds.

        Parameters
        ----------
        path : str, bytes or path
            A file of the same class of optimizer, built on variables of the same names, shapes
            and types with the same options.
        variables : bool, optional
            Whether to overwrite the variables, too, with those in the file. Default: if there are any.
        strict : bool
            False takes from any optimizer's file what fits by name, shape and type. See Notes.

        Returns
        -------
        LoadReport
            If ``strict`` is False: ``missing``, a list of what kept its value here, and ``unexpected``, a list of
            what the file has besides. What is in the file in another shape or type is in both. Otherwise None.

        Raises
        ------
        ValueError
            If the optimizer is not built, or the file is truncated, damaged or, if ``strict``, another's; then
            nothing has changed.
        ImportError
            If safetensors is not installed.
        OSError
            If the file cannot be read: FileNotFoundError, PermissionError, IsADirectoryError and so on.

        Notes
        -----
        ``strict=False`` is for models that grew, shrank or have other names, and for other options. All else
        remains: the whole file is checked first, and a refused load changes nothing.

        - The slots of a variable are taken together or not at all. Only slots that an option adds
          (``amsgrad``; ``momentum`` and ``centered`` of RMSprop) may be missing; they keep their values.
        - From a file of another class of optimizer, slots and learning rate are not taken, as they mean
          something else there. Adam, AdamW and Nadam take each other's.
        - A moving average that is missing and has not begun starts at its variable's value in the next step.
        - A 16-bit variable that is taken without its master copy counts by its own value.
        - In a `MultiOptimizer` the names of the state begin with the position of the optimizer, ``"0/"``. A
          `LossScaleOptimizer` adds only its own scale and counters, so files with and without it fit each other.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import fusedopt as fo
        >>> small, large = fo.Adam(), fo.Adam()
        >>> small.build({"w": np.ones(3)})
        >>> large.build({"w": np.ones(3), "b": np.ones(2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "adam.safetensors"
        ...     small.save(path)
        ...     report = large.load(path, strict=False)
        >>> report.missing
        ['momentum/b', 'velocity/b']
        >>> report.unexpected
        []
        """
        if not self.built:
            raise ValueError("load: the optimizer is not built; call build first")
        strict = arguments.flag("strict", strict)
        if variables is not None:
            variables = arguments.flag("variables", variables)
        class_name = self._description()["class_name"] if strict else None
        with closing(files.SavedFile(path, class_name)) as file:
            with_variables = file.has_variables if variables is None else variables
            self._matched(file, self._saved(with_variables), with_variables, strict)
            file.verify()
            report: LoadReport = self._between_steps(
                "load", lambda: self._take(file, with_variables, strict)
            )
        return None if strict else report

    def _take(self, file: files.SavedFile, with_variables: bool, strict: bool) -> LoadReport:
        state, everything = self._core_state(), self._saved(with_variables)
        report = self._matched(file, everything, with_variables, strict)
        kept = set(report.missing)

        def value(name: str, array: Array) -> Array | None:
            """Return what the core takes; arrays are copied later, and None stays as it is."""
            if name in kept:
                return None
            return file.number(name, array) if array.ndim == 0 else array

        numbers = [value(*item) for item in state]
        counts = self._own_counts()
        final = [
            array.copy() if value(name, array) is None else value(name, array)
            for name, array in counts
        ]

        def begin() -> None:
            self._core_set_state(numbers)  # first, as only numbers can be refused
            for _, count in counts:
                count[...] = -1

        def end() -> None:
            for (_, count), number in zip(counts, final, strict=True):
                count[...] = number

        copies = [
            partial(file.copy_to, name, array)
            for name, array in everything
            if (array.ndim > 0 or name.startswith(files.VARIABLE)) and name not in kept
        ]
        followers = follow_variables(everything, self._rules(), report)
        _finish([end, *followers, *copies], begin, file)
        return report

    def _matched(
        self,
        file: files.SavedFile,
        everything: Sequence[tuple[str, Array]],
        with_variables: bool,
        strict: bool,
    ) -> LoadReport:
        if not strict:
            return compare(everything, self._rules(), file, with_variables)
        file.require(everything)
        return LoadReport([], [])

    def _rules(self) -> dict[str, set[str]]:
        """Return the names of the rule's classes, by what begins the names of its state."""
        return {"": {cls.__name__ for cls in type(self).__mro__}}

    def _description(self) -> dict[str, Any]:
        return serialized(self, "keras.optimizers")

    def _core_state(self) -> list[tuple[str, Array]]:
        return self._core.state()

    def _core_set_state(self, values: list[Array | None]) -> None:
        self._core.set_state(values)

    # Copies

    def __reduce__(self) -> tuple[Any, ...]:
        """Give `copy.deepcopy` and `pickle` everything, of one moment."""
        return copying.bare, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything that a copy needs."""
        return copying.state_of(self)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Become a copy of the optimizer whose state this is."""
        copying.restore(self, state)

    def __copy__(self: Self) -> Self:
        """Make an optimizer with state of its own, on the same variables."""
        copied: Self = copying.shallow(self)
        return copied

    def _parts(self) -> Sequence[Optimizer]:
        """Return the optimizers that this one is put around."""
        return ()

    def _parts_replaced(self, new: Mapping[int, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Return the attributes that hold parts, with new ones in the place of those with these ids."""
        return {}

    def _connect(self) -> None:
        """Make the core's object of the attributes, and of the parts if there are any."""
        raise NotImplementedError

    def _own_state(self) -> list[tuple[str, Array]]:
        """Return live views of all state but that of the parts."""
        return self._core.state()

    def _exclude_copies(self, objects: Sequence[Any]) -> None:
        """Leave out of weight decay what the original leaves out, of the copies of its variables."""
        self._core.exclude_from_weight_decay([objects[i] for i in self._excluded_indices])

    def _build_copy(self, objects: Sequence[Any]) -> None:
        """Build on copies of the variables, or on others that stand for them."""
        self._exclude_copies(objects)
        self._core.build(objects, self._variable_names())

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        raise NotImplementedError


def _finish(
    rest: list[Callable[[], None]], begin: Callable[[], None], file: files.SavedFile
) -> None:
    """Call `begin`, which may refuse, then all the rest from the last one on, whatever interrupts."""
    pending = [*rest, begin]
    interruption = None
    while pending:
        try:
            pending[-1]()
            pending.pop()
        except Exception as error:
            if pending[-1] is begin:
                raise file.error(str(error)) from None
            raise ValueError(
                f"{error}; the state is now partly that of the file; load a whole one "
                "before the next step"
            ) from error
        except BaseException as error:  # noqa: BLE001
            interruption = error  # what was begun is finished first
    if interruption:
        raise interruption


def named(variables: Any) -> tuple[list[str], list[Any]]:
    """Take variables apart into names, none for a sequence, and arrays."""
    if isinstance(variables, Mapping):
        return [arguments.text("variable name", name) for name in variables], list(
            variables.values()
        )
    _require_iterable("variables", variables, "a sequence or dict of arrays")
    return [], list(variables)


def _require_iterable(name: str, value: Any, expected: str = "a sequence of arrays") -> None:
    """Refuse what has no arrays for items; an array itself would fall into its rows."""
    is_array = not isinstance(value, (str, bytes)) and _core.offers_memory(value)
    if (
        is_array
        or not isinstance(value, Iterable)
        or isinstance(value, (str, bytes, Mapping, AbstractSet))
    ):
        advice = "; put it into a list" if is_array else "; give a list"
        raise TypeError(f"{name}: expected {expected}, found {type(value).__name__}{advice}")


def as_array(variable: Any, who: str) -> Array:
    """Return an array over an object's values."""
    return _core.value_array(variable, who)


def address(array: Array) -> tuple[int, int]:
    """Return where an array lies, and its size in bytes."""
    return array.__array_interface__["data"][0], array.nbytes
