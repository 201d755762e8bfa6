"""Checks of Kubernetes manifests without a cluster: each check says what is wrong as a list of texts, empty where nothing is.

Three layers. Shapes: the schemas of KubeRay's custom resources and the models of the Kubernetes client, both with unknown keys
refused, as `kubectl --validate=strict` does. Rules of the controllers that no schema holds. Rules of this project.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes.client import models

CRDS = Path(__file__).resolve().parents[3] / "shared" / "crd"
_FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key that stands twice in a mapping, as the API server's strict validation does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: twice in one mapping: {sorted(twice)}")
        return super().construct_mapping(node, deep)


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(yaml.load_all(path.read_text(), Loader=_StrictLoader))


def problems(document: dict[str, Any]) -> list[str]:
    """Everything that is wrong with one document."""
    kind = f"{document.get('apiVersion')}/{document.get('kind')}"
    if kind.startswith("ray.io/v1/"):
        found = of_schema(document) or of_kuberay(document)
    elif model := _MODELS.get(kind):
        found = of_model(document, model, document["kind"])
    else:
        return [f"{kind}: no schema to check it by"]
    if found:  # the rules below rely on the shape
        return found
    for at, template in pod_templates(document):
        found += of_model(template["spec"], models.V1PodSpec, at) or of_pod(at, template["spec"])
    return found + of_metadata(document) + of_schedule(document)


# Shapes


def of_schema(document: dict[str, Any]) -> list[str]:
    """Against the schema of a custom resource of KubeRay."""
    validator = _validator(document["kind"])
    errors = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'.'.join(map(str, error.absolute_path)) or document['kind']}: {error.message[:200]}" for error in errors]


@functools.lru_cache
def _validator(kind: str) -> jsonschema.Draft4Validator:
    definition = yaml.load((CRDS / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=_FastLoader)  # noqa: S506
    (schema,) = [one["schema"] for one in definition["spec"]["versions"] if one["name"] == "v1"]
    return jsonschema.Draft4Validator(_closed(schema["openAPIV3Schema"]))


def _closed(schema: Any) -> Any:
    """The schema with unknown keys refused wherever keys are listed, which the API server would drop without a word."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


_MODELS = {
    "v1/Pod": models.V1Pod,
    "v1/PersistentVolumeClaim": models.V1PersistentVolumeClaim,
    "v1/ServiceAccount": models.V1ServiceAccount,
    "v1/ConfigMap": models.V1ConfigMap,
    "rbac.authorization.k8s.io/v1/Role": models.V1Role,
    "rbac.authorization.k8s.io/v1/RoleBinding": models.V1RoleBinding,
    "batch/v1/CronJob": models.V1CronJob,
}

# Values that the API server accepts where the models only say `str`.
_ENUMS = {
    ("V1CronJobSpec", "concurrencyPolicy"): {"Allow", "Forbid", "Replace"},
    ("V1PodSpec", "restartPolicy"): {"Always", "OnFailure", "Never"},
    ("V1PodSecurityContext", "fsGroupChangePolicy"): {"OnRootMismatch", "Always"},
    ("V1SeccompProfile", "type"): {"RuntimeDefault", "Localhost", "Unconfined"},
    ("V1EmptyDirVolumeSource", "medium"): {"", "Memory"},
    ("V1Toleration", "operator"): {"Exists", "Equal"},
    ("V1Toleration", "effect"): {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    ("V1NodeSelectorRequirement", "operator"): {"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"},
    ("V1PodFailurePolicyRule", "action"): {"FailJob", "FailIndex", "Ignore", "Count"},
    ("V1PodFailurePolicyOnExitCodesRequirement", "operator"): {"In", "NotIn"},
    ("V1PersistentVolumeClaimSpec", "accessModes"): {
        "ReadWriteOnce",
        "ReadOnlyMany",
        "ReadWriteMany",
        "ReadWriteOncePod",
    },
    ("RbacV1Subject", "kind"): {"ServiceAccount", "User", "Group"},
}
_SIMPLE = {"str": str, "bool": bool, "int": int, "float": (int, float), "datetime": str, "bytes": str}


def of_model(value: Any, model: Any, at: str) -> list[str]:
    """Against a model of the Kubernetes client: unknown keys, wrong types, missing keys, at any depth."""
    return _build(value, model.__name__, at)[1]


def _build(value: Any, kind: str, at: str) -> tuple[Any, list[str]]:
    """The value as the client has it, and what is wrong with it. `kind` is one of the client's names of types."""
    if kind == "object":
        return value, []
    if inner := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return None, [f"{at}: a list is expected, found {value!r:.80}"]
        built = [_build(one, inner[1], f"{at}[{index}]") for index, one in enumerate(value)]
        return [one for one, _ in built], [text for _, texts in built for text in texts]
    if inner := re.fullmatch(r"[Dd]ict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            return None, [f"{at}: a mapping is expected, found {value!r:.80}"]
        pairs = {key: _build(one, inner[1], f"{at}.{key}") for key, one in value.items()}
        return {key: one for key, (one, _) in pairs.items()}, [text for _, texts in pairs.values() for text in texts]
    if kind in _SIMPLE:
        fits = isinstance(value, _SIMPLE[kind]) and (kind == "bool" or not isinstance(value, bool))
        return value, [] if fits else [f"{at}: {kind} is expected, found {value!r:.80}"]
    return _build_object(value, getattr(models, kind), at)


def _build_object(value: Any, model: Any, at: str) -> tuple[Any, list[str]]:
    if not isinstance(value, dict):
        return None, [f"{at}: keys are expected, found {value!r:.80}"]
    names = {key: name for name, key in model.attribute_map.items()}
    found, built = [], {}
    for key, inner in value.items():
        if key not in names:
            found.append(f"{at}.{key}: unknown key; known here: {', '.join(sorted(names))[:200]}")
            continue
        built[names[key]], wrong = _build(inner, model.openapi_types[names[key]], f"{at}.{key}")
        found += wrong
        allowed = _ENUMS.get((model.__name__, key))
        if allowed and not set(inner if isinstance(inner, list) else [inner]) <= allowed:
            found.append(f"{at}.{key}: found {inner!r}, accepted: {', '.join(sorted(allowed))}")
    if found:
        return None, found
    try:
        return model(**built), []  # raises for a key that is required
    except ValueError as error:
        return None, [f"{at}: {' '.join(str(error).split())[:300]}"]


# Rules of the controllers. Of KubeRay: ray-operator/controllers/ray/utils/validation.go and constant.go in v1.7.0.


def of_kuberay(document: dict[str, Any]) -> list[str]:
    """What KubeRay's controllers refuse although its schemas accept it."""
    kind, spec = document["kind"], document.get("spec")
    if not isinstance(spec, dict):
        return []
    if kind == "RayCluster":
        return _of_cluster(spec)
    return _of_job(spec if kind == "RayJob" else spec.get("jobTemplate") or {})


def _of_job(spec: dict[str, Any]) -> list[str]:
    selector, cluster = spec.get("clusterSelector"), spec.get("rayClusterSpec")
    shuts_down = bool(spec.get("shutdownAfterJobFinishes"))
    strategy, mode = spec.get("deletionStrategy") or {}, spec.get("submissionMode", "K8sJobMode")
    retries = spec.get("backoffLimit", 0)
    wrong = {
        "suspend requires shutdownAfterJobFinishes": spec.get("suspend") and not shuts_down,
        "ttlSecondsAfterFinished requires shutdownAfterJobFinishes": spec.get("ttlSecondsAfterFinished")
        and not shuts_down,
        "ttlSecondsAfterFinished must not be negative": spec.get("ttlSecondsAfterFinished", 0) < 0,
        "deletionRules exclude shutdownAfterJobFinishes": strategy.get("deletionRules") and shuts_down,
        "deletionRules exclude onSuccess and onFailure": strategy.get("deletionRules")
        and {"onSuccess", "onFailure"} & set(strategy),
        "one of rayClusterSpec and clusterSelector is needed": not cluster and not selector,
        "clusterSelector excludes suspend": selector and spec.get("suspend"),
        "clusterSelector excludes backoffLimit": selector and retries,
        "clusterSelector excludes SidecarMode": selector and mode == "SidecarMode",
        "InteractiveMode excludes backoffLimit": mode == "InteractiveMode" and retries,
        "SidecarMode excludes submitterPodTemplate": mode == "SidecarMode" and "submitterPodTemplate" in spec,
        "SidecarMode excludes submitterConfig": mode == "SidecarMode" and "submitterConfig" in spec,
        "submissionMode is unknown": mode not in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
        "backoffLimit must not be negative": retries < 0,
        "activeDeadlineSeconds must be positive": spec.get("activeDeadlineSeconds", 1) <= 0,
        "preRunningDeadlineSeconds must be positive": spec.get("preRunningDeadlineSeconds", 1) <= 0,
        "a job's cluster has no upgradeStrategy": "upgradeStrategy" in (cluster or {}),
        # Of the Job that submits: batch/v1 refuses Always.
        "submitterPodTemplate: restartPolicy is Never or OnFailure": "submitterPodTemplate" in spec
        and spec["submitterPodTemplate"].get("spec", {}).get("restartPolicy") not in {"Never", "OnFailure"},
    }
    return [text for text, is_so in wrong.items() if is_so] + (_of_cluster(cluster) if cluster else [])


def _of_cluster(spec: dict[str, Any]) -> list[str]:
    groups = spec.get("workerGroupSpecs") or []
    names = [group.get("groupName") for group in groups]
    found = [] if len(set(names)) == len(names) else [f"groups of one name: {names}"]
    options = spec.get("autoscalerOptions") or {}
    second = bool(spec.get("enableInTreeAutoscaling")) and options.get("version") == "v2"
    if options and not spec.get("enableInTreeAutoscaling"):
        found.append("autoscalerOptions without enableInTreeAutoscaling")
    if (spec.get("authOptions") or {}).get("mode") == "token":
        version = tuple(int(part) for part in re.findall(r"\d+", spec.get("rayVersion") or "0")[:3])
        if version < (2, 52, 0):
            found.append(f"authOptions.mode: token needs rayVersion 2.52.0 or later, found {spec.get('rayVersion')}")
    for name, group in [("head", spec.get("headGroupSpec") or {}), *zip(names, groups, strict=True)]:
        start, pod = group.get("rayStartParams") or {}, (group.get("template") or {}).get("spec") or {}
        if name != "head" and not 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 2**31 - 1):
            found.append(f"{name}: minReplicas {group.get('minReplicas')}, maxReplicas {group.get('maxReplicas')}")
        if second and pod.get("restartPolicy", "Never") != "Never":
            found.append(f"{name}: autoscaler v2 wants restartPolicy Never or none")
        if {"num-cpus", "num-gpus", "memory", "resources"} & set(start) and group.get("resources"):
            found.append(f"{name}: resources both in rayStartParams and in resources")
        if "labels" in start:
            found.append(f"{name}: labels belong into the group's labels, not into rayStartParams")
        found += [
            f"{name}: {key}={value}: no label"
            for key, value in (group.get("labels") or {}).items()
            if not _is_label(key, value)
        ]
        names_of_env = {one.get("name") for one in (pod.get("containers") or [{}])[0].get("env") or []}
        if "version" in options and "RAY_enable_autoscaler_v2" in names_of_env:
            found.append(f"{name}: both autoscalerOptions.version and RAY_enable_autoscaler_v2")
    return found


def _is_label(key: str, value: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    name_fits = re.fullmatch(r"(?=.{1,63}$)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", name)
    prefix_fits = not slash or re.fullmatch(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?", prefix)
    value_fits = re.fullmatch(r"(?=.{0,63}$)([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value)
    return bool(name_fits and prefix_fits and value_fits)


# How long a name may be, so that what the controllers append to it stays a name: MaxRayClusterNameLength and
# MaxRayJobNameLength of KubeRay; a RayCronJob and a CronJob append a dash and up to 10 digits (minutes) to their name.
_LONGEST = {"RayCluster": 53, "RayJob": 47, "RayCronJob": 36, "CronJob": 52}
_RANDOM_SUFFIX = 5  # of generateName


def of_metadata(document: dict[str, Any]) -> list[str]:
    """Names and labels."""
    metadata, kind = document.get("metadata") or {}, document["kind"]
    if ("name" in metadata) == ("generateName" in metadata):
        return [f"{kind}: one of metadata.name and metadata.generateName"]
    name = metadata.get("name") or metadata["generateName"] + "x" * _RANDOM_SUFFIX
    found = [] if re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) else [f"{kind}: metadata.name {name!r}: no name"]
    if len(name) > _LONGEST.get(kind, 63):
        found.append(f"{kind}: metadata.name {name!r} is longer than {_LONGEST.get(kind, 63)} characters")
    labels = metadata.get("labels") or {}
    return found + [f"{kind}: {key}={value}: no label" for key, value in labels.items() if not _is_label(key, value)]


_CRON = [(0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, "jan feb mar apr may jun jul aug sep oct nov dec")]
_CRON += [(0, 6, "sun mon tue wed thu fri sat")]


def of_schedule(document: dict[str, Any]) -> list[str]:
    """A schedule of five fields, as robfig/cron's ParseStandard reads it for CronJobs and RayCronJobs."""
    if document["kind"] not in {"CronJob", "RayCronJob"}:
        return []
    schedule = document["spec"]["schedule"]
    fields = schedule.split()
    if len(fields) != 5 or "TZ" in schedule:
        return [f"schedule: {schedule!r}: five fields are expected, and a time zone in timeZone"]
    return [
        f"schedule: {schedule!r}: {field!r} is not from {low} to {high}"
        for field, (low, high, words) in zip(fields, _CRON, strict=True)
        if not all(_is_cron_range(part, low, high, words.split()) for part in field.split(","))
    ]


def _is_cron_range(part: str, low: int, high: int, words: list[str]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return False
    if span in {"*", "?"}:
        return True
    ends = [str(low + words.index(end)) if end.lower() in words else end for end in span.lower().split("-")]
    if len(ends) > 2 or not all(end.isdecimal() for end in ends):
        return False
    return low <= int(ends[0]) <= int(ends[-1]) <= high


# Rules of this project, on every pod


def pod_templates(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod, or template of one, in a document, with its place: whatever has a spec with containers."""

    def walk(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, list):
            for index, one in enumerate(value):
                yield from walk(one, f"{at}[{index}]")
        elif isinstance(value, dict):
            if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
                yield at, value
            for key, one in value.items():
                yield from walk(one, f"{at}.{key}")

    yield from walk(document, document["kind"])


def ray_groups(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of the cluster in a document of any of KubeRay's kinds, the head's under `head`."""
    cluster = cluster_spec(document)
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster's spec in a document of any of KubeRay's kinds."""
    spec = document["spec"]
    if document["kind"] == "RayCronJob":
        spec = spec["jobTemplate"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|API_KEY")


def of_pod(at: str, pod: dict[str, Any]) -> list[str]:
    """What this project asks of a pod: not root, bounded, probed, no secrets, mounts that lead somewhere."""
    found = [f"{at}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    if not pod["containers"]:
        found.append(f"{at}: no containers")
    context = pod.get("securityContext") or {}
    if not (context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0):
        found.append(f"{at}: may run as root")
    if (context.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        found.append(f"{at}: no seccomp profile")
    volumes = {volume["name"]: volume for volume in pod.get("volumes") or []}
    if len(volumes) < len(pod.get("volumes") or []):
        found.append(f"{at}: two volumes of one name")
    found += [
        f"{at}: volume {name}: one source, no hostPath"
        for name, one in volumes.items()
        if len(one) != 2 or "hostPath" in one
    ]
    used: set[str] = set()
    for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
        found += _of_container(f"{at}.{container['name']}", container, volumes)
        used |= {mount["name"] for mount in container.get("volumeMounts") or []}
    return found + [f"{at}: volume {name} is mounted nowhere" for name in sorted(set(volumes) - used)]


def _of_container(at: str, container: dict[str, Any], volumes: dict[str, dict[str, Any]]) -> list[str]:
    found = _of_resources(at, container.get("resources") or {})
    context = container.get("securityContext") or {}
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        found.append(f"{at}: may gain privileges")
    if (context.get("capabilities") or {}).get("drop") != ["ALL"] or (context.get("capabilities") or {}).get("add"):
        found.append(f"{at}: has capabilities")
    if not re.search(r":[\w][\w.-]*$|@sha256:", container.get("image", "")) or container["image"].endswith(":latest"):
        found.append(f"{at}: image {container.get('image')!r}: name a version")
    # A tag such as `cpu` is pushed again with each release, and a node keeps the image that it has.
    if "@sha256:" not in container.get("image", "") and container.get("imagePullPolicy") != "Always":
        found.append(f"{at}: image {container.get('image')!r}: imagePullPolicy is Always, or a digest is named")
    for one in container.get("env") or []:
        if ("value" in one) == ("valueFrom" in one):
            found.append(f"{at}: env {one['name']}: one of value and valueFrom")
        if "value" in one and _SECRET.search(one["name"].upper()):
            found.append(f"{at}: env {one['name']}: a secret as text")
    mounts = container.get("volumeMounts") or []
    found += [f"{at}: mounts {one['name']}, which is no volume" for one in mounts if one["name"] not in volumes]
    paths = [mount["mountPath"] for mount in mounts]
    found += [f"{at}: two mounts at {path}" for path in sorted({path for path in paths if paths.count(path) > 1})]
    names = [port.get("name", "") for port in container.get("ports") or []]
    found += [
        f"{at}: port {name!r}: up to 15 characters, once" for name in names if len(name) > 15 or names.count(name) > 1
    ]
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        if kind in container and len({"httpGet", "exec", "tcpSocket", "grpc"} & set(container[kind])) != 1:
            found.append(f"{at}: {kind}: exactly one way to ask")
    return found


def _of_resources(at: str, resources: dict[str, Any]) -> list[str]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    found = [
        f"{at}: no {kind} of {name}"
        for kind, has in (("request", requests), ("limit", limits))
        for name in ("cpu", "memory")
        if name not in has
    ]
    for name in set(requests) & set(limits):
        asked, most = quantity(requests[name]), quantity(limits[name])
        # What can neither be shared nor squeezed, devices, must be asked for as it is limited.
        if asked > most or (name not in {"cpu", "memory", "ephemeral-storage"} and asked != most):
            found.append(f"{at}: requests {requests[name]} of {name}, limit {limits[name]}")
    return found


_UNITS = {"m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)} | {"": 1}


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity as a number: 500m is 0.5, 1Gi is 2**30."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return Decimal(number) * _UNITS[unit]
