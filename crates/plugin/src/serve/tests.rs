mod terraform;

use std::collections::BTreeMap;

use outpost_value::{Object, Type, Value};
use outpost_wire::proto::{
    plugin::{
        Empty, grpc_controller_client::GrpcControllerClient, grpc_stdio_client::GrpcStdioClient,
    },
    tfplugin5::{self as wire, provider_client::ProviderClient},
};
use tonic::transport::Channel;

use self::terraform::Terraform;
use crate::{
    Call, DataSource, Diagnostic, Diagnostics, Outcome, Provider, Resource, Schema, Shape,
    computed, list, optional, required,
};

/// A resource that greets a person from the template, with a word from the provider's configuration.
struct Greeting;

impl Resource<String> for Greeting {
    fn schema(&self) -> Schema {
        Schema::new(
            "A greeting.",
            vec![
                required("name", Shape::String, "whom to greet"),
                computed("text", Shape::String, "the greeting"),
                list("note", "", vec![optional("text", Shape::String, "")]),
            ],
        )
        .version(1)
    }

    fn check_plan(&self, _prior: Option<&Object>, planned: &Object) -> Outcome {
        match planned.text("name") {
            Some("nobody") => Err(Diagnostic::error("nobody cannot be greeted")
                .at("name")
                .into()),
            _ => Ok(Diagnostics::none()),
        }
    }

    fn create(&self, state: &mut Object, call: &Call<'_, String>) -> Outcome {
        let name = state.text("name").unwrap_or_default().to_owned();
        if name == "early" {
            Err(Diagnostic::error("too early"))?;
        }
        state.set("id", "1");
        state.set("text", format!("{}, {name}", call.context));
        match name.as_str() {
            "late" => Err(Diagnostic::error("too late").into()),
            _ => Ok(Diagnostic::warning("greeted").into()),
        }
    }

    fn read(&self, state: &mut Object, _call: &Call<'_, String>) -> Outcome {
        if state.text("name") == Some("gone") {
            state.set("id", "");
        }
        Ok(Diagnostics::none())
    }
}

/// A data source that returns its question.
struct Echo;

impl DataSource<String> for Echo {
    fn schema(&self) -> Schema {
        Schema::new(
            "",
            vec![
                optional("ask", Shape::String, ""),
                computed("answer", Shape::String, ""),
            ],
        )
        .deprecated("nobody asks any more")
    }

    fn read(&self, state: &mut Object, call: &Call<'_, String>) -> Outcome {
        let asked = call.config.text("ask").unwrap_or("nothing").to_owned();
        state.set("answer", asked);
        Ok(Diagnostics::none())
    }
}

fn provider() -> Provider<String> {
    let words = optional("words", Shape::String, "").default("Hello");
    let schema = Schema::new("", vec![words]);
    Provider::new(schema, |config| match config.text("words") {
        Some("") => Err(Diagnostic::error("no words").at("words").into()),
        words => Ok(words.unwrap_or_default().to_owned()),
    })
    .resource("test_greeting", Greeting)
    .data_source("test_echo", Echo)
}

async fn shut_down(channel: Channel) {
    GrpcControllerClient::new(channel)
        .shutdown(Empty {})
        .await
        .unwrap();
}

fn greeting_type() -> Type {
    Type::object([
        ("id", Type::String),
        ("name", Type::String),
        ("note", Type::list(Type::object([("text", Type::String)]))),
        ("text", Type::String),
    ])
}

fn message(of: &Type, value: Value) -> Option<wire::DynamicValue> {
    Some(wire::DynamicValue {
        msgpack: value.to_msgpack(of).into(),
        json: bytes::Bytes::new(),
    })
}

fn object<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Object::from(entries).into()
}

fn read(of: &Type, message: Option<wire::DynamicValue>) -> String {
    Value::from_msgpack(of, &message.unwrap().msgpack)
        .unwrap()
        .to_string()
}

async fn configured(channel: &Channel, words: Value) -> Vec<wire::Diagnostic> {
    let of = Type::object([("words", Type::String)]);
    let request = wire::configure::Request {
        config: message(&of, object([("words", words)])),
        ..Default::default()
    };
    let mut client = ProviderClient::new(channel.clone());
    client
        .configure(request)
        .await
        .unwrap()
        .into_inner()
        .diagnostics
}

/// Plans and applies a new greeting.
async fn greet(
    channel: &Channel,
    name: &str,
) -> (
    wire::plan_resource_change::Response,
    wire::apply_resource_change::Response,
) {
    let mut client = ProviderClient::new(channel.clone());
    let of = greeting_type();
    let config = object([
        ("name", name.into()),
        ("note", Value::List(vec![object([("text", Value::Null)])])),
    ]);
    let plan = wire::plan_resource_change::Request {
        type_name: "test_greeting".to_owned(),
        prior_state: message(&of, Value::Null),
        proposed_new_state: message(&of, config.clone()),
        config: message(&of, config.clone()),
        ..Default::default()
    };
    let planned = client
        .plan_resource_change(plan)
        .await
        .unwrap()
        .into_inner();
    let apply = wire::apply_resource_change::Request {
        type_name: "test_greeting".to_owned(),
        prior_state: message(&of, Value::Null),
        planned_state: planned.planned_state.clone(),
        config: message(&of, config),
        planned_private: planned.planned_private.clone(),
        ..Default::default()
    };
    let applied = client
        .apply_resource_change(apply)
        .await
        .unwrap()
        .into_inner();
    (planned, applied)
}

#[tokio::test]
async fn a_resource_lives_from_plan_to_shutdown_over_mutual_tls() {
    let terraform = Terraform::new();
    let (channel, running) = terraform.start(true).await;
    let mut stdio = GrpcStdioClient::new(channel.clone())
        .stream_stdio(())
        .await
        .unwrap()
        .into_inner();

    assert_eq!(configured(&channel, Value::Null).await, []);
    let (planned, applied) = greet(&channel, "Ann").await;
    shut_down(channel).await;

    assert!(planned.legacy_type_system && applied.legacy_type_system);
    assert_eq!(
        read(&greeting_type(), planned.planned_state),
        r#"{"id":null,"name":"Ann","note":[{"text":null}],"text":null}"#
    );
    assert_eq!(
        read(&greeting_type(), applied.new_state),
        r#"{"id":"1","name":"Ann","note":[{"text":""}],"text":"Hello, Ann"}"#
    );
    assert_eq!(applied.private, r#"{"schema_version":"1"}"#);
    assert_eq!(applied.diagnostics[0].summary, "greeted");
    assert!(stdio.message().await.unwrap().is_none());
    running.await.unwrap().unwrap();
    assert_eq!(terraform.directory.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn a_failed_creation_leaves_what_has_an_id() {
    let terraform = Terraform::new();
    let (channel, _running) = terraform.start(false).await;
    configured(&channel, "Hi".into()).await;

    let (_, early) = greet(&channel, "early").await;
    let (_, late) = greet(&channel, "late").await;
    let (nobody, _) = greet(&channel, "nobody").await;

    assert_eq!(read(&greeting_type(), early.new_state), "null");
    assert_eq!(early.diagnostics[0].summary, "too early");
    assert!(read(&greeting_type(), late.new_state).contains("Hi, late"));
    assert_eq!(late.diagnostics[0].summary, "too late");
    assert_eq!(nobody.planned_state, None);
    assert_eq!(
        nobody.diagnostics[0]
            .attribute
            .as_ref()
            .unwrap()
            .steps
            .len(),
        1
    );
}

#[tokio::test]
async fn states_are_taken_over_refreshed_and_missed() {
    let terraform = Terraform::new();
    let (channel, _running) = terraform.start(false).await;
    configured(&channel, Value::Null).await;
    let mut client = ProviderClient::new(channel);
    let upgrade = |state: wire::RawState| wire::upgrade_resource_state::Request {
        type_name: "test_greeting".to_owned(),
        version: 0,
        raw_state: Some(state),
    };

    let json = wire::RawState {
        json: br#"{"id":"1","name":"Ann","dropped":[1]}"#[..].into(),
        ..Default::default()
    };
    let upgraded = client
        .upgrade_resource_state(upgrade(json))
        .await
        .unwrap()
        .into_inner();
    let flatmap = wire::RawState {
        flatmap: BTreeMap::from([("id".to_owned(), "1".to_owned())]),
        ..Default::default()
    };
    let refused = client
        .upgrade_resource_state(upgrade(flatmap))
        .await
        .unwrap()
        .into_inner();
    let gone = object([("id", "1".into()), ("name", "gone".into())]);
    let gone = wire::read_resource::Request {
        type_name: "test_greeting".to_owned(),
        current_state: message(&greeting_type(), gone),
        private: b"kept"[..].into(),
        ..Default::default()
    };
    let gone = client.read_resource(gone).await.unwrap().into_inner();

    assert_eq!(
        read(&greeting_type(), upgraded.upgraded_state),
        r#"{"id":"1","name":"Ann","note":[],"text":null}"#
    );
    assert!(
        refused.diagnostics[0]
            .summary
            .contains("older than Terraform 0.12")
    );
    assert_eq!(read(&greeting_type(), gone.new_state), "null");
    assert_eq!(gone.private, "kept");
}

#[tokio::test]
async fn a_data_source_has_an_id_even_if_it_names_none() {
    let terraform = Terraform::new();
    let (channel, _running) = terraform.start(false).await;
    configured(&channel, Value::Null).await;
    let mut client = ProviderClient::new(channel);
    let of = Type::object([
        ("answer", Type::String),
        ("ask", Type::String),
        ("id", Type::String),
    ]);
    let config = message(&of, object([("ask", "".into())]));

    let validated = client
        .validate_data_source_config(wire::validate_data_source_config::Request {
            type_name: "test_echo".to_owned(),
            config: config.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    let answered = client
        .read_data_source(wire::read_data_source::Request {
            type_name: "test_echo".to_owned(),
            config,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();

    assert_eq!(validated.diagnostics[0].summary, "Deprecated Resource");
    assert_eq!(
        read(&of, answered.state),
        r#"{"answer":"","ask":null,"id":"-"}"#
    );
}

#[tokio::test]
async fn what_is_asked_wrongly_is_answered_by_a_diagnostic() {
    let terraform = Terraform::new();
    let (channel, _running) = terraform.start(false).await;

    let (_, unconfigured) = greet(&channel, "Ann").await;
    let refused = configured(&channel, "".into()).await;
    let mut client = ProviderClient::new(channel);
    let import = |name: &str| wire::import_resource_state::Request {
        type_name: name.to_owned(),
        id: "1".to_owned(),
        ..Default::default()
    };
    let mut summary = async |name| {
        let response = client.import_resource_state(import(name)).await.unwrap();
        response.into_inner().diagnostics[0].summary.clone()
    };

    assert_eq!(
        unconfigured.diagnostics[0].summary,
        "the provider was called before it was configured"
    );
    assert_eq!(refused[0].summary, "no words");
    assert_eq!(
        summary("test_greeting").await,
        "resource test_greeting doesn't support import"
    );
    assert_eq!(
        summary("test_other").await,
        "unknown resource type: test_other"
    );
}
