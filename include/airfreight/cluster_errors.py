"""What a refusal of the Kubernetes API server means, in one sentence with its remedy; pure.

The body of a refusal is a `Status` object: {"kind": "Status", "message": "...", "reason": "Forbidden", "details": ...}.
A path the server does not know (a missing CRD) is answered with the plain text "404 page not found".

Source: Kubernetes v1.34 `staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go`, and
`staging/src/k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go` for the words of an RBAC refusal.
"""

from __future__ import annotations

import json
import re
from typing import Any

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.observation import one_line

_RBAC = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
    r'(?:.* in the namespace "(?P<namespace>[^"]+)")?'
)
_DENIED = re.compile(r'.*admission webhook "(?P<webhook>[^"]+)" denied the request: ')
_HEALS = re.compile(r"deadline exceeded|timed? ?out|connection refused", re.I)
_CONFLICT = re.compile(r'conflict with "(?P<manager>[^"]+)"')
_SERVICE_ACCOUNT = "system:serviceaccount:"


def api_error(status: int, body: str, doing: str) -> AirfreightError:
    """Return the error for an answer that is not 2xx. A `TemporaryError` may be tried again.

    Args:
        status: HTTP status.
        body: of the answer; a `Status` object or plain text.
        doing: what was asked for, such as "apply InferenceService pong in namespace models".
    """
    answer = _status(body)
    said = one_line(answer.get("message") or body)
    if status == 401:
        return RequestError(
            f"The Kubernetes API server does not accept these credentials ({doing}: 401); renew the kubeconfig, or the "
            "token of the service account."
        )
    if status == 403:
        return _forbidden(said, doing)
    if status == 404:
        return _not_found(answer, said, doing)
    if status == 409 and (conflict := _edited(answer, doing)):
        return conflict
    # A webhook answers 500 where it cannot make a pod at all ("secrets ... not found"); that is a refusal.
    decided = _DENIED.match(said) is not None and not _HEALS.search(said)
    if (status == 409 or status == 429 or status >= 500) and not decided:
        if "webhook" in said:
            return TemporaryError(
                f"KServe's webhook does not answer ({doing}: {said}); try again, and look at the pods in namespace "
                "kserve if it stays so."
            )
        return TemporaryError(f"The Kubernetes API server cannot do it now ({doing}: {status} {said}); try again.")
    return _refused(said, doing)


def is_object_missing(body: str) -> bool:
    """Say whether a 404 means one object; else the server does not know such objects at all."""
    return bool((_status(body).get("details") or {}).get("kind"))


def unreachable_error(server: str, reason: str) -> TemporaryError:
    """Return the error for an API server that does not answer at all."""
    return TemporaryError(
        f"The Kubernetes API server {server} cannot be reached ({one_line(reason, 200)}); try again, and correct the "
        "kubeconfig if it stays so."
    )


def _edited(answer: dict[str, Any], doing: str) -> RequestError | None:
    """Say who owns the fields that an apply would have overwritten; None for any other conflict, which heals."""
    owners: dict[str, list[str]] = {}
    for cause in (answer.get("details") or {}).get("causes") or []:
        owner = _CONFLICT.match(str(cause.get("message")))
        if cause.get("reason") == "FieldManagerConflict" and owner:
            owners.setdefault(owner["manager"], []).append(str(cause.get("field")))
    if not owners:
        return None
    who = "; ".join(f"{manager} set {', '.join(sorted(fields))}" for manager, fields in sorted(owners.items()))
    return RequestError(
        f"It was edited by hand ({doing}: {one_line(who)}), and nothing was overwritten: ask for the same in the "
        "request or undo the edit, and give --take-over once if it is to be overwritten."
    )


def _forbidden(said: str, doing: str) -> RequestError:
    rights = _RBAC.search(said)
    if rights is None:
        return _refused(said, doing)
    where = f"in namespace {rights['namespace']}" if rights["namespace"] else "in this cluster"
    part = "egress" if rights["resource"] == "networkpolicies" else "target"
    remedy = f"apply include/kubernetes/{part} there" if rights["namespace"] else "ask its administrator"
    return RequestError(
        f"{_person(rights['user'])} may not {rights['verb']} {rights['resource']} {where}; {remedy}, or choose a "
        "namespace where that was done."
    )


def _person(user: str) -> str:
    if user.startswith(_SERVICE_ACCOUNT):
        namespace, _, name = user.removeprefix(_SERVICE_ACCOUNT).partition(":")
        return f"The service account {name} of namespace {namespace}"
    return f"The user {user}"


def _not_found(answer: dict[str, Any], said: str, doing: str) -> RequestError:
    details = answer.get("details") or {}
    if details.get("kind") == "namespaces":
        return RequestError(
            f"There is no namespace {details.get('name')} ({doing}); create it with include/kubernetes/target, or "
            "choose another one."
        )
    if not details.get("kind"):
        return RequestError(
            f"This cluster does not know the object ({doing}): KServe is not installed; install KServe 0.20 or "
            "newer in Standard mode, and let airfreight doctor check it."
        )
    return RequestError(f"It is not there ({doing}: {said}); correct the name or the namespace.")


def _refused(said: str, doing: str) -> RequestError:
    denied = _DENIED.match(said)
    if denied is not None:
        return RequestError(
            f"The cluster refuses to {doing}: {said[denied.end() :].rstrip('.')}; correct what it names."
        )
    return RequestError(f"The cluster refuses to {doing}: {said.rstrip('.')}; correct what it names.")


def _status(body: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
