"""The face of every optimizer: its name, its averages and its configuration."""

from __future__ import annotations

import inspect
import re
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fusedopt import arguments
from fusedopt.arrays import Array, require_iterable
from fusedopt.attributes import Attributes
from fusedopt.declared import Declared
from fusedopt.losses import scaled
from fusedopt.schedules import LearningRateSchedule
from fusedopt.stepping import Stepping

LearningRate = float | LearningRateSchedule | Callable[[], float]
Self = TypeVar("Self", bound="Optimizer")


class Optimizer(Stepping, Declared, Attributes):
    """The base of all optimizers. Use one of its subclasses.

    A step runs in this order, in one sweep over memory: unscale the gradient, accumulate and average
    it, clip, decay the variable (``w <- w - learning_rate * weight_decay * w``), apply the rule, update the
    moving average. A call is checked entirely before the first byte is written.

    A NaN in a gradient or in the state makes what is computed from it NaN, as in Keras. An infinite
    weight stays infinite under weight decay, which makes it NaN in Keras.

    float64 variables compute in float64; all others in float32 with float32 state (or ``slot_dtype``). float16
    and bfloat16 variables keep a float32 master copy, unless ``master`` is False, so small updates are not
    lost; what you write into such a variable between two steps replaces the master's value.

    Notes
    -----
    Optimizers can be copied and pickled, built or not. A copy goes on bit for bit.

    - ``copy.deepcopy`` and ``pickle`` copy the variables, too. If they copy an object that holds both a model and its
      optimizer, the new optimizer updates the arrays of the new model. Each must hold the same array object that was
      given to `build`: NumPy copies another view of it as an array of its own. If the optimizer is copied without the
      model, its copy updates arrays that no model has.
    - joblib hands arrays of more than a megabyte to its workers as read-only memory maps. Such a copy updates arrays of
      its own, and warns. With ``mmap_mode="c"`` or ``max_nbytes=None`` it stays tied to the model that came along.
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
    Keras 3, ``keras.optimizers.Optimizer``. These differences are on purpose: gradients are widened
    to the computing type first, norms and scalars such as bias corrections are computed in double,
    and bad hyperparameters are refused.
    """

    if not TYPE_CHECKING:  # which would allow every name, and all arguments

        def __new__(cls, *_: Any, **__: Any) -> Any:
            """Refuse a class without a rule."""
            if inspect.isabstract(cls):
                raise TypeError(f"{cls.__name__}: expected one of its subclasses")
            return super().__new__(cls)

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
        shown = ", ".join(self._repr_arguments())
        return f"<{type(self).__name__}({shown}), {state}>"

    def _note_loss_scale(self, factor: float | None) -> None:
        """Take note that an optimizer around this one has set the core's factor."""
        vars(self)["loss_scale_factor"] = factor
        for part in self._parts():
            part._note_loss_scale(factor)

    def _adopt_parts(self, loss_scale_factor: float | None) -> None:
        """Let the parts know that this optimizer is around them and has set their factor."""
        for part in self._parts():
            part._note_loss_scale(loss_scale_factor)
            part._owner = weakref.ref(self)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step. A schedule or callable is evaluated.

        Whatever the constructor takes can be assigned. As in Keras, a number cannot take the place of a
        schedule, but a callable that returns it can.
        """
        return self._core.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: LearningRate) -> None:
        self._set_learning_rate(learning_rate)

    @abstractmethod
    def _set_learning_rate(self, new: LearningRate) -> None:
        """Take another learning rate."""

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
        factor = self._loss_scale
        return loss if factor is None else scaled(loss, factor)

    @property
    @abstractmethod
    def _loss_scale(self) -> float | None:
        """What the loss is multiplied by."""

    # Averages

    @property
    def averages(self) -> dict[str, Array]:
        """Live views of the moving averages, by the names of their variables.

        Variables without names are numbered. Variables of optimizers without ``use_ema`` have none. The averages of
        16-bit variables are float32.

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
        found = {
            average[1]: array
            for name, array in self._core.state()
            if (average := re.fullmatch(r"(?:\d+/)?average/(.*)", name, re.DOTALL))
        }
        return {name: found[name] for name in self._variable_names() if name in found}

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
        self._core.begin_evaluation()
        try:
            yield lent
        finally:
            try:
                self._core.end_evaluation()
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"evaluation_weights: {error}; the weights in training cannot be brought back"
                ) from error

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        """Overwrite the variables with their moving averages, at the end of training.

        Under ``row_updates="caught_up"`` all rows are given what they have missed; see `catch_up`.

        Parameters
        ----------
        var_list : sequence or dict of numpy.ndarray
            All built variables, in their order. Without ``use_ema`` and ``row_updates="caught_up"`` nothing happens.

        Raises
        ------
        ValueError
            If the optimizer is not built, the list is another one, or a variable's memory, dtype
            or shape is no longer that of the build.
        TypeError
            If an item of the list gives no array, or one with a mask.
        """
        variables = var_list.values() if isinstance(var_list, Mapping) else var_list
        require_iterable("var_list", variables)
        self._core.finalize_variable_values(list(variables))

    def _values(self) -> dict[str, Any]:
        """Return all hyperparameters but the learning rate."""
        return {
            name: each.kept(self)
            for name, each in self._hyperparameters.items()
            if name in vars(self)
        }

    def _new_arguments(self) -> dict[str, Any]:
        known = self._hyperparameters.items()
        return {name: each.default for name, each in known if each.is_keyword}

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        config = self._configuration()
        return {"name": config.pop("name"), **config}

    @classmethod
    def from_config(
        cls: type[Self],
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make an optimizer from what `get_config` returned.

        Parameters
        ----------
        config : dict
            Arguments of the class.
        custom_objects : dict, optional
            Classes by name, for schedules and optimizers of your own.
        """
        own = arguments.configuration(config)
        for name, each in cls._hyperparameters.items():
            if isinstance(own.get(name), Mapping):
                own[name] = each.deserialized(own[name], custom_objects)
        return cls(**own)
