"""The sentences for pods that did not start."""

from __future__ import annotations

import pytest
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException

from airfreight.errors import RequestError
from airfreight_airflow.explanations import Circumstances, explain


@pytest.mark.parametrize("namespace", ["airfreight", "airfreight-build"])
def test_what_a_pod_lacks_is_to_be_made_in_the_namespace_of_that_pod(namespace: str) -> None:
    where = Circumstances("download", "airfreight_cluster", namespace, "1:00:00", None)
    said = 'CreateContainerConfigError: secret "acme-hub" not found'
    error = explain(PodLaunchFailedException(said), where)
    assert isinstance(error, RequestError)
    assert error.message == f"The pod of download cannot start ({said}): create what it names in namespace {namespace}."
