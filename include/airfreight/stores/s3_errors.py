"""What an S3 store's refusals mean, in one sentence each: botocore's errors turned into our kinds.

NoSuchBucket, InvalidAccessKeyId, SignatureDoesNotMatch, AccessDenied, ...   RequestError     cause and remedy
no credentials, a certificate that does not verify                           RequestError
429, 5xx, SlowDown, a checksum that did not arrive as it was sent            TemporaryError   Retry-After kept
refused and broken connections, time-outs                                    TemporaryError   names the endpoint
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from airfreight.environment import AT_SHELL, S3Settings
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.retry import ThrottledError
from airfreight.source import S3Root

WRONG_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidSecurity"}
DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"}
# 400s and 409s that heal: the bytes did not arrive as sent, or another writer was at the same key.
HEALS = {
    "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody",
    "RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "SlowDown", "SlowDownRead", "SlowDownWrite",
    "ServiceUnavailable", "InternalError", "NoSuchUpload",
}  # fmt: skip
NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
RIGHTS = (
    "s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload, "
    "s3:ListMultipartUploadParts and s3:ListBucketMultipartUploads"
)


def code_of(error: ClientError) -> str:
    """Return the store's error code; for a HEAD, which has no body, the status as text."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """Return the HTTP status, 0 when there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@dataclass(frozen=True)
class Place:
    """Where we are and who we are: the facts every sentence needs."""

    root: S3Root
    settings: S3Settings

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever boto3 raises inside into one of our errors.

        Raises:
            RequestError, TemporaryError: see the table above.
        """
        try:
            yield
        except ClientError as error:
            raise self._from_answer(error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise RequestError(
                f"There are no credentials for bucket {self.root.bucket} at {self.settings.where}: "
                f"put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into {self.settings.keys_in}."
            ) from error
        except SSLError as error:
            raise RequestError(
                f"No secure connection to {self.settings.where} can be made ({_short(error)}): check http or https in "
                "the endpoint, and put a private CA into key ca.crt of the ConfigMap that `ca_bundle_configmap` in "
                "section [airfreight] names, or into the file of AWS_CA_BUNDLE."
            ) from error
        except ProxyConnectionError as error:
            raise TemporaryError(
                f"The proxy before {self.settings.where} failed ({_short(error)}): check HTTPS_PROXY and NO_PROXY."
            ) from error
        except (HTTPClientError, BotoConnectionError, IncompleteReadError) as error:  # refused, broken, timed out
            raise TemporaryError(
                f"The object store {self.settings.where} cannot be reached ({type(error).__name__}: {_short(error)}): "
                "check the endpoint and the network, or try again later."
            ) from error
        except BotoCoreError as error:
            raise RequestError(
                f"The request to {self.settings.where} cannot be made ({_short(error)}): check endpoint and bucket."
            ) from error

    def _from_answer(self, error: ClientError) -> AirfreightError:
        code, status = code_of(error), status_of(error)
        if code != "NotImplemented" and (status >= 500 or status in {408, 429} or code in HEALS):
            return self._from_illness(error, code, status)
        return RequestError(self._refusal(error, code, status))

    def _refusal(self, error: ClientError, code: str, status: int) -> str:
        bucket, where = self.root.bucket, self.settings.where
        user = "AWS_ACCESS_KEY_ID" if self.settings.keys_in == AT_SHELL else self.settings.keys_in
        if code == "NoSuchBucket":
            return f"Bucket {bucket} does not exist at {where}: create it, or name another one in the destination."
        if code in WRONG_KEY:
            return (
                f"{where} refused the credentials for bucket {bucket} ({code}): put a valid AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY into {self.settings.keys_in}."
            )
        if code == "RequestTimeTooSkewed":
            return f"The clock of this machine differs from that of {where} by more than 15 minutes: set it right."
        if code in DENIED or status in {401, 403}:
            return (
                f"{where} denied {error.operation_name} in {self.root} ({code}): give the user of {user} "
                f"the rights {RIGHTS}, or put other credentials there."
            )
        if code in WRONG_REGION or status in {301, 307}:
            return f"Bucket {bucket} at {where} is in another region ({code}): set AWS_DEFAULT_REGION to it."
        said = " ".join(str(error.response.get("Error", {}).get("Message", "")).split()) or "no reason given"
        return (
            f"{where} refused {error.operation_name} in {self.root} ({code}: {said}): check endpoint and destination."
        )

    def _from_illness(self, error: ClientError, code: str, status: int) -> TemporaryError:
        sentence = (
            f"The object store {self.settings.where} answers {status} ({code}) to {error.operation_name} "
            f"for bucket {self.root.bucket}: try again later."
        )
        headers: Any = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        asked = str(headers.get("retry-after", ""))
        return ThrottledError(sentence, float(asked)) if asked.isdigit() else TemporaryError(sentence)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
