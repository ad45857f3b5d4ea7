"""What Facewire speaks of, as plain values and rules: no I/O, no clock of its own."""
