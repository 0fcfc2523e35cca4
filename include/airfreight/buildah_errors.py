"""What buildah's refusals mean, as one sentence each: from the last line that it says, and how it ended.

Seen with buildah 1.28.2, whose words are those of containers/image and containers/storage; newer ones say the same.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from airfreight.errors import AirfreightError, RequestError, TemporaryError

_NOISE = re.compile(r'^time="[^"]*" level=\w+ msg=|^Error: ')


def refusal(about: str, status: int, said: str, work: Path) -> AirfreightError:
    """Return what a failure of buildah means, as one sentence about `about`.

    Args:
        status: how it ended; negative for a signal.
        said: its standard error.
        work: its working directory.
    """
    lines = [line for line in said.strip().splitlines() if line.strip()]
    last = _NOISE.sub("", lines[-1]).strip() if lines else f"it said nothing and ended with status {status}"
    if status == -signal.SIGKILL:
        return TemporaryError(
            f"buildah was killed at {about}, as happens when its pod's memory ends: give the pod more memory."
        )
    if re.search(r"unshare\(CLONE_NEWUSER\)|creating new mount namespace", said):
        return RequestError(
            f"A RUN line needs a user namespace, and this pod may not make one, at {about}: leave seccompProfile out "
            "of this pod on nodes that have user namespaces, or do without RUN."
        )
    for pattern, sentence, kind in _MEANINGS:
        if re.search(pattern, last, re.IGNORECASE):
            # Its causes, outermost first: what went wrong is at the end, what it was about is said already.
            reason = ": ".join(last.split(": ")[-2:]).rstrip(".")
            return kind(sentence.format(about=about, reason=reason, all=last.rstrip("."), place=work.parent))
    return TemporaryError(f"buildah failed at {about} ({last.rstrip('.')}): see its output above, and try again.")


# The first that fits. {all} is buildah's own last line, {reason} its end.
_MEANINGS: Sequence[tuple[str, str, type[AirfreightError]]] = (
    (
        r"no space left on device|disk quota exceeded|storing layer .* to file: io: read/write on closed pipe",
        "The disk at {place} is full, at {about}: give the build pod a larger volume there; buildah writes every layer "
        "three times.",
        RequestError,
    ),
    (
        r"source image rejected|rejected by policy",
        "The policy rejects {about} ({reason}): give a base that the policy admits, or correct the policy.",
        RequestError,
    ),
    (
        r"invalid policy|policy\.json",
        "The policy cannot be used for {about} ({reason}): give a file as containers-policy.json(5) describes it.",
        RequestError,
    ),
    (
        r"manifest unknown|name unknown|repository name not known|blob unknown",
        "There is no such image for {about} ({reason}): check registry, repository and digest.",
        RequestError,
    ),
    (
        r"unauthorized|authentication required|access .*denied|denied:|forbidden|invalid username/password",
        "The registry refuses {about} ({reason}): put a login that may do it into the Secret that `registry_secret` in "
        "section [airfreight] names.",
        RequestError,
    ),
    (
        r"server gave http response to https client",
        "The registry speaks plain http, at {about} ({reason}): name its host and port in AIRFREIGHT_PLAIN_HTTP, or "
        "give --plain-http.",
        RequestError,
    ),
    (
        r"x509:|certificate",
        "The registry's certificate is not trusted, at {about} ({reason}): name the bundle of its CA in SSL_CERT_FILE.",
        RequestError,
    ),
    (
        r"connection refused|connection reset|i/o timeout|timeout exceeded|no such host|handshake timeout|\bEOF\b"
        r"|too many requests|received unexpected http status: 5\d\d|server error",
        "The registry cannot be reached now, at {about} ({reason}): try again later.",
        TemporaryError,
    ),
    (
        r"operation not permitted|permission denied",
        "buildah lacks a right at {about} ({reason}): give its container the capabilities that "
        "include/kubernetes/builder lists.",
        RequestError,
    ),
    (
        r"building at step|unknown instruction|dockerfile parse error",
        "The build failed at {about} ({all}): correct the Containerfile or its arguments.",
        RequestError,
    ),
)
