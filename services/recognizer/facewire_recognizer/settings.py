"""The settings of the recognizer as a service of its own."""

from facewire.runtime.settings import ProbeSettings, RecognizerSettings, StoreSettings


class RecognizerServiceSettings(RecognizerSettings, StoreSettings, ProbeSettings):
    """Which embedder names the faces, where they come from, and where the gallery is."""
