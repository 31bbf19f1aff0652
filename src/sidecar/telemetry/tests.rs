use super::*;

fn settings(endpoint: &str) -> Settings {
    Settings {
        endpoint: endpoint.to_owned(),
        wire: Wire::Grpc,
        headers: Vec::new(),
        sample_ratio: 1.0,
        extra_ca: None,
        capture_content: false,
    }
}

fn target(settings: Settings) -> Result<Target, AddressError> {
    Target::new(settings, &Upstream::new(None).unwrap())
}

#[tokio::test]
async fn an_address_that_cannot_work_is_refused_at_the_start() {
    for endpoint in ["collector:4317", "collector", "http://", "ftp://collector"] {
        for wire in [Wire::Grpc, Wire::HttpProtobuf] {
            let refused = target(Settings { wire, ..settings(endpoint) }).err().map(|e| e.to_string());
            assert!(refused.is_some_and(|e| e.contains("like http://collector:4317")), "{endpoint} {wire:?}");
        }
    }
    assert!(matches!(target(Settings { sample_ratio: 1.5, ..settings("http://c") }), Err(AddressError::Ratio(_))));
    assert!(matches!(target(Settings { sample_ratio: f64::NAN, ..settings("http://c") }), Err(AddressError::Ratio(_))));
    assert!(target(settings("https://collector:4317")).is_ok());
}

#[tokio::test]
async fn a_queue_that_is_full_drops_and_counts_and_never_waits() {
    let metrics = Arc::new(Metrics::new());
    // Nobody listens there.
    let telemetry = Telemetry::start(Some(target(settings("http://127.0.0.1:9")).unwrap()), &metrics);
    let trace = telemetry.arrived(&HeaderMap::new()).unwrap();
    for _ in 0..3_000 {
        trace.unread(Protocol::OpenAIChat, ErrorKind::TooLarge, &Default::default());
    }
    let dropped = metrics.spans_dropped.with_label_values(&["queue_full"]).get();
    assert!((1_700..=1_976).contains(&dropped), "{dropped}");
}

#[test]
fn nothing_is_recorded_unless_there_is_a_collector() {
    assert!(Telemetry::default().arrived(&HeaderMap::new()).is_none());
}
