"""A small builder of ONNX graphs whose files are the same, byte for byte, each time they are built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
PRODUCER = "facewire"

Array = NDArray[Any]
Shape = Sequence[int | str]


class GraphBuilder:
    """Collects nodes and weights; every method that adds a node returns the name of its output.

    Weights are kept as float32 unless their dtype is an integer. Tensors are NCHW.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, shape: Shape, *, dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input of the graph; a string in the shape is a free dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, shape: Shape, *, dtype: int = TensorProto.FLOAT) -> None:
        """Declare the tensor of that name an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def initializer(self, name: str, values: Array) -> str:
        """Add weights and return their name."""
        dtype = values.dtype if np.issubdtype(values.dtype, np.integer) else np.dtype(np.float32)
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype).reshape(values.shape), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], *, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, called `name` if given."""
        output = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def conv(
        self, x: str, weight: Array, bias: Array | None = None, *, name: str | None = None, **attributes: Any
    ) -> str:
        """Add a convolution; `weight` is (out, in / group, height, width), `bias` (out,)."""
        inputs = [x, self._weight(weight)]
        if bias is not None:
            inputs.append(self._weight(bias))
        return self.node("Conv", inputs, name=name, kernel_shape=list(weight.shape[2:]), **attributes)

    def dense(self, x: str, weight: Array, bias: Array, *, name: str | None = None) -> str:
        """Add a fully connected layer; `weight` is (out, in) as torch keeps it, `bias` (out,)."""
        return self.node("Gemm", [x, self._weight(weight), self._weight(bias)], name=name, transB=1)

    def relu(self, x: str) -> str:
        """Add a rectifier."""
        return self.node("Relu", [x])

    def _weight(self, values: Array) -> str:
        return self.initializer(f"w{len(self._weights)}", values)

    def model(self) -> Any:
        """Return the checked `onnx.ModelProto`; raises `onnx.checker.ValidationError` if the graph does not fit."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=PRODUCER
        )
        checker.check_model(model, full_check=True)
        return model

    def save(self, path: Path) -> None:
        """Check the graph and write it to `path`."""
        onnx.save(self.model(), str(path))
