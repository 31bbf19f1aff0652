//! A PostgreSQL server of its own, from the machine's packages: made in a folder that is gone afterwards, reached by a socket in it, or
//! by an address in a network namespace.

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
        Server::start_on(parent, None)
    }

    /// The same, reached over a network, too.
    pub fn start_on(parent: &Path, network: Option<Network>) -> Server {
        let directory = tempfile::tempdir_in(parent).expect("a folder for the server");
        let server = Server { binaries: binaries(), directory, network, process: Mutex::new(None) };
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
        server.start_again();
        server
    }

    /// Serves what is there, and waits until it answers.
    pub fn start_again(&self) {
        let mut command = self.network.as_ref().map_or_else(|| self.command("postgres"), |network| self.command_in(network));
        let listen = format!("listen_addresses={}", self.network.as_ref().map_or("", |network| &network.address));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
        command.args(["-c", &listen, "-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "log_min_messages=fatal"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("postgres runs");
        let began = Instant::now();
        let is_ready = || self.command("pg_isready").args(["-q", "-h"]).arg(self.directory.path()).status().is_ok_and(|s| s.success());
        while !is_ready() {
            let ended = process.try_wait().expect("the server's state");
            assert!(ended.is_none() && began.elapsed() < READY, "the server does not answer; it ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
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
        format!("postgres://postgres@{host}/postgres?options=-csearch_path%3D{schema}")
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
