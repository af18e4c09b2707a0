"""What steps: built on variables, and updated by their gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fusedopt import exclusions
from fusedopt.arrays import Array, address, as_array, described, named, require_iterable
from fusedopt.catching_up import CatchingUp
from fusedopt.state import copying

_PREPARED = (list, tuple, dict)  # gradients that the core takes as they are


class Stepping(CatchingUp):
    """What updates variables by their gradients."""

    # Variables

    def build(self, variables: Sequence[Any] | Mapping[str, Any]) -> None:
        """Take the variables to update and allocate the optimizer's state.

        Parameters
        ----------
        variables : sequence or dict of numpy.ndarray
            float32, float64, float16 or bfloat16 (``ml_dtypes``), C-contiguous, writable, aligned,
            not overlapping. Other objects that share writable CPU memory are welcome too, for
            example PyTorch's tensors and parameters, also of bfloat16 and also if they require a
            gradient. JAX's arrays never change, so they are refused. The optimizer keeps the
            variables alive, and NumPy refuses to resize them as long as it lives. Each step checks
            that they still have the memory, dtype and shape of the build. With a dict, the names
            serve messages, `exclude_from_weight_decay` and gradients given by name. A masked array
            is refused, even if no element is masked; give its ``.data``.

        Raises
        ------
        ValueError, TypeError
            If a variable cannot be updated in place, or if the optimizer is built and one of its variables is missing
            or has another name. The message names the variable, what was found and what to do. Nothing has changed
            then.

        Notes
        -----
        Building again adds variables, for example some that are unfrozen in mid-training. All built ones must be
        given again, in any order; they are recognised by their memory. They keep their state bit for bit, their
        names, and their exclusion from weight decay. New ones start as in a first build. `iterations` and the
        learning rate go on. Views in `variables` that were taken before stay live. Variables that have no names
        yet can be given some.

        A library may move the memory of an object that is not a NumPy array, as PyTorch does if ``p.data`` is
        assigned or ``p.share_memory_()`` is called. The next call goes on in the new memory with the old state, and
        what the new memory holds counts. The object must be the one given to `build`. The new memory must have the
        old dtype and shape, be C-contiguous and overlap nothing else, or the call is refused.

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
        self._build_on(names, arrays)

    @abstractmethod
    def _build_on(self, names: Sequence[str], arrays: Sequence[Any]) -> None:
        """Build on variables, of which some may be built already."""

    def _is_built_on(self, names: Sequence[str], variables: Sequence[Any]) -> bool:
        """Whether these are the built variables, in their order and by their names."""
        if not self.built or (names and list(names) != self._core.names):
            return False
        found = [
            address(as_array(w, f"build: {described(i, names)}")) for i, w in enumerate(variables)
        ]
        return found == [address(array) for array in self._core.checked_arrays()]

    def _describe(self, index: int) -> str:
        return described(index, self._core.names)

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[Any] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Leave variables out of weight decay. Call it before `build`; a second call replaces the first.

        Before building again with more variables, ``var_list`` can name new ones. ``var_names`` stay those of before
        the first build. A `MultiOptimizer` passes the call on to each of its optimizers. `build` warns if a pattern or
        a ``var_list`` names no variable of any optimizer that it was given to.

        Parameters
        ----------
        var_list : sequence of numpy.ndarray, optional
            Variables, recognised by their memory.
        var_names : sequence of str, optional
            Regular expressions, searched for in the names given to `build`.

        Raises
        ------
        ValueError
            If the optimizer is built and the call names anything but new variables. `build` raises it if a variable of
            ``var_list`` is not among its variables, or among those of the `MultiOptimizer` around it.
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
        self._exclude(*exclusions.checked(var_list, var_names))

    @abstractmethod
    def _exclude(self, variables: list[Any], patterns: list[str]) -> None:
        """Leave variables out of weight decay, from the next build on."""

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
            One gradient for each built variable, in their order; None if there is none. A dict by
            name may leave variables out. float16, bfloat16, float32 or float64, whatever the
            variable's type; also read-only, and also objects that share CPU memory, such as
            tensors of PyTorch and arrays of JAX (DLPack's C functions, buffer protocol,
            ``__array_interface__``, ``__array__``, ``__dlpack__``). They may require a gradient.
            Nobody may free or move their memory during the call. A gradient that is not
            C-contiguous is gathered element by element, which is slower. A masked array is refused,
            even if no element is masked; give its ``.filled(0)`` or ``.data``. An empty sequence or dict
            without variables changes nothing, as in Keras, and is no step.

            A `RowGradient` stands for some rows of a variable, such as an embedding's. So do PyTorch's sparse tensors
            with one sparse dimension, TensorFlow's ``IndexedSlices``, JAX's ``BCOO`` with ``n_sparse`` 1 and SciPy's
            CSR arrays and matrices. `Lamb`, `Adafactor`, the matrices of `Muon` and optimizers with
            ``gradient_accumulation_steps`` take dense gradients only. If slots are in float8, the elements of a row
            must be a multiple of 64.
        trainable_variables : sequence of numpy.ndarray, optional
            The variables that these gradients belong to, in any order; builds on first use. There
            must be as many as gradients. No gradients for some variables is a ValueError; Keras
            ignores such a call.

        Raises
        ------
        ValueError, TypeError
            If the call is invalid, a variable's dtype or shape is no longer that of the build, its
            memory has moved to where the optimizer cannot follow, another thread builds again
            during the call, or a learning-rate function fails or returns something that is not a
            finite number >= 0. Nothing is changed, except that an optimizer built by this call
            stays built.

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

        Parameters
        ----------
        grads_and_vars : iterable of pairs
            As Keras has them. `apply` says what each of the two may be.

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
            require_iterable("grads", grads)
            return list(grads), None
        if isinstance(grads, Mapping):
            raise TypeError(
                "grads: expected a sequence, as for trainable_variables, found a dict; "
                "give gradients by name alone, and the variables as a dict to build"
            )
        require_iterable("grads", grads)
        require_iterable("trainable_variables", variables)
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
            New arrays: the updated variables, and the updated optimizer variables. Those of tensors
            of bfloat16 hold the bits, as uint16.

        Raises
        ------
        ValueError, TypeError
            If the optimizer is not built, or as `apply` and `set_weights` do.
        """
        if not self.built:
            raise ValueError("stateless_apply: the optimizer is not built; call build first")
        require_iterable("trainable_variables", trainable_variables)
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
