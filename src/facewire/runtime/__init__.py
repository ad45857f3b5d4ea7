"""What a process needs around its work: settings, logs, metrics, readiness, backoff, a stop."""
