"""The manifests in `cluster/` are what KubeRay, Kubernetes and Ray take, as far as that can be known without a cluster."""

from __future__ import annotations

import copy
import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import manifests
import pytest
import yaml

from pipeline import read_config
from pipeline.arguments import make_parser

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
RAY_KINDS = ["raycluster.yaml", "rayjob.yaml", "raycronjob.yaml"]
CORE = ["cronjob.yaml", "files.yaml", "storage.yaml"]
OTHER_FORMATS = {"config.yaml", "ray-up-aws.yaml", "prometheus.yaml"}
needs_schemas = pytest.mark.skipif(not manifests.CRDS.is_dir(), reason="the schemas of KubeRay are not here")


@functools.lru_cache
def _parsed(name: str) -> list[dict[str, Any]]:
    return manifests.documents(CLUSTER / name)


def read(name: str, kind: str | None = None) -> Any:
    """A copy of a file's documents, or of its only one of a kind."""
    found = copy.deepcopy(_parsed(name))
    return found if kind is None else next(one for one in found if one["kind"] == kind)


def all_documents() -> list[dict[str, Any]]:
    return [one for name in RAY_KINDS + CORE for one in read(name)]


def test_every_file_is_checked():
    """A new manifest cannot be forgotten here."""
    assert {path.name for path in CLUSTER.glob("*.yaml")} - OTHER_FORMATS == set(RAY_KINDS + CORE)


@needs_schemas
@pytest.mark.parametrize("name", RAY_KINDS)
def test_ray_manifest_is_valid(name):
    (document,) = read(name)
    assert manifests.problems(document) == []


@pytest.mark.parametrize("name", CORE)
def test_core_manifest_is_valid(name):
    assert [text for one in read(name) for text in manifests.problems(one)] == []


def test_one_cluster_in_three_files():
    """The spec is written three times, so that each file stands alone; nothing in it may differ."""
    cluster, job, cron_job = (manifests.cluster_spec(read(name)[0]) for name in RAY_KINDS)
    assert cluster == job == cron_job


def test_the_autoscaler_is_of_the_image_that_the_head_pulls():
    """Its container, which KubeRay adds to the head's pod, could otherwise be what a node has kept under the same tag."""
    assert manifests.cluster_spec(read("raycluster.yaml")[0])["autoscalerOptions"]["imagePullPolicy"] == "Always"


def test_jobs_differ_only_in_what_they_run():
    job, cron_job = read("rayjob.yaml")[0]["spec"], read("raycronjob.yaml")[0]["spec"]["jobTemplate"]
    assert {key for key in {*job, *cron_job} if job.get(key) != cron_job.get(key)} == {"entrypoint", "backoffLimit"}


@needs_schemas
def test_a_job_that_waits_in_a_queue_is_valid():
    """With what the page on schedulers changes for Kueue: its label, and a cluster of a size that stays."""
    page = (CLUSTER / "SCHEDULERS.md").read_text()
    changed = yaml.safe_load(re.search(r"```yaml\n(metadata:\n.*?)```", page, re.DOTALL)[1])
    (document,) = read("rayjob.yaml")
    document["metadata"]["labels"] |= changed["metadata"]["labels"]
    spec, asked = document["spec"]["rayClusterSpec"], changed["spec"]["rayClusterSpec"]
    del spec["autoscalerOptions"]
    spec["enableInTreeAutoscaling"] = asked["enableInTreeAutoscaling"]
    sizes = {group["groupName"]: group for group in asked["workerGroupSpecs"]}
    for group in spec["workerGroupSpecs"]:
        group |= sizes.pop(group["groupName"])
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert not sizes and manifests.problems(document) == []
    assert document["spec"]["shutdownAfterJobFinishes"]  # without it Kueue takes no RayJob


def test_versions_are_those_of_the_constraints():
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (CLUSTER.parent / "constraints.txt").read_text(), re.MULTILINE))
    assert manifests.cluster_spec(read("raycluster.yaml")[0])["rayVersion"] == pinned["ray"]


# What the manifests refer to


def test_what_is_referred_to_exists():
    """ConfigMaps are made by commands of the README, the claim is in storage.yaml, and secrets may be missing."""
    readme = (CLUSTER / "README.md").read_text()
    made = set(re.findall(r"kubectl create configmap (\S+)", readme))
    claims = {one["metadata"]["name"] for one in read("storage.yaml")}
    for document in all_documents():
        for at, template in manifests.pod_templates(document):
            for volume in template["spec"].get("volumes", []):
                assert volume.get("configMap", {}).get("name") in {None, *made}, at
                assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}, at
            for container in template["spec"]["containers"]:
                for source in container.get("envFrom", []):
                    assert source["secretRef"]["optional"] is True, at
    account, role, binding, cron_job = read("cronjob.yaml")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert [one["name"] for one in binding["subjects"]] == [account["metadata"]["name"]]
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}]


def test_config_maps_hold_the_files_that_are_read():
    """The names of files in the ConfigMaps, which the README's commands make, are those in the command lines."""
    readme = (CLUSTER / "README.md").read_text()
    keys: dict[str, set[str]] = {}
    for name, rest in re.findall(r"kubectl create configmap (\S+)((?: --from-file=\S+)+)", readme):
        sources = re.findall(r"--from-file=(?:([^=\s]+)=)?(\S+)", rest)
        assert all((CLUSTER.parent / path).is_file() for _, path in sources)
        keys[name] = {key or Path(path).name for key, path in sources}
    assert {"config.yaml"} <= keys["tss-config"]
    (container,) = read("cronjob.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    read_there = {Path(word).name for word in container["command"] if word.startswith(mount["mountPath"])}
    assert read_there == keys["tss-refresh"]


def test_entrypoints_are_command_lines():
    """`tss` parses them, and reads the file that the head mounts."""
    (cron_container,) = read("cronjob.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    entrypoints = {
        "rayjob.yaml": read("rayjob.yaml")[0]["spec"]["entrypoint"],
        "raycronjob.yaml": read("raycronjob.yaml")[0]["spec"]["jobTemplate"]["entrypoint"],
        "cronjob.yaml": cron_container["args"][0].removeprefix("--entrypoint="),
    }
    parsed = {}
    for name, entrypoint in entrypoints.items():
        program, *words = shlex.split(entrypoint)
        assert program == "tss"
        arguments = make_parser().parse_args(words)
        assert arguments.config == ["/etc/tss/config.yaml"]
        parsed[name] = words[0]
    assert parsed == {"rayjob.yaml": "run", "raycronjob.yaml": "refresh", "cronjob.yaml": "refresh"}


def test_configuration_fits_the_cluster():
    """It loads; there are as many scorers as GPU nodes may come; and all that outlives a cluster is on the shared volume."""
    settings = read_config.load(CLUSTER / "config.yaml", [])
    groups = manifests.ray_groups(read("raycluster.yaml")[0])
    most = settings.ray.scorers if isinstance(settings.ray.scorers, int) else settings.ray.scorers[-1]
    gpus = sum(
        group["maxReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for name, group in groups.items()
        if name == "gpu"
    )
    assert settings.ray.gpus_per_scorer == 1
    assert most == gpus
    assert settings.scorer.dtype != "auto"
    for path in [settings.output, *(one.path for one in settings.input)]:
        assert path.startswith("/data/")


# The cluster's own rules


@pytest.mark.parametrize("group", ["head", "cpu", "gpu"])
def test_every_ray_pod(group):
    """Probed over HTTP, since the image has no wget; metrics on a port of that name; room for the object store."""
    spec = manifests.ray_groups(read("raycluster.yaml")[0])[group]["template"]["spec"]
    container = spec["containers"][0]
    expected = {"head": [("/api/gcs_healthz", 8265), ("/api/healthz", 52365)]}
    worker = ("/api/local_raylet_healthz", 52365)
    probes = [container[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")]
    assert [(one["path"], one["port"]) for one in probes] == expected.get(group, [worker, worker])
    assert {"name": "metrics", "containerPort": 8080} in container["ports"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert set(mounts) == {"/data", "/dev/shm", *(["/etc/tss"] if group == "head" else [])}
    (memory,) = [one["emptyDir"] for one in spec["volumes"] if one["name"] == mounts["/dev/shm"]]
    assert memory["medium"] == "Memory"
    limit = manifests.quantity(container["resources"]["limits"]["memory"])
    # Ray gives 30% of a machine's memory to its object store, and falls back to the disk where /dev/shm is smaller.
    assert limit * 3 / 10 <= manifests.quantity(memory["sizeLimit"]) <= limit / 2
    assert {"name": "HF_HOME", "value": "/data/hf"} in container["env"]
    # KubeRay's autoscaler, in the head, talks to the API server; nothing else does.
    assert spec.get("automountServiceAccountToken", True) is (group == "head")
    assert "serviceAccountName" not in spec


def test_probes_are_answered_without_a_token():
    """With authOptions.mode token a probe has none, so Ray must let these paths through."""
    from ray.dashboard import http_server_agent, http_server_head

    assert {"/api/local_raylet_healthz", "/api/healthz"} <= set(http_server_agent.PUBLIC_EXACT_PATHS)
    assert '"/api/gcs_healthz",  #' in Path(http_server_head.__file__).read_text()


def test_rays_autoscaler_understands_the_groups():
    """Ray's own reading of the RayCluster: no tasks on the head, GPUs only where they are wanted, from none to four."""
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import validate_config

    (document,) = read("raycluster.yaml")
    document["metadata"]["namespace"] = "default"
    derived = autoscaling_config._derive_autoscaling_config_from_ray_cr(document)
    validate_config(derived)
    seen = {
        name: (group["min_workers"], group["max_workers"], group["resources"]["CPU"], group["resources"].get("GPU", 0))
        for name, group in derived["available_node_types"].items()
    }
    assert seen == {"headgroup": (0, 0, 0, 0), "cpu": (1, 8, 7, 0), "gpu": (0, 4, 7, 1)}
    assert derived["idle_timeout_minutes"] == 2


# Broken manifests


def _put(path: str, value: Any) -> Callable[[dict], None]:
    """Set what a path names; numbers are places in lists, and `|` is a slash within a key."""

    def change(document: dict) -> None:
        *way, last = [int(part) if part.isdecimal() else part.replace("|", "/") for part in path.split("/")]
        node: Any = document
        for part in way:
            node = node[part]
        node[last] = value

    return change


def _move(path: str, to: str) -> Callable[[dict], None]:
    """Move what a path names to another place, under the same or another name."""

    def change(document: dict) -> None:
        *way, last = [int(part) if part.isdecimal() else part.replace("|", "/") for part in path.split("/")]
        node: Any = document
        for part in way:
            node = node[part]
        _put(to, node.pop(last))(document)

    return change


def _drop(path: str) -> Callable[[dict], None]:
    """Remove what a path names."""

    def change(document: dict) -> None:
        _move(path, "gone")(document)
        del document["gone"]

    return change


CLUSTER_SPEC = "spec/rayClusterSpec"
HEAD = f"{CLUSTER_SPEC}/headGroupSpec"
HEAD_POD = f"{HEAD}/template/spec"
HEAD_CONTAINER = f"{HEAD_POD}/containers/0"
GPU = f"{CLUSTER_SPEC}/workerGroupSpecs/1"
GPU_CONTAINER = f"{GPU}/template/spec/containers/0"
CRON_POD = "spec/jobTemplate/spec/template/spec"

# What is wrong: a pattern of what is said about it, and how a good manifest becomes such a one.
BROKEN_RAYJOBS = {
    "a misspelt key": ("'entryPoint' was unexpected", _move("spec/entrypoint", "spec/entryPoint")),
    "a misspelt key, deep": ("'minReplica' was unexpected", _move(f"{GPU}/minReplicas", f"{GPU}/minReplica")),
    "a misspelt key of a pod": ("'volume' was unexpected", _move(f"{HEAD_POD}/volumes", f"{HEAD_POD}/volume")),
    "a key one level too high": ("'rayVersion' was unexpected", _move(f"{CLUSTER_SPEC}/rayVersion", "spec/rayVersion")),
    "a key one level too low": ("'retries' was unexpected", _move("spec/backoffLimit", "spec/submitterConfig/retries")),
    "a container's key on the pod": (
        "'readinessProbe' was unexpected",
        _move(f"{HEAD_CONTAINER}/readinessProbe", f"{HEAD_POD}/readinessProbe"),
    ),
    "a pod's key on the container": (
        "'terminationGracePeriodSeconds' was unexpected",
        _move(f"{HEAD_POD}/terminationGracePeriodSeconds", f"{HEAD_CONTAINER}/terminationGracePeriodSeconds"),
    ),
    "text for a number": ("'2' is not of type 'integer'", _put("spec/backoffLimit", "2")),
    "a number for text": ("2.6 is not of type 'string'", _put(f"{CLUSTER_SPEC}/rayVersion", 2.6)),
    "a number in rayStartParams": ("0 is not of type 'string'", _put(f"{HEAD}/rayStartParams/num-cpus", 0)),
    "a mapping for a list": ("{} is not of type 'array'", _put(f"{HEAD_POD}/volumes", {})),
    "a truth for text in env": ("True is not of type 'string'", _put(f"{HEAD_CONTAINER}/env/0/value", True)),
    "no group name": ("'groupName' is a required property", _drop(f"{GPU}/groupName")),
    "no template": ("'template' is a required property", _drop(f"{GPU}/template")),
    "no name of a container": ("'name' is a required property", _drop(f"{HEAD_CONTAINER}/name")),
    "no containers": ("no containers", _put(f"{HEAD_POD}/containers", [])),
    "an unknown mode of authentication": ("'tokens' is not one of", _put(f"{CLUSTER_SPEC}/authOptions/mode", "tokens")),
    "an unknown autoscaler": ("'v3' is not one of", _put(f"{CLUSTER_SPEC}/autoscalerOptions/version", "v3")),
    "an unknown submission mode": ("submissionMode is unknown", _put("spec/submissionMode", "K8SJobMode")),
    "an unknown effect": ("found 'NoSchedul'", _put(f"{GPU}/template/spec/tolerations/0/effect", "NoSchedul")),
    "a mount without a volume": (
        "mounts date, which is no volume",
        _put(f"{GPU_CONTAINER}/volumeMounts/0/name", "date"),
    ),
    "a volume without a mount": ("volume config is mounted nowhere", _put(f"{HEAD_CONTAINER}/volumeMounts", [])),
    "two mounts at one path": ("two mounts at /dev/shm", _put(f"{GPU_CONTAINER}/volumeMounts/0/mountPath", "/dev/shm")),
    "a path of the machine": (
        "no hostPath",
        _put(f"{HEAD_POD}/volumes/1", {"name": "data", "hostPath": {"path": "/data"}}),
    ),
    "a volume of two sources": ("one source", _put(f"{HEAD_POD}/volumes/1/emptyDir", {})),
    "no limit": ("no limit of memory", _drop(f"{GPU_CONTAINER}/resources/limits/memory")),
    "no request": ("no request of cpu", _drop(f"{HEAD_CONTAINER}/resources/requests")),
    "more requested than allowed": (
        "requests 9Gi of memory, limit 8Gi",
        _put(f"{HEAD_CONTAINER}/resources/requests/memory", "9Gi"),
    ),
    "a shared GPU": (
        "requests 1 of nvidia.com/gpu, limit 2",
        _put(f"{GPU_CONTAINER}/resources/limits/nvidia.com|gpu", "2"),
    ),
    "no submitter's limits": (
        "ray-job-submitter: no limit of cpu",
        _drop("spec/submitterPodTemplate/spec/containers/0/resources"),
    ),
    "root": ("may run as root", _put(f"{HEAD_POD}/securityContext/runAsUser", 0)),
    "perhaps root": ("may run as root", _drop("spec/submitterPodTemplate/spec/securityContext")),
    "privileges": ("may gain privileges", _put(f"{GPU_CONTAINER}/securityContext/allowPrivilegeEscalation", True)),
    "capabilities": ("has capabilities", _put(f"{GPU_CONTAINER}/securityContext/capabilities", {"drop": ["NET_RAW"]})),
    "no seccomp profile": ("no seccomp profile", _drop(f"{HEAD_POD}/securityContext/seccompProfile")),
    "the machine's network": ("hostNetwork", _put(f"{HEAD_POD}/hostNetwork", True)),
    "a secret": ("HF_TOKEN: a secret as text", _put(f"{HEAD_CONTAINER}/env/0", {"name": "HF_TOKEN", "value": "hf_x"})),
    "an image of no version": ("name a version", _put(f"{HEAD_CONTAINER}/image", "registry.example.com:5000/tss")),
    "an image of last month": ("imagePullPolicy is Always", _drop(f"{GPU_CONTAINER}/imagePullPolicy")),
    "a submitter of last month": (
        "ray-job-submitter: image 'registry.example.com/tss:cpu': imagePullPolicy is Always",
        _put("spec/submitterPodTemplate/spec/containers/0/imagePullPolicy", "IfNotPresent"),
    ),
    "a port's name too long": ("up to 15 characters", _put(f"{HEAD_CONTAINER}/ports/0/name", "a-long-port-name")),
    "two ways to probe": (
        "exactly one way to ask",
        _put(f"{HEAD_CONTAINER}/livenessProbe/exec", {"command": ["true"]}),
    ),
    "fewer at most than at least": ("minReplicas 5, maxReplicas 4", _put(f"{GPU}/minReplicas", 5)),
    "two groups of one name": ("groups of one name", _put(f"{GPU}/groupName", "cpu")),
    "no label": ("no label", _put(f"{GPU}/labels", {"task-specificity/role": "cpu or gpu"})),
    "labels at the wrong place": ("not into rayStartParams", _put(f"{GPU}/rayStartParams/labels", "a=b")),
    "resources twice": ("resources both in", _put(f"{HEAD}/resources", {"CPU": "0"})),
    "a restart that autoscaler v2 refuses": ("autoscaler v2 wants", _put(f"{HEAD_POD}/restartPolicy", "Always")),
    "a Ray that knows no token": ("needs rayVersion 2.52.0", _put(f"{CLUSTER_SPEC}/rayVersion", "2.51.0")),
    "two autoscalers": (
        "both autoscalerOptions.version and",
        _put(f"{HEAD_CONTAINER}/env/0", {"name": "RAY_enable_autoscaler_v2", "value": "1"}),
    ),
    "options without an autoscaler": (
        "without enableInTreeAutoscaling",
        _put(f"{CLUSTER_SPEC}/enableInTreeAutoscaling", False),
    ),
    "ttl without shutdown": ("ttlSecondsAfterFinished requires", _drop("spec/shutdownAfterJobFinishes")),
    "suspend without shutdown": (
        "suspend requires",
        lambda document: document["spec"].update(
            suspend=True, shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=0
        ),
    ),
    "no cluster": ("one of rayClusterSpec and clusterSelector", _drop(CLUSTER_SPEC)),
    "a selector with retries": (
        "clusterSelector excludes backoffLimit",
        _put("spec/clusterSelector", {"ray.io/cluster": "tss"}),
    ),
    "rules for deletion with shutdown": (
        "deletionRules exclude shutdownAfterJobFinishes",
        _put(
            "spec/deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]}
        ),
    ),
    "a side car with a template": (
        "SidecarMode excludes submitterPodTemplate",
        _put("spec/submissionMode", "SidecarMode"),
    ),
    "no deadline at all": ("activeDeadlineSeconds must be positive", _put("spec/activeDeadlineSeconds", 0)),
    "a submitter that never ends": (
        "restartPolicy is Never or OnFailure",
        _put("spec/submitterPodTemplate/spec/restartPolicy", "Always"),
    ),
    "a name too long": (
        "longer than 47",
        _put("metadata/generateName", "task-specificity-score-and-select-every-saturday-"),
    ),
    "a name and a prefix": ("one of metadata.name and", _put("metadata/name", "tss")),
    "no name": ("one of metadata.name and", _drop("metadata/generateName")),
    "a name in capitals": ("no name", _put("metadata/generateName", "TSS-")),
    "another API": ("no schema", _put("apiVersion", "ray.io/v2")),
}


def assert_refused(document, expected, change):
    """With this change the document has a problem that is told in these words."""
    change(document)
    assert re.search(expected, "\n".join(manifests.problems(document)))


@needs_schemas
@pytest.mark.parametrize("fault", BROKEN_RAYJOBS)
def test_a_broken_ray_job_is_refused(fault):
    assert_refused(read("rayjob.yaml", "RayJob"), *BROKEN_RAYJOBS[fault])


BROKEN_CRON_JOBS = {
    "a misspelt key": ("concurencyPolicy: unknown key", _move("spec/concurrencyPolicy", "spec/concurencyPolicy")),
    "a key one level too high": (
        "spec.backoffLimit: unknown key",
        _move("spec/jobTemplate/spec/backoffLimit", "spec/backoffLimit"),
    ),
    "a key of the job on the pod": (
        "podFailurePolicy: unknown key",
        _move("spec/jobTemplate/spec/podFailurePolicy", f"{CRON_POD}/podFailurePolicy"),
    ),
    "text for a number": ("int is expected", _put("spec/startingDeadlineSeconds", "3600")),
    "a number for text": ("str is expected", _put(f"{CRON_POD}/containers/0/resources/limits/cpu", 1)),
    "a text for a list": ("a list is expected", _put(f"{CRON_POD}/containers/0/command", "python create_rayjob.py")),
    "no schedule": ("schedule", _drop("spec/schedule")),
    "no containers": ("containers Field required|must not be `None`", _drop(f"{CRON_POD}/containers")),
    "an unknown policy": ("found 'Forbidden'", _put("spec/concurrencyPolicy", "Forbidden")),
    "an unknown restart policy": ("found 'never'", _put(f"{CRON_POD}/restartPolicy", "never")),
    "an unknown action": ("found 'Fail'", _put("spec/jobTemplate/spec/podFailurePolicy/rules/0/action", "Fail")),
    "a mount without a volume": ("mounts refresh, which is no volume", _drop(f"{CRON_POD}/volumes")),
    "root": ("may run as root", _put(f"{CRON_POD}/securityContext/runAsUser", 0)),
    "a name too long": ("longer than 52", _put("metadata/name", "a" * 53)),
    "a schedule of six fields": ("five fields are expected", _put("spec/schedule", "0 0 3 * * 6")),
    "an hour 24": ("'24' is not from 0 to 23", _put("spec/schedule", "0 24 * * *")),
    "a day of the week 7": ("'7' is not from 0 to 6", _put("spec/schedule", "0 3 * * 7")),
    "a range backwards": ("'9-3' is not from", _put("spec/schedule", "0 9-3 * * *")),
    "a step of nothing": ("'\\*/0' is not from", _put("spec/schedule", "*/0 * * * *")),
    "a schedule with a time zone": ("five fields are expected", _put("spec/schedule", "TZ=UTC 0 3 * * 6")),
}


@pytest.mark.parametrize("fault", BROKEN_CRON_JOBS)
def test_a_broken_cron_job_is_refused(fault):
    assert_refused(read("cronjob.yaml", "CronJob"), *BROKEN_CRON_JOBS[fault])


@pytest.mark.parametrize("schedule", ["0 3 * * 6", "*/15 0-6,22 1 jan-mar mon,fri", "0 3 */2 * ?", "59 23 31 12 0"])
def test_schedules_that_are_fine(schedule):
    document = read("cronjob.yaml", "CronJob")
    document["spec"]["schedule"] = schedule
    assert manifests.problems(document) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Role", _put("rules/0/verb", ["get"])),
        ("Role", _drop("rules/0/verbs")),
        ("RoleBinding", _drop("roleRef")),
        ("RoleBinding", _put("subjects/0/kind", "Serviceaccount")),
        ("ServiceAccount", _put("automountServiceAccountToken", "no")),
        ("ServiceAccount", _put("apiVersion", "v2")),
        ("PersistentVolumeClaim", _put("spec/accessModes", ["ReadWriteManyTimes"])),
        ("PersistentVolumeClaim", _put("spec/resources/requests/storage", 1)),
    ],
)
def test_other_broken_objects_are_refused(kind, change):
    document = read("storage.yaml" if kind == "PersistentVolumeClaim" else "cronjob.yaml", kind)
    change(document)
    assert manifests.problems(document)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("spec:\n  backoffLimit: 1\n  backoffLimit: 2\n")
    with pytest.raises(yaml.YAMLError, match="backoffLimit"):
        manifests.documents(path)


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("8", 8), ("1Gi", 2**30), ("1.5G", 1.5e9), ("128Ki", 2**17)]
)
def test_quantities(text, number):
    assert manifests.quantity(text) == number


# ray up


def _ray_up() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "ray-up-aws.yaml").read_text())


def _check_by_ray(settings: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(settings)
    validate_config(prepared)
    return prepared


def test_ray_up_file():
    """Ray takes it; the head runs no tasks; GPUs come as spot instances when asked for; nothing is copied to the nodes."""
    prepared = _check_by_ray(_ray_up())
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert any("--num-cpus=0" in command for command in prepared["head_start_ray_commands"])
    assert (types["gpu"]["min_workers"], types["gpu"]["resources"]["GPU"]) == (0, 1)
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["max_workers"] == read_config.load(CLUSTER / "config.yaml", []).ray.scorers
    assert all("IamInstanceProfile" in one["node_config"] for one in types.values())
    assert prepared["max_workers"] == sum(one["max_workers"] for one in types.values())
    assert prepared["file_mounts"] == {}
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []
    assert not re.search(r"AKIA|SECRET|TOKEN|PASSWORD", (CLUSTER / "ray-up-aws.yaml").read_text())


@pytest.mark.parametrize(
    "change",
    [
        _move("idle_timeout_minutes", "idle_timeout_minute"),
        _move("available_node_types/gpu/max_workers", "available_node_types/gpu/max_worker"),
        _drop("available_node_types/gpu/resources"),
        _put("available_node_types/gpu/resources/GPU", "1"),
        _put("head_node_type", "ray.head"),
        _put("max_workers", 0),
        _drop("docker/container_name"),
    ],
)
def test_a_broken_ray_up_file_is_refused(change):
    settings = _ray_up()
    change(settings)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        _check_by_ray(settings)
