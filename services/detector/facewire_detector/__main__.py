"""`python -m facewire_detector`: the detector, told by the environment (`FACEWIRE_…`) what it needs to know."""

from facewire.runtime.process import run_service
from facewire_detector.service import DetectorServiceSettings, run_detector_service

if __name__ == "__main__":
    run_service(DetectorServiceSettings, run_detector_service)
