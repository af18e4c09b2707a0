"""Where the values of Keras's variables lie, on each backend.

An optimizer updates the memory of a model's variables, and Keras's variables for its state have the memory of that
state. Keras may put another value into a variable at any time; each step looks for that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from fusedopt.arrays import Array
from fusedopt.keras.host import keras

_Function = TypeVar("_Function", bound=Callable[..., Any])


class NumpyMemory:
    """The NumPy backend. Assigning puts a new array into a variable, so its values are copied back each time."""

    def place(self, variable: Any) -> Any:
        """Return the array to update, after making it the variable's own if the present one is unsuitable."""
        variable._value = np.require(variable._value, requirements=["C", "A", "W"])
        return variable._value

    def restore(self, variable: Any, place: Any) -> None:
        """Bring the value that was put elsewhere back to the array that is updated."""
        place[...] = variable._value
        variable._value = place

    def addresses(self, variables: Sequence[Any]) -> list[int]:
        """Return numbers that change with the places of the variables' values."""
        return [id(each._value) for each in variables]

    def share(self, variable: Any, array: Array) -> None:
        """Let a variable have the memory of an array."""
        variable._value = array

    def values(self, value: Any) -> Array:
        """Return an array of a value."""
        return np.asarray(value)

    def note_writes(self, variables: Sequence[Any]) -> None:
        """Let the backend know that values were changed in place."""

    def uncompiled(self, function: _Function) -> _Function:
        """Keep a function out of what the backend compiles."""
        return function


class TorchMemory:
    """The PyTorch backend. Assigning copies. If a tensor gets other memory, the core finds it."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")

    def place(self, variable: Any) -> Any:
        """Return the tensor to update."""
        tensor = variable._value
        if tensor.device.type != "cpu":
            raise ValueError(
                f"variable {variable.path!r}: expected CPU memory, found {tensor.device}; "
                "set KERAS_TORCH_DEVICE=cpu before Keras is imported"
            )
        return tensor

    def _view(self, tensor: Any) -> Array:
        tensor = tensor.detach()
        if tensor.dtype == self._torch.bfloat16:
            bfloat16 = importlib.import_module("ml_dtypes").bfloat16
            return np.asarray(tensor.view(self._torch.int16).numpy().view(bfloat16))
        return np.asarray(tensor.numpy())

    def restore(self, variable: Any, place: Any) -> None:  # noqa: ARG002 - as on NumPy
        """Refuse another tensor in the place of the one that is updated."""
        raise ValueError(
            f"variable {variable.path!r}: expected the tensor of the build, found another one in its place; "
            "make a new optimizer"
        )

    def addresses(self, variables: Sequence[Any]) -> list[int]:
        """Return numbers that change with the places of the variables' values."""
        tensors = [each._value for each in variables]
        return [tensor.data_ptr() if tensor.is_contiguous() else 0 for tensor in tensors]

    def share(self, variable: Any, array: Array) -> None:
        """Let a variable have the memory of an array."""
        tensor = self._torch.from_numpy(array)
        variable._value = self._torch.nn.Parameter(tensor, requires_grad=False)

    def values(self, value: Any) -> Array:
        """Return an array of a value."""
        return self._view(value) if isinstance(value, self._torch.Tensor) else np.asarray(value)

    def note_writes(self, variables: Sequence[Any]) -> None:
        """Let autograd find values that a graph saved before they were changed in place."""
        self._torch.autograd.graph.increment_version([each._value for each in variables])

    def uncompiled(self, function: _Function) -> _Function:
        """Keep a function out of ``torch.compile``, which would trace it with ``jit_compile=True``."""
        function_: _Function = self._torch.compiler.disable(function)
        return function_


memory = TorchMemory() if keras.backend.backend() == "torch" else NumpyMemory()
