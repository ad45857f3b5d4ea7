"""The recognizer: face crops become names on the response queue."""
