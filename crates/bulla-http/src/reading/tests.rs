use super::*;
use crate::{
    api::{FactRule, descriptor},
    openapi::openapi,
    route::{Route, Routes},
};

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Head {
    let mut request = http::Request::builder().method(method).uri(target).header("host", "api");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Head::read(&request.body(()).unwrap().into_parts().0, None).unwrap()
}

fn read(api: &Api, head: &Head, body: Option<&str>) -> Result<Command, Fault> {
    let made = descriptor(std::slice::from_ref(api)).unwrap();
    request(api, head, body.map(str::as_bytes), made.facts)
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];

fn amounts() -> Api {
    let mut api = Api::new("api", "t");
    let rule = |name: &str, kind, from| FactRule { name: name.into(), kind, from };
    api.facts = vec![
        rule("amount", FactKind::Number, FactFrom::Json("/payment/amount".into())),
        rule("region", FactKind::Text, FactFrom::Header("x-region".into())),
        rule("limit", FactKind::Number, FactFrom::Query("limit".into())),
    ];
    api
}

#[test]
fn a_request_is_an_action_on_a_route() {
    let mut api = Api::new("api", "t");
    let get = read(&api, &head("GET", "/orders/7?x=1", &[]), None).unwrap();
    assert_eq!((get.action.as_str(), get.purity), ("http:get", Purity::Effect));
    assert_eq!(get.touches.seen()[0].to_string(), "http:get route /orders/7");
    assert_eq!(&*get.shown, "GET /orders/7?x=1");
    assert_eq!(get.facts["query"], Fact::Set(vec!["x=1".into()]));
    assert_eq!(get.effects.names(), ["read"]);
    api.routes = Routes::new(vec![Route::parse("/orders/{id}").unwrap()]);
    api.safe = vec!["/orders/{id}".into()];
    let get = read(&api, &head("GET", "/orders/7", &[]), None).unwrap();
    assert_eq!((get.purity, get.touches.seen()[0].path.as_ref()), (Purity::Read, "/orders/{id}"));
    assert_eq!(get.facts["params"], Fact::Set(vec!["id=7".into()]));
    let put = read(&api, &head("PUT", "/orders/7", &[]), Some("x")).unwrap();
    assert_eq!((put.purity, put.effects.names()), (Purity::Effect, vec!["read", "write"]));
    assert_eq!(read(&api, &head("GET", "/nowhere", &[]), None).unwrap_err().status, 403);
    let document = r#"{"openapi":"3.1.0","paths":{"/a":{"get":{"operationId":"listA"}}}}"#;
    api.routes = Routes::new(openapi(document, None).unwrap());
    let list = read(&api, &head("GET", "/a", &[]), None).unwrap();
    assert_eq!(list.touches.seen()[0].to_string(), "http:listA route /a");
    assert!(read(&api, &head("POST", "/a", &[]), None).is_err());
}

#[test]
fn facts_come_from_where_they_are_declared() {
    let api = amounts();
    assert_eq!(need(&api, &head("POST", "/", JSON), true), Need::Whole);
    assert_eq!(need(&api, &head("GET", "/", &[]), false), Need::Nothing);
    let mut headers = JSON.to_vec();
    headers.push(("x-region", "eu"));
    let pay = head("POST", "/pay?limit=5", &headers);
    let command = read(&api, &pay, Some(r#"{"payment":{"amount":100}}"#)).unwrap();
    assert_eq!(command.facts["amount"], Fact::Number(100));
    assert_eq!(command.facts["region"], Fact::Text("eu".into()));
    assert_eq!(command.facts["limit"], Fact::Number(5));
    assert!(matches!(command.touches, Touches::Known(_)));
    let without = read(&api, &pay, Some("{}")).unwrap();
    assert!(!without.facts.contains_key("amount"));
}

#[test]
fn h8_what_policy_cannot_read_is_unknown_or_refused() {
    let api = amounts();
    let doubt = |head: &Head, body: &str| match read(&api, head, Some(body)) {
        Ok(command) => matches!(command.touches, Touches::Unknown { .. }),
        Err(_) => true,
    };
    let json = head("POST", "/pay", JSON);
    assert!(!doubt(&json, r#"{"payment":{"amount":1}}"#), "the control");
    for body in [
        r#"{"payment":{"amount":"1"}}"#,
        r#"{"payment":{"amount":1.5}}"#,
        r#"{"payment":{"amount":1,"Amount":2}}"#,
        r#"{"payment":{"amount":1,"\u0061mount":2}}"#,
        r#"{"payment":{"amount":99999999999999999999}}"#,
        "payment=1",
    ] {
        assert!(doubt(&json, body), "{body}");
    }
    for headers in [
        &[("content-type", "application/xml")][..],
        &[("content-type", "text/plain")],
        &[],
        &[("content-type", "application/json; charset=utf-16")],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        assert!(
            doubt(&head("POST", "/pay", headers), r#"{"payment":{"amount":1}}"#),
            "{headers:?}"
        );
    }
    for body in [
        r#"{"payment":{"Amount":1}}"#,
        r#"{"Payment":{"amount":1}}"#,
        r#"{"payment":{"AMOUNT":null}}"#,
    ] {
        assert!(doubt(&json, body), "{body}");
    }
    for target in [
        "/pay?limit=1&limit=2",
        "/pay?limit=1&limit[]=2",
        "/pay?limit=1&LIMIT=2",
        "/pay?Limit=1",
        "/pay?limit[]=1",
        "/pay?limit%5b0%5d=1",
        "/pay?%20limit=1",
        "/pay?limit=x",
    ] {
        assert!(doubt(&head("POST", target, JSON), "{}"), "{target}");
    }
    let with = |more: &[(&str, &str)]| head("POST", "/pay", &[JSON, more].concat());
    assert!(!doubt(&with(&[("x-region", "eu")]), "{}"));
    assert!(doubt(&with(&[("x-region", "eu"), ("x-region", "us")]), "{}"), "a header twice");
    let utf7 = [("content-type", "application/json; charset=utf-7; x=utf-8")];
    assert!(doubt(&head("POST", "/pay", &utf7), "{}"), "another charset");
    let form = head("POST", "/x", &[("content-type", "application/x-www-form-urlencoded")]);
    assert_eq!(need(&Api::new("api", "t"), &form, true), Need::Whole);
    assert!(read(&Api::new("api", "t"), &form, Some("a=1&_method=DELETE")).is_err());
    assert!(read(&Api::new("api", "t"), &form, Some("a=1")).is_ok());
    for media in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"] {
        for (charset, good) in [
            ("utf-8", true),
            ("ISO-8859-1", true),
            ("utf-16", false),
            ("UTF-7", false),
            ("ibm037", false),
        ] {
            let kind = format!("{media}; charset={charset}");
            let own = head("POST", "/x", &[("content-type", &kind)]);
            assert_eq!(read(&Api::new("api", "t"), &own, None).is_ok(), good, "{kind}");
        }
    }
}

#[test]
fn grpc_names_its_service_and_method() {
    let api = Api::new("api", "t");
    let grpc = &[("content-type", "application/grpc")];
    let call = read(&api, &head("POST", "/shop.v1.Orders/Get", grpc), None).unwrap();
    assert_eq!(call.action.as_str(), "http:call");
    assert_eq!(call.facts["grpc_service"], Fact::Text("shop.v1.Orders".into()));
    assert_eq!(call.facts["grpc_method"], Fact::Text("Get".into()));
    assert!(read(&api, &head("GET", "/a/b", grpc), None).is_err());
    assert!(read(&api, &head("POST", "/a/b/c", grpc), None).is_err());
}

#[test]
fn graphql_names_its_fields() {
    let mut api = Api::new("api", "t");
    api.graphql = Some("/graphql".into());
    let post = head("POST", "/graphql", JSON);
    let ask = |query: &str| serde_json::json!({ "query": query }).to_string();
    let query = ask("query Q { orders { id total } me { name } }");
    let command = read(&api, &post, Some(&query)).unwrap();
    assert_eq!(command.action.as_str(), "http:query");
    let touches: Vec<_> = command.touches.seen().iter().map(ToString::to_string).collect();
    assert_eq!(touches, ["http:query field Query.orders", "http:query field Query.me"]);
    let mutation = read(&api, &post, Some(&ask("mutation { pay(id: 1) { ok } }"))).unwrap();
    assert_eq!(
        (mutation.action.as_str(), mutation.effects.has(Effects::WRITE)),
        ("http:mutation", true)
    );
    for body in ["[]", "{}", r#"{"query":1}"#, &ask("subscription { x }"), &ask("{ a "), "x"] {
        assert!(read(&api, &post, Some(body)).is_err(), "{body}");
    }
    assert!(read(&api, &head("GET", "/graphql?query=%7Bme%7Bname%7D%7D", &[]), None).is_ok());
    assert!(read(&api, &head("GET", "/graphql?query=mutation%7Bpay%7D", &[]), None).is_err());
    // One request is told in one place, and shown.
    let query = ask("{ me { name } }");
    for target in [
        "/graphql?query=mutation%7Bpay%7D",
        "/graphql?Query=mutation%7Bpay%7D",
        "/graphql?query[]=x",
        "/graphql?operationName=x",
        "/graphql?variables=%7B%7D",
        "/graphql?id=1",
        "/graphql?doc_id=1",
    ] {
        assert!(read(&api, &head("POST", target, JSON), Some(&query)).is_err(), "{target}");
    }
    assert!(read(&api, &head("POST", "/graphql?x=1", JSON), Some(&query)).is_ok());
    let named = r#"{"query":"{ me { name } }","documentId":"1"}"#;
    assert!(read(&api, &post, Some(named)).is_err());
    let twice = "/graphql?query=%7Bme%7Bname%7D%7D&Query=%7Bpay%7D";
    assert!(read(&api, &head("GET", twice, &[]), None).is_err());
    // A server that is lenient about paths finds it there too.
    for path in ["/graphql/", "/GraphQL", "/GRAPHQL/"] {
        let command = read(&api, &head("POST", path, JSON), Some(&query)).unwrap();
        assert_eq!(command.action.as_str(), "http:query", "{path}");
    }
}
