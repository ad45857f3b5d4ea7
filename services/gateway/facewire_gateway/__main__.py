"""`python -m facewire_gateway`: the gateway, told by the environment (`FACEWIRE_…`) what it needs to know."""

from facewire.runtime.process import run_service
from facewire_gateway.service import GatewayServiceSettings, run_gateway

if __name__ == "__main__":
    run_service(GatewayServiceSettings, run_gateway)
