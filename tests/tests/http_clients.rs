//! HTTP clients of other hands: Python, Node.js, Java, Go, h2load.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use bulla_e2e::expect::has;
use bulla_e2e::http::{ApiSpec, EVERYTHING, Recorder, World, recorded};
use bulla_e2e::proc::capture;

/// What every client finds in its environment.
fn environment(world: &World) -> Vec<(&'static str, String)> {
    vec![
        ("URL", world.url("/a?lib=1")),
        ("ROOT", world.gateway.root_pem().display().to_string()),
        ("TOKEN", world.token().unwrap()),
    ]
}

fn run(mut command: Command, world: &World) -> String {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("no_proxy", "*");
    command.env("HOME", world.dir.path()).envs(environment(world)).current_dir(world.dir.path());
    capture(command, None, Duration::from_secs(180)).unwrap().success().unwrap()
}

#[test]
fn python_clients() {
    let (world, target) = recorded().unwrap();
    let script = r#"
import os, ssl, requests, httpx
url, root = os.environ["URL"], os.environ["ROOT"]
headers = {"authorization": "Bearer " + os.environ["TOKEN"]}
for i in range(3):
    r = requests.post(url, json={"i": i}, headers=headers, verify=root)
    assert r.status_code == 200 and r.json()["ok"], r.text
context = ssl.create_default_context(cafile=root)
for version in (False, True):
    with httpx.Client(http2=version, http1=not version, verify=context, headers=headers) as c:
        for i in range(3):
            r = c.get(url)
            assert r.status_code == 200 and r.json()["ok"], r.text
        print(r.http_version)
"#;
    let done = run(bulla_e2e::http::python(script, &[]).unwrap(), &world);
    has(&done, &["HTTP/1.1", "HTTP/2"]);
    assert_eq!(target.got().matches("/a?lib=1").count(), 9);
    world.verified().unwrap();
}

#[test]
fn node_undici() {
    let (world, target) = recorded().unwrap();
    let script = r#"
const { Agent, request } = require('undici');
const { readFileSync } = require('fs');
(async () => {
  for (const allowH2 of [false, true]) {
    const dispatcher = new Agent({ allowH2, connect: { ca: readFileSync(process.env.ROOT) } });
    const headers = { authorization: 'Bearer ' + process.env.TOKEN, 'content-type': 'application/json' };
    const all = await Promise.all([1, 2, 3].map(i =>
      request(process.env.URL, { method: 'POST', dispatcher, headers, body: JSON.stringify({ i }) })));
    for (const one of all) console.log(allowH2, one.statusCode, (await one.body.json()).ok);
    await dispatcher.close();
  }
})();
"#;
    let node = xtask::places::which("node").expect("no node; install it: apt-get install nodejs");
    let modules = xtask::places::http_node_modules();
    assert!(modules.is_dir(), "no undici; install it: cargo xtask setup");
    let file = world.dir.write(
        "client.cjs",
        script.replace("'undici'", &format!("'{}/undici'", modules.display())),
    );
    let mut command = Command::new(node);
    command.arg(file.unwrap());
    let done = run(command, &world);
    assert_eq!(
        done.matches("true 200 true").count() + done.matches("false 200 true").count(),
        6,
        "{done}"
    );
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn java_net_http() {
    let (world, target) = recorded().unwrap();
    let program = r#"
import java.io.FileInputStream; import java.net.URI; import java.net.http.*;
import java.security.KeyStore; import java.security.cert.CertificateFactory; import javax.net.ssl.*;
public class Client {
  public static void main(String[] args) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType()); store.load(null, null);
    store.setCertificateEntry("root", CertificateFactory.getInstance("X.509")
        .generateCertificate(new FileInputStream(System.getenv("ROOT"))));
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext context = SSLContext.getInstance("TLS"); context.init(null, trust.getTrustManagers(), null);
    for (HttpClient.Version version : HttpClient.Version.values()) {
      HttpClient client = HttpClient.newBuilder().sslContext(context).version(version).build();
      for (int i = 0; i < 3; i++) {
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("URL")))
            .header("authorization", "Bearer " + System.getenv("TOKEN"))
            .POST(HttpRequest.BodyPublishers.ofString("{\"i\":" + i + "}")).build();
        HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
      }
    }
  }
}
"#;
    let java = xtask::places::which("java");
    let java = java.expect("no java; install it: apt-get install default-jdk-headless");
    let file = world.dir.write("Client.java", program).unwrap();
    let mut command = Command::new(java);
    command.arg(file);
    let done = run(command, &world);
    assert_eq!(done.matches("HTTP_1_1 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(done.matches("HTTP_2 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn go_net_http() {
    let (world, target) = recorded().unwrap();
    let program = r#"package main
import ("bytes"; "crypto/tls"; "crypto/x509"; "fmt"; "io"; "net/http"; "os")
func main() {
	pem, _ := os.ReadFile(os.Getenv("ROOT"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, two := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: two}}
		for i := 0; i < 3; i++ {
			request, _ := http.NewRequest("POST", os.Getenv("URL"), bytes.NewReader([]byte("{}")))
			request.Header.Set("authorization", "Bearer "+os.Getenv("TOKEN"))
			answer, err := client.Do(request)
			if err != nil { panic(err) }
			body, _ := io.ReadAll(answer.Body)
			fmt.Println(answer.Proto, answer.StatusCode, string(body))
		}
	}
}
"#;
    let go = xtask::places::which("go").expect("no go; install it: apt-get install golang-go");
    let file = world.dir.write("client.go", program).unwrap();
    let mut command = Command::new(go);
    command.arg("run").arg(file);
    let done = run(command, &world);
    assert_eq!(done.matches("HTTP/1.1 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(done.matches("HTTP/2.0 200 {\"ok\":true}").count(), 3, "{done}");
    assert_eq!(target.got().matches("POST /a?lib=1").count(), 6);
}

#[test]
fn h2load_side_by_side() {
    let h2load = xtask::places::which("h2load");
    let h2load = h2load.expect("no h2load; install it: apt-get install nghttp2-client");
    // In `bounded` mode connections are served by threads beside each other.
    for durability in ["strict", "bounded"] {
        let target = Recorder::start().unwrap();
        let mut api = ApiSpec::new("api", target.port()).http("safe = [\"*\"]");
        api.more = format!("durability = \"{durability}\"\n");
        let world = World::start(EVERYTHING, &[api]).unwrap();
        for version in ["h2", "http/1.1"] {
            let mut command = Command::new(&h2load);
            command.args(["-n", "600", "-c", "6", "-m", "20", "--npn-list", version]);
            command.arg("-H").arg(format!("authorization: Bearer {}", world.token().unwrap()));
            command.arg(world.url("/a"));
            let done = run(command, &world);
            has(&done, &["600 succeeded, 0 failed", "status codes: 600 2xx"]);
        }
        assert_eq!(target.got().matches("GET /a HTTP/1.1").count(), 1200, "{durability}");
        world.verified().unwrap();
    }
}
