//! The OpenAPI description, put together from those of the handlers and of the contract's types.
//!
//! A handler describes its path, its parameters, the data of its success and its own failures. What
//! all have in common is added here: the envelopes, the token, and the failures that any request
//! can meet.

use crate::api::Failure;
use serde_json::json;
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{
        Content, InfoBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
        Schema,
        path::Operation,
        schema::Type,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

/// The path of the description, which is in no envelope.
pub(crate) const OPENAPI: &str = "/openapi.json";
/// The path of what is asked for again and again, as the probes are.
pub(crate) const STATS: &str = "/api/v1/admin/stats";

const JSON: &str = "application/json";
const TOKEN: &str = "token";
const TEXT: &str = "Lifecycle of copy-on-write block volumes. Sizes are digits with an optional K, M, G, T, \
    Ki, Mi, Gi or Ti, each with an optional B, in any case, all powers of two; or plain bytes. Unknown \
    request fields are ignored and null means absent. Times are RFC 3339 in UTC. Every answer carries \
    X-Request-Id, the caller's own if it sent one of 1 to 128 characters of A-Z a-z 0-9 . _ -. Every refusal \
    has the form of Error, whatever its path and status: an unknown route is 404, a wrong method 405, a \
    body past 64 KiB 413.";

/// The failures of what changes the store.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "they are only described")]
pub(crate) enum Changes {
    /// The store takes no changes.
    #[response(status = 503)]
    Unavailable,
    /// The store is full.
    #[response(status = 507)]
    Full,
}

/// The description as it is served.
#[derive(Clone)]
pub(crate) struct Description(pub(crate) bytes::Bytes);

impl Description {
    /// `document` is what the routes have brought along.
    pub(crate) fn new(mut document: OpenApi) -> Description {
        document.info = InfoBuilder::new()
            .title("Sandstone admin API")
            .version("1")
            .description(Some(TEXT))
            .build();
        document.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
        let components = document.components.get_or_insert_default();
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The text of admin.token in the server's data directory."));
        components.add_security_scheme(TOKEN, SecurityScheme::Http(token.build()));
        let error = envelope(false, "error", Ref::from_schema_name(Failure::name()));
        components.schemas.insert("Error".to_owned(), error.into());
        let mut schemas = vec![(Failure::name().into_owned(), Failure::schema())];
        Failure::schemas(&mut schemas);
        components.schemas.extend(schemas);
        for (path, item) in &mut document.paths.paths {
            let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete]
                .into_iter()
                .flatten();
            operations.for_each(|operation| complete(path, operation));
        }
        let text = document.to_json().expect("a description has a JSON form");
        Description(text.into())
    }
}

fn complete(path: &str, operation: &mut Operation) {
    operation.tags = None;
    let failure = |text: &str| RefOr::T(ResponseBuilder::new().description(text).build());
    let responses = &mut operation.responses.responses;
    if path.starts_with("/api/") {
        responses.insert("401".to_owned(), failure("No token, or not the right one."));
    } else {
        operation.security = Some(Vec::new());
    }
    if operation.request_body.is_some() {
        responses.insert("413".to_owned(), failure("The body is too large."));
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if !status.starts_with('2') {
            let content = Content::new(Some(Ref::from_schema_name("Error")));
            response.content.insert(JSON.to_owned(), content.into());
        } else if path != OPENAPI {
            wrap(response);
        }
    }
}

/// Puts what is described as a success's data into its envelope.
fn wrap(response: &mut Response) {
    let Some(RefOr::T(content)) = response.content.get_mut(JSON) else { return };
    if let Some(data) = content.schema.take() {
        content.schema = Some(envelope(true, "data", data).into());
    }
}

fn envelope(success: bool, field: &str, held: impl Into<RefOr<Schema>>) -> Schema {
    let is_success =
        ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([json!(success)]));
    ObjectBuilder::new()
        .property("success", is_success)
        .property(field, held)
        .required("success")
        .required(field)
        .build()
        .into()
}
