"""The groups of commands of the command line: `facewire aws`, `certs`, `gallery`, `keys` and `models`, and `init`."""
