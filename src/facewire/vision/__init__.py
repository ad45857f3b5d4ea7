"""From pixels to boxes and embeddings: tensors in, tensors out."""

import os

# From 1.29 on ONNX Runtime tells Microsoft of every session, unless this is set before it is loaded (its Privacy.md).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
