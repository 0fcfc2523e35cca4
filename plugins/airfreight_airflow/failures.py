"""How an Airfreight error ends an Airflow task.

The exit code decides: 2, 3 and 4 fail for good, everything else is tried again (the design's table). The sentence is
what a person sees as the task's error. It is also left as XCom `failure`, so that the REST API can hand it out without
reading logs:

    {"exit_code": 2, "kind": "RequestError", "message": "unknown key \"gpu\" in conf: did you mean \"gpus\"?"}

A command that judged and failed a gate has a result all the same; it stands there as `result`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airfreight.errors import BY_EXIT_CODE, FOR_GOOD, AirfreightError, TemporaryError

if TYPE_CHECKING:
    from airflow.sdk import Context

FAILURE_KEY = "failure"
"""XCom key under which a failed try leaves its error."""


def of_exit_code(code: int, message: str) -> AirfreightError:
    """The error that a command's exit code stands for; a code we did not choose means: try again."""
    return BY_EXIT_CODE.get(code, TemporaryError)(message)


def end_task(context: Context, error: AirfreightError, result: Mapping[str, Any] | None = None) -> NoReturn:
    """End this try with the error's sentence.

    Args:
        result: what the command left although it failed.
    Raises:
        AirflowFailException: the error cannot heal; Airflow does not retry.
        AirflowException: the error may heal; Airflow retries as often as the task allows.
    """
    failure: dict[str, Any] = {"exit_code": error.exit_code, "kind": type(error).__name__, "message": error.message}
    if result:
        failure["result"] = dict(result)
    context["ti"].xcom_push(key=FAILURE_KEY, value=failure)
    if isinstance(error, FOR_GOOD):
        raise AirflowFailException(error.message) from None
    raise AirflowException(error.message) from None
