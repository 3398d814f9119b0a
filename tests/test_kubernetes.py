"""The manifests for Kubernetes: against its own schemas, and against our rules. No cluster is needed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest

import zeropoint
from app.memory import plan_memory
from app.settings import Settings
from tests.kustomize import Object, build, containers, documents, has_pods, pod_of
from tests.servers import ROOT
from tests.test_deployment import TARGETS

FOLDER = ROOT / "deploy" / "kubernetes"
PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
BUILT = build(FOLDER / "example")
VERSIONS = ("1.30", kubernetes_validate.latest_version())
OF_OTHERS = {"ScaledObject", "PodMonitor"}
"""Kinds that KEDA and the Prometheus Operator bring, of which no schema is at hand."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 1e-3, "": 1}

WORKLOADS = [one for one in BUILT.objects if has_pods(one)]
DEPLOYMENTS = [one for one in WORKLOADS if one["kind"] == "Deployment"]
WORKERS = [one for one in DEPLOYMENTS if "worker" in one["metadata"]["name"]]
CONTAINERS = [(one, container) for one in WORKLOADS for container in containers(one)]


def named(one: Any) -> str:
    """Return the name of a parametrized object."""
    if isinstance(one, tuple):
        return "/".join(map(named, one))
    return str(one.get("metadata", one)["name"])


def amount(quantity: object) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def of_kind(kind: str) -> list[Object]:
    return [one for one in BUILT.objects if one["kind"] == kind]


def names_of(kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in of_kind(kind)}


def selected(labels: Mapping[str, str]) -> list[Object]:
    """Return the workloads whose pods have these labels."""
    return [one for one in WORKLOADS if labels.items() <= pod_of(one)["metadata"]["labels"].items()]


def settings_of(container: Object) -> dict[str, str]:
    own = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    return {**BUILT.settings["zeropoint-settings"], **own}


def as_settings(container: Object) -> Settings:
    values = {name: value for name, value in settings_of(container).items() if name.startswith("ZEROPOINT_")}
    return Settings.model_validate({name.removeprefix("ZEROPOINT_").lower(): value for name, value in values.items()})


def test_every_file_is_in_the_example() -> None:
    assert {path for path in FOLDER.rglob("*") if path.is_file()} == BUILT.files


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", BUILT.objects, ids=named)
def test_an_object_fits_the_schema_of_its_kind(one: Object, version: str) -> None:
    if one["kind"] in OF_OTHERS:
        with pytest.raises(kubernetes_validate.utils.SchemaNotFoundError):
            kubernetes_validate.validate(one, version, strict=True)
    else:
        kubernetes_validate.validate(one, version, strict=True)


def test_no_object_is_there_twice_and_no_secret_is_among_them() -> None:
    keys = [(one["kind"], one["metadata"]["name"]) for one in BUILT.objects]
    assert len(set(keys)) == len(keys)
    assert "Secret" not in {kind for kind, _ in keys}
    text = "".join(path.read_text() for path in BUILT.files)
    assert not re.search(r"(?i)(password|secret_access_key|token) *[:=] *\S*[a-z0-9]{8}", text)


@pytest.mark.parametrize("one", WORKLOADS, ids=named)
def test_a_pod_is_restricted(one: Object) -> None:
    pod = pod_of(one)["spec"]
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert min(context["runAsUser"], context["runAsGroup"], context["fsGroup"]) >= 10000
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] in names_of("ServiceAccount")
    assert not [key for key in pod if key.startswith("host")]
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


def test_the_namespace_takes_restricted_pods_alone() -> None:
    (namespace,) = of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert namespace["metadata"]["name"] == "zeropoint"


@pytest.mark.parametrize("pair", CONTAINERS, ids=named)
def test_a_container_is_locked_down(pair: tuple[Object, Object]) -> None:
    _, container = pair
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"].partition(":")[2] == zeropoint.__version__


def test_images_are_pinned_to_this_version_with_and_without_the_example() -> None:
    images = [container["image"] for path in BUILT.files for one in documents(path) for container in containers(one)]
    assert len(images) == len(CONTAINERS)
    assert {image.partition(":")[2] for image in images} == {zeropoint.__version__}
    assert {image.partition(":")[0] for image in images} == {f"zeropoint-{name}" for name in TARGETS}


@pytest.mark.parametrize("pair", CONTAINERS, ids=named)
def test_a_container_has_requests_and_limits_and_memory_is_not_overcommitted(pair: tuple[Object, Object]) -> None:
    requests, limits = (pair[1]["resources"][key] for key in ("requests", "limits"))
    assert {"cpu", "memory", "ephemeral-storage"} <= set(requests) & set(limits)
    assert requests["memory"] == limits["memory"]
    assert all(amount(requests[key]) <= amount(limits[key]) for key in requests)
    assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")


@pytest.mark.parametrize("pair", CONTAINERS, ids=named)
def test_what_is_written_to_is_a_volume_with_a_size(pair: tuple[Object, Object]) -> None:
    one, container = pair
    volumes = {volume["name"]: amount(volume["emptyDir"]["sizeLimit"]) for volume in pod_of(one)["spec"]["volumes"]}
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", ())}
    assert sum(mounted.values()) <= amount(container["resources"]["limits"]["ephemeral-storage"])
    if one["kind"] == "Deployment" and container["name"] != "schema":
        assert set(mounted) == {"/data/scratch", "/tmp"}


@pytest.mark.parametrize("one", DEPLOYMENTS, ids=named)
def test_a_container_that_serves_has_every_probe_at_a_port_of_its_own(one: Object) -> None:
    (container,) = pod_of(one)["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]
        assert asked.get("httpGet", {"port": "metrics"})["port"] in ports
        assert "httpGet" in asked or "exec" in asked
    assert ports["metrics"] == as_settings(container).metrics_port
    assert as_settings(container).metrics_host == "0.0.0.0"


def test_being_ready_does_not_depend_on_what_the_service_can_do_without() -> None:
    """A broker that is away loses nothing: jobs are accepted. /readyz is 503 then, and no pod would be left."""
    for one in DEPLOYMENTS:
        for container in pod_of(one)["spec"]["containers"]:
            paths = [container[probe].get("httpGet", {}).get("path") for probe in ("readinessProbe", "livenessProbe")]
            assert "/readyz" not in paths
            assert "exec" not in container["livenessProbe"]


@pytest.mark.parametrize("pair", CONTAINERS, ids=named)
def test_variables_are_settings_with_values_that_are_valid(pair: tuple[Object, Object]) -> None:
    known = {f"ZEROPOINT_{name.upper()}" for name in Settings.model_fields}
    assert set(settings_of(pair[1])) <= known
    as_settings(pair[1])
    sources = [next(iter(entry.items())) for entry in pair[1]["envFrom"]]
    assert sources == [("configMapRef", {"name": "zeropoint-settings"}), ("secretRef", {"name": "zeropoint-secrets"})]


def test_the_page_says_what_the_secret_holds() -> None:
    listed = set(re.findall(r"--from-literal=([A-Z_]+)=", PAGE.read_text()))
    known = {f"ZEROPOINT_{name.upper()}" for name in Settings.model_fields}
    assert {"ZEROPOINT_DATABASE_URL", "ZEROPOINT_BROKER_URL", "AWS_SECRET_ACCESS_KEY"} <= listed
    assert {name for name in listed if name.startswith("ZEROPOINT_")} <= known
    assert not listed & set(BUILT.settings["zeropoint-settings"])
    assert "zeropoint-secrets" in PAGE.read_text()


def _main(one: Object) -> Object:
    (container,) = pod_of(one)["spec"]["containers"]
    found: Object = container
    return found


@pytest.mark.parametrize("one", DEPLOYMENTS, ids=named)
def test_limits_on_memory_hold_what_the_settings_promise(one: Object) -> None:
    container = _main(one)
    limits = container["resources"]["limits"]
    plan = plan_memory(as_settings(container), machine=int(amount(limits["memory"])), cores=int(amount(limits["cpu"])))
    worker = one in WORKERS
    plan.check(api=not worker, worker=worker)
    if worker:  # beside its job a slot has its supervisor and a template with torch: half a GiB
        assert plan.slots * plan.job_bytes + 2**30 <= amount(limits["memory"])


@pytest.mark.parametrize("one", DEPLOYMENTS, ids=named)
def test_a_stop_has_the_time_that_it_takes(one: Object) -> None:
    settings, container = as_settings(_main(one)), _main(one)
    slept = float(container["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in container else 0.0
    takes = settings.worker_stop_seconds if one in WORKERS else slept + settings.stop_seconds
    assert takes + 10 <= pod_of(one)["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("one", WORKERS, ids=named)
def test_scratch_is_larger_than_what_jobs_may_fill(one: Object) -> None:
    settings = as_settings(_main(one))
    (scratch,) = [v for v in pod_of(one)["spec"]["volumes"] if v["name"] == "scratch"]
    assert settings.job_disk_bytes * settings.worker_slots < amount(scratch["emptyDir"]["sizeLimit"])
    assert str(settings.worker_device) == named(one).rpartition("-")[2]
    assert ("nvidia.com/gpu" in _main(one)["resources"]["limits"]) == (settings.worker_device == "cuda")


def test_callers_need_a_key() -> None:
    assert {as_settings(_main(one)).auth for one in DEPLOYMENTS} == {"on"}


def test_blobs_are_in_a_bucket_for_pods_share_no_folder() -> None:
    assert BUILT.settings["zeropoint-settings"]["ZEROPOINT_STORAGE_URL"].startswith("s3://")


@pytest.mark.parametrize("one", DEPLOYMENTS, ids=named)
def test_a_deployment_selects_its_own_pods_and_has_a_budget(one: Object) -> None:
    assert selected(one["spec"]["selector"]["matchLabels"]) == [one]
    budgets = [budget["spec"]["selector"]["matchLabels"] for budget in of_kind("PodDisruptionBudget")]
    assert [selected(labels) for labels in budgets].count([one]) == 1


def test_what_scales_a_deployment_names_one_and_leaves_one_at_least() -> None:
    scaled = [one["spec"] for kind in ("ScaledObject", "HorizontalPodAutoscaler") for one in of_kind(kind)]
    named_ones = [spec["scaleTargetRef"]["name"] for spec in scaled]
    assert sorted(named_ones) == sorted(one["metadata"]["name"] for one in DEPLOYMENTS)
    for spec in scaled:
        least = spec.get("minReplicaCount", spec.get("minReplicas"))
        most = spec.get("maxReplicaCount", spec.get("maxReplicas"))
        assert 1 <= least < most


def test_queries_that_scale_ask_for_metrics_that_there_are() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    for one in of_kind("ScaledObject"):
        queries = [trigger["metadata"]["query"] for trigger in one["spec"]["triggers"]]
        assert len(queries) == 2
        for query in queries:
            promql_parser.parse(query)
            (metric,) = re.findall(r"zeropoint_\w+", query)
            assert f"| `{metric}` | gauge | `device` |" in page
            assert f'device="{named(one).rpartition("-")[2]}"' in query


def test_a_service_and_an_ingress_lead_to_the_api() -> None:
    (service,), (ingress,) = of_kind("Service"), of_kind("Ingress")
    (api,) = selected(service["spec"]["selector"])
    assert service["spec"]["ports"][0]["targetPort"] in {port["name"] for port in _main(api)["ports"]}
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "http"}}


def _policies() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for one in of_kind("NetworkPolicy"):
        yield one["metadata"]["name"], one["spec"]


def test_nothing_comes_in_or_goes_out_but_what_is_named() -> None:
    policies = dict(_policies())
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    incoming = {name: spec["ingress"] for name, spec in policies.items() if "ingress" in spec}
    assert set(incoming) == {"callers", "metrics"}
    assert all(rule["from"] and rule["ports"] for rules in incoming.values() for rule in rules)
    (api,) = selected(policies["callers"]["podSelector"]["matchLabels"])
    assert incoming["callers"][0]["ports"][0]["port"] == _main(api)["ports"][0]["containerPort"]
    assert incoming["metrics"][0]["ports"][0]["port"] == as_settings(_main(api)).metrics_port
    outgoing = [rule for spec in policies.values() for rule in spec.get("egress", ())]
    assert all(rule["to"] and rule["ports"] for rule in outgoing)
    open_to_all = [to["ipBlock"] for rule in outgoing for to in rule["to"] if "ipBlock" in to]
    assert all("169.254.0.0/16" in block["except"] or ":" in block["cidr"] for block in open_to_all)


def test_every_pod_is_scraped_that_has_metrics() -> None:
    (monitor,) = of_kind("PodMonitor")
    scraped = selected(monitor["spec"]["selector"]["matchLabels"])
    assert [one for one in scraped if one["kind"] == "Deployment"] == DEPLOYMENTS
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_a_pod_of_the_api_waits_for_its_schema(tmp_path: Path, sqlite_template: Path) -> None:
    """The program of its first container, as it stands in the file."""
    (api,) = [one for one in DEPLOYMENTS if one not in WORKERS]
    (schema,) = pod_of(api)["spec"]["initContainers"]
    database = tmp_path / "new.db"
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("ZEROPOINT_")}
    environment = theirs | {"ZEROPOINT_DATABASE_URL": f"sqlite:///{database}", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *schema["command"][1:]], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert "zeropoint migrate" in process.stdout.readline()
        assert process.poll() is None
        environment["ZEROPOINT_DATABASE_URL"] = f"sqlite:///{database}"
        subprocess.run([sys.executable, "-m", "app.cli", "migrate"], env=environment, cwd=ROOT, check=True)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_files_are_read_as_kustomize_would() -> None:
    """Keys that the test's own reader does not know would be ignored by it alone."""
    for path in FOLDER.rglob("kustomization.yaml"):
        (file,) = documents(path)
        assert file["kind"] == ("Component" if "components" in path.parts else "Kustomization")
        assert file["apiVersion"].startswith("kustomize.config.k8s.io/")
