"""The gateway: HTTP in, answers out."""
