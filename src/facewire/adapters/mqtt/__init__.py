"""The connection to an MQTT broker."""
