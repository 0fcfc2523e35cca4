"""The readiness rule, over objects as the API server gives them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airfreight.errors import GateError, RequestError, TemporaryError
from airfreight.observation import Cause, Failed, FailureKind, Limits, Observation, Pending, Ready, failure_error
from airfreight.readiness import Assessment, assess
from airfreight.scheduling import never_fits

RELEASE, BEFORE = "0a1b2c3d4e5f", "ffffffffffff"
NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
Thing = dict[str, Any]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def service(*, ready: str = "True", release: str = RELEASE, applied_s: float = 300, **status: Any) -> Thing:
    return {
        "metadata": {
            "name": "pong",
            "namespace": "models",
            "creationTimestamp": ago(9999),
            "annotations": {"airfreight.dev/release": release},
            "managedFields": [
                {"manager": "manager", "time": ago(0)},
                {"manager": "airfreight", "time": ago(applied_s)},
            ],
        },
        "status": {"conditions": [{"type": "Ready", "status": ready}], **status},
    }


def deployment(*, release: str = RELEASE, up: int = 1, wanted: int = 1, total: int = 1, **status: Any) -> Thing:
    return {
        "metadata": {"name": "pong-predictor", "generation": 3},
        "spec": {"replicas": wanted, "template": {"metadata": {"annotations": {"airfreight.dev/release": release}}}},
        "status": {
            "observedGeneration": 3, "replicas": total, "updatedReplicas": up, "availableReplicas": up, **status,
        },
    }  # fmt: skip


def pod(*containers: Thing, release: str = RELEASE, scheduled_s: float = 10, **more: Any) -> Thing:
    return {
        "metadata": {"name": "pong-predictor-abc", "annotations": {"airfreight.dev/release": release}},
        "spec": {
            "containers": [{"name": "kserve-container", "resources": {"limits": {"memory": "6Gi"}}}],
            "initContainers": [{"name": "storage-initializer", "resources": {"limits": {"memory": "1Gi"}}}],
        },
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(scheduled_s)}],
            "initContainerStatuses": [one for one in containers if one["name"] != "kserve-container"],
            "containerStatuses": [one for one in containers if one["name"] == "kserve-container"],
            **more,
        },
    }


def waiting(reason: str, message: str = "", *, name: str = "kserve-container", **more: Any) -> Thing:
    return {"name": name, "image": "registry/vllm@sha256:1", "ready": False, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": message}}, **more}  # fmt: skip


def crashed(exit_code: int, restarts: int, *, reason: str = "Error", message: str = "", **more: Any) -> Thing:
    ended = {"exitCode": exit_code, "reason": reason, "message": message}
    return waiting("CrashLoopBackOff", lastState={"terminated": ended}, restartCount=restarts) | more


def judge(*pods: Thing, isvc: Thing | None = None, dep: Thing | None = None, **more: Any) -> Assessment:
    observed = Observation(isvc or service(ready="False"), dep or deployment(up=0), pods, **more)
    return assess(observed, RELEASE, NOW)


def failed(verdict: Assessment, cause: Cause, kind: FailureKind) -> str:
    assert isinstance(verdict, Failed), verdict
    assert (verdict.cause, verdict.kind) == (cause, kind), verdict
    assert verdict.sentence.startswith("pong") and "\n" not in verdict.sentence
    return verdict.sentence


def pending(verdict: Assessment) -> str:
    assert isinstance(verdict, Pending), verdict
    return verdict.reason


def test_ready() -> None:
    assert judge(isvc=service(), dep=deployment()) == Ready()


def test_the_objects_are_left_as_they_are() -> None:
    isvc, dep, one = service(), deployment(), pod(waiting("ContainerCreating"))
    before = copy.deepcopy((isvc, dep, one))
    judge(one, isvc=isvc, dep=dep)
    assert (isvc, dep, one) == before


# --- Ready=True that is not about this release


def test_ready_of_the_release_before_is_not_ready() -> None:
    verdict = judge(isvc=service(), dep=deployment(release=BEFORE))
    assert pending(verdict) == "pong: the Deployment still has the release before this one"


def test_ready_while_the_old_pods_still_serve_is_not_ready() -> None:
    verdict = judge(isvc=service(), dep=deployment(up=1, total=2))
    assert pending(verdict) == "pong: the pods of the release before this one are still going"


def test_ready_before_the_deployment_was_looked_at_is_not_ready() -> None:
    dep = deployment()
    dep["metadata"]["generation"] = 4
    assert "has not acted on the Deployment yet" in pending(judge(isvc=service(), dep=dep))


def test_no_deployment_yet() -> None:
    verdict = assess(Observation(service(ready="False")), RELEASE, NOW)
    assert "KServe has not made the Deployment yet" in pending(verdict)


def test_up_and_kserve_not_convinced() -> None:
    isvc = service(conditions=[{"type": "Ready", "status": "False", "reason": "IngressNotReady"}])
    assert (
        pending(judge(isvc=isvc, dep=deployment()))
        == "pong: the pods are up, KServe does not say Ready yet (IngressNotReady)"
    )


def test_starting() -> None:
    assert pending(judge(pod(waiting("PodInitializing")))) == "pong: 0 of 1 pods of this release are up"


def test_scaled_to_zero_is_not_ready() -> None:
    assert "scaled to zero" in pending(judge(isvc=service(), dep=deployment(up=0, wanted=0, total=0)))


def test_a_deadline_of_kubernetes_is_not_ours() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    assert isinstance(judge(dep=deployment(up=0, conditions=[late])), Pending)


# --- the InferenceService


def test_gone() -> None:
    verdict = assess(Observation(None), RELEASE, NOW)
    assert isinstance(verdict, Failed) and verdict.cause is Cause.GONE


@pytest.mark.parametrize("value", ["true", "True"])
def test_stopped_says_how_to_resume(value: str) -> None:
    isvc = service()
    isvc["metadata"]["annotations"]["serving.kserve.io/stop"] = value
    sentence = failed(judge(isvc=isvc), Cause.STOPPED, FailureKind.REQUEST)
    assert "resume it first: airfreight resume --name pong --namespace models." in sentence


def test_resumed_is_not_stopped() -> None:
    isvc = service()
    isvc["metadata"]["annotations"]["serving.kserve.io/stop"] = "false"
    assert judge(isvc=isvc, dep=deployment()) == Ready()


def test_replaced_by_another_deploy() -> None:
    sentence = failed(judge(isvc=service(release=BEFORE)), Cause.REPLACED, FailureKind.REQUEST)
    assert f"carries release {BEFORE}, not {RELEASE}" in sentence


def invalid(applied_s: float) -> Thing:
    info = {"reason": "NoSupportingRuntime", "message": "No runtime found to support predictor with model type: vLLM"}
    return service(
        ready="Unknown", applied_s=applied_s, modelStatus={"transitionStatus": "InvalidSpec", "lastFailureInfo": info}
    )


def test_invalid_spec_has_a_grace_from_the_apply() -> None:
    assert "No runtime found" in pending(judge(isvc=invalid(5)))
    sentence = failed(judge(isvc=invalid(25)), Cause.INVALID, FailureKind.REQUEST)
    assert "No runtime found to support predictor with model type: vLLM" in sentence


def test_an_old_failure_info_is_not_believed() -> None:
    isvc = service(modelStatus={"transitionStatus": "UpToDate", "lastFailureInfo": {"message": "old"}})
    assert judge(isvc=isvc, dep=deployment()) == Ready()


def test_reconcile_failed() -> None:
    condition = {
        "type": "PredictorReady",
        "status": "False",
        "reason": "ReconcileFailed",
        "message": "secret x not found",
    }
    sentence = failed(judge(isvc=service(conditions=[condition])), Cause.INVALID, FailureKind.REQUEST)
    assert "secret x not found" in sentence


# --- the Deployment


def refused(message: str) -> Thing:
    return deployment(up=0, conditions=[{"type": "ReplicaFailure", "status": "True", "message": message}])


def test_quota() -> None:
    verdict = judge(dep=refused('pods "pong-x" is forbidden: exceeded quota: small, requested: limits.memory=6Gi'))
    sentence = failed(verdict, Cause.FORBIDDEN, FailureKind.REQUEST)
    assert "exceeded quota: small" in sentence and "lower cpu, memory or gpus" in sentence


def test_pod_security() -> None:
    verdict = judge(dep=refused('pods "pong-x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile'))
    assert "enforce=baseline" in failed(verdict, Cause.FORBIDDEN, FailureKind.REQUEST)


def test_a_webhook_that_is_down_heals() -> None:
    verdict = judge(dep=refused('Internal error occurred: failed calling webhook "pod-mutator": connection refused'))
    assert isinstance(verdict, Pending)


def test_a_secret_of_the_store_that_is_not_there_is_named() -> None:
    said = 'admission webhook "pod-mutator" denied the request: secrets "airfreight-store" not found'
    sentence = failed(judge(dep=refused(said)), Cause.FORBIDDEN, FailureKind.REQUEST)
    assert "create Secret airfreight-store in its namespace, which its service account lists." in sentence


# --- the pods


def unschedulable(since_s: float, message: str) -> Thing:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(conditions=[{**condition, "lastTransitionTime": ago(since_s)}])


NEVER = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
FULL = " preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
SCARCE = "0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient nvidia.com/gpu."


def test_what_no_node_can_ever_hold_is_named_at_once_and_over_within_a_minute() -> None:
    message = SCARCE + " no new claims to deallocate," + NEVER
    assert pending(judge(unschedulable(0, message))) == (
        f"pong: no node has enough cpu and nvidia.com/gpu for its pod ({SCARCE.rstrip('.')}); waiting for such a node, "
        "45 s at most"
    )
    sentence = failed(judge(unschedulable(50, message)), Cause.UNSCHEDULABLE, FailureKind.REQUEST)
    assert "no node has enough cpu and nvidia.com/gpu" in sentence
    assert f"({SCARCE.rstrip('.')}); add a node that has it, or ask for less." in sentence


def test_what_only_waits_for_room_is_waited_for() -> None:
    for message in (SCARCE + FULL, SCARCE, SCARCE + " preemption: not eligible due to preemptionPolicy=Never."):
        assert pending(judge(unschedulable(400, message))).endswith("; waiting for room, 600 s at most")
        sentence = failed(judge(unschedulable(610, message)), Cause.UNSCHEDULABLE, FailureKind.REQUEST)
        assert sentence.endswith("; free it, add a node that has it, or ask for less.")


def test_a_node_that_is_being_added_or_emptied_is_waited_for() -> None:
    never = unschedulable(900, SCARCE + NEVER)
    for reason in ("TriggeredScaleUp", "Nominated"):
        events = {"pong-predictor-abc": [{"reason": "FailedScheduling"}, {"reason": reason}]}
        assert "; the cluster is adding a node for it" in pending(judge(never, events=events))
    never["status"]["nominatedNodeName"] = "n3"
    assert "; room is being made on n3" in pending(judge(never))


def test_an_autoscaler_that_adds_none_is_quoted() -> None:
    refusal = {"reason": "NotTriggerScaleUp", "message": "pod didn't trigger scale-up: 1 max node group size reached"}
    verdict = judge(unschedulable(50, SCARCE + NEVER), events={"pong-predictor-abc": [refusal]})
    assert (
        ", and the autoscaler adds none (pod didn't trigger scale-up: 1 max node group size reached); add a node"
        in failed(verdict, Cause.UNSCHEDULABLE, FailureKind.REQUEST)
    )


SELECTOR = "node(s) didn't match Pod's node affinity/selector"
HALF = f"1 Insufficient memory, 2 {SELECTOR}. preemption: 0/3 nodes are available: "


@pytest.mark.parametrize(
    ("reasons", "never"),
    [
        (f"3 {SELECTOR}.", True),
        (f"2 node(s) had untolerated taint {{nvidia.com/gpu: present}}, 1 {SELECTOR}.", True),
        ("3 node(s) had untolerated taint(s).", True),
        ("3 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.", False),
        (f"1 node(s) were unschedulable, 2 {SELECTOR}.", False),
        (f"{HALF}1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.", False),
        (f"{HALF}3 Preemption is not helpful for scheduling.", True),
        ("3 Too many pods.", False),
    ],
)
def test_whether_a_node_could_ever_hold_it_is_read_off_the_schedulers_words(reasons: str, never: bool) -> None:
    assert never_fits(f"0/3 nodes are available: {reasons}") is never


def test_a_cluster_without_nodes_may_get_some() -> None:
    assert not never_fits("no nodes available to schedule pods")


def test_unschedulable_for_its_selector() -> None:
    message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    sentence = failed(judge(unschedulable(50, message)), Cause.UNSCHEDULABLE, FailureKind.REQUEST)
    assert "no node fits" in sentence and "correct node_selector and tolerations" in sentence
    sentence = failed(judge(unschedulable(700, "0/1 nodes are available: 1 Too many pods.")), Cause.UNSCHEDULABLE,
                      FailureKind.REQUEST)  # fmt: skip
    assert sentence.endswith("make room on a node that it may use, or add one.")


def test_graces_are_settable() -> None:
    observed = Observation(service(ready="False"), deployment(up=0), [unschedulable(30, SCARCE + NEVER)])
    assert isinstance(assess(observed, RELEASE, NOW, Limits(unschedulable_s=20)), Failed)
    observed = Observation(service(ready="False"), deployment(up=0), [unschedulable(30, SCARCE + FULL)])
    assert isinstance(assess(observed, RELEASE, NOW, Limits(room_s=20)), Failed)


def test_a_full_disk_has_its_own_remedy() -> None:
    status = waiting("ErrImagePull", "failed to copy: write /var/lib/containerd/x: no space left on device")
    assert "could not be pulled yet" in pending(judge(pod(status, scheduled_s=10)))
    sentence = failed(judge(pod(status, scheduled_s=130)), Cause.IMAGE, FailureKind.REQUEST)
    assert sentence.endswith("; free disk on that node, or choose other nodes.")


def test_the_reason_of_a_refused_pull_is_found_behind_a_long_name() -> None:
    status = waiting("ErrImagePull", f"failed to resolve {'registry/very/long/name ' * 30}: manifest unknown")
    assert "cannot be pulled" in failed(judge(pod(status)), Cause.IMAGE, FailureKind.REQUEST)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", "failed to pull: registry/vllm@sha256:1: not found"),
        ("ImagePullBackOff", "failed to authorize: 401 Unauthorized"),
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization"),
        ("InvalidImageName", "Failed to apply default image tag"),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never"),
    ],
)
def test_an_image_that_cannot_be_had_fails_at_once(reason: str, message: str) -> None:
    sentence = failed(judge(pod(waiting(reason, message), scheduled_s=1)), Cause.IMAGE, FailureKind.REQUEST)
    assert "the image registry/vllm@sha256:1 of kserve-container cannot be pulled" in sentence and message in sentence


LONG = f"127.0.0.1:5001/models/owner/name@sha256:{'d6' * 32}"
# As kubelet 1.34 and containerd 2.3 say it: 560 characters, and the reason at their end.
WRONG_LOGIN = (
    f'Back-off pulling image "{LONG}": ErrImagePull: failed to pull and unpack image "{LONG}": failed to resolve '
    f'reference "{LONG}": unexpected status from HEAD request to http://{LONG.replace("@", "/manifests/")}: '
    "401 Unauthorized"
)


def test_containerds_words_are_shown_from_where_they_say_something() -> None:
    message = (
        f'rpc error: code = NotFound desc = failed to pull and unpack image "{LONG}": failed to resolve reference '
        f'"{LONG}": {LONG}: not found'
    )
    sentence = failed(judge(pod(waiting("ErrImagePull", message), scheduled_s=1)), Cause.IMAGE, FailureKind.REQUEST)
    assert f"cannot be pulled ({LONG}: not found); correct the image" in sentence


def test_a_wrong_login_is_told_from_the_whole_message_at_once() -> None:
    status = waiting("ImagePullBackOff", WRONG_LOGIN, name="modelcar-init")
    sentence = failed(judge(pod(status, scheduled_s=1)), Cause.IMAGE, FailureKind.REQUEST)
    assert (
        "of modelcar-init cannot be pulled (unexpected status from HEAD request to http://127.0.0.1:5001/" in sentence
    )
    assert "401 Unauthorized); correct the login for its registry in the Secret that" in sentence
    assert "lists in imagePullSecrets, or the node's own, or the image." in sentence


def test_the_image_of_a_volume_is_told_from_the_servers() -> None:
    one = pod(waiting("ErrImagePull", WRONG_LOGIN.partition("ErrImagePull: ")[2]), scheduled_s=1)
    one["spec"] = {**one.get("spec", {}), "volumes": [{"name": "tmp"}, {"name": "m", "image": {"reference": LONG}}]}
    sentence = failed(judge(one), Cause.IMAGE, FailureKind.REQUEST)
    assert f"the image {LONG} of kserve-container's volume cannot be pulled" in sentence


def test_a_name_that_sounds_like_a_refusal_is_none() -> None:
    status = waiting("ErrImagePull", 'failed to pull and unpack image "registry/denied": dial tcp: i/o timeout')
    assert "could not be pulled yet (dial tcp: i/o timeout)" in pending(judge(pod(status, scheduled_s=1)))


def test_a_registry_that_is_down_is_waited_for() -> None:
    status = waiting("ErrImagePull", "dial tcp 10.0.0.1:5000: connect: connection refused")
    assert "could not be pulled yet" in pending(judge(pod(status, scheduled_s=100)))
    failed(judge(pod(status, scheduled_s=130)), Cause.IMAGE, FailureKind.REQUEST)


def test_a_modelcar_that_cannot_be_pulled_is_seen_too() -> None:
    status = waiting("ImagePullBackOff", "not found", name="modelcar-init")
    assert "of modelcar-init cannot be pulled" in failed(judge(pod(status)), Cause.IMAGE, FailureKind.REQUEST)


def test_a_missing_secret_has_a_short_grace() -> None:
    status = waiting("CreateContainerConfigError", 'secret "airfreight-store" not found')
    assert 'secret "airfreight-store" not found' in pending(judge(pod(status, scheduled_s=10)))
    assert "cannot be started" in failed(judge(pod(status, scheduled_s=31)), Cause.CONFIGURATION, FailureKind.REQUEST)


def test_out_of_memory_at_once_with_the_limit() -> None:
    sentence = failed(judge(pod(crashed(137, 1, reason="OOMKilled"))), Cause.MEMORY, FailureKind.GATE)
    assert "kserve-container was killed for using more memory than its limit (6Gi); raise memory" in sentence


def test_out_of_memory_of_the_initializer_has_its_own_remedy() -> None:
    status = crashed(137, 1, reason="OOMKilled", name="storage-initializer")
    sentence = failed(judge(pod(status)), Cause.MEMORY, FailureKind.GATE)
    assert "(1Gi)" in sentence and "storageInitializer.memoryLimit" in sentence


def test_a_crash_is_given_two_more_tries_and_shows_the_last_lines() -> None:
    assert "ended with exit code 1 and is started again" in pending(judge(pod(crashed(1, 1))))
    log = "line 1\n\nTraceback\nValueError: rope_scaling is unknown\nEngine core failed\n"
    verdict = judge(pod(crashed(1, 2)), logs={"pong-predictor-abc": log})
    sentence = failed(verdict, Cause.CRASH, FailureKind.GATE)
    assert "crashed 3 times, last with exit code 1" in sentence
    assert sentence.endswith("it last said: Traceback | ValueError: rope_scaling is unknown | Engine core failed")


def test_a_crash_without_a_log() -> None:
    sentence = failed(judge(pod(crashed(1, 2))), Cause.CRASH, FailureKind.GATE)
    assert sentence.endswith("read the log of pong-predictor-abc.")


def test_a_server_that_runs_again_is_given_time() -> None:
    status = crashed(1, 2, state={"running": {"startedAt": ago(1)}})
    assert "is started again" in pending(judge(pod(status)))


def test_a_crash_that_is_over_is_forgotten() -> None:
    status = crashed(137, 2, reason="OOMKilled", state={"running": {}}, ready=True)
    assert judge(pod(status), isvc=service(), dep=deployment()) == Ready()


INITIALIZER = "2026-11-22 16:54:46.521 1 storage.initializer INFO [kserve_storage.py:download():168] Copying contents\n"
INITIALIZER += "2026-11-22 16:54:46.791 1 storage.initializer ERROR [initializer-entrypoint:<module>():28] "


@pytest.mark.parametrize(
    ("message", "reason", "kind"),
    [
        # As KServe 0.20's initializer says it: a wrong key, no such bucket, no such prefix.
        (
            f"{INITIALIZER}Storage initialization failed: S3 error [403]: Forbidden\n",
            "S3 error [403]: Forbidden",
            FailureKind.REQUEST,
        ),
        (
            f"{INITIALIZER}Storage initialization failed: S3 resource 'no-such-bucket' not found.\n",
            "S3 resource 'no-such-bucket' not found",
            FailureKind.REQUEST,
        ),
        (
            f"{INITIALIZER}Storage initialization failed: Failed to fetch model. No model found in acme/none/x/.\n",
            "Failed to fetch model. No model found in acme/none/x/",
            FailureKind.REQUEST,
        ),
        (
            "Traceback\nbotocore.exceptions.EndpointConnectionError: Could not connect",
            "botocore.exceptions.EndpointConnectionError: Could not connect",
            FailureKind.TEMPORARY,
        ),
    ],
)
def test_a_model_that_cannot_be_fetched(message: str, reason: str, kind: FailureKind) -> None:
    once = crashed(1, 0, message=message, name="storage-initializer")
    assert reason in pending(judge(pod(once)))
    sentence = failed(judge(pod(once | {"restartCount": 1})), Cause.STORAGE, kind)
    assert f"the storage-initializer cannot fetch the model ({reason}); correct the bucket" in sentence
    assert "Secret airfreight-store" in sentence


def test_of_a_long_log_the_end_is_kept() -> None:
    verdict = judge(pod(crashed(1, 2)), logs={"pong-predictor-abc": "x" * 2000 + " ValueError: the reason"})
    assert failed(verdict, Cause.CRASH, FailureKind.GATE).endswith("ValueError: the reason")


def test_another_init_container() -> None:
    status = crashed(1, 1, message="NOK: /models is empty", name="modelcar-init")
    assert "NOK: /models is empty" in failed(judge(pod(status)), Cause.INIT, FailureKind.GATE)


def test_finished_init_containers_are_fine() -> None:
    done = {"name": "storage-initializer", "ready": True, "restartCount": 1,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
            "lastState": {"terminated": {"exitCode": 1}}}  # fmt: skip
    assert judge(pod(done), isvc=service(), dep=deployment()) == Ready()


def test_evicted_twice() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    assert isinstance(judge(evicted), Pending)
    sentence = failed(judge(evicted, evicted), Cause.EVICTED, FailureKind.GATE)
    assert "2 of its pods were evicted (The node was low on resource: ephemeral-storage.)" in sentence


def test_pods_of_another_release_and_pods_that_go_do_not_count() -> None:
    old = pod(crashed(1, 9), release=BEFORE)
    going = pod(crashed(1, 9))
    going["metadata"]["deletionTimestamp"] = ago(1)
    assert isinstance(judge(old, going), Pending)


def test_what_is_waited_for_is_shown_and_a_failure_wins_over_it() -> None:
    slow = pod(waiting("ErrImagePull", "connection refused"))
    assert "connection refused" in pending(judge(slow))
    failed(judge(slow, pod(crashed(1, 5))), Cause.CRASH, FailureKind.GATE)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FailureKind.REQUEST, RequestError), (FailureKind.GATE, GateError), (FailureKind.TEMPORARY, TemporaryError)],
)
def test_the_kind_decides_the_exit_code(kind: FailureKind, error: type[Exception]) -> None:
    raised = failure_error(Failed("so it is.", kind, Cause.CRASH))
    assert type(raised) is error and raised.message == "so it is."


@pytest.mark.parametrize("empty", [{}, {"metadata": None, "spec": None, "status": None}])
def test_half_filled_objects_are_waited_for(empty: Thing) -> None:
    verdict = assess(Observation(service(ready="False", conditions=None), empty, [empty]), RELEASE, NOW)
    assert isinstance(verdict, Pending)


def test_a_server_that_ends_well_has_crashed_all_the_same() -> None:
    """vLLM 0.32 ends with exit code 0 when its engine has died."""
    sentence = failed(judge(pod(crashed(0, 3, reason="Completed"))), Cause.CRASH, FailureKind.GATE)
    assert "kserve-container crashed 4 times, last with exit code 0" in sentence


def test_nobody_is_ready_while_users_are_sent_to_another_release() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    isvc, dep = service(), deployment()
    old = pod(release="000000000000", conditions=ready)
    assert "the pods of another release still answer" in pending(judge(old, isvc=isvc, dep=dep))
    # Told to go six seconds ago, with a grace of 60: every node knows by now.
    gone = {**old, "metadata": {**old["metadata"], "deletionTimestamp": ago(-54), "deletionGracePeriodSeconds": 60}}
    assert isinstance(judge(gone, isvc=isvc, dep=dep), Ready)
    going = {**old, "metadata": {**old["metadata"], "deletionTimestamp": ago(-58), "deletionGracePeriodSeconds": 60}}
    assert "still answer" in pending(judge(going, isvc=isvc, dep=dep))
