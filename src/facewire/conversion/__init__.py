"""From published weights to ONNX files, without torch: readers, a graph builder, one module per network."""
