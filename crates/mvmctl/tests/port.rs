//! Ports that lead into sandboxes, in real machines. What a client sees is what a program on this host sees.

mod common;

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use common::{Ran, Sandbox, command, eventually, home, json, kill, mvmctl};
use serde_json::Value;

/// Long enough for anything but a hang.
const BOUND: Duration = Duration::from_secs(60);

/// Runs a script in the sandbox, which must go well; returns what it says.
fn sh(sandbox: &Sandbox, script: &str) -> String {
    let ran = sandbox.sh(script);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

/// A verb that must go well.
fn done(args: &[&str]) {
    let ran = mvmctl(args);
    assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
}

/// Starts a script in the background, and waits until something listens on a port of the guest.
fn start(sandbox: &Sandbox, port: u16, script: &str) {
    done(&["exec", "--detach", &sandbox.0, "--", "sh", "-c", script]);
    sh(sandbox, &format!("until netstat -ltn | grep -q ':{port} '; do sleep 0.1; done"));
}

/// Has a program be started for each connection to a port of the guest.
fn serve(sandbox: &Sandbox, port: u16, program: &str) {
    start(sandbox, port, &format!("exec nc -ll -p {port} -e {program}"));
}

/// A free port of this host that leads to one of the guest.
fn forward(sandbox: &Sandbox, guest_port: u16) -> u16 {
    let port = json(&["port", "add", &sandbox.0, &format!("0:{guest_port}"), "--json"]);
    port["host_port"].as_u64().unwrap_or_else(|| panic!("{port}")) as u16
}

fn ports(sandbox: &Sandbox) -> Vec<Value> {
    json(&["port", "ls", &sandbox.0, "--json"])["ports"].as_array().unwrap().clone()
}

fn connect(port: u16) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(BOUND)).unwrap();
    client.set_write_timeout(Some(BOUND)).unwrap();
    client
}

/// Sends, ends, and reads to the end.
fn ask(port: u16, request: &[u8]) -> Result<Vec<u8>, Error> {
    let mut client = connect(port);
    client.write_all(request)?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).map(|_| answer)
}

/// One line there and back; the connection stays open.
fn echoes(mut client: &TcpStream, line: &[u8]) -> bool {
    let mut back = vec![0; line.len()];
    client.write_all(line).and_then(|()| client.read_exact(&mut back)).is_ok() && back == line
}

fn is_reset(mut client: &TcpStream) -> bool {
    let read = client.read(&mut [0; 64]);
    matches!(&read, Err(e) if e.kind() == ErrorKind::ConnectionReset)
}

fn nobody_listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

const WEB: &str = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

#[test]
fn a_web_server_is_reached_until_the_port_or_the_sandbox_is_gone() {
    let made = json(&[
        "up",
        "--image",
        "base",
        "--name",
        "web",
        "--profile",
        "dev",
        "--port",
        "0:80",
        "--port",
        "0.0.0.0:0:80",
        "--json",
    ]);
    let sandbox = Sandbox("web".to_owned());
    start(&sandbox, 80, WEB);
    let [near, wide] = [0, 1].map(|at| made["ports"][at]["host_port"].as_u64().unwrap() as u16);
    for port in [near, wide] {
        let answer = String::from_utf8(ask(port, GET).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with("\r\n\r\nhello\n"), "{answer}");
    }
    let inspected = json(&["inspect", "web", "--json"])["ports"].clone();
    assert_eq!((&inspected[0]["exposed"], &inspected[1]["exposed"]), (&false.into(), &true.into()));
    for port in [&made["ports"][0], &inspected[0], &ports(&sandbox)[0]] {
        assert_eq!(port["rule"], "ports.forward");
    }
    let listed = mvmctl(&["port", "ls", "web"]).stdout;
    let says = |port: u16| listed.lines().find(|line| line.contains(&format!(":{port} "))).unwrap().to_owned();
    assert!(says(near).ends_with("ports.forward  open"), "{listed}");
    assert!(says(wide).contains("reachable from other machines"), "{listed}");
    let added = mvmctl(&["port", "add", "web", "[::1]:0:80"]).stdout;
    assert!(added.starts_with("[::1]:") && added.contains("try: curl http://[::1]:"), "{added}");
    done(&["port", "rm", "web", &near.to_string()]);
    assert!(nobody_listens(near));
    assert_eq!(json(&["port", "rm", "web", &near.to_string(), "--json"])["error"]["code"], "NotFound");
    assert_eq!(ports(&sandbox).len(), 2);
    let idle = connect(wide);
    done(&["destroy", "web"]);
    assert!(nobody_listens(wide));
    assert!(is_reset(&idle));
}

#[test]
fn bytes_are_exact_and_each_direction_ends_by_itself() {
    let sandbox = Sandbox::up("exact", &[]);
    serve(&sandbox, 7, "cat");
    serve(&sandbox, 8, "wc -c");
    // It ends its own direction at once and reads on.
    start(&sandbox, 9, "exec nc -l -p 9 < /dev/null > /root/got");
    let all: Vec<u8> = (0..8 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut client = connect(forward(&sandbox, 7));
    let mut sender = client.try_clone().unwrap();
    let sent = all.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    assert!(back == all, "{} of {} bytes came back, or others", back.len(), all.len());
    // The answer comes only after the client's end.
    assert_eq!(ask(forward(&sandbox, 8), &all[..1_000_000]).unwrap(), b"1000000\n");
    let mut client = connect(forward(&sandbox, 9));
    assert_eq!(client.read(&mut [0; 64]).unwrap(), 0);
    client.write_all(b"after your end").unwrap();
    drop(client);
    eventually("all of it arrived", || sh(&sandbox, "cat /root/got") == "after your end");
}

#[test]
fn hundreds_of_connections_at_once_leave_room_for_the_rest() {
    let sandbox = Sandbox::up("many", &[]);
    serve(&sandbox, 7, "cat");
    let port = forward(&sandbox, 7);
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..320 {
        let client = connect(port);
        assert!(echoes(&client, b"one\n"), "connection {}", open.len());
        open.push(client);
    }
    // Every one of them is alive, in any order.
    for (index, client) in open.iter().enumerate().rev() {
        assert!(echoes(client, format!("{index}\n").as_bytes()), "connection {index}");
    }
    assert_eq!(ports(&sandbox)[0]["connections"], 320);
    assert!(is_reset(&connect(port)), "one more than fits");
    let other = forward(&sandbox, 7);
    assert!(echoes(&connect(other), b"a full port leaves room for others\n"));
    assert_eq!(sh(&sandbox, "echo and for commands"), "and for commands\n");
    open.truncate(1);
    eventually("the ended ones make room", || ports(&sandbox)[0]["connections"] == 1);
    assert!(echoes(&connect(port), b"two\n") && echoes(&open[0], b"three\n"));
}

/// Writes until nobody takes any more.
fn fill(client: &TcpStream) {
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut client = client;
    while client.write(&[b'x'; 65536]).is_ok() {}
}

#[test]
fn who_neither_reads_nor_answers_holds_up_nobody_else() {
    let sandbox = Sandbox::up("stalled", &[]);
    serve(&sandbox, 7, "cat");
    serve(&sandbox, 8, "sleep 1000");
    serve(&sandbox, 9, "yes");
    start(&sandbox, 10, "echo $$ > /root/pid; exec nc -ll -p 10 -e cat");
    sh(&sandbox, "kill -STOP $(cat /root/pid)");
    let [echo, silent, endless, stopped] = [7, 8, 9, 10].map(|port| forward(&sandbox, port));
    let unanswered: Vec<TcpStream> = (0..20).map(|_| connect(silent)).collect();
    unanswered.iter().take(4).for_each(fill);
    let unread: Vec<TcpStream> = (0..20).map(|_| connect(endless)).collect();
    let unaccepted: Vec<TcpStream> = (0..10).map(|_| connect(stopped)).collect();
    let client = connect(echo);
    for _ in 0..50 {
        assert!(echoes(&client, &[b'y'; 10_000]));
    }
    assert_eq!(sh(&sandbox, "echo commands, too"), "commands, too\n");
    let held = json(&["stats", "stalled", "--json"])["supervisor_private_bytes"].as_u64().unwrap();
    assert!(held < 48 << 20, "the supervisor holds {held} bytes");
    // Those for whom there is no room in the queue of what does not accept are told so, in time.
    assert!(unaccepted.iter().any(is_reset_in_time));
    // Those who were waited for go on where they were.
    let mut start = [0; 4];
    (&unread[19]).read_exact(&mut start).unwrap();
    assert_eq!(&start, b"y\ny\n");
    sh(&sandbox, "kill -CONT $(cat /root/pid)");
}

fn is_reset_in_time(client: &TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    is_reset(client)
}

#[test]
fn a_connection_that_nobody_takes_is_reset() {
    let sandbox = Sandbox::up("refused", &[]);
    let port = forward(&sandbox, 80);
    assert!(is_reset(&connect(port)));
    eventually("it says why", || ports(&sandbox)[0]["why"].as_str().unwrap().contains("nothing listens"));
    // What is cut short on one side is cut short on the other: here the guest's process is killed.
    serve(&sandbox, 7, "cat");
    let echo = forward(&sandbox, 7);
    let client = connect(echo);
    assert!(echoes(&client, b"x"));
    // With bytes in its way that it has not read, a killed process resets its connection.
    sh(&sandbox, "kill -STOP $(pidof cat)");
    (&client).write_all(b"never read").unwrap();
    sh(&sandbox, "sleep 0.2; kill -9 $(pidof cat)");
    assert!(is_reset(&client));
    // And the other way round: the client gives up, and the server does not wait for more.
    let client = connect(echo);
    assert!(echoes(&client, b"x"));
    drop(client);
    eventually("its process has ended", || sh(&sandbox, "pidof cat || true").trim().is_empty());
}

#[test]
fn ports_outlive_machines() {
    let sandbox = Sandbox::up("outlives", &[]);
    start(&sandbox, 80, WEB);
    serve(&sandbox, 7, "cat");
    let [web, echo] = [80, 7].map(|port| forward(&sandbox, port));
    let held = connect(echo);
    assert!(echoes(&held, b"x"));
    done(&["stop", "outlives"]);
    // Its server was ended first, and then the machine: the client hears of the one or of both.
    assert!(matches!((&held).read(&mut [0]).map_err(|e| e.kind()), Ok(0) | Err(ErrorKind::ConnectionReset)));
    eventually("nobody takes any more", || (&held).write(b"x").is_err());
    assert!(is_reset(&connect(web)));
    let listed = mvmctl(&["port", "ls", "outlives"]).stdout;
    assert!(listed.contains("refused: the sandbox is stopped"), "{listed}");
    done(&["start", "outlives"]);
    start(&sandbox, 80, WEB);
    assert!(ask(web, GET).unwrap().ends_with(b"hello\n"));
}

/// A home apart from the other tests', any command of which would give a sandbox its supervisor back. Its sandbox does not
/// outlive it.
struct OwnHome(tempfile::TempDir);

impl Drop for OwnHome {
    fn drop(&mut self) {
        let _ = command(self.0.path()).args(["kill", "box"]).output();
    }
}

fn own_home() -> OwnHome {
    let own = tempfile::tempdir().unwrap();
    for name in ["kernels", "images", "templates", "host.json"] {
        std::os::unix::fs::symlink(home().join(name), own.path().join(name)).unwrap();
    }
    OwnHome(own)
}

#[test]
fn ports_outlive_a_killed_supervisor() {
    let own = own_home();
    let run = |args: &[&str]| -> String {
        let ran = Ran::from(command(own.0.path()).args(args).output().unwrap());
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.stdout
    };
    let value = |args: &[&str]| -> Value { serde_json::from_str(&run(args)).unwrap() };
    let made = value(&["up", "--image", "base", "--name", "box", "--port", "0:7", "--port", "0:7", "--json"]);
    let [kept, lost] = [0, 1].map(|at| made["ports"][at]["host_port"].as_u64().unwrap() as u16);
    let serve = || {
        run(&["exec", "--detach", "box", "--", "nc", "-ll", "-p", "7", "-e", "cat"]);
        run(&["exec", "box", "--", "sh", "-c", "until netstat -ltn | grep -q ':7 '; do sleep 0.1; done"]);
    };
    serve();
    let held = connect(lost);
    assert!(echoes(&held, b"x"));
    let lock = Path::new(made["socket"].as_str().unwrap()).with_file_name("lock");
    kill(std::fs::read_to_string(lock).unwrap().trim().parse().unwrap());
    assert!(is_reset(&held));
    eventually("nobody listens", || nobody_listens(kept) && nobody_listens(lost));
    // Somebody else takes one of them meanwhile.
    let thief = TcpListener::bind(("127.0.0.1", lost)).unwrap();
    run(&["start", "box"]);
    serve();
    assert!(echoes(&connect(kept), b"again"));
    let listed = value(&["port", "ls", "box", "--json"])["ports"].clone();
    assert_eq!((&listed[0]["status"], &listed[0]["why"]), (&"open".into(), &"".into()));
    assert_eq!((&listed[1]["status"], &listed[1]["why"]), (&"failed".into(), &"the port is in use".into()));
    drop(thief);
    run(&["port", "rm", "box", &lost.to_string()]);
    run(&["port", "add", "box", &format!("{lost}:7")]);
    assert!(echoes(&connect(lost), b"and this one"));
}

#[test]
fn copies_get_no_ports_and_what_is_saved_has_no_connections() {
    let sandbox = Sandbox::up("original", &["--port", "0:7"]);
    serve(&sandbox, 7, "cat");
    let echo = ports(&sandbox)[0]["host_port"].as_u64().unwrap() as u16;
    let held = connect(echo);
    assert!(echoes(&held, b"x"));
    let forked = json(&["fork", "original", "--name", "copy", "--json"]);
    let copy = Sandbox("copy-1".to_owned());
    assert_eq!(forked["sandboxes"][0]["name"], "copy-1");
    assert!(is_reset(&held), "a copy must not have the other half of a conversation");
    assert!(ports(&copy).is_empty());
    // What listened is in both machines; only one of them is reached.
    assert!(echoes(&connect(echo), b"y"));
    let own = forward(&copy, 7);
    assert!(own != echo && echoes(&connect(own), b"z"));
    done(&["pause", "original"]);
    assert!(is_reset(&connect(echo)));
    assert_eq!(ports(&sandbox)[0]["why"], "the sandbox is cold");
    done(&["resume", "original"]);
    assert!(echoes(&connect(echo), b"it still listens"));
}

#[test]
fn ports_that_cannot_be_are_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let used = format!("{}:80", taken.local_addr().unwrap().port());
    let sandbox = Sandbox::up("picky", &["--profile", "dev"]);
    let own = forward(&sandbox, 80);
    let add = |port: &str| json(&["port", "add", "picky", port, "--json"])["error"].clone();
    let up = |ports: &[&str]| {
        let options = ports.iter().flat_map(|port| ["--port", port]);
        let args =
            ["up", "--image", "base", "--name", "never", "--profile", "dev", "--json"].into_iter().chain(options);
        json(&args.collect::<Vec<_>>())["error"].clone()
    };
    for (port, code, why) in [
        ("8080", "InvalidRequest", "both ends"),
        ("8080:0", "InvalidRequest", "no port in the sandbox"),
        ("70000:80", "InvalidRequest", "up to 65535"),
        ("8080:70000", "InvalidRequest", "up to 65535"),
        ("localhost:8080:80", "InvalidRequest", "names are not looked up"),
        ("::1:8080:80", "InvalidRequest", "brackets"),
        ("192.0.2.1:8080:80", "InvalidRequest", "no such address"),
        ("8080:80/sctp", "InvalidRequest", "no such protocol"),
        ("8080:80/udp", "BackendUnsupported", "the backend qemu has no ports.udp"),
        (&used, "AlreadyExists", "in use"),
    ] {
        for error in [add(port), up(&[port])] {
            assert_eq!(error["code"], code, "{port}: {error}");
            assert!(error["why"].as_str().unwrap().contains(why), "{port}: {error}");
        }
    }
    assert_eq!(add("8080:80/udp")["capability"], "ports.udp");
    assert_eq!(add(&used)["errno"], 98);
    assert_eq!(add(&format!("{own}:81"))["code"], "InvalidRequest");
    assert_eq!(up(&["8080:80", "8080:81"])["code"], "InvalidRequest");
    assert_eq!(
        json(&["inspect", "never", "--json"])["state"],
        "destroyed",
        "of what could not be made nothing remains"
    );
    assert_eq!(ports(&sandbox).len(), 1);
    for _ in 1..64 {
        forward(&sandbox, 80);
    }
    assert_eq!(add("0:80")["code"], "ResourceExhausted");
}
