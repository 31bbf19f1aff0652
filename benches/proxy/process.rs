//! A program that is measured: started here, ended by its id, looked at through /proc.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const END_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);
/// What an answer to a question for readiness may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Microseconds of one tick of /proc/PID/stat, on every Linux.
const TICK_US: f64 = 10_000.0;

/// When a program counts as started.
#[derive(Clone, Copy, Debug)]
pub enum Started {
    /// When it accepts a connection.
    Listens(SocketAddr),
    /// When `GET /readyz` is answered with 200.
    Ready(SocketAddr),
}

impl Started {
    fn holds(self) -> bool {
        match self {
            Started::Listens(address) => TcpStream::connect(address).is_ok(),
            Started::Ready(address) => ready(address).unwrap_or(false),
        }
    }
}

fn ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"HTTP/1.1 200")
}

/// Ends when it is dropped.
pub struct Process {
    child: Child,
    /// From its start until it counted as started.
    pub start: Duration,
}

impl Process {
    /// Starts a program and waits, `limit` at most, until it counts as started. What it prints goes to `log`.
    pub async fn start(command: &mut Command, started: Started, limit: Duration, log: &Path) -> Result<Process> {
        let name = command.get_program().display().to_string();
        let output = File::create(log)?;
        // A group of its own, so that its workers can be ended with it.
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut process = Process { child, start: Duration::ZERO };
        while !started.holds() {
            let ended = process.child.try_wait()?;
            if ended.is_some() || began.elapsed() > limit {
                bail!("{name} did not start; it printed:\n{}", std::fs::read_to_string(log)?);
            }
            tokio::time::sleep(POLL).await;
        }
        process.start = began.elapsed();
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
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
            // Its own time in the program and in the kernel, and that of the children that it has seen end.
            let ticks: u64 = fields[11..15].iter().map(|field| field.parse().unwrap_or(0)).sum();
            Ok(ticks as f64 * TICK_US)
        };
        self.ids().into_iter().map(of).sum()
    }

    /// Its own id, and those of what it started.
    fn ids(&self) -> Vec<u32> {
        let mut ids = vec![self.child.id()];
        let mut looked_at = 0;
        while let Some(pid) = ids.get(looked_at) {
            // Each thread has children of its own.
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
            let children: Vec<u32> = lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
            ids.extend(children);
            looked_at += 1;
        }
        ids
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: nginx then ends its workers, and the sidecar writes its last reports.
        let pid = Pid::from_child(&self.child);
        let asked = kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < END_LIMIT {
            if let Ok(Some(_)) = self.child.try_wait() {
                break;
            }
            std::thread::sleep(POLL);
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}
