//! Child processes that end with this one, however it ends.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::wait::until_blocking;

/// Runs a command, sends it the signals that its standard input names, and kills it when that closes.
const KEEPER: &str = r#"exec 3<&0
"$@" 3<&- < /dev/null & child=$!
{ while read -r signal <&3; do kill -"$signal" $child; done; kill -KILL $child; } 2> /dev/null &
watcher=$!
wait $child; code=$?
kill $watcher 2> /dev/null
exit $code"#;

/// A command that runs, and what it prints appended to a file.
pub struct Process {
    keeper: Child,
}

impl Process {
    pub fn start(program: &str, arguments: &[String], environment: &[(String, String)], log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", program])
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process { keeper }
    }

    /// `TERM` or `KILL`.
    pub fn signal(&mut self, name: &str) {
        writeln!(self.keeper.stdin.as_mut().unwrap(), "{name}").unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.keeper.try_wait().unwrap()
    }

    pub fn end(&mut self) -> ExitStatus {
        until_blocking("a process ends", || self.ended().ok_or("it runs"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A port that is free. It is below those that the system gives to connections and to whoever asks for any port, so that nobody takes it until
/// it is listened on; and each is given to one test.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 9_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Other runs on this machine begin elsewhere.
    let begin = std::process::id().wrapping_mul(617);
    let ports = std::iter::repeat_with(|| FIRST + begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let mut ports = ports.take(COUNT as usize).filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}
