"""The detector as a component of AWS IoT Greengrass: frames from the local broker, face crops to SQS."""
