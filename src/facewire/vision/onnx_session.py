"""ONNX Runtime sessions as this project wants them: on the CPU, few threads, none that spin, flat memory."""

from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from facewire.domain.errors import ModelError

_WARNING = 2
_BROKEN = (
    runtime_errors.Fail,
    runtime_errors.InvalidArgument,
    runtime_errors.InvalidGraph,
    runtime_errors.InvalidProtobuf,
    runtime_errors.NoModel,
    runtime_errors.NotImplemented,
    runtime_errors.RuntimeException,
)


def open_session(model: Path | bytes, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a session for the model file, or for the model in the given bytes.

    A session may be run from several threads at once; each run uses `threads` of its own pool. Raises ModelError with
    code `missing` or `broken`, and ValueError for less than one thread.
    """
    if threads < 1:
        message = f"threads is {threads}, must be at least 1"
        raise ValueError(message)
    name = "the model given as bytes" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path) and not model.is_file():
        raise ModelError("missing", f"there is no model file {name}")
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, _options(threads), providers=["CPUExecutionProvider"])
    except _BROKEN as error:
        raise ModelError("broken", f"{name} cannot be loaded: {error}") from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # it keeps a plan for each shape of input it has seen
    options.log_severity_level = _WARNING
    # Threads that spin while they wait take the cores from the other workers of the process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
