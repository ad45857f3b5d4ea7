"""The ports on something real: SQLite, AWS, MQTT, files."""
