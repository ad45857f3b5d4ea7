"""From pixels to boxes and embeddings: tensors in, tensors out."""
