"""Logging for every service: structlog on standard error, as JSON for machines or as lines for people.

What is bound with `structlog.contextvars.bound_contextvars(request_id=...)` is on every line logged within. Lines carry
ids, sizes, timings and error names. Tracebacks are written without local variables, which may hold pictures.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import Processor


def configure_logging(level: Literal["debug", "info", "warning", "error"], form: Literal["json", "console"]) -> None:
    """Send our own log lines and those of the libraries to standard error, from `level` on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*steps, *_rendering(form)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(number, steps, form)


def _rendering(form: Literal["json", "console"]) -> list[Processor]:
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [renderer]


def _configure_libraries(number: int, steps: list[Processor], form: Literal["json", "console"]) -> None:
    """Let what uvicorn, paho and others log through `logging` look like our own lines; their chatter stays out."""
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*steps, structlog.stdlib.add_logger_name], processors=[remove, *_rendering(form)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.WARNING))
