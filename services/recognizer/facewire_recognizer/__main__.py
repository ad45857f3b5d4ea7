"""`python -m facewire_recognizer`: the recognizer, told by the environment (`FACEWIRE_…`) what it needs to know."""

from facewire.runtime.process import run_service
from facewire_recognizer.service import RecognizerServiceSettings, run_recognizer_service

if __name__ == "__main__":
    run_service(RecognizerServiceSettings, run_recognizer_service)
