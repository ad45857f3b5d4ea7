"""Uploads on their way to the detector, answers on their way to who waits for them."""
