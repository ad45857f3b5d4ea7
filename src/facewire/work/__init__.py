"""How stages and stores are driven: consume, retry, forward, keep the gallery in step."""
