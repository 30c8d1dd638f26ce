use super::openapi;
use crate::route::Route;

fn told(routes: &[Route]) -> Vec<String> {
    let told = |route: &Route| {
        let method = route.method.as_ref().map_or("", |method| method.as_str());
        let action = route.action.as_ref().map_or("-", |action| action.as_str());
        format!("{method} {} {action}", route.template)
    };
    routes.iter().map(told).collect()
}

/// A document of OpenAPI 3 with these lines.
fn three(lines: &str) -> String {
    format!("openapi: 3.0.3\ninfo: {{title: t, version: 1.10}}\n{lines}")
}

fn check(text: &str, expect: &[&str]) {
    let routes = openapi(text, None).unwrap_or_else(|why| panic!("{text}\n{why}"));
    assert_eq!(told(&routes), expect, "{text}");
}

fn refused(text: &str, why: &str) {
    match openapi(text, None) {
        Ok(routes) => panic!("{text}\nwas read as {:?}", told(&routes)),
        Err(error) => assert!(error.contains(why), "{text}\n{error}"),
    }
}

#[test]
fn a_document_names_its_operations_in_either_form() {
    let expect = ["GET /orders/{id} http:getOrder", "DELETE /orders/{id} http:cancelOrder"];
    for text in [
        r#"{"openapi":"3.0.3","paths":{"/orders/{id}":{"parameters":[],
            "get":{"operationId":"getOrder"},"delete":{"operationId":"cancelOrder"}}}}"#,
        "\u{feff} \n{\"openapi\":\"3.1.0\",\"paths\":{\"/orders/{id}\":{\
         \"get\":{\"operationId\":\"getOrder\"},\"delete\":{\"operationId\":\"cancelOrder\"}}}}",
        "\u{feff}# ours\n---\nopenapi: \"3.2.0\"\npaths:\n  /orders/{id}:\n    parameters:\n    \
         - {name: id, in: path}\n    delete:\n      operationId: cancelOrder\n    get:\n      \
         operationId: 'getOrder'\n...\n",
        "swagger: '2.0'\nhost: example.com\npaths: {'/orders/{id}': {get: {operationId: getOrder}, \
         delete: {operationId: cancelOrder}}, x-note: of ours}",
        // An anchor may name what two share.
        "openapi: 3.0.3\nx-own: &own {operationId: getOrder}\npaths:\n  /orders/{id}:\n    \
         get: *own\n    delete: {operationId: cancelOrder}\n",
    ] {
        check(text, &expect);
    }
}

#[test]
fn what_is_written_is_the_name() {
    for (id, expect) in [
        ("no", "http:no"),
        ("on", "http:on"),
        ("1.10", "http:1.10"),
        ("0755", "http:0755"),
        ("1e3", "http:1e3"),
        ("'null'", "http:null"),
        ("repos/get", "http:repos/get"),
        ("\"a\\x62\"", "http:ab"),
    ] {
        let text = three(&format!("paths:\n  /a:\n    get:\n      operationId: {id}\n"));
        check(&text, &[&format!("GET /a {expect}")]);
    }
    // Nothing said: the action is the method's.
    check(
        &three("paths: {/a: {get: {}, post: {operationId: makeA}}}"),
        &["GET /a -", "POST /a http:makeA"],
    );
}

#[test]
fn an_id_that_is_no_name_becomes_one() {
    for (id, expect) in [
        ("find pet by id", "http:find_pet_by_id"),
        ("' Get  order (v2)! '", "http:Get_order_v2"),
        ("orders:list", "http:orders:list"),
        ("créer", "http:cr_er"),
        ("\"a\\tb\\u202ec\"", "http:a_b_c"),
        ("a__b", "http:a__b"),
    ] {
        let text = three(&format!("paths:\n  /a:\n    get:\n      operationId: {id}\n"));
        check(&text, &[&format!("GET /a {expect}")]);
    }
    check(
        &three(
            "paths: {/a: {get: {operationId: 注文, x-bulla-action: orders}, put: {\
                x-bulla-action: make}, post: {operationId: a b}, patch: {operationId: a_b, \
                x-bulla-action: a.b}}}",
        ),
        &["GET /a http:orders", "POST /a http:a_b", "PUT /a http:make", "PATCH /a http:a.b"],
    );
    let long = "x".repeat(200);
    for (operations, why) in [
        (
            "get: {operationId: a b}, put: {operationId: a_b}",
            "line 4: `PUT /a` (operationId `a_b`) would be the action `http:a_b`, as `GET /a` \
             (operationId `a b`) is: name one of them with `x-bulla-action`",
        ),
        ("get: {operationId: a b}, put: {x-bulla-action: a_b}", "would be the action `http:a_b`"),
        ("get: {x-bulla-action: a}, put: {x-bulla-action: a}", "names `GET /a` and `PUT /a`"),
        ("get: {operationId: 注文}", "has no letter or digit (of ASCII)"),
        ("get: {operationId: '- _'}", "has no letter or digit"),
        ("get: {operationId: get}", "is an action of the gateway itself: name the action with"),
        ("get: {operationId: ' read '}", "is an action of the gateway itself"),
        ("get: {operationId: unknown}", "is an action of the gateway itself"),
        ("get: {x-bulla-action: known}", "is an action of the gateway itself"),
        ("get: {x-bulla-action: a b}", "the x-bulla-action `a b` of `GET /a` holds more than"),
        ("get: {x-bulla-action: }", "the x-bulla-action of `GET /a` is no text"),
        (&format!("get: {{operationId: {long}}}"), "is too long"),
        // What is written for this gateway means something, or is told.
        ("get: {x-bulla-actions: a}", "line 4: `x-bulla-actions` means nothing here"),
        ("get: {X-Bulla-Action: a}", "`X-Bulla-Action` means nothing here"),
        ("x-bulla-action: a, get: {}", "`x-bulla-action` means nothing here"),
        ("$ref: '#/x-own', x-bulla-action: a", "means nothing here"),
    ] {
        refused(&three(&format!("paths:\n  /a: {{{operations}}}\n")), why);
    }
    refused(&three("x-bulla-action: a\npaths: {/a: {get: {}}}"), "line 3: `x-bulla-action` means");
    refused(&three("paths: {x-bulla-action: a, /a: {get: {}}}"), "means nothing here");
}

/// The same words in either form, and the line of each.
#[test]
fn json_has_lines_too() {
    let document = |middle: &str| {
        format!(
            "{{\n  \"openapi\": \"3.0.3\",\n  \"info\": {{\"title\": \"a \\\"}} {{\\\\\", \"n\": [1, \
             -2.5e3, true, [], {{}}]}},\n  \"paths\": {{\n{middle}\n  }}\n}}\n"
        )
    };
    for (middle, why) in [
        ("    \"/a\": {\n      \"get\":\n 7\n}", "line 6: `GET /a` is no operation"),
        (
            "    \"/a\": {\"get\": {\n\"operationId\": \"x\"}},\n\n \"/b\": {\"put\": {\
             \"operationId\":\n\n\"x\"}}",
            "line 8: operationId `x` names `GET /a` and `PUT /b`",
        ),
        ("\"/a\\u002a\":\n{\"get\": {}}", "line 5: the path `/a*`: OpenAPI knows no `*`"),
        (
            "\"/a\": {\"servers\": [\n{\"url\": \"/v1\"},\n{\"url\": \"v2\"}], \"get\": {}}",
            "line 7: the server `v2`: it is relative",
        ),
        ("\"/a\": {\n\"get\": {},\n\"get\": {}}", "line 7: it begins as JSON"),
    ] {
        refused(&document(middle), why);
    }
}

#[test]
fn a_base_path_comes_before_each_path() {
    let paths = "paths: {/a: {get: {operationId: x}}}";
    for (servers, expect) in [
        ("", &["GET /a http:x"][..]),
        ("servers: []", &["GET /a http:x"]),
        ("servers:", &["GET /a http:x"]),
        ("servers: [{url: 'https://api.example.com'}]", &["GET /a http:x"]),
        ("servers: [{url: 'https://api.example.com/'}]", &["GET /a http:x"]),
        ("servers: [{url: 'https://api.example.com/v1'}]", &["GET /v1/a http:x"]),
        ("servers: [{url: //api.example.com:8443/v1/}]", &["GET /v1/a http:x"]),
        ("servers: [{url: /v1/b}]", &["GET /v1/b/a http:x"]),
        (
            "servers: [{url: 'https://a/v1'}, {url: 'http://b/v1'}, {url: /v2}]",
            &["GET /v1/a http:x", "GET /v2/a http:x"],
        ),
        (
            "servers: [{url: '{scheme}://{host}/api/{version}', variables: {scheme: {default: https, \
             enum: [https, http]}, host: {default: h}, version: {default: v2, enum: [v1, v2]}}}]",
            &["GET /api/v1/a http:x", "GET /api/v2/a http:x"],
        ),
        (
            "servers: [{url: '{root}', variables: {root: {default: 'https://h/x'}}}]",
            &["GET /x/a http:x"],
        ),
    ] {
        check(&three(&format!("{servers}\n{paths}")), expect);
    }
    check(
        &three(
            "servers: [{url: /v1}]\npaths:\n  /a:\n    servers: [{url: /v2}]\n    get: {}\n    \
             put: {servers: [{url: /v3}]}\n  /b: {get: {}}\n",
        ),
        &["GET /v2/a -", "PUT /v3/a -", "GET /v1/b -"],
    );
    check(&format!("swagger: '2.0'\nbasePath: /v1/\n{paths}"), &["GET /v1/a http:x"]);
    check(&format!("swagger: '2.0'\nbasePath: /\n{paths}"), &["GET /a http:x"]);
    for servers in ["", "servers: [{url: /v1}]", "servers: [{url: 'v1/{open}'}]"] {
        let text = three(&format!("{servers}\n{paths}"));
        for (base, expect) in [("", "GET /a http:x"), ("/v9/", "GET /v9/a http:x")] {
            assert_eq!(told(&openapi(&text, Some(base)).unwrap()), [expect], "{servers} {base}");
        }
        for base in ["v9", "/{v}", "/**", "/a?b"] {
            let error = openapi(&text, Some(base)).expect_err(base);
            assert!(error.contains("`openapi_base`"), "{error}");
        }
    }
}

#[test]
fn a_base_path_in_doubt_is_refused() {
    let paths = "paths: {/a: {get: {operationId: x}}}";
    for (lines, why) in [
        ("servers: [{url: v1}]", "line 3: the server `v1`: it is relative"),
        ("servers: [{url: .}]", "set `openapi_base`"),
        ("servers: [{url: 'https://{host}/{version}'}]", "leaves open what `{host}` is"),
        ("servers: [{url: '/{v}', variables: {v: {enum: [a]}}}]", "leaves open what `{v}` is"),
        ("servers: [{url: '/{v}', variables: {v: {default: '{w}'}}}]", "no plain path"),
        ("servers: [{url: '/v1?a=b'}]", "no plain path"),
        ("servers: [{url: '/v1/**'}]", "no plain path"),
        ("servers: [{}]", "no `url`"),
        ("servers: {url: /v1}", "no list of servers"),
        ("basePath: /v1", "`basePath` is no part of OpenAPI 3"),
    ] {
        refused(&three(&format!("{lines}\n{paths}")), why);
    }
    let many = (0..40).map(|at| format!("v{at}")).collect::<Vec<_>>().join(", ");
    let many = format!("{{default: v0, enum: [{many}]}}");
    let lines = format!("servers: [{{url: '/{{a}}/{{b}}', variables: {{a: {many}, b: {many}}}}}]");
    refused(&three(&format!("{lines}\n{paths}")), "too many addresses");
    refused(&format!("swagger: '2.0'\nbasePath: v1\n{paths}"), "does not begin with `/`");
    refused(&format!("swagger: '2.0'\nservers: [{{url: /a}}]\n{paths}"), "no part of Swagger 2.0");
    refused(&three("paths: {/a: {servers: [], get: {}}}"), "no list of servers");
}

#[test]
fn references_within_the_document_are_followed() {
    let components = "components: {pathItems: {a: {get: {operationId: x}}, b: {$ref: \
                      '#/components/pathItems/a'}, loop: {$ref: '#/components/pathItems/loop'}, \
                      'c/d': {get: {operationId: y}}}}";
    for (path, expect) in [
        ("/a: {$ref: '#/components/pathItems/a'}", "GET /a http:x"),
        ("/a: {$ref: '#/components/pathItems/b', summary: of ours}", "GET /a http:x"),
        ("/a: {$ref: '#/components/pathItems/c~1d'}", "GET /a http:y"),
        ("/a: {$ref: '#/components/pathItems/c%7E1d'}", "GET /a http:y"),
    ] {
        check(&three(&format!("{components}\npaths:\n  {path}\n")), &[expect]);
    }
    for (path, why) in [
        ("/a: {$ref: 'a.yaml#/x'}", "line 5: `/a` refers to `a.yaml#/x`, which is not in this"),
        ("/a: {$ref: 'https://example.com/a.yaml'}", "redocly bundle"),
        ("/a: {$ref: '#/components/pathItems/z'}", "which is not there"),
        ("/a: {$ref: '#a'}", "which is not there"),
        ("/a: {$ref: '#/%ff'}", "which is not there"),
        ("/a: {$ref: '#/openapi'}", "is no object"),
        ("/a: {$ref: '#/components/pathItems/loop'}", "more than 8 others"),
        ("/a: {$ref: '#/components/pathItems/a', put: {}}", "beside operations"),
        ("/a: {$ref: '#/components/pathItems/a', TRACE: {}}", "beside operations"),
        ("/a: {$ref: '#/components/pathItems/a', servers: []}", "beside operations"),
        ("/a: {$ref: ['#/components/pathItems/a']}", "a `$ref` is no text"),
        ("/a: {get: {$ref: '#/components/pathItems/a/get'}}", "which OpenAPI does not know"),
        ("/a: {get: {$ref: 'a.yaml'}}", "redocly bundle"),
        ("/a: {get: [x]}", "`GET /a` is no operation"),
    ] {
        refused(&three(&format!("{components}\npaths:\n  {path}\n")), why);
    }
}

#[test]
fn what_would_be_misread_is_refused() {
    for (text, why) in [
        ("", "is empty"),
        ("{}", "neither `openapi` nor `swagger`"),
        ("- openapi", "no object"),
        ("<!doctype html>", "no object"),
        (r#"{"openapi":3.1,"paths":{}}"#, "in quotes"),
        ("openapi: 4.0.0", "is not \"3.0\""),
        ("openapi: 3.9.0", "is not \"3.0\""),
        ("swagger: '1.2'", "convert it"),
        ("openapi: 3.0.0\nswagger: '2.0'", "keep one"),
        (r#"{"openapi":"3.0.0"}"#, "no `paths`"),
        ("openapi: 3.0.0\npaths:\n", "no `paths`"),
        ("openapi: 3.0.0\npaths: [/a]", "`paths` is no object"),
        (r#"{"openapi":"3.0.0","paths":{}}"#, "no operation"),
        (r#"{"openapi":"3.0.0","paths":{"/a":{"get":{"operationId":7}}}}"#, "no text"),
        (r#"{"openapi":"3.0.0","paths":{"/a":{"get":{}},"/a":{"put":{}}}}"#, "stands twice"),
        (r#"{"openapi":"3.0.0","paths":{"/a":{"get":{}}}} {}"#, "line 1: it begins as JSON"),
        ("{openapi: 3.0.0}", "line 1: it begins as JSON"),
    ] {
        refused(text, why);
    }
    for (item, why) in [
        ("a: {get: {}}", "line 4: the path `a` does not begin with `/`"),
        ("$ref: '#/x'", "does not begin with `/`"),
        ("/a:", "`/a` is no object"),
        ("/a: {get: }", "`GET /a` is no operation"),
        ("/a: {get: {operationId: }}", "the operationId of `GET /a` is no text"),
        ("/a: {get: {operationId: ''}}", "the operationId of `GET /a` is no text"),
        ("/a: {get: {operationId: x}, put: {operationId: x}}", "`x` names `GET /a` and `PUT /a`"),
        ("/a: {GET: {}}", "OpenAPI writes it `get`"),
        ("/a: {trace: {}}", "`/a` has `trace`, which is not passed on"),
        ("/a: {query: {}}", "not passed on"),
        ("/a: {additionalOperations: {LINK: {}}}", "not passed on"),
        ("/files/**: {get: {}}", "OpenAPI knows no `*`"),
        ("'/a/{path*}': {get: {}}", "OpenAPI knows no `*`"),
        ("'/a/{+path}': {get: {}}", "is no name"),
        ("'/a?b=c': {get: {}}", "no query"),
        ("'/a/{x}{y}': {get: {}}", "nothing between"),
        ("'/a/{x': {get: {}}", "without its `}`"),
    ] {
        refused(&three(&format!("paths:\n  {item}\n")), why);
    }
    refused(
        &three("paths:\n  '/a/{x}': {get: {}}\n  '/a/{y}': {get: {}}\n"),
        "line 5: `GET /a/{x}` and `GET /a/{y}` are one path",
    );
    let one = |at| format!("  /a{at}: {{get: {{}}, put: {{}}}}\n");
    let many: String = (0..5_001).map(one).collect();
    refused(&three(&format!("paths:\n{many}")), "more than 10000 operations");
}
