"""The work on one message: Frame -> DetectedFaces -> RecognizedFaces. No I/O."""
