//! A program that is measured: started here, ended by its id, looked at through /proc.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const START_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Microseconds of one tick of /proc/PID/stat, on every Linux.
const TICK_US: f64 = 10_000.0;

/// Ends when it is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program and waits until it listens. What it prints goes to `log`.
    pub fn start(command: &mut Command, listens: SocketAddr, log: &Path) -> Result<Process> {
        let name = command.get_program().display().to_string();
        let output = File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let mut process = Process { child };
        let began = Instant::now();
        while std::net::TcpStream::connect(listens).is_err() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                bail!("{name} does not listen on {listens}; it printed:\n{}", std::fs::read_to_string(log)?);
            }
            std::thread::sleep(POLL);
        }
        Ok(process)
    }

    /// Memory that is resident, in KiB: its own and that of its workers.
    pub fn resident_kib(&self) -> Result<u64> {
        let of = |pid: u32| -> Result<u64> {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc/PID/status has no VmRSS")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        self.ids().into_iter().map(of).sum()
    }

    /// CPU time that it and its workers have taken, in microseconds.
    pub fn cpu_us(&self) -> Result<f64> {
        let of = |pid: u32| -> Result<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name may hold anything; what follows its bracket does not.
            let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let (user, system): (f64, f64) = (fields[11].parse()?, fields[12].parse()?);
            Ok((user + system) * TICK_US)
        };
        self.ids().into_iter().map(of).sum()
    }

    fn ids(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().filter_map(|id| id.parse().ok())).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: nginx then ends its workers, and the sidecar writes its last reports.
        let asked = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < END_LIMIT {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
