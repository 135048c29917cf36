//! The API as kube-rs sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams,
    PropagationPolicy, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector, wait};
use kube::{Api, Client, Config, ResourceExt};
use lab_kube_api::{Config as LabConfig, Fault, KubeApi, Matcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn client_of(kubeconfig: &str) -> Result<Client> {
    let config = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    // What the server answers is what is tested, not what the client makes of it.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn lab() -> Result<(KubeApi, Client)> {
    lab_with(LabConfig::default()).await
}

async fn lab_with(config: LabConfig) -> Result<(KubeApi, Client)> {
    let api = KubeApi::start(config).await?;
    let client = client_of(&api.kubeconfig()?).await?;
    Ok((api, client))
}

fn from<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

fn pod(name: &str) -> Result<Pod> {
    from(json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a", "image": "host"}]}}))
}

fn map(name: &str, data: &Value) -> Result<ConfigMap> {
    from(json!({"metadata": {"name": name}, "data": data}))
}

/// The HTTP status of a refusal.
fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let created = maps.create(&PostParams::default(), &map("a", &json!({"k": "1"}))?).await?;
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());
    assert_eq!(code(maps.create(&PostParams::default(), &map("a", &json!({}))?).await).0, 409);

    let mut changed = created.clone();
    changed.data = Some(BTreeMap::from([("k".to_owned(), "2".to_owned())]));
    let replaced = maps.replace("a", &PostParams::default(), &changed).await?;
    assert_ne!(replaced.resource_version(), created.resource_version());
    let (status, message) = code(maps.replace("a", &PostParams::default(), &changed).await);
    assert_eq!(status, 409);
    assert!(message.contains("the object has been modified"), "{message}");

    let same = maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await?;
    assert_eq!(same.resource_version(), replaced.resource_version(), "a patch that changes nothing writes nothing");
    let patch: kube::core::params::Patch<Value> = Patch::Merge(json!({"data": {"k": null, "l": "3"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await?;
    assert_eq!(patched.data, Some(BTreeMap::from([("l".to_owned(), "3".to_owned())])));

    maps.delete("a", &DeleteParams::default()).await?;
    let (status, message) = code(maps.get("a").await);
    assert_eq!((status, message.as_str()), (404, "configmaps \"a\" not found"));
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stranger_is_refused_and_the_token_opens() -> Result<()> {
    let (api, _) = lab().await?;
    let text = api.kubeconfig_with_token();
    let maps: Api<ConfigMap> = Api::default_namespaced(client_of(&text).await?);
    assert_eq!(maps.list(&ListParams::default()).await?.items.len(), 1);
    let stranger: Api<ConfigMap> = Api::default_namespaced(client_of(&text.replace(api.admin_token(), "wrong")).await?);
    assert_eq!(code(stranger.list(&ListParams::default()).await), (401, "Unauthorized".to_owned()));
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_pod_is_made_whole_and_goes_gracefully() -> Result<()> {
    let (api, client) = lab().await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let created = pods.create(&PostParams::default(), &pod("p")?).await?;
    let spec = created.spec.clone().context("spec")?;
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.service_account_name.as_deref(), Some("default"));
    assert!(spec.volumes.unwrap_or_default()[0].name.starts_with("kube-api-access-"));
    assert_eq!(created.status.clone().and_then(|status| status.phase).as_deref(), Some("Pending"));

    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let bind = http::Request::post("/api/v1/namespaces/default/pods/p/binding").body(serde_json::to_vec(&binding)?)?;
    client.request::<Value>(bind).await?;
    let bound = pods.get("p").await?;
    assert_eq!(bound.spec.clone().and_then(|spec| spec.node_name).as_deref(), Some("n"));
    let again = http::Request::post("/api/v1/namespaces/default/pods/p/binding").body(serde_json::to_vec(&binding)?)?;
    assert_eq!(code(client.request::<Value>(again).await).0, 409);

    // The status only through its own door, the spec only through the main one.
    let patch = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "other"}});
    let running = pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    assert_eq!(running.status.clone().and_then(|status| status.phase).as_deref(), Some("Running"));
    let addresses = json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}});
    let (status, message) = code(pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&addresses)).await);
    assert_eq!(status, 422);
    let told =
        "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than one";
    assert!(message.contains(told), "{message}");
    assert_eq!(running.spec.clone().and_then(|spec| spec.node_name).as_deref(), Some("n"));
    let main = pods.patch("p", &PatchParams::default(), &Patch::Merge(json!({"status": {"phase": "Failed"}}))).await?;
    assert_eq!(main.status.and_then(|status| status.phase).as_deref(), Some("Running"));
    let immutable = pods.patch("p", &PatchParams::default(), &Patch::Merge(json!({"spec": {"hostname": "h"}}))).await;
    assert_eq!(code(immutable).0, 422);

    let going = pods.delete("p", &DeleteParams::default()).await?.left().context("a bound pod goes gracefully")?;
    assert_eq!(going.metadata.deletion_grace_period_seconds, Some(30));
    assert!(pods.get("p").await?.metadata.deletion_timestamp.is_some());
    let wrong = DeleteParams::default()
        .grace_period(0)
        .preconditions(kube::api::Preconditions { uid: Some("x".to_owned()), resource_version: None });
    assert_eq!(code(pods.delete("p", &wrong).await).0, 409);
    let right = DeleteParams::default()
        .grace_period(0)
        .preconditions(kube::api::Preconditions { uid: created.uid(), resource_version: None });
    pods.delete("p", &right).await?;
    assert_eq!(code(pods.get("p").await).0, 404);

    // Unbound pods go at once; evicted ones too.
    pods.create(&PostParams::default(), &pod("q")?).await?;
    pods.evict("q", &EvictParams::default()).await?;
    assert_eq!(code(pods.get("q").await).0, 404);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn mistakes_are_named_like_the_real_server_names_them() -> Result<()> {
    let (api, client) = lab().await?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let bad: Pod =
        from(json!({"metadata": {"name": "Bad_Name"}, "spec": {"containers": [{"name": "a", "image": "i"}]}}))?;
    let (status, message) = code(pods.create(&PostParams::default(), &bad).await);
    assert_eq!(status, 422);
    assert!(
        message.starts_with(
            "Pod \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain"
        ),
        "{message}"
    );
    let elsewhere: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(
        code(elsewhere.create(&PostParams::default(), &pod("p")?).await),
        (404, "namespaces \"nowhere\" not found".to_owned())
    );
    let mut with_account = pod("p")?;
    if let Some(spec) = &mut with_account.spec {
        spec.service_account_name = Some("ghost".to_owned());
    }
    let (status, message) = code(pods.create(&PostParams::default(), &with_account).await);
    assert_eq!(status, 403);
    assert!(message.contains("serviceaccount \"ghost\" not found"), "{message}");
    let selector = ListParams::default().fields("spec.image=x");
    assert_eq!(code(pods.list(&selector).await).0, 400);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn lists_are_selected_and_paged() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    for index in 0..7 {
        let object =
            json!({"metadata": {"name": format!("m{index}"), "labels": {"odd": (index % 2 == 1).to_string()}}});
        maps.create(&PostParams::default(), &from(object)?).await?;
    }
    let odd = maps.list(&ListParams::default().labels("odd=true")).await?;
    assert_eq!(odd.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["m1", "m3", "m5"]);
    let one = maps.list(&ListParams::default().fields("metadata.name=m2")).await?;
    assert_eq!(one.items.len(), 1);

    let mut names = Vec::new();
    let mut token = None;
    loop {
        let mut params = ListParams::default().limit(3);
        params.continue_token = token.take();
        let page = maps.list(&params).await?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        assert!(page.items.len() <= 3);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    assert_eq!(names.len(), 8, "with kube-root-ca.crt: {names:?}");
    let first = maps.list(&ListParams::default().limit(3)).await?;
    maps.create(&PostParams::default(), &map("later", &json!({}))?).await?;
    api.compact();
    let mut stale = ListParams::default().limit(3);
    stale.continue_token = first.metadata.continue_;
    assert_eq!(code(maps.list(&stale).await).0, 410);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_watch_tells_what_its_selector_sees() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let start = maps.list(&ListParams::default()).await?.metadata.resource_version.context("version")?;
    let params = WatchParams::default().labels("app=x").timeout(20);
    let mut events = Box::pin(maps.watch(&params, &start).await?);
    let labelled = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    maps.create(&PostParams::default(), &map("a", &json!({}))?).await?;
    maps.patch("a", &PatchParams::default(), &labelled("x")).await?;
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "v"}}))).await?;
    maps.patch("a", &PatchParams::default(), &labelled("y")).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match tokio::time::timeout(PATIENCE, events.try_next()).await?? {
            Some(WatchEvent::Added(_)) => seen.push("added"),
            Some(WatchEvent::Modified(_)) => seen.push("modified"),
            Some(WatchEvent::Deleted(_)) => seen.push("deleted"),
            Some(_) => {}
            None => bail!("the watch ended after {seen:?}"),
        }
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
    api.stop().await;
    Ok(())
}

async fn watcher_recovers(config: watcher::Config) -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut events = Box::pin(watcher(maps.clone(), config));
    let mut next = async || -> Result<Event<ConfigMap>> {
        // It reports that it must start over, and does; the faults ordered below are the only reasons to.
        for _ in 0..5 {
            if let Ok(event) = tokio::time::timeout(PATIENCE, events.next()).await?.context("the watcher ended")? {
                return Ok(event);
            }
        }
        bail!("the watcher does not recover")
    };
    while !matches!(next().await?, Event::InitDone) {}
    maps.create(&PostParams::default(), &map("before", &json!({}))?).await?;
    let seen = next().await?;
    assert!(matches!(&seen, Event::Apply(map) if map.name_any() == "before"), "{seen:?}");
    // What happens while no watch runs is forgotten: the watcher must be told 410 and list again.
    api.inject(
        Matcher { watch: Some(true), ..Matcher::anything() },
        Fault::Refuse { status: 503, retry_after: None },
        1,
    );
    api.cut_watches();
    maps.create(&PostParams::default(), &map("during", &json!({}))?).await?;
    api.compact();
    let mut names = Vec::new();
    loop {
        match next().await? {
            Event::InitApply(map) | Event::Apply(map) => names.push(map.name_any()),
            Event::InitDone => break,
            Event::Init | Event::Delete(_) => {}
        }
    }
    assert!(names.contains(&"during".to_owned()), "{names:?}");
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_list_watcher_recovers_from_410() -> Result<()> {
    watcher_recovers(watcher::Config::default().any_semantic()).await
}

#[tokio::test]
async fn a_streaming_watcher_recovers_from_410() -> Result<()> {
    watcher_recovers(watcher::Config::default().streaming_lists()).await
}

#[tokio::test]
async fn a_quiet_watch_gets_bookmarks() -> Result<()> {
    let (api, client) =
        lab_with(LabConfig { bookmark_every: Duration::from_millis(50), ..LabConfig::default() }).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let mut events = Box::pin(nodes.watch(&WatchParams::default(), "0").await?);
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps.create(&PostParams::default(), &map("a", &json!({}))?).await?.resource_version().context("v")?;
    loop {
        match tokio::time::timeout(PATIENCE, events.try_next()).await?? {
            Some(WatchEvent::Bookmark(bookmark)) if bookmark.metadata.resource_version >= version => break,
            Some(WatchEvent::Bookmark(_)) => {}
            other => bail!("{other:?}"),
        }
    }
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn server_side_apply_shares_conflicts_and_removes() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let config =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let apply = |manager: &'static str| PatchParams::apply(manager);
    maps.patch("a", &apply("one"), &Patch::Apply(config(json!({"x": "1", "y": "1"})))).await?;
    let both = maps.patch("a", &apply("two"), &Patch::Apply(config(json!({"y": "1"})))).await?;
    assert_eq!(both.metadata.managed_fields.map(|fields| fields.len()), Some(2));
    let (status, message) = code(maps.patch("a", &apply("two"), &Patch::Apply(config(json!({"x": "2"})))).await);
    assert_eq!((status, message.as_str()), (409, "Apply failed with 1 conflict: conflict with \"one\": .data.x"));
    let forced = maps.patch("a", &apply("two").force(), &Patch::Apply(config(json!({"x": "2"})))).await?;
    assert_eq!(forced.data, Some(BTreeMap::from([("x".to_owned(), "2".to_owned()), ("y".to_owned(), "1".to_owned())])));
    let removed = maps.patch("a", &apply("one"), &Patch::Apply(config(json!({})))).await?;
    assert_eq!(removed.data, Some(BTreeMap::from([("x".to_owned(), "2".to_owned())])));
    let again = maps.patch("a", &apply("one"), &Patch::Apply(config(json!({})))).await?;
    assert_eq!(again.resource_version(), removed.resource_version(), "an apply that changes nothing writes nothing");
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn finalizers_hold_an_object_and_propagation_is_written_down() -> Result<()> {
    let (api, client) = lab().await?;
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let object: Deployment = from(json!({
        "metadata": {"name": "d", "finalizers": ["example.com/hold"]},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}},
    }))?;
    let created = deployments.create(&PostParams::default(), &object).await?;
    assert_eq!(created.metadata.generation, Some(1));
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    let held = deployments.delete("d", &foreground).await?.left().context("held")?;
    assert!(held.metadata.deletion_timestamp.is_some());
    assert_eq!(held.finalizers(), ["example.com/hold", "foregroundDeletion"]);
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "foregroundDeletion", "example.com/new"]}});
    assert_eq!(code(deployments.patch("d", &PatchParams::default(), &Patch::Merge(more)).await).0, 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    deployments.patch("d", &PatchParams::default(), &none).await?;
    assert_eq!(code(deployments.get("d").await).0, 404);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn scale_and_generation_follow_the_spec() -> Result<()> {
    let (api, client) = lab().await?;
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let object: Deployment = from(json!({
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}},
    }))?;
    deployments.create(&PostParams::default(), &object).await?;
    let patch = Patch::Merge(json!({"spec": {"replicas": 4}}));
    let scaled = deployments.patch_scale("d", &PatchParams::default(), &patch).await?;
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(4));
    let status = Patch::Merge(json!({"status": {"replicas": 4, "observedGeneration": 2}}));
    let written = deployments.patch_status("d", &PatchParams::default(), &status).await?;
    assert_eq!(written.metadata.generation, Some(2), "a scale counts, a status does not");
    assert_eq!(deployments.get_scale("d").await?.status.map(|status| status.replicas), Some(4));
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_namespace_goes_with_all_it_holds() -> Result<()> {
    let (api, client) = lab().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &from(json!({"metadata": {"name": "n"}}))?).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "n");
    let maps: Api<ConfigMap> = Api::namespaced(client, "n");
    let mut bound = pod("p")?;
    if let Some(spec) = &mut bound.spec {
        spec.node_name = Some("node".to_owned());
    }
    pods.create(&PostParams::default(), &bound).await?;
    maps.create(&PostParams::default(), &map("m", &json!({}))?).await?;
    namespaces.delete("n", &DeleteParams::default()).await?;
    assert_eq!(code(maps.get("m").await).0, 404);
    assert!(pods.get("p").await?.metadata.deletion_timestamp.is_some(), "a bound pod is waited for");
    let (status, message) = code(maps.create(&PostParams::default(), &map("late", &json!({}))?).await);
    assert_eq!(status, 403);
    assert!(message.contains("because it is being terminated"), "{message}");
    pods.delete("p", &DeleteParams::default().grace_period(0)).await?;
    assert_eq!(code(namespaces.get("n").await).0, 404);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_definition_is_served_as_soon_as_it_is_there() -> Result<()> {
    let (api, client) = lab().await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition: CustomResourceDefinition = from(json!({
        "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bo"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["length"], "properties": {
                        "length": {"type": "integer"}, "flag": {"type": "string", "default": "none"}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
    }))?;
    definitions.create(&PostParams::default(), &definition).await?;
    let established =
        wait::await_condition(definitions.clone(), "boats.example.com", wait::conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await??;
    let resource = ApiResource {
        group: "example.com".to_owned(),
        version: "v1".to_owned(),
        api_version: "example.com/v1".to_owned(),
        kind: "Boat".to_owned(),
        plural: "boats".to_owned(),
    };
    let boats: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
    let boat = |spec: Value| DynamicObject::new("b", &resource).data(json!({"spec": spec, "status": {"x": 1}}));
    let (status, message) = code(boats.create(&PostParams::default(), &boat(json!({"length": "long"}))).await);
    assert_eq!(status, 422);
    assert!(
        message.contains("spec.length: Invalid value: \"string\": spec.length in body must be of type integer"),
        "{message}"
    );
    let created = boats.create(&PostParams::default(), &boat(json!({"length": 3, "colour": "red"}))).await?;
    assert_eq!(created.data, json!({"spec": {"length": 3, "flag": "none"}}), "pruned, defaulted, and without a status");
    let status =
        boats.patch_status("b", &PatchParams::default(), &Patch::Merge(json!({"status": {"afloat": true}}))).await?;
    assert_eq!((status.data["status"].clone(), status.metadata.generation), (json!({"afloat": true}), Some(1)));
    definitions.delete("boats.example.com", &DeleteParams::default()).await?;
    assert_eq!(code(boats.list(&ListParams::default()).await).0, 404);
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn tokens_are_issued_reviewed_and_die_with_their_pod() -> Result<()> {
    let (api, client) = lab().await?;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let created = pods.create(&PostParams::default(), &pod("p")?).await?;
    let spec: TokenRequestSpec = from(json!({
        "audiences": ["hawser"], "expirationSeconds": 600,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": created.uid()},
    }))?;
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let issued = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    let token = issued.status.and_then(|status| status.token).context("token")?;
    assert_eq!(token.split('.').count(), 3);
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let review = |audience: &str| TokenReview {
        spec: TokenReviewSpec { token: token.clone(), audiences: Some(vec![audience.to_owned()]) },
        ..TokenReview::default()
    };
    let answer = reviews.create(&PostParams::default(), &review("hawser")).await?.status.context("status")?;
    assert_eq!(answer.authenticated, Some(true));
    assert_eq!(answer.user.and_then(|user| user.username).as_deref(), Some("system:serviceaccount:default:default"));
    let other = reviews.create(&PostParams::default(), &review("other")).await?.status.context("status")?;
    assert_ne!(other.authenticated, Some(true));
    pods.delete("p", &DeleteParams::default()).await?;
    let gone = reviews.create(&PostParams::default(), &review("hawser")).await?.status.context("status")?;
    assert_ne!(gone.authenticated, Some(true));
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn ordered_faults_strike_once_and_a_lost_answer_has_been_done() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    api.fail_next(Matcher::on("POST", "configmaps"), 500);
    assert_eq!(code(maps.create(&PostParams::default(), &map("a", &json!({}))?).await).0, 500);
    maps.create(&PostParams::default(), &map("a", &json!({}))?).await?;
    api.inject(Matcher::on("PATCH", "configmaps").named("a"), Fault::LoseAnswer { status: 503 }, 1);
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    assert_eq!(code(maps.patch("a", &PatchParams::default(), &patch).await).0, 503);
    assert!(maps.get("a").await?.data.is_some());
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn everything_survives_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = LabConfig { data_dir: Some(folder.path().to_owned()), ..LabConfig::default() };
    let (api, client) = lab_with(config.clone()).await?;
    let secrets: Api<Secret> = Api::default_namespaced(client);
    let created = secrets
        .create(&PostParams::default(), &from(json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}))?)
        .await?;
    secrets.create(&PostParams::default(), &from(json!({"metadata": {"name": "gone"}}))?).await?;
    secrets.delete("gone", &DeleteParams::default()).await?;
    let (token, ca) = (api.admin_token().to_owned(), api.ca_pem().to_owned());
    api.stop().await;

    let (api, client) = lab_with(config).await?;
    assert_eq!((api.admin_token(), api.ca_pem()), (token.as_str(), ca.as_str()));
    let secrets: Api<Secret> = Api::default_namespaced(client);
    let kept = secrets.get("s").await?;
    assert_eq!((kept.uid(), kept.resource_version()), (created.uid(), created.resource_version()));
    assert_eq!(code(secrets.get("gone").await).0, 404);
    let version = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let newer = secrets.create(&PostParams::default(), &from(json!({"metadata": {"name": "t"}}))?).await?;
    assert!(version(newer.resource_version()) > version(created.resource_version()));
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_reflector_follows_and_a_generated_name_is_unique() -> Result<()> {
    let (api, client) = lab().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let (reader, writer) = reflector::store();
    let stream = watcher(maps.clone(), watcher::Config::default()).default_backoff().reflect(writer).applied_objects();
    let running = tokio::spawn(stream.for_each(|_| std::future::ready(())));
    tokio::time::timeout(PATIENCE, reader.wait_until_ready()).await??;
    for _ in 0..3 {
        maps.create(&PostParams::default(), &from(json!({"metadata": {"generateName": "g-"}}))?).await?;
    }
    let all = async {
        loop {
            let names: Vec<String> = reader.state().iter().map(|map: &Arc<ConfigMap>| map.name_any()).collect();
            if names.iter().filter(|name| name.starts_with("g-") && name.len() == 7).count() == 3 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await?;
    running.abort();
    api.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_lab_listens_on_loopback_only() {
    let config = LabConfig { listen: ([0, 0, 0, 0], 0).into(), ..LabConfig::default() };
    assert!(matches!(KubeApi::start(config).await, Err(lab_kube_api::Error::NotLoopback(_))));
}

#[tokio::test]
async fn the_class_of_a_pod_says_what_it_costs_and_where_it_goes() -> Result<()> {
    let (api, client) = lab().await?;
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    let class = json!({"metadata": {"name": "boxed"}, "handler": "box", "overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"boxes": "yes"}, "tolerations": [{"key": "boxes", "operator": "Exists"}]}});
    classes.create(&PostParams::default(), &from(class)?).await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let create = |name: &str, more: Value| {
        let mut spec = json!({"containers": [{"name": "a", "image": "host"}]});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        let pods = pods.clone();
        async move { pods.create(&PostParams::default(), &from(pod).expect("a pod")).await }
    };
    let created = create("a", json!({"runtimeClassName": "boxed"})).await?;
    let spec = serde_json::to_value(created.spec)?;
    assert_eq!((&spec["overhead"], &spec["nodeSelector"]), (&json!({"cpu": "10m"}), &json!({"boxes": "yes"})));
    assert_eq!(spec["tolerations"][0]["key"], "boxes");
    for (more, why) in [
        (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
        (json!({"overhead": {"cpu": "1"}}), "without corresponding RuntimeClass defined Overhead"),
        (
            json!({"runtimeClassName": "boxed", "overhead": {"cpu": "1"}}),
            "doesn't match RuntimeClass's defined Overhead",
        ),
        (json!({"runtimeClassName": "boxed", "nodeSelector": {"boxes": "no"}}), "conflict: runtimeClass.scheduling"),
    ] {
        let (status, message) = code(create("b", more).await);
        assert_eq!(status, 403);
        assert!(message.contains(why), "{message}");
    }
    api.stop().await;
    Ok(())
}
