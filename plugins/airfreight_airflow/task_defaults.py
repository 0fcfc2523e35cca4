"""What the tasks of all our DAGs have in common: how often they are tried again, and how long one try may take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

TASK_DEFAULTS: dict[str, Any] = {
    "owner": "airfreight",
    "retries": 2,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(minutes=15),
}
"""Given to a DAG as `default_args`. A task that moves weights or waits names its own `execution_timeout`."""
