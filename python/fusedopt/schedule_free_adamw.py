"""Schedule-free AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer, hyperparameter
from fusedopt.runtime import _core


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW that needs no learning-rate schedule.

    .. math::

        v &\leftarrow v + (g^2 - v)(1 - \beta_2) \\
        z' &= z - \eta_t\, g / (\sqrt{v / (1 - \beta_2^t)} + \epsilon) \\
        x &\leftarrow (1 - 1/t)\, x + z' / t, \qquad x = (w - (1 - \beta_1) z) / \beta_1 \text{ before} \\
        w &\leftarrow (1 - \beta_1) z' + \beta_1 x, \qquad z \leftarrow z'

    The variables :math:`w` are where gradients are taken (the paper's :math:`y`); :math:`z`, the first slot,
    starts as a copy of them. :math:`\eta_t = \eta \min(t / \text{warmup\_steps}, 1)`.

    Evaluate the model at :math:`x`: `evaluation_weights` puts it into the variables for a ``with`` block.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    beta_1 : float or callable
        Weight of the average in :math:`w`, in (0, 1). A callable takes no arguments and is
        called once in each update.
    beta_2 : float or callable
        Decay of the second moment, in [0, 1), or a callable.
    epsilon : float
        > 0.
    warmup_steps : int
        Updates over which the learning rate grows to its value, >= 0.
    weight_decay : float, optional
    clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency
        As in `Optimizer`.
    loss_scale_factor, gradient_accumulation_steps, name, skip_nonfinite
        As in `Optimizer`.

    Raises
    ------
    ValueError, TypeError
        As in `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedopt as fo
    >>> w = np.array([1.0, 2.0])
    >>> optimizer = fo.ScheduleFreeAdamW(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([0.5, -8.0])])
    >>> w.round(3)
    array([0.9, 2.1])

    References
    ----------
    Defazio et al., The Road Less Scheduled, NeurIPS 2024. Keras 3,
    ``keras.optimizers.ScheduleFreeAdamW``, on its NumPy backend; two other backends read the
    slot after writing it.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float | Callable[[], float] = 0.9,
        beta_2: float | Callable[[], float] = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        skip_nonfinite: bool = False,
        **kwargs: Any,
    ) -> None:
        arguments.none_left(kwargs)
        self.beta_1 = hyperparameter("beta_1", beta_1)
        self.beta_2 = hyperparameter("beta_2", beta_2)
        self.epsilon = arguments.real("epsilon", epsilon)
        self.warmup_steps = arguments.integer("warmup_steps", warmup_steps)
        super().__init__(
            _core.schedule_free_adamw(
                beta_1=self._core_hyperparameter("beta_1"),
                beta_2=self._core_hyperparameter("beta_2"),
                epsilon=self.epsilon,
                warmup_steps=self.warmup_steps,
            ),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            skip_nonfinite=skip_nonfinite,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal optimizer, without its state."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "warmup_steps": self.warmup_steps,
        }
