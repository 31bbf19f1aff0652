//! A PostgreSQL server of its own, from the machine's packages: made in a folder that is gone afterwards, reached by a socket in it, or
//! by an address in a network namespace.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server that is not ready by then will never be.
const READY: Duration = Duration::from_secs(60);
const MISSING: &str = "PostgreSQL's server is not installed: it is looked for on PATH and in /usr/lib/postgresql/*/bin. \
    Debian and Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; Alpine: apk add postgresql";

pub struct Server {
    binaries: PathBuf,
    directory: TempDir,
    network: Option<Network>,
    process: Mutex<Option<Child>>,
    tls: Option<Tls>,
}

/// What a server shows to who connects by TCP and TLS: PEM, made for `localhost`.
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

/// Where a server can be reached beside its socket, and by whom.
pub struct Network {
    /// A network namespace by name, and an address in it.
    pub namespace: String,
    pub address: String,
    /// The clients' network, which nobody else is in.
    pub clients: String,
}

impl Server {
    /// Makes a database cluster in a new folder of `parent` and serves it.
    pub fn start(parent: &Path) -> Server {
        Server::make(parent, None, None)
    }

    /// The same, reached over a network, too.
    pub fn start_on(parent: &Path, network: Option<Network>) -> Server {
        Server::make(parent, network, None)
    }

    /// The same, which with `tls` listens on a port of loopback, too, and there for nobody without TLS.
    pub fn start_with(parent: &Path, tls: Option<Tls>) -> Server {
        Server::make(parent, None, tls)
    }

    fn make(parent: &Path, network: Option<Network>, tls: Option<Tls>) -> Server {
        let directory = tempfile::tempdir_in(parent).expect("a folder for the server");
        let server = Server { binaries: binaries(), directory, network, process: Mutex::new(None), tls };
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(server.directory.path(), Some(uid), Some(gid)).expect("the folder is the server's user's");
        }
        let mut initdb = server.command("initdb");
        initdb.args(["--username=postgres", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync", "-D"]).arg(server.data());
        let made = initdb.stdout(Stdio::null()).status().expect("initdb runs");
        assert!(made.success(), "initdb failed: {made}");
        if let Some(Network { clients, .. }) = &server.network {
            let rules = server.data().join("pg_hba.conf");
            let all = std::fs::read_to_string(&rules).expect("initdb wrote who may connect");
            std::fs::write(&rules, format!("{all}host all all {clients} trust\n")).expect("the server's rules");
        }
        server.tls.iter().for_each(|tls| server.keep(tls));
        server.start_again();
        server
    }

    /// Serves what is there, and waits until it answers.
    pub fn start_again(&self) {
        let mut command = self.network.as_ref().map_or_else(|| self.command("postgres"), |network| self.command_in(network));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
        let listen = match (&self.tls, &self.network) {
            (Some(_), _) => "listen_addresses=127.0.0.1".to_owned(),
            (None, network) => format!("listen_addresses={}", network.as_ref().map_or("", |network| &network.address)),
        };
        command.args(["-p", &self.port(), "-c", &listen]).args(self.tls.iter().flat_map(|_| ["-c", "ssl=on"]));
        command.args(["-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "log_min_messages=fatal"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("postgres runs");
        let began = Instant::now();
        let is_ready = || {
            self.command("pg_isready").args(["-q", "-p", &self.port(), "-h"]).arg(self.directory.path()).status().is_ok_and(|s| s.success())
        };
        while !is_ready() {
            let ended = process.try_wait().expect("the server's state");
            assert!(ended.is_none() && began.elapsed() < READY, "the server does not answer; it ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// Writes down what `tls` is, for the server only, and that nobody gets in by TCP without it.
    fn keep(&self, tls: &Tls) {
        let file = |name: &str, text: &str| {
            let path = self.data().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
            if let Some((uid, gid)) = other_user() {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("its owner");
            }
        };
        file("server.crt", &tls.certificate);
        file("server.key", &tls.key);
        file("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
        file("port", &free_port().to_string());
    }

    /// Without TCP the port is only part of a socket's name.
    fn port(&self) -> String {
        if self.tls.is_none() { "5432".to_owned() } else { std::fs::read_to_string(self.data().join("port")).expect("a port") }
    }

    /// The address of its database by TCP.
    pub fn tcp_url(&self, schema: &str, sslmode: &str) -> String {
        format!("postgres://postgres@localhost:{}/postgres?sslmode={sslmode}&options=-csearch_path%3D{schema}", self.port())
    }

    /// All of a schema, as `pg_dump` writes it.
    pub fn dump(&self, schema: &str) -> Vec<u8> {
        let mut dump = self.command("pg_dump");
        dump.args(["--username=postgres", "--port", &self.port(), "--schema", schema, "--host"]).arg(self.directory.path()).arg("postgres");
        let dumped = dump.output().expect("pg_dump runs");
        assert!(dumped.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&dumped.stderr));
        dumped.stdout
    }

    /// Carries out a dump.
    pub fn restore(&self, dump: &[u8]) {
        let mut psql = self.command("psql");
        psql.args(["--username=postgres", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--port", &self.port(), "--host"])
            .arg(self.directory.path())
            .arg("postgres");
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql runs");
        psql.stdin.take().expect("its input").write_all(dump).expect("taken");
        assert!(psql.wait().expect("it ends").success(), "psql failed");
    }

    /// Stops every process of the server where it stands, as a machine that hangs would; `false` lets them go on.
    pub fn hang(&self, hangs: bool) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let postmaster = process.as_ref().expect("it runs").id();
        let signal = if hangs { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        // The postmaster first, so that it makes no more of them.
        for pid in [postmaster].into_iter().chain(children(postmaster)) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
            // One that has ended meanwhile hangs as well.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends it at once, as a crash would: what was committed is in its log only.
    pub fn crash(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut process) = process else { return };
        let pid = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        process.wait().expect("the server ended");
    }

    /// The address of its database; tables are in `schema`.
    pub fn url(&self, schema: &str) -> String {
        let host = self.directory.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}:{}/postgres?options=-csearch_path%3D{schema}", self.port())
    }

    /// The server, in a network namespace, which only root may enter.
    fn command_in(&self, network: &Network) -> Command {
        let mut command = Command::new("nsenter");
        command.current_dir(self.directory.path()).arg(format!("--net=/run/netns/{}", network.namespace));
        if let Some((uid, gid)) = other_user() {
            command.arg(format!("--setuid={uid}")).arg(format!("--setgid={gid}"));
        }
        command.arg(self.binaries.join("postgres"));
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.directory.path());
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name in brackets: the state, then the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).filter(|pid| parent(pid) == Some(of)).collect()
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port()
}

/// The server refuses to run as root: then it runs as `postgres`, or as nobody.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |line: &str| {
        let mut fields = line.split(':').skip(2).map(|field| field.parse().ok());
        Some((fields.next()??, fields.next()??))
    };
    Some(users.lines().find(|line| line.starts_with("postgres:")).and_then(ids).unwrap_or((65_534, 65_534)))
}

fn binaries() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    packaged.sort();
    folders.extend(packaged.into_iter().rev());
    let has_all = |folder: &&PathBuf| ["initdb", "postgres", "pg_isready"].iter().all(|name| folder.join(name).is_file());
    folders.iter().find(has_all).unwrap_or_else(|| panic!("{MISSING}")).clone()
}
