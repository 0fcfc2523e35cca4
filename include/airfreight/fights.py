"""Whether somebody else turns a model's power switch against Airfreight, as a GitOps tool does that writes it; pure.

While a model starts or stops, the waits see that within seconds (`airfreight_airflow.windows_triggers`). Who takes the
stop away minutes later, when the window's run has ended, is found by the next look: at the next opening, or when the
model is adopted.
"""

from __future__ import annotations

from airfreight.observation import KubernetesObject, metadata, name_of
from airfreight.watching import fight_sentence, switch_of
from airfreight.windows import Closing, Record

_BY_OTHERS = (Closing.BY_HAND, Closing.GONE)
_PEOPLE, _WHOLE_OBJECTS = "kubectl", "kubectl-client-side-apply"
"""How field managers of a person's kubectl begin (kubectl-annotate, kubectl-edit; kubectl of a server-side apply), and
the one of a manifest that says so at every `kubectl apply`.
"""


def fight_over(last: Record | None, service: KubernetesObject) -> str:
    """Return the sentence of a fight, "" when there is none.

    Args:
        last: the record of the model's last window.
        service: its InferenceService now. Who deleted the annotation is not told by it, and is no fight; nor is a
            person who started the model with kubectl.
    """
    if last is None or not last.stopped or last.closed_because in _BY_OTHERS:
        return ""
    switch = switch_of(service)
    by_person = switch.manager.startswith(_PEOPLE) and switch.manager != _WHOLE_OBJECTS
    if switch.stopped or switch.is_ours or by_person or not switch.manager:
        return ""
    return fight_sentence(name_of(service), str(metadata(service).get("namespace", "")), switch, "stopped")
