"""Which way a request takes through `deliver_model`, and which tasks it therefore skips. Pure, without Airflow.

    destination  s3           hub ─────────────────────────────────────▶ upload_to_s3
                 oci          hub ─────────────────────────────────────▶ build_modelcar
                 both         both of them
    pods         4            split ─▶ 4 x upload_slices, 4 x build_slices; upload_to_s3 and build_modelcar only seal
    staging      volume       create_volume ─▶ download ─▶ upload_from_volume, build_from_volume ─▶ remove_volume;
                              upload_to_s3 and build_modelcar only seal
    builder      buildah      create_volume ─▶ download ─▶ build_with_buildah ─▶ remove_volume
    deploy       false        render instead of smoke_test, deploy, wait_until_ready, validate and promote
    egress       (the site's) prove_egress between validate and promote

All tasks of all ways are in the DAG. `resolve` skips at its end what this run does not need, in one call: a skipped
task starts no process and costs no second.

What reads the volume has tasks of its own, because Airflow skips every task between a setup and its teardown together
with the setup: upload_to_s3 must not stand between create_volume and remove_volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airfreight.errors import RequestError

S3, OCI, BOTH = "s3", "oci", "both"
STREAM, BUILDAH = "stream", "buildah"
NONE, VOLUME = "none", "volume"
AUTO, NATIVE = "auto", "oci+native"
DESTINATIONS = (S3, OCI, BOTH)
BUILDERS = (STREAM, BUILDAH)
STAGINGS = (NONE, VOLUME)
DELIVERIES = (S3, OCI, NATIVE)
PODS_LIMIT = 16
ONE_NODE, MANY_NODES = "ReadWriteOnce", "ReadWriteMany"
"""Access modes of a volume: mounted on one node at a time, or on many."""

RESOLVE = "resolve"
OPTIONAL = (
    "split",
    "create_volume",
    "download",
    "seal_volume",
    "upload_from_volume",
    "build_from_volume",
    "build_with_buildah",
    "remove_volume",
    "upload_slices",
    "upload_to_s3",
    "build_slices",
    "build_modelcar",
    "render",
    "smoke_test",
    "deploy",
    "wait_until_ready",
    "validate",
    "prove_egress",
    "promote",
    "roll_back",
    "report",
)
"""Every task behind `resolve`, in the order of the run."""
MAPPED = ("download", "upload_from_volume", "build_from_volume", "upload_slices", "build_slices")
"""Those that are mapped over pods."""
PUBLISHING = ("upload_to_s3", "build_modelcar", "build_with_buildah")
"""Those whose result names an artifact."""


@dataclass(frozen=True, slots=True)
class Route:
    """One request's way, with the site's defaults filled in.

    Args:
        destination: s3, oci or both.
        builder: stream or buildah.
        staged: whether the model lies on a volume of the run's own before it is published.
        pods: how many share the copying.
        deploy: whether it is served, or only published.
        delivery: auto, s3, oci or oci+native.
        dry_run: whether the run ends with the plan.
        walled: whether the site wants the egress gate.
    """

    destination: str = S3
    builder: str = STREAM
    staged: bool = False
    pods: int = 1
    deploy: bool = True
    delivery: str = AUTO
    dry_run: bool = False
    walled: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any], destination: str, volume_access: str, *, walled: bool = False) -> Route:
        """Read the way from a request.

        Args:
            params: of the run.
            destination: the site's, for requests that name none.
            volume_access: the site's access mode of volumes.
            walled: whether the site wants the egress gate.
        Raises:
            RequestError: an unknown word, or two fields that do not go together.
        """
        route = cls(
            destination=_one_of(params, "destination", DESTINATIONS, destination),
            builder=_one_of(params, "builder", BUILDERS, STREAM),
            staged=_is_staged(params),
            pods=_pods(params),
            deploy=params.get("deploy") is not False,
            delivery=_one_of(params, "delivery", DELIVERIES, AUTO),
            dry_run=bool(params.get("dry_run")),
            walled=walled,
        )
        route._check(volume_access)
        return route

    @property
    def to_s3(self) -> bool:
        """Whether the model goes to the bucket."""
        return self.destination in (S3, BOTH)

    @property
    def to_oci(self) -> bool:
        """Whether the model goes to the registry."""
        return self.destination in (OCI, BOTH)

    def tasks(self) -> tuple[str, ...]:
        """The tasks that run after `resolve`, in the order of the run."""
        if self.dry_run:
            return ()
        wanted = {*self._publishing(), *self._serving(), "report"}
        return tuple(task for task in OPTIONAL if task in wanted)

    def skipped(self) -> tuple[str, ...]:
        """The tasks that do not."""
        wanted = set(self.tasks())
        return tuple(task for task in OPTIONAL if task not in wanted)

    def publishing(self) -> tuple[str, ...]:
        """The tasks on this way whose result names an artifact."""
        return tuple(task for task in self.tasks() if task in PUBLISHING)

    def shares(self) -> list[str]:
        """What each pod copies, as `airfreight copy --slice` reads it; "" is everything."""
        return [f"{index}/{self.pods}" for index in range(1, self.pods + 1)] if self.pods > 1 else [""]

    @property
    def only_seals(self) -> bool:
        """Whether upload_to_s3 and build_modelcar come after tasks that copied everything."""
        return self.pods > 1 or self.staged

    def _publishing(self) -> set[str]:
        tasks: set[str] = {"split"} if self.only_seals else set()
        if self.staged:
            tasks |= {"create_volume", "download", "remove_volume"} | ({"seal_volume"} if self.pods > 1 else set())
        if self.to_s3:
            tasks |= {"upload_to_s3"} | self._before("upload_slices", "upload_from_volume")
        if self.to_oci and self.builder == BUILDAH:
            tasks |= {"build_with_buildah"}
        elif self.to_oci:
            tasks |= {"build_modelcar"} | self._before("build_slices", "build_from_volume")
        return tasks

    def _before(self, slices: str, from_volume: str) -> set[str]:
        if self.staged:
            return {from_volume}
        return {slices} if self.pods > 1 else set()

    def _serving(self) -> set[str]:
        if not self.deploy:
            return {"render"}
        # From a bucket there is one way only to serve, and `deploy` asks the cluster for a dry run of it anyway.
        smoke = {"smoke_test"} if self.to_oci else set()
        walls = {"prove_egress"} if self.walled else set()
        # Which of the last two runs, the gates decide.
        return smoke | walls | {"deploy", "wait_until_ready", "validate", "promote", "roll_back"}

    def _check(self, volume_access: str) -> None:
        if self.builder == BUILDAH and not self.to_oci:
            raise RequestError(
                '"builder" is buildah, which makes images, and "destination" is s3: choose destination oci or both, or '
                "builder stream."
            )
        if self.staged and self.pods > 1 and volume_access != MANY_NODES:
            raise RequestError(
                f'"pods" is {self.pods}, and the volume of the run can be mounted on one node only: give pods 1, '
                "staging none with builder stream, or set `volume_access` in section [airfreight] to ReadWriteMany "
                "with a `storage_class` that has it."
            )
        if self.delivery in (OCI, NATIVE) and not self.to_oci:
            raise RequestError(
                f'"delivery" is {self.delivery}, and "destination" is s3, where there is no image: choose destination '
                "oci or both, or leave delivery empty."
            )
        if self.delivery == S3 and not self.to_s3:
            raise RequestError(
                '"delivery" is s3, and "destination" is oci, where nothing is put into the bucket: choose destination '
                "s3 or both, or leave delivery empty."
            )


def _is_staged(params: Mapping[str, Any]) -> bool:
    staging = _one_of(params, "staging", STAGINGS, "")
    buildah = _one_of(params, "builder", BUILDERS, STREAM) == BUILDAH
    if buildah and staging == NONE:
        raise RequestError(
            '"builder" is buildah, which reads the model from a volume, and "staging" is none: leave staging empty, or '
            "choose builder stream."
        )
    return staging == VOLUME or buildah


def _pods(params: Mapping[str, Any]) -> int:
    pods = params.get("pods")
    if pods in (None, ""):
        return 1
    if isinstance(pods, bool) or not isinstance(pods, int) or not 1 <= pods <= PODS_LIMIT:
        raise RequestError(f'"pods" is {pods!r}: give a number from 1 to {PODS_LIMIT}.')
    return pods


def _one_of(params: Mapping[str, Any], key: str, choices: tuple[str, ...], default: str) -> str:
    value = params.get(key)
    text = "" if value is None else str(value).strip()
    if text and text not in choices:
        raise RequestError(
            f'"{key}" is {text!r}: choose {", ".join(choices[:-1])} or {choices[-1]}, or leave it empty.'
        )
    return text or default
