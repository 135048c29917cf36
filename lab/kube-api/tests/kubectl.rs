//! The API as kubectl sees it: the real binary (`KUBECTL`, or `kubectl` on the path), its exit codes and what it prints.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab_kube_api::{Config, KubeApi};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

struct Lab {
    api: KubeApi,
    folder: tempfile::TempDir,
    program: PathBuf,
}

/// What a command did.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Lab {
    /// None, visibly, when there is no kubectl.
    async fn start() -> Result<Option<Self>> {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut probe = Command::new(&program);
        probe.args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null());
        if !probe.status().await.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no {} here: install kubectl, or name it by KUBECTL", program.display());
            return Ok(None);
        }
        let api = KubeApi::start(Config::default()).await?;
        let folder = tempfile::tempdir()?;
        api.write_kubeconfig(&folder.path().join("kubeconfig"))?;
        Ok(Some(Self { api, folder, program }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn run(&self, arguments: &str, input: &str) -> Result<Ran> {
        let mut child = Command::new(&self.program)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("HOME", self.folder.path())
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin")?;
        // Older ones take an opening brace for JSON, even when it is YAML. A command that does not read its input may
        // already be gone.
        let _ = stdin.write_all(format!("---\n{input}").as_bytes()).await;
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
            .await
            .with_context(|| format!("kubectl {arguments} does not end"))??;
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    async fn ok(&self, arguments: &str) -> Result<String> {
        self.feed(arguments, "").await
    }

    async fn feed(&self, arguments: &str, input: &str) -> Result<String> {
        let ran = self.run(arguments, input).await?;
        if ran.code != 0 {
            bail!("kubectl {arguments} exited with {}: {}{}", ran.code, ran.out, ran.err);
        }
        Ok(ran.out)
    }

    async fn fails(&self, arguments: &str, input: &str, words: &str) -> Result<()> {
        let ran = self.run(arguments, input).await?;
        assert_ne!(ran.code, 0, "kubectl {arguments} succeeded: {}", ran.out);
        assert!(ran.err.contains(words), "kubectl {arguments} said {:?}, not {words:?}", ran.err);
        Ok(())
    }
}

/// A table's lines as words, without the age, which depends on the clock.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'nginx:1', ports: [{containerPort: 80}]}]}
";

#[tokio::test]
async fn objects_are_applied_changed_and_printed() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    assert!(lab.ok("version").await?.contains("+hawser-lab"));
    assert_eq!(lab.feed("apply -f -", DEPLOYMENT).await?, "deployment.apps/web created\n");
    assert_eq!(lab.feed("apply -f -", DEPLOYMENT).await?, "deployment.apps/web unchanged\n");
    let changed = DEPLOYMENT.replace("nginx:1", "nginx:2");
    assert_eq!(lab.feed("apply -f -", &changed).await?, "deployment.apps/web configured\n");
    let table = lab.ok("get deployments -o wide").await?;
    let table = words(&table);
    assert_eq!(table[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!((&table[1][..4], &table[1][5..]), (&["web", "0/2", "0", "0"][..], &["c", "nginx:2", "app=web"][..]));
    lab.ok("scale deployment web --replicas 3").await?;
    assert_eq!(lab.ok("get deployment web -o jsonpath={.spec.replicas},{.metadata.generation}").await?, "3,3");
    lab.ok("set image deployment/web c=nginx:3").await?;
    lab.ok("rollout restart deployment web").await?;
    lab.ok("rollout pause deployment web").await?;
    lab.ok("rollout resume deployment web").await?;
    lab.ok("rollout history deployment web").await?;
    lab.ok("label deployment web tier=front").await?;
    assert!(lab.ok("get deployments -l tier=front --no-headers").await?.starts_with("web"));
    lab.ok("annotate deployment web note=x").await?;
    lab.fails("apply --server-side -f -", &changed, "Apply failed with").await?;
    lab.feed("apply --server-side --force-conflicts -f -", &changed).await?;
    assert!(lab.ok("explain deployment.spec.strategy").await?.contains("DeploymentStrategy"));
    assert!(lab.ok("delete deployment web --wait --timeout=20s").await?.contains("deleted"));
    lab.fails("get deployment web", "", "deployments.apps \"web\" not found").await?;
    lab.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn pods_and_nodes_are_shown_as_kubectl_shows_them() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    let node = "{apiVersion: v1, kind: Node, metadata: {name: edge-1, labels: {node-role.kubernetes.io/edge: ''}}}";
    lab.feed("create -f -", node).await?;
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}],"nodeInfo":{"kubeletVersion":"v1"}}}"#;
    lab.ok(&format!("patch node edge-1 --subresource=status -p {ready}")).await?;
    lab.ok("taint node edge-1 a=b:NoSchedule").await?;
    lab.ok("cordon edge-1").await?;
    let table = lab.ok("get nodes").await?;
    assert_eq!(words(&table)[0], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]);
    assert_eq!(words(&table)[1][..3], ["edge-1", "Ready,SchedulingDisabled", "edge"]);
    lab.ok("uncordon edge-1").await?;
    assert!(lab.ok("describe node edge-1").await?.contains("a=b:NoSchedule"));

    lab.ok(r#"run p --image=busybox --overrides={"spec":{"nodeName":"edge-1"}}"#).await?;
    let running = r#"{"status":{"phase":"Running","podIP":"10.0.0.1","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"p","image":"busybox","imageID":"","ready":true,"restartCount":0,"state":{"running":{}}}]}}"#;
    lab.ok(&format!("patch pod p --subresource=status -p {running}")).await?;
    lab.ok("wait --for=condition=Ready pod/p --timeout=20s").await?;
    let table = lab.ok("get pods -o wide").await?;
    assert_eq!(words(&table)[1][..4], ["p", "1/1", "Running", "0"]);
    assert_eq!(words(&table)[1][5..7], ["10.0.0.1", "edge-1"]);
    let described = lab.ok("describe pod p").await?;
    assert!(described.contains("kube-api-access-") && described.contains("op=Exists for 300s"), "{described}");
    lab.fails("logs p", "", "Error from server: no preferred addresses found; known addresses: []").await?;
    lab.ok("get pod p -o yaml").await?;
    lab.ok("get pod p -o json").await?;
    // A bound pod stays until its node has let it go.
    lab.ok("delete pod p --wait=false").await?;
    assert_eq!(words(&lab.ok("get pod p --no-headers").await?)[0][2], "Terminating");
    lab.ok("delete pod p --grace-period=0 --force").await?;
    lab.fails("get pod p", "", "pods \"p\" not found").await?;
    lab.ok("drain edge-1").await?;
    lab.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn typed_commands_that_send_protobuf_work() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    lab.ok("create configmap c --from-literal=a=b").await?;
    assert_eq!(lab.ok("get configmap c -o jsonpath={.data.a}").await?, "b");
    lab.ok("create secret generic s --from-literal=a=b").await?;
    assert_eq!(lab.ok("get secret s -o jsonpath={.data.a},{.type}").await?, "Yg==,Opaque");
    lab.ok("create deployment d --image=nginx --replicas=2 --port=80").await?;
    let port = "jsonpath={.spec.replicas},{.spec.template.spec.containers[0].ports[0].containerPort}";
    assert_eq!(lab.ok(&format!("get deployment d -o {port}")).await?, "2,80");
    lab.ok("create job j --image=busybox -- true").await?;
    lab.ok("create namespace n").await?;
    lab.ok("create serviceaccount bot").await?;
    lab.ok("create role r --verb=get,list --resource=pods").await?;
    lab.ok("create rolebinding b --role=r --serviceaccount=default:bot").await?;
    lab.ok("create service clusterip svc --tcp=80:8080").await?;
    assert_eq!(lab.ok("create token bot").await?.trim().split('.').count(), 3);
    assert_eq!(lab.ok("auth can-i create pods").await?, "yes\n");
    assert!(lab.ok("auth whoami").await?.contains("lab-admin"));
    lab.ok("events").await?;
    lab.ok("get all -A").await?;
    lab.ok("delete namespace n --timeout=20s").await?;
    lab.fails("get namespace n", "", "not found").await?;
    lab.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn mistakes_are_answered_in_one_line() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    let pod = |spec: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}}}");
    let typo = pod("{containers: [{name: a, image: b, imagee: c}]}");
    lab.fails("apply -f -", &typo, "strict decoding error: unknown field \"spec.containers[0].imagee\"").await?;
    lab.fails("apply -f -", &pod("{containers: []}"), "spec.containers: Required value").await?;
    lab.fails("apply -f -", &pod("{containers: [{name: a}]}"), "spec.containers[0].image: Required value").await?;
    lab.fails("apply -f -", &pod("{containers: [{name: a, image: b}], hostNetwork: maybe}"), "of type bool").await?;
    lab.fails("apply -n nowhere -f -", &pod("{containers: [{name: a, image: b}]}"), "namespaces \"nowhere\" not found")
        .await?;
    lab.fails("get pods --field-selector spec.image=x", "", "field label not supported").await?;
    let mismatch = DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}");
    lab.fails("apply -f -", &mismatch, "`selector` does not match template `labels`").await?;
    lab.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_container_is_added_to_a_pod_and_stays() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: 'i:1'}]}}";
    lab.feed("create -f -", pod).await?;
    let added = "-o jsonpath={.metadata.generation},{.spec.ephemeralContainers[*].name}";
    lab.ok("debug web --image=busybox:1 --target=c -c one -- sh").await?;
    lab.ok("debug web --image=busybox:1 -c two -- sh").await?;
    let (generation, names) = lab
        .ok(&format!("get pod web {added}"))
        .await?
        .split_once(',')
        .map(|(one, other)| (one.to_owned(), other.to_owned()))
        .context("both")?;
    let mut names: Vec<&str> = names.split(' ').collect();
    names.sort_unstable();
    assert_eq!((generation.as_str(), names), ("3", vec!["one", "two"]));
    let container =
        "-o jsonpath={.spec.ephemeralContainers[?(@.name=='one')]['targetContainerName','imagePullPolicy']}";
    assert_eq!(lab.ok(&format!("get pod web {container}")).await?, "c IfNotPresent");
    assert!(lab.ok("get pod web --subresource=ephemeralcontainers").await?.contains("web"));
    lab.fails("debug web --image=busybox:1 --target=nobody -- sh", "", "targetContainerName: Not found: \"nobody\"")
        .await?;
    let patch = "patch pod web --subresource=ephemeralcontainers --type=json -p=";
    let remove = r#"[{"op":"remove","path":"/spec/ephemeralContainers/0"}]"#;
    lab.fails(&format!("{patch}{remove}"), "", "may not be removed").await?;
    let change = r#"[{"op":"replace","path":"/spec/ephemeralContainers/0/image","value":"other"}]"#;
    lab.fails(&format!("{patch}{change}"), "", "may not be changed").await?;
    lab.fails(&format!("patch pod web --type=json -p={remove}"), "", "pod updates may not change").await?;
    let born_with = pod
        .replace("name: web", "name: other")
        .replace("spec: {", "spec: {ephemeralContainers: [{name: e, image: i}], ");
    lab.fails("create -f -", &born_with, "cannot be set on create").await?;
    lab.api.stop().await;
    Ok(())
}

#[tokio::test]
async fn custom_resources_show_their_columns() -> Result<()> {
    let Some(lab) = Lab::start().await? else { return Ok(()) };
    let definition = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: boats, kind: Boat, shortNames: [bo]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {length: {type: integer}}}}}}
    additionalPrinterColumns:
    - {name: Length, type: integer, jsonPath: .spec.length}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
";
    lab.feed("apply -f -", definition).await?;
    lab.ok("wait --for=condition=Established crd/boats.example.com --timeout=20s").await?;
    let boat = "{apiVersion: example.com/v1, kind: Boat, metadata: {name: b}, spec: {length: 3}}";
    assert_eq!(lab.feed("apply -f -", boat).await?, "boat.example.com/b created\n");
    let table = lab.ok("get bo").await?;
    assert_eq!((&words(&table)[0][..], &words(&table)[1][..2]), (&["NAME", "LENGTH", "AGE"][..], &["b", "3"][..]));
    assert_eq!(lab.feed("apply -f -", &boat.replace('3', "4")).await?, "boat.example.com/b configured\n");
    lab.fails("apply -f -", &boat.replace("length", "width"), "unknown field \"spec.width\"").await?;
    lab.api.stop().await;
    Ok(())
}
