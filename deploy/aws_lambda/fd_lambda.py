"""`fd_lambda.lambda_handler`, as earlier deployments name face detection behind a Function URL."""

from facewire_lambda.function_url import detect

lambda_handler = detect.open()
