"""The detector: frames from MQTT or the gateway become face crops on the request queue."""
