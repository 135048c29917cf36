"""The API as the Python client `kubernetes` sees it. Run by tests/python.rs with KUBECONFIG set; exits 0 or says what is wrong."""

import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient


def refused(status, call):
    try:
        call()
    except ApiException as error:
        assert error.status == status, f"expected {status}, got {error.status}: {error.body}"
        return
    raise AssertionError(f"expected {status}, but it succeeded")


config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()

assert client.VersionApi().get_code().git_version.endswith("+hawser-lab")
assert {"default", "kube-system"} <= {item.metadata.name for item in core.list_namespace().items}

seen = []
version = core.list_namespaced_config_map("default").metadata.resource_version


def follow():
    for event in watch.Watch().stream(
        core.list_namespaced_config_map, "default", resource_version=version, timeout_seconds=20
    ):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            return


watching = threading.Thread(target=follow)
watching.start()
core.create_namespaced_config_map("default", {"metadata": {"name": "a"}, "data": {"k": "1"}})
core.patch_namespaced_config_map("a", "default", {"data": {"k": "2"}})
core.delete_namespaced_config_map("a", "default")
watching.join(30)
assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")], seen
refused(404, lambda: core.read_namespaced_config_map("a", "default"))

pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}
created = core.create_namespaced_pod("default", pod)
assert created.status.phase == "Pending" and created.spec.restart_policy == "Always"
refused(409, lambda: core.create_namespaced_pod("default", pod))
refused(422, lambda: core.create_namespaced_pod("default", {"metadata": {"name": "x"}, "spec": {"containers": []}}))
core.patch_namespaced_pod_status("p", "default", {"status": {"phase": "Running"}})
assert core.read_namespaced_pod("p", "default").status.phase == "Running"
assert [item.metadata.name for item in core.list_namespaced_pod("default", field_selector="status.phase=Running").items] == ["p"]
core.delete_namespaced_pod("p", "default")
refused(404, lambda: core.read_namespaced_pod("p", "default"))

deployment = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    },
}
apps.create_namespaced_deployment("default", deployment)
assert apps.patch_namespaced_deployment_scale("d", "default", {"spec": {"replicas": 3}}).spec.replicas == 3
live = apps.read_namespaced_deployment("d", "default")
stale = apps.read_namespaced_deployment("d", "default")
live.spec.replicas = 4
apps.replace_namespaced_deployment("d", "default", live)
refused(409, lambda: apps.replace_namespaced_deployment("d", "default", stale))

dynamic = DynamicClient(client.ApiClient())
maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"k": "v"}}
dynamic.server_side_apply(maps, applied, name="s", namespace="default", field_manager="python")
assert maps.get(name="s", namespace="default").data.k == "v"

token = core.create_namespaced_service_account_token("default", "default", {"spec": {"expirationSeconds": 600}})
assert token.status.token.count(".") == 2
