"""`python -m facewire_standalone`, the same as `facewire`."""

from facewire_standalone.cli import main

main()
