//! What holds whatever the figures, the texts and the network.

use super::*;

proptest! {
    #[test]
    fn the_meters_add_up_to_the_providers_total(input in 0..1u64 << 40, output in 0..1u64 << 40, parts in proptest::array::uniform6(0..1u64 << 41)) {
        let [cached, written, long, audio, image, spoken] = parts;
        let details = json!({"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": audio, "image_tokens": image,
            "cache_write_tokens_details": {"ttl_12h_tokens": long}, "cached_tokens_details": {"image_tokens": spoken}});
        let of_output = json!({"audio_tokens": spoken, "image_tokens": image});
        let usage = chat_usage(json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": details, "completion_tokens_details": of_output}));
        prop_assert_eq!((usage.total_input(), usage.total_output()), (input, output));
        let response = json!({"usage": {"input_tokens": input, "output_tokens": output, "input_tokens_details": details, "output_tokens_details": of_output}});
        prop_assert_eq!(reported(OpenAIResponses, &response).usage, usage);
    }

    #[test]
    fn no_text_of_a_response_has_more_bytes_than_the_bound(texts in proptest::collection::vec(".{0,60}", 1..5)) {
        let items: Vec<_> = texts.iter().map(|t| json!({"role": "user", "content": t})).collect();
        let r = with(OpenAIResponses, json!({"input": items}));
        let bytes: usize = r.prompt().parts.iter().map(|p| p.len()).sum();
        prop_assert!(r.input_bound() >= bytes as u64);
        prop_assert_eq!(r.prompt().parts.iter().map(|p| p.to_string()).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for protocol in [OpenAIResponses, OpenAICompletions, OpenAIEmbeddings] {
            let _ = parse(Addressed::plain(protocol), body.clone().into());
            let _ = usage_of_body(protocol, &body);
            let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, false);
            prop_assert_eq!(meter.push(Bytes::from(body.clone())), body.clone());
        }
        let _ = usage_of_passthrough("/v1/images/edits", &body);
    }

    #[test]
    fn members_of_any_kind_never_panic(members in proptest::collection::btree_map(
        prop_oneof![Just("model"), Just("input"), Just("prompt"), Just("messages"), Just("tools"), Just("max_output_tokens"), Just("tool_choice")],
        prop_oneof![Just(json!(null)), Just(json!("x")), Just(json!(7)), Just(json!([])), Just(json!([null])), Just(json!([{"type": "message"}])),
            Just(json!([{"type": "message", "content": [null]}])), Just(json!({})), Just(json!([[1], "a", {}, 2.5, -1]))], 0..5)) {
        let body = json!(members).to_string();
        for protocol in [OpenAIChat, OpenAIResponses, OpenAICompletions, OpenAIEmbeddings] {
            if let Ok(request) = parse(Addressed::plain(protocol), body.clone().into()) {
                let change = Rewrite { model: Some("new".into()), max_output: Some(7), include_usage: true };
                let changed: Value = serde_json::from_slice(&request.rewrite(&change)).expect("JSON");
                prop_assert_eq!(&changed["model"], &json!("new"));
            }
        }
    }

    #[test]
    fn how_the_network_cuts_a_streamed_response_changes_nothing(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12), crlf in any::<bool>()) {
        let text = events(&response_stream("completed", json!({"input_tokens": 3, "output_tokens": 4})));
        let text = if crlf { text.replace('\n', "\r\n") } else { text };
        let mut at: Vec<_> = cuts.iter().map(|i| i.index(text.len())).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let (seen, end) = through(OpenAIResponses, false, &pieces);
        prop_assert_eq!(seen, text);
        prop_assert_eq!(end.reported.map(|r| r.usage.total()), Some(7));
    }
}
