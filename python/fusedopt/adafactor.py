"""Adafactor."""

from __future__ import annotations

from typing import Any

from fusedopt import arguments
from fusedopt.optimizer import LearningRate, Optimizer
from fusedopt.runtime import _core


class Adafactor(Optimizer):
    r"""Adam's second moment, kept only as the means of its rows and columns.

    Of a variable with two or more dimensions, over its last two:

    .. math::

        q &= g^2 + \epsilon_1, \qquad b = 1 - t^{\texttt{beta\_2\_decay}} \\
        r &\leftarrow b r + (1 - b)\, \operatorname{mean}_j q_{ij}, \qquad
        c \leftarrow b c + (1 - b)\, \operatorname{mean}_i q_{ij} \\
        u_{ij} &= \frac{g_{ij}}{\sqrt{r_i c_j / \operatorname{mean}(r)}} \\
        w &\leftarrow w - \alpha \frac{u}{\max(1, \operatorname{rms}(u) / d)}, \qquad
        \alpha = \max(\epsilon_2, \operatorname{rms}(w)) \min(\eta, 1 / \sqrt{t})

    :math:`\operatorname{rms}` is the root of the mean square and :math:`d` is ``clip_threshold``. Of a variable with
    fewer dimensions :math:`v \leftarrow b v + (1 - b) q` is kept whole and :math:`u = g / \sqrt{v}`.

    A step reads the gradient three times and the variable twice: 24 bytes an element of float32. Memory between
    steps is one number a row and one a column. Keras also stores the second moment of matrices,
    :math:`r_i c_j / \operatorname{mean}(r)`, and so `variables` lists it as ``velocity``; here it is computed
    whenever `variables` is read, takes memory only from then on, and writing to it has no effect.

    Where :math:`r_i` or :math:`c_j` is zero the update is zero (in Keras the whole variable can become NaN).
    As in Keras, a gradient that is not finite makes its whole variable NaN, and so does one whose square float32
    cannot hold (beyond 1e19); in a variable of fewer than two dimensions such an element has an update of zero instead.
    As in Keras, ``relative_step`` makes no difference: the learning rate is always at most :math:`1 / \sqrt{t}`.

    Parameters
    ----------
    learning_rate : float, LearningRateSchedule or callable
        :math:`\eta`.
    beta_2_decay : float
        <= 0.
    epsilon_1 : float
        >= 0.
    epsilon_2 : float
        >= 0.
    clip_threshold : float
        > 0.
    relative_step : bool
        Without effect.
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
    >>> w = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> optimizer = fo.Adafactor(learning_rate=0.1)
    >>> optimizer.build([w])
    >>> optimizer.apply([np.array([[0.5, -8.0], [1.0, 1.0]])])
    >>> w.round(3)
    array([[0.953, 2.104],
           [2.469, 3.926]])

    References
    ----------
    Shazeer & Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, ICML 2018.
    Keras 3, ``keras.optimizers.Adafactor``.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 1e-3,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
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
        self.beta_2_decay = arguments.real("beta_2_decay", beta_2_decay)
        self.epsilon_1 = arguments.real("epsilon_1", epsilon_1)
        self.epsilon_2 = arguments.real("epsilon_2", epsilon_2)
        self.clip_threshold = arguments.real("clip_threshold", clip_threshold)
        self.relative_step = arguments.flag("relative_step", relative_step)
        super().__init__(
            _core.rule(
                "Adafactor",
                beta_2_decay=self.beta_2_decay,
                epsilon_1=self.epsilon_1,
                epsilon_2=self.epsilon_2,
                clip_threshold=self.clip_threshold,
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
            "beta_2_decay": self.beta_2_decay,
            "epsilon_1": self.epsilon_1,
            "epsilon_2": self.epsilon_2,
            "clip_threshold": self.clip_threshold,
            "relative_step": self.relative_step,
        }
