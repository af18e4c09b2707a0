"""thinc's optimizer: which rule a call stands for, in which numbers, and what it updates."""

from __future__ import annotations

import functools
import importlib
import math
import re
from typing import Any

import numpy as np

from fusedopt.runtime import _core
from fusedopt.thinc.arrays import Array, Key, check, check_apart, empty, state_of, who

_host: Any = importlib.import_module("thinc.optimizers")

# The upper ends, which are excluded. The lower ends are 0, and included.
_LIMITS = dict.fromkeys(("learn_rate", "L2", "grad_clip", "eps"), math.inf) | {"b1": 1.0, "b2": 1.0}
# The rate that a rule is given has the corrections of the bias in it. In this update a rule has none of its own.
_UNCORRECTED = 2**53
# What the core calls otherwise than thinc.
_NAMES = {
    "learning_rate": "learn_rate",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "epsilon": "eps",
    "momentum": "mom1",
    "velocity": "mom2",
    "variable": "weights",
}
# Next to an epsilon of this size the root of the second moment is nothing.
_HUGE = 2.0**80


class Optimizer(_host.Optimizer):  # type: ignore[misc]
    """thinc's ``Optimizer``, with the work on the arrays in one sweep.

    The moments m and v, the average a and the count t of updates are kept per key. Update t = 1, 2, ... of a key is ::

        g <- g + L2 w                                                   unless L2_is_weight_decay
        g <- g min(1, grad_clip / ||g||)                                unless grad_clip is 0
        m <- m + (g - m) (1 - beta1)
        v <- v + (g^2 - v) (1 - beta2)
        w <- w - lr_scale alpha m / (sqrt(v) + eps)                     Adam
        w <- w - lr_scale learn_rate g                                  SGD, if beta2 is 0
        w <- w - lr_scale learn_rate L2 w                               if L2_is_weight_decay
        a <- d a + (1 - d) w,  d = min((1 + t) / (10 + t), 0.9999)      if use_averages
        g <- 0

        alpha = learn_rate sqrt(1 - beta2^t) / (1 - beta1^t)

    ``RAdam`` says how its alpha differs. What is not about arrays is inherited, such as schedules, ``learn_rate``,
    ``step_schedules`` and the ``last_score`` of thinc 9. The state is in ``averages``, ``mom1``, ``mom2`` and
    ``nr_update``, in thinc's shapes and types, so it can move to thinc's optimizer and back.

    Parameters
    ----------
    learn_rate
        The step size, >= 0. It and the next five may be numbers, lists, generators and, with thinc 9, schedules.
    L2
        The strength of the decay, >= 0. The product of ``learn_rate`` and ``L2`` must be below 1.
    beta1, beta2
        The decays of the two moments, in [0, 1). If ``beta2`` is positive, so is ``beta1``, but for RAdam.
    eps
        Added to the root, > 0.
    grad_clip
        Each gradient is scaled down to at most this norm, >= 0. With 0 none is.
    use_averages
        Keep a moving average of each parameter, in ``averages``.
    use_radam
        Update by RAdam.
    L2_is_weight_decay
        Decay the weights after the step. Otherwise the decay is a part of the gradient.

    Raises
    ------
    ValueError
        If a schedule gives no value.

    Notes
    -----
    The numbers are thinc's but for gradients that no training survives. If a gradient is clipped and has a NaN, the
    whole parameter becomes NaN. If its norm is too large for float32, it is clipped nevertheless. thinc leaves a
    gradient unclipped in the first case and takes it for zero in the second. A NaN or an infinity never stays in a
    gradient, as it does in thinc's SGD and RAdam.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedopt.thinc import Optimizer
    >>> optimizer = Optimizer(0.5, beta1=0.0, beta2=0.0)
    >>> weights, gradient = np.ones(2, np.float32), np.array([0.6, -0.8], np.float32)
    >>> optimizer((1, "W"), weights, gradient)
    (array([0.7, 1.4], dtype=float32), array([0., 0.], dtype=float32))

    References
    ----------
    thinc, ``thinc.optimizers.Optimizer``.
    """

    __slots__ = ()

    def __call__(
        self, key: Key, weights: Array, gradient: Array, *, lr_scale: float = 1.0
    ) -> tuple[Array, Array]:
        """Update the weights in place, and fill the gradient with zeros.

        Arrays that are not C-contiguous are updated by way of a copy, and slowly. A gradient without elements is no
        update.

        Parameters
        ----------
        key
            The identifier of the parameter, such as its node's and its own name. Its state is found by it.
        weights
            The parameter, of float32 or float64.
        gradient
            Its gradient, in the same shape.
        lr_scale
            A factor on the learning rate in this call, >= 0. RAdam has it in the decay alone, as in thinc.

        Returns
        -------
        tuple
            ``weights`` and ``gradient``, the same objects.

        Raises
        ------
        TypeError
            If an array is not NumPy's. Nothing has changed then.
        ValueError
            If an array or its state does not fit, or a setting is out of its range. Nothing has changed then.
        """
        if len(gradient) < 1:
            return weights, gradient
        check(key, weights, gradient)
        t = self.nr_update.get(key, 0) + 1
        now = self._now(key)
        rule, settings = self._settings(key, now, t, lr_scale, weights.dtype)
        slots = []
        if rule == "Adam":
            slots = [
                state_of("mom1", key, self.mom1, weights, (weights.size,)),
                state_of("mom2", key, self.mom2, weights, (weights.size,)),
            ]
        average = None
        if self.averages is not None:
            average = state_of("averages", key, self.averages, weights, weights.shape)
            settings["ema_momentum"] = min((1.0 + t) / (10.0 + t), 0.9999)
        dense = np.ascontiguousarray(weights)
        flat_gradient = np.asarray(gradient).reshape(-1)
        if now["L2"] and not self.L2_is_weight_decay:
            check_apart(key, weights, gradient)
            flat_gradient = flat_gradient + now["L2"] * dense.reshape(-1)
        try:
            _core.hosted_update(
                rule,
                dense.reshape(-1),
                flat_gradient,
                slots,
                settings,
                _UNCORRECTED,
                # After Model.use_params the weights may be their own average.
                average=None if average is None or average is weights else average.reshape(-1),
                clipnorm=now["grad_clip"] or None,
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who(key)}: {_in_words_of_thinc(str(error))}") from None
        if not weights.flags.c_contiguous:
            weights[...] = dense
        empty(gradient)
        self.nr_update[key] = t
        if slots:
            self.mom1[key], self.mom2[key] = slots
        if self.averages is not None:
            self.averages[key] = average
        return weights, gradient

    def _now(self, key: Key) -> dict[str, float]:
        """Return the present values of the settings."""
        now = {}
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if callable(value):
                value = value(self.step, key=key, last_score=self.last_score)
            now[name] = number = float(value)
            if not 0.0 <= number < limit:
                raise ValueError(f"{who(key)}: expected {name} in [0, {limit:g}), found {value!r}")
        return now

    def _settings(
        self, key: Key, now: dict[str, float], t: int, lr_scale: float, dtype: np.dtype[Any]
    ) -> tuple[str, dict[str, float]]:
        """Return the rule of an update and its settings."""
        rate, beta_1, beta_2, eps = now["learn_rate"], now["b1"], now["b2"], now["eps"]
        decay = lr_scale * rate * now["L2"] if self.L2_is_weight_decay else 0.0
        if not (lr_scale >= 0.0 and decay < 1.0):
            raise ValueError(
                f"{who(key)}: expected lr_scale >= 0 and lr_scale * learn_rate * L2 < 1, found {lr_scale!r} and "
                f"{decay!r}"
            )
        if self.use_radam:
            rule, settings = "Adam", _radam(rate, beta_1, beta_2, eps, t + 1)
        elif beta_1 > 0.0 and beta_2 > 0.0:
            alpha = rate * math.sqrt(1.0 - beta_2**t) / (1.0 - beta_1**t)
            # thinc's moments are of betas that are rounded first, but the corrections of their bias are not.
            betas = {"beta_1": _rounded(beta_1, dtype), "beta_2": _rounded(beta_2, dtype)}
            rule, settings = "Adam", {"learning_rate": lr_scale * alpha, "epsilon": eps, **betas}
        elif beta_2 > 0.0:
            raise ValueError(
                f"{who(key)}: expected beta1 > 0, because beta2 is, found {beta_1!r}; set beta2 to 0 for SGD"
            )
        else:
            rule, settings = "SGD", {"learning_rate": lr_scale * rate}
        if decay:
            # (w - u) (1 - decay) = w (1 - decay) - u (1 - decay), where u is proportional to the rate.
            settings["learning_rate"] *= 1.0 - decay
            settings["weight_decay"] = decay / settings["learning_rate"]
        return rule, settings


def _in_words_of_thinc(message: str) -> str:
    return re.sub(r"\w+", lambda word: _NAMES.get(word[0], word[0]), message)


@functools.lru_cache
def _rounded(number: float, dtype: np.dtype[Any]) -> float:
    return float(dtype.type(number))


def _radam(rate: float, beta_1: float, beta_2: float, eps: float, s: int) -> dict[str, float]:
    """Return Adam's settings for RAdam's update in step s."""
    beta_2_s = beta_2**s
    rho_max = 2.0 / (1.0 - beta_2) - 1.0
    rho = rho_max - 2.0 * s * beta_2_s / (1.0 - beta_2_s)
    alpha = rate / (1.0 - beta_1**s)
    if rho >= 5.0:
        r = (rho - 4.0) * (rho - 2.0) * rho_max / ((rho_max - 4.0) * (rho_max - 2.0) * rho)
        alpha *= math.sqrt((1.0 - beta_2_s) * r)
    else:
        alpha, eps = alpha * _HUGE, _HUGE
    return {"learning_rate": alpha, "beta_1": beta_1, "beta_2": beta_2, "epsilon": eps}
