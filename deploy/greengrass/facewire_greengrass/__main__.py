"""`python -m facewire_greengrass`: the component, as the nucleus starts it."""

from facewire.runtime.process import run_service
from facewire_greengrass.component import run_component
from facewire_greengrass.settings import NucleusSettings

if __name__ == "__main__":
    run_service(NucleusSettings, run_component)
