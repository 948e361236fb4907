"""Logs: structlog events with dotted names and values, for a person on a terminal, as JSON in a pod."""

import logging
import os
import sys
from typing import Any


def configure(*, verbose: bool) -> None:
    """Send events to stderr: from `warning` on, with `verbose` from `debug` on, in a pod from `info` on."""
    import structlog

    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    level = logging.DEBUG if verbose else logging.INFO if in_pod else logging.WARNING
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    renderer: Any = structlog.processors.JSONRenderer() if in_pod else structlog.dev.ConsoleRenderer(colors=colours)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
