//! Metrics of `outpost server`, as Prometheus scrapes them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    control::PATIENCE,
    remote::{Server, Service, TEMPLATE},
    start::http,
};

/// A server whose metrics are enabled.
struct Scraped {
    server: Server,
    address: String,
}

impl Scraped {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let options = ["--prometheus-enable", "--prometheus-address", &address];
        let server = Server::at("127.0.0.1:0", &options);
        let scraped = Self { server, address };
        scraped.until("build_info{version=\"0.1.0\"", "");
        scraped
    }

    /// Returns all metrics. The server says where it listens before it serves them.
    fn text(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(&self.address).is_err() {
            assert!(Instant::now() < deadline, "nobody serves metrics");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (status, text) = http("GET", &self.address, "/metrics");
        assert_eq!(status, 200);
        text
    }

    fn value(&self, metric: &str) -> f64 {
        let text = self.text();
        let name = format!("outpost_server_{metric} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
            .parse()
            .unwrap()
    }

    /// Scrapes until a line begins with `metric` and ends with `value`.
    fn until(&self, metric: &str, value: &str) {
        let (name, deadline) = (
            format!("outpost_server_{metric}"),
            Instant::now() + PATIENCE,
        );
        let is_it = |line: &str| line.starts_with(&name) && line.ends_with(value);
        loop {
            let text = self.text();
            if text.lines().any(is_it) {
                return;
            }
            assert!(Instant::now() < deadline, "no {name}…{value} in:\n{text}");
            std::thread::sleep(Duration::from_millis(20)); // As a scraper does.
        }
    }
}

#[test]
fn a_scrape_shows_jobs_that_wait_and_that_ended_and_the_daemons_that_run_them() {
    let scraped = Scraped::start();
    let server = &scraped.server;
    let template = server.path("template");
    fs::create_dir(&template).unwrap();
    fs::write(template.join("main.tf"), TEMPLATE).unwrap();
    assert_eq!(scraped.value("jobs{status=\"queued\"}"), 0.0);
    assert_eq!(scraped.value("daemons"), 0.0);

    let push = ["template", "push", "small", template.to_str().unwrap()];
    let mut push = server.command(&push);
    let mut push = push.stdout(Stdio::null()).spawn().unwrap();
    scraped.until("jobs{status=\"queued\"}", " 1");
    let _daemon = Service::start(&mut server.daemon("one", &server.path("psk"), &[]));

    assert!(push.wait().unwrap().success());
    scraped.until("ended_jobs_total{status=\"succeeded\"}", " 1");
    for status in ["queued", "running", "cancelling"] {
        scraped.until(&format!("jobs{{status=\"{status}\"}}"), " 0");
    }
    assert_eq!(scraped.value("daemons"), 1.0);
    assert!(scraped.value("connections") >= 1.0);
}

#[test]
fn a_scrape_shows_strangers_at_the_listener_and_at_the_relay() {
    let scraped = Scraped::start();
    let url = url::Url::parse(&scraped.server.url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    assert_eq!(scraped.value("relay_refused_clients_total"), 0.0);

    let mut stranger = TcpStream::connect(address).unwrap();
    let request = "GET /derp HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: DERP\r\n\r\n";
    stranger.write_all(request.as_bytes()).unwrap();
    stranger.read_exact(&mut [0; 12]).unwrap();
    scraped.until("unauthenticated_connections", " 1");
    drop(stranger);

    scraped.until("relay_refused_clients_total", " 1");
    scraped.until("unauthenticated_connections", " 0");
    assert_eq!(scraped.value("relay_clients"), 0.0);
    assert_eq!(http("POST", &scraped.address, "/metrics").0, 405);
}

#[test]
fn without_the_option_nobody_serves_metrics() {
    let server = Server::start();
    let url = url::Url::parse(&server.url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0].to_string();

    assert_eq!(http("GET", &address, "/metrics").0, 404);
}
