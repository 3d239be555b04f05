//! Test that any message survives our types: a field that a conversion forgets shows here, including one that is new
//! in a `.proto`.

use std::collections::HashMap;

use outpost_base::job::{CompletedJob, FailedJob, Job};
use outpost_provision::{JobUpdate, JobUpdated};
use proptest::prelude::*;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use crate::proto::provisionerd as wire;

/// Messages that may be missing. Our types have a value for all others.
const OPTIONAL: [&str; 4] = ["expiration_policy", "healthcheck", "memory", "scheduling"];

/// Fields that we leave out on purpose: directories on the daemon's machine, and the hash of a file that we send in
/// full.
const LEFT_OUT: [&str; 2] = ["dir", "module_files_hash"];

/// Generator of messages from bytes. When they are used up, everything is empty, so that shrinking works.
struct Maker<'a>(std::slice::Iter<'a, u8>);

impl Maker<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or_default()
    }

    fn number(&mut self) -> i32 {
        i32::from_be_bytes([(); 4].map(|()| self.byte()))
    }

    fn text(&mut self) -> String {
        (0..self.byte() % 4)
            .map(|_| char::from(self.byte()))
            .collect()
    }

    fn message(&mut self, descriptor: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for oneof in descriptor.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            let members: Vec<_> = oneof.fields().collect();
            let chosen = &members[usize::from(self.byte()) % members.len()];
            let value = self.value(chosen);
            message.set_field(chosen, value);
        }
        for field in descriptor.fields() {
            let is_member = field
                .containing_oneof()
                .is_some_and(|oneof| !oneof.is_synthetic());
            let may_miss = OPTIONAL.contains(&field.name())
                || field.supports_presence() && !matches!(field.kind(), Kind::Message(_));
            if is_member
                || LEFT_OUT.contains(&field.name())
                || may_miss && self.byte().is_multiple_of(2)
            {
                continue;
            }
            let value = self.field(&field);
            message.set_field(&field, value);
        }
        message
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let entries = (0..self.byte() % 3)
                .map(|_| (MapKey::String(self.text()), Value::String(self.text())));
            return Value::Map(entries.collect::<HashMap<_, _>>());
        }
        if field.is_list() {
            return Value::List((0..self.byte() % 3).map(|_| self.value(field)).collect());
        }
        self.value(field)
    }

    fn value(&mut self, field: &FieldDescriptor) -> Value {
        match (field.name(), field.kind()) {
            ("job_id", _) => {
                let id = uuid::Uuid::from_u64_pair(self.number() as u64, 0);
                Value::String(id.to_string())
            }
            ("error_code", _) => {
                let codes = ["", "INSUFFICIENT_QUOTA", "REQUIRED_TEMPLATE_VARIABLES"];
                Value::String(codes[usize::from(self.byte() % 3)].to_owned())
            }
            ("error", _) => Value::String(format!("failed{}", self.text())),
            // Times have a range of their own: the calendar ends before the numbers do.
            ("nanos", _) => Value::I32(self.number().rem_euclid(1_000_000_000)),
            ("created_at" | "seconds", _) => Value::I64(self.number().into()),
            (_, Kind::Enum(kind)) => {
                let members: Vec<_> = kind.values().collect();
                Value::EnumNumber(members[usize::from(self.byte()) % members.len()].number())
            }
            (_, Kind::Message(kind)) => Value::Message(self.message(&kind)),
            (_, Kind::String) => Value::String(self.text()),
            (_, Kind::Bytes) => Value::Bytes(self.text().into_bytes().into()),
            (_, Kind::Bool) => Value::Bool(!self.byte().is_multiple_of(2)),
            (_, Kind::Int32) => Value::I32(self.number()),
            (_, Kind::Int64) => Value::I64(i64::from(self.number()) << 16),
            (name, kind) => panic!("{name} is a {kind:?}, which no message of Coder's has"),
        }
    }
}

fn made<M: Message + Default>(name: &str, bytes: &[u8]) -> M {
    let descriptors = include_bytes!("../proto/outpost_descriptor.bin");
    let pool = DescriptorPool::decode(&descriptors[..]).unwrap();
    let descriptor = pool.get_message_by_name(name).unwrap();
    let message = Maker(bytes.iter()).message(&descriptor);
    M::decode(&message.encode_to_vec()[..]).unwrap()
}

/// Copies ids that are sent twice, for servers of different age.
fn twice(mut job: wire::CompletedJob) -> wire::CompletedJob {
    use wire::completed_job::Type;
    match &mut job.r#type {
        Some(Type::TemplateImport(import)) => {
            let ids = import.external_auth_providers.iter();
            import.external_auth_providers_names = ids.map(|auth| auth.id.clone()).collect();
        }
        Some(Type::WorkspaceBuild(build)) => {
            for task in &mut build.ai_tasks {
                task.sidebar_app = Some(crate::proto::provisioner::AiTaskSidebarApp {
                    id: task.app_id.clone(),
                });
            }
        }
        Some(Type::TemplateDryRun(_)) | None => {}
    }
    job
}

proptest! {
    #[test]
    fn any_job_survives_our_types(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let sent: wire::AcquiredJob = made("provisionerd.AcquiredJob", &bytes);
        let ours = Job::try_from(sent.clone()).unwrap();
        prop_assert_eq!(wire::AcquiredJob::from(ours), sent);
    }

    #[test]
    fn any_result_survives_our_types(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let sent = twice(made("provisionerd.CompletedJob", &bytes));
        let ours = CompletedJob::try_from(sent.clone()).unwrap();
        prop_assert_eq!(wire::CompletedJob::from(ours), sent);
    }

    #[test]
    fn any_failure_survives_our_types(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let sent: wire::FailedJob = made("provisionerd.FailedJob", &bytes);
        let ours = FailedJob::try_from(sent.clone()).unwrap();
        prop_assert_eq!(wire::FailedJob::from(ours), sent);
    }

    #[test]
    fn any_update_and_its_answer_survive_our_types(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let sent: wire::UpdateJobRequest = made("provisionerd.UpdateJobRequest", &bytes);
        let ours = JobUpdate::try_from(sent.clone()).unwrap();
        prop_assert_eq!(wire::UpdateJobRequest::from(ours), sent);

        let sent: wire::UpdateJobResponse = made("provisionerd.UpdateJobResponse", &bytes);
        let ours = JobUpdated::from(sent.clone());
        prop_assert_eq!(wire::UpdateJobResponse::from(ours), sent);
    }

    #[test]
    fn no_message_however_odd_makes_a_conversion_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(job) = wire::AcquiredJob::decode(&bytes[..]) {
            let _ = Job::try_from(job);
        }
        if let Ok(job) = wire::CompletedJob::decode(&bytes[..]) {
            let _ = CompletedJob::try_from(job);
        }
    }
}
