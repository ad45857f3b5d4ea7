"""Clients of AWS and what they need to find there."""
