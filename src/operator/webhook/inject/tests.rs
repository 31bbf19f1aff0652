use super::*;

fn settings() -> SidecarSettings {
    SidecarSettings {
        image: "spendkeeper/sidecar:1".into(),
        pull_policy: "IfNotPresent".into(),
        cpu_request: "10m".into(),
        memory_request: "16Mi".into(),
        memory_limit: "64Mi".into(),
        operator_url: "https://spendkeeper-operator.spendkeeper-system.svc:9443".into(),
        otlp: None,
        network: NetworkSettings::default(),
    }
}

fn annotated(mut pod: Value) -> Value {
    pod["metadata"]["annotations"]["spendkeeper.dev/inject"] = json!("true");
    pod
}

fn typed(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).expect("a pod")
}

fn refused(pod: Value) -> String {
    inject(&typed(&pod), &settings(), "CA").expect_err("a refusal").to_string()
}

/// The pod after its injection.
fn injected(pod: &Value) -> Value {
    let injection = inject(&typed(pod), &settings(), "CA").expect("an injection");
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(injection.patch)).expect("a patch");
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).expect("the patch applies");
    after
}

fn plain() -> Value {
    annotated(json!({"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app"}]}}))
}

fn full() -> Value {
    annotated(json!({
        "metadata": {"labels": {"app": "bot"}, "annotations": {"spendkeeper.dev/team": "support", "spendkeeper.dev/feature-values": "a,b"}},
        "spec": {
            "unknownField": 1,
            "automountServiceAccountToken": false,
            "initContainers": [{"name": "warm-up", "image": "app"}],
            "containers": [
                {"name": "app", "image": "app", "env": [{"name": "OPENAI_BASE_URL", "value": "http://mine"}]},
                {"name": "side", "image": "side", "envFrom": [{"configMapRef": {"name": "c"}}]},
            ],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    }))
}

fn env(container: &Value) -> BTreeMap<String, String> {
    let pairs = container["env"].as_array().into_iter().flatten();
    pairs.map(|e| (e["name"].as_str().unwrap_or_default().into(), e["value"].as_str().unwrap_or_default().into())).collect()
}

#[test]
fn the_sidecar_is_native_and_starts_before_every_other_container() {
    for pod in [plain(), full()] {
        let after = injected(&pod);
        let first = &after["spec"]["initContainers"][0];
        assert_eq!((&first["name"], &first["restartPolicy"]), (&json!(SIDECAR), &json!("Always")));
        assert_eq!(first["startupProbe"]["httpGet"], json!({"path": "/readyz", "port": 15401}));
        assert_eq!(after["metadata"]["labels"]["spendkeeper.dev/injected"], "true");
    }
    assert_eq!(injected(&full())["spec"]["initContainers"][1]["name"], "warm-up");
}

#[test]
fn injecting_twice_changes_nothing() {
    for pod in [plain(), full()] {
        let once = injected(&pod);
        let again = inject(&typed(&once), &settings(), "another CA").expect("an injection");
        assert_eq!(again.patch, Vec::<Value>::new());
    }
}

#[test]
fn a_container_that_another_webhook_added_later_is_pointed_at_the_sidecar_too() {
    let mut pod = injected(&full());
    pod["spec"]["initContainers"].as_array_mut().expect("a list").insert(0, json!({"name": "late", "image": "x"}));
    let after = injected(&pod);
    assert_eq!(env(&after["spec"]["initContainers"][0])["OPENAI_BASE_URL"], "http://127.0.0.1:15400/v1");
    assert_eq!(after["spec"]["initContainers"].as_array().map(Vec::len), Some(3));
}

#[test]
fn what_a_pod_sets_itself_is_never_overwritten() {
    let after = injected(&full());
    let app = env(&after["spec"]["containers"][0]);
    assert_eq!(app["OPENAI_BASE_URL"], "http://mine");
    assert_eq!(app["ANTHROPIC_BASE_URL"], "http://127.0.0.1:15400");
    assert_eq!(env(&after["spec"]["initContainers"][1])["OPENAI_API_KEY"], "spendkeeper");
    assert_eq!(after["spec"]["unknownField"], 1);
    assert_eq!(after["spec"]["volumes"][0]["name"], "data");
}

#[test]
fn what_cannot_be_seen_in_env_from_is_said() {
    let injection = inject(&typed(&full()), &settings(), "CA").expect("an injection");
    assert_eq!(injection.warnings.len(), 1);
    assert!(injection.warnings[0].contains("\"side\"") && injection.warnings[0].contains("OPENAI_BASE_URL"), "{:?}", injection.warnings);
}

#[test]
fn only_the_sidecar_mounts_the_token_and_nothing_of_it_is_privileged() {
    let after = injected(&full());
    for container in after["spec"]["containers"].as_array().expect("containers") {
        assert!(container["volumeMounts"].is_null());
    }
    let sidecar = &after["spec"]["initContainers"][0];
    let security = &sidecar["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let projected = &after["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!((&projected["audience"], &projected["expirationSeconds"]), (&json!("spendkeeper-operator"), &json!(3600)));
    assert_eq!(sidecar["volumeMounts"][0]["mountPath"], "/var/run/spendkeeper/token");
}

#[test]
fn a_pod_without_the_annotation_is_left_alone() {
    let pod = json!({"metadata": {"annotations": {"spendkeeper.dev/inject": "false"}}, "spec": {"containers": []}});
    assert_eq!(inject(&typed(&pod), &settings(), "CA"), Ok(Injection::default()));
}

#[test]
fn a_refusal_names_what_is_wrong_and_the_remedy() {
    let with = |path: &str, value: Value| {
        let mut pod = plain();
        *pod.pointer_mut(path).expect("a place") = value;
        pod
    };
    let annotation = |name: &str, value: &str| {
        let mut pod = plain();
        pod["metadata"]["annotations"][name] = json!(value);
        pod
    };
    let spec = |field: &str, value: Value| {
        let mut spec = plain()["spec"].clone();
        spec[field] = value;
        with("/spec", spec)
    };
    let long = "x".repeat(64);
    let table = [
        (annotation("spendkeeper.dev/colour", "red"), ["spendkeeper.dev/colour", "/feature, /team"]),
        (annotation("spendkeeper.dev/team", &long), ["spendkeeper.dev/team", "short name"]),
        (annotation("spendkeeper.dev/team-values", &format!("a,{long}")), ["spendkeeper.dev/team-values", "short names"]),
        (annotation("spendkeeper.dev/colour-values", "a"), ["spendkeeper.dev/colour-values", "correct or remove"]),
        (annotation("spendkeeper.dev/free", "colour"), ["spendkeeper.dev/free", "feature, team"]),
        (spec("hostNetwork", json!(true)), ["hostNetwork", "remove hostNetwork"]),
        (spec("shareProcessNamespace", json!(true)), ["shareProcessNamespace", "credentials"]),
        (spec("volumes", json!([{"name": "spendkeeper-token"}])), ["spendkeeper-token", "rename yours"]),
        (spec("containers", json!([{"name": "spendkeeper-sidecar"}])), ["spendkeeper-sidecar", "rename yours"]),
    ];
    for (pod, parts) in table {
        let message = refused(pod);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_sidecar_is_told_of_the_collector_only_where_there_is_one() {
    let environment = |otlp: Option<OtlpSettings>| environment(&SidecarSettings { otlp, ..settings() }, "CA", false);
    assert!(!environment(None).iter().any(|variable| variable["name"].as_str().is_some_and(|name| name.contains("OTLP"))));
    let otlp = OtlpSettings { endpoint: "http://$(HOST_IP):4317".into(), protocol: "grpc".into(), sample_ratio: 0.25 };
    let variables = environment(Some(otlp));
    let position = |name: &str| variables.iter().position(|variable| variable["name"] == name).expect("it is set");
    // Kubernetes puts in only what stands before.
    assert!(position("HOST_IP") < position("SPENDKEEPER_OTLP_ENDPOINT"));
    assert_eq!(variables[position("SPENDKEEPER_OTLP_SAMPLE_RATIO")]["value"], "0.25");
}

#[test]
fn text_is_captured_only_where_the_owner_asks_and_there_is_somebody_to_tell() {
    let otlp = || OtlpSettings { endpoint: "http://collector:4317".into(), protocol: "grpc".into(), sample_ratio: 1.0 };
    let captures = |otlp: Option<OtlpSettings>, value: Option<&str>| {
        let mut pod = plain();
        if let Some(value) = value {
            pod["metadata"]["annotations"]["spendkeeper.dev/capture-content"] = json!(value);
        }
        let injection = inject(&typed(&pod), &SidecarSettings { otlp, ..settings() }, "CA")?;
        Ok::<_, Refusal>(injection.patch.iter().any(|operation| operation.to_string().contains("SPENDKEEPER_CAPTURE_CONTENT")))
    };
    assert_eq!(captures(Some(otlp()), Some("true")), Ok(true));
    for (otlp, value) in [(Some(otlp()), None), (Some(otlp()), Some("false")), (None, Some("true"))] {
        assert_eq!(captures(otlp, value), Ok(false), "{value:?}");
    }
    let refused = captures(Some(otlp()), Some("yes")).unwrap_err().to_string();
    assert!(refused.contains("capture-content") && refused.contains("\"yes\""), "{refused}");
}

#[test]
fn the_sidecar_goes_to_providers_by_the_ways_that_the_operator_names_and_no_app_is_told_of_them() {
    const NAMES: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SPENDKEEPER_UPSTREAM_CA"];
    let named = |network: NetworkSettings| {
        let environment = environment(&SidecarSettings { network, ..settings() }, "CA", false);
        let found = environment.iter().filter_map(|e| Some((e["name"].as_str()?.to_owned(), e["value"].as_str()?.to_owned())));
        found.filter(|(name, _)| NAMES.contains(&name.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(named(NetworkSettings::default()), Vec::new());
    let some = NetworkSettings { https_proxy: "http://proxy:3128".into(), upstream_ca: "PEM".into(), ..NetworkSettings::default() };
    let expected = [("HTTPS_PROXY", "http://proxy:3128"), ("SPENDKEEPER_UPSTREAM_CA", "PEM")];
    assert_eq!(named(some.clone()), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let injection = inject(&typed(&plain()), &SidecarSettings { network: some, ..settings() }, "CA").expect("an injection");
    let of_apps =
        injection.patch.iter().filter(|operation| operation["path"].as_str().is_some_and(|path| path.starts_with("/spec/containers")));
    assert!(of_apps.into_iter().all(|operation| !operation.to_string().contains("PROXY")));
}
