"""Nothing is reported to anybody: ONNX Runtime's telemetry is off before it is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import facewire.vision.{module}
from facewire.vision.models import load_embedder
load_embedder("dlib-resnet29")
"""


@pytest.mark.parametrize("module", ["embedder", "onnx_session", "models"])
def test_onnx_runtime_opens_no_telemetry_session(tmp_path: Path, module: str) -> None:
    """Its reporter would leave the id of this device in the temporary folder."""
    hidden = {"ORT_DISABLE_TELEMETRY", "CI", "ORT_RUNNING_UNIT_TESTS"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    program = PROGRAM.format(module=module)
    subprocess.run([sys.executable, "-c", program], check=True, env={**environment, "TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
