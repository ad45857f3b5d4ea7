"""`python -m facewire_gateway`: the gateway, told by the environment (`FACEWIRE_…`) what it needs to know."""

from facewire.runtime.process import run_service
from facewire_gateway.service import run_gateway
from facewire_gateway.settings import GatewayServiceSettings

if __name__ == "__main__":
    run_service(GatewayServiceSettings, run_gateway)
