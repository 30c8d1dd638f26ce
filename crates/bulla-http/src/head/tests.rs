use super::*;

fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn read(target: &str, headers: &[(&str, &str)]) -> Result<Head, Fault> {
    let mut all = vec![("host", "api.example")];
    all.extend(headers);
    Head::read(&parts("GET", target, &all), Some("api.example"))
}

#[test]
fn h5_paths_have_one_spelling() {
    for (target, expect) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/", "/a/"),
        ("/%61/%7Eb", "/a/~b"),
        ("/a%20b", "/a%20b"),
        ("/%e4%b8%ad", "/%E4%B8%AD"),
        ("/a:b@c,d", "/a:b@c,d"),
        ("/100%25", "/100%25"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
    ] {
        assert_eq!(read(target, &[]).unwrap().path, expect, "{target}");
    }
    for (target, why) in [
        ("/a/../b", "dot segment"),
        ("/a/./b", "dot segment"),
        ("/a/%2e%2e/b", "dot segment"),
        ("/a/.%2E/b", "dot segment"),
        ("/..", "dot segment"),
        ("/a%2fb", "separator"),
        ("/a%2Fb", "separator"),
        ("/a%5cb", "separator"),
        ("/a;b", "not allowed"),
        ("/a%3bb", "separator"),
        ("/a\\b", "not allowed"),
        ("//a", "empty segment"),
        ("/a//b", "empty segment"),
        ("/%00", "control"),
        ("/a%0d%0ab", "control"),
        ("/%252e%252e", "twice"),
        ("/a%252fb", "twice"),
        ("/%c0%af", "UTF-8"),
        ("/%ff", "UTF-8"),
        ("/%", "broken"),
        ("/%2", "broken"),
        ("/%zz", "broken"),
        ("/a.", "dot or a blank"),
        ("/a%20/b", "dot or a blank"),
        ("/a/...", "dot or a blank"),
    ] {
        let fault = read(target, &[]).expect_err(target);
        assert!(fault.why.contains(why), "{target}: {}", fault.why);
    }
}

#[test]
fn queries_are_read_once() {
    let head = read("/a?x=1&y=a%20b&z=a+b&x=2", &[]).unwrap();
    let pairs: Vec<_> = head.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("x", "1"), ("y", "a b"), ("z", "a b"), ("x", "2")]);
    assert_eq!(head.target(), "/a?x=1&y=a%20b&z=a+b&x=2");
    for (target, why) in [
        ("/a?_method=DELETE", "method"),
        ("/a?%5fmethod=DELETE", "method"),
        ("/a?X-HTTP-Method-Override=PUT", "method"),
        ("/a?access_token=x", "token"),
        ("/a?x=%00", "control"),
        ("/a?x=%zz", "broken"),
        ("/a?x=1;y=2", "not allowed"),
        ("/a?x=%2561", "twice"),
    ] {
        let fault = read(target, &[]).expect_err(target);
        assert!(fault.why.contains(why), "{target}: {}", fault.why);
    }
    assert!(check_form(b"a=1&b=2").is_ok());
    for form in ["_method=DELETE", "a=1&_Method=PUT", "a=1;_method=PUT", "%5Fmethod=PUT"] {
        assert!(check_form(form.as_bytes()).is_err(), "{form}");
    }
}

#[test]
fn h6_one_host_one_method() {
    for (host, expect) in [
        ("api.example", Some("api.example")),
        ("API.example:8443", Some("api.example")),
        ("api.example.", Some("api.example")),
        ("other.example", None),
        ("", None),
        ("a b", None),
        ("u@api.example", None),
        ("api.example:x", None),
        ("api.example:", None),
        ("api.example/x", None),
        ("api.example,api.example", None),
        ("api_example", None),
    ] {
        let read = Head::read(&parts("GET", "/", &[("host", host)]), Some("api.example"));
        assert_eq!(read.ok().map(|head| head.host).as_deref(), expect, "{host}");
    }
    let two = parts("GET", "/", &[("host", "api.example"), ("host", "api.example")]);
    assert!(Head::read(&two, None).is_err());
    let differ = parts("GET", "https://api.example/", &[("host", "other.example")]);
    assert!(Head::read(&differ, None).is_err());
    for name in names::OVERRIDES {
        assert!(read("/", &[(name, "DELETE")]).is_err(), "{name}");
    }
    for method in ["TRACE", "TRACK", "PROPFIND", "CONNECT"] {
        assert!(Head::read(&parts(method, "/", &[("host", "a")]), None).is_err(), "{method}");
    }
}

#[test]
fn a_media_type_is_one() {
    for (value, charset) in [
        ("application/json", None),
        ("application/json; charset=utf-8", Some("utf-8")),
        ("application/json;Charset=\"UTF-8\" ;", Some("utf-8")),
        ("a/b; x=\"; charset=utf-16\"; charset=utf-8", Some("utf-8")),
        ("a/b; x=\"a\\\"; charset=utf-8\"; charset=utf-16", Some("utf-16")),
        ("multipart/form-data; boundary=----=_Part/1", None),
        ("", None),
    ] {
        let head = read("/", &[("content-type", value)]).unwrap();
        assert_eq!(head.media_parameter("charset").as_deref(), charset, "{value}");
    }
    for value in [
        "json",
        "a/b/c",
        "/b",
        "a/",
        "a/b, c/d",
        "a/b c",
        "a/b; charset",
        "a/b; charset=x; charset=y",
        "a/b; charset=x; CHARSET=x",
        "a/b; x=y z=1",
        "a/b; x=y, c/d",
        "a/b; x=\"y",
        "a/b; x=\"y\"z",
        "a/b; x =y",
    ] {
        let fault = read("/", &[("content-type", value)]).expect_err(value);
        assert!(fault.why.contains("content-type"), "{value}: {}", fault.why);
    }
}

#[test]
fn a_scheme_that_is_not_what_came_is_refused() {
    let own = |scheme: &str| {
        Head::read(&parts("GET", &format!("{scheme}://a/x"), &[]), Some("a")).map(|_| ())
    };
    assert!(own("https").is_ok());
    assert!(own("http").is_err() && own("ftp").is_err());
}

#[test]
fn only_who_asks_for_it_outside_of_quotes_waits_for_an_approval() {
    for (value, asked) in [
        ("respond-async", true),
        ("wait=10, Respond-Async; x=y", true),
        ("return=minimal", false),
        ("x=\"a, respond-async, b\"", false),
        ("x; respond-async", false),
    ] {
        assert_eq!(read("/", &[("prefer", value)]).unwrap().respond_async, asked, "{value}");
    }
}

#[test]
fn h7_what_a_client_claims_goes_no_further() {
    let head = read(
        "/",
        &[
            ("x-forwarded-for", "1.2.3.4"),
            ("X-Forwarded-User", "root"),
            ("forwarded", "for=x"),
            ("x-real-ip", "1.2.3.4"),
            ("x-bulla-principal", "root"),
            ("remote-user", "root"),
            ("via", "1.1 x"),
            ("te", "trailers"),
            ("connection", "keep-alive, TE"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("dpop", "x.y.z"),
            ("authorization", "Bearer abc.def-_"),
            ("x-own", "1"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ],
    )
    .unwrap();
    let left: Vec<_> = head.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    assert_eq!(left, ["x-own: 1", "cookie: a=1; b=2"]);
    assert!(
        head.trailers && matches!(head.presented, Presented::Token { scheme: Scheme::Bearer, .. })
    );
    let canonical = head.canonical();
    assert!(!canonical.contains("abc.def"), "{canonical}");
    for (name, value) in [
        ("connection", "authorization"),
        ("connection", "close, x-own"),
        ("connection", "host"),
        ("authorization", "Basic dTpw"),
        ("authorization", "Bearer"),
        ("authorization", "Bearer a b"),
        ("authorization", "Bearer a,b"),
        ("authorization", "Bearer  "),
        ("expect", "200-ok"),
        ("x_own", "1"),
        ("content-length", "x"),
    ] {
        assert!(read("/", &[(name, value)]).is_err(), "{name}: {value}");
    }
    for name in ["authorization", "content-type", "dpop", "range", "traceparent"] {
        assert!(read("/", &[(name, "Bearer x"), (name, "Bearer x")]).is_err(), "{name} twice");
    }
}
