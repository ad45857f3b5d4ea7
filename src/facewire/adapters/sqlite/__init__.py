"""Queues and stores in an SQLite file."""
