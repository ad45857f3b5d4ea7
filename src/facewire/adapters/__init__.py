"""What the ports of the core stand on."""
