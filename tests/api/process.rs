//! Child processes that end with this one, however it ends.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

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

/// A port that is free; whoever takes it must cope with somebody being faster.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
