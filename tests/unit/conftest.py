"""Airflow for unit tests: a home of its own, no database, no examples, nothing configured.

Airflow reads its environment when it is first imported, so this stands before any import of it.
"""

from __future__ import annotations

import os
import tempfile

if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airfreight-unit-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in [name for name in os.environ if name.startswith("AIRFLOW__AIRFREIGHT__")]:
    del os.environ[name]
