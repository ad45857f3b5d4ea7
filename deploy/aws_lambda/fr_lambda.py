"""`fr_lambda.lambda_handler`, as earlier deployments name face recognition behind the request queue."""

from facewire_lambda.request_queue import recognize

lambda_handler = recognize.open()
