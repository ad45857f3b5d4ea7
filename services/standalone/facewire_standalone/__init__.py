"""All of Facewire in one process, with an embedded broker, and the `facewire` command line."""
