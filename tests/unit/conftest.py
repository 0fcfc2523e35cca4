"""Airflow for unit tests: a home of its own, no database, no examples, nothing configured.

Airflow reads its environment when it is first imported, so this stands before any import of it. What the shell says of
another Airflow is left out, its home with the airflow.cfg in it first of all.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.standins.registry import Registry  # which knows nothing of Airflow

for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
HOME = tempfile.mkdtemp(prefix="airfreight-unit-")
os.environ["AIRFLOW_HOME"] = HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


def _remove(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:  # and not a child that a test forked
        shutil.rmtree(HOME, ignore_errors=True)


# Before Airflow's own, so that it is called after them: they write there.
atexit.register(_remove)


@pytest.fixture
def here() -> Iterator[Registry]:
    """The registry that an image is mirrored from."""
    with Registry() as registry:
        yield registry


@pytest.fixture
def there() -> Iterator[Registry]:
    """The registry that it is mirrored to."""
    with Registry() as registry:
        yield registry
