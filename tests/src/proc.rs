//! A child process with its output, and bounded waits.
//!
//! Children are started by one thread that lives as long as this process, because the kernel's
//! "kill when the parent dies" is tied to the thread that forked.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How much of each stream is kept; the oldest half goes first.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// How much of a log a failing test shows.
const TAIL_LINES: usize = 60;

/// How long a process may take to end when its guard is dropped.
const FAREWELL: Duration = Duration::from_secs(5);

/// What can be said to a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    Hangup,
    Interrupt,
    Quit,
    Kill,
    Terminate,
    /// Stops it in its tracks, for tests of hung peers.
    Stop,
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::Kill => libc::SIGKILL,
            Self::Terminate => libc::SIGTERM,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// A running child. Dropped, it is ended; if the test is failing, the tail of its log is shown.
#[derive(Debug)]
pub struct Proc {
    name: String,
    pid: libc::pid_t,
    shared: Arc<Shared>,
    /// What ends it politely.
    farewell: Signal,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stdout: Stream,
    stderr: Stream,
    status: Option<ExitStatus>,
}

/// One stream of its output: what was read of it, and the pipe until its end. Whoever looks reads
/// first what is there, so that what the child wrote before it did anything that a test has seen is
/// in its log, whether or not the thread that follows it has had its turn.
#[derive(Debug, Default)]
struct Stream {
    kept: Vec<u8>,
    pipe: Option<File>,
}

impl Stream {
    /// Reads all that is there. Never waits.
    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 16 << 10];
        loop {
            match pipe.read(&mut buffer) {
                Ok(length @ 1..) => {
                    self.kept.extend_from_slice(buffer.get(..length).unwrap_or_default());
                    if self.kept.len() > OUTPUT_BYTES_MAX {
                        self.kept.drain(..OUTPUT_BYTES_MAX / 2);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => break,
            }
        }
        self.pipe = None;
    }
}

impl State {
    fn read(&mut self) {
        self.stdout.read();
        self.stderr.read();
    }

    /// It has ended, and all of its output is read.
    fn is_over(&self) -> bool {
        self.status.is_some() && self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }
}

impl Proc {
    /// Starts a command with its output captured and, unless the command says otherwise, no input.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, command: Command) -> Result<Self> {
        Self::spawn_with(name, command, Signal::Terminate, None)
    }

    /// As [`Proc::spawn`], with the signal that ends it politely, and its input.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_with(
        name: &str,
        mut command: Command,
        farewell: Signal,
        input: Option<Vec<u8>>,
    ) -> Result<Self> {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only `prctl` runs, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let shown = format!("{command:?}");
        let mut child = start(command).with_context(|| format!("start {name}: {shown}"))?;
        let shared = Arc::new(Shared::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdout = pipe(stdout.context("standard output")?)?;
        let stderr = pipe(stderr.context("standard error")?)?;
        let (out, err) = (stdout.try_clone()?, stderr.try_clone()?);
        {
            let mut state = shared.lock();
            (state.stdout.pipe, state.stderr.pipe) = (Some(stdout), Some(stderr));
        }
        follow(&shared, |state| &mut state.stdout, out);
        follow(&shared, |state| &mut state.stderr, err);
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // A child that ends early closes its input; that is its affair.
            thread::spawn(move || stdin.write_all(&input));
        }
        let pid = libc::pid_t::try_from(child.id()).context("a process id")?;
        reap(&shared, pid, child);
        Ok(Self { name: name.to_owned(), pid, shared, farewell })
    }

    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    pub fn is_running(&self) -> bool {
        self.shared.lock().status.is_none()
    }

    /// Sends a signal. To a process that has ended it does nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.shared.lock();
        if state.status.is_some() {
            return Ok(());
        }
        // SAFETY: the process has not been reaped, which needs the lock, so the id is still its
        // own; `kill` touches no memory of ours.
        let done = unsafe { libc::kill(self.pid, signal.number()) };
        drop(state);
        ensure!(done == 0, "signal {}: {}", self.name, std::io::Error::last_os_error());
        Ok(())
    }

    /// Waits until it has ended and all its output is read.
    ///
    /// # Errors
    /// It is still running after `within`.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus> {
        let ended = self.until(within, |state| state.status.filter(|_| state.is_over()));
        let Some(status) = ended else {
            bail!("{} still runs after {within:?}{}", self.name, Tail(&self.log()))
        };
        Ok(status)
    }

    /// Waits until a line of its output contains `needle`, and returns that line.
    ///
    /// # Errors
    /// It ended without, or did not write it within the time.
    pub fn wait_line(&self, needle: &str, within: Duration) -> Result<String> {
        let found = self.until(within, |state| {
            let line = find_line(&state.stdout.kept, needle)
                .or_else(|| find_line(&state.stderr.kept, needle));
            line.map(Ok).or_else(|| state.is_over().then_some(Err(state.status)))
        });
        match found {
            Some(Ok(line)) => Ok(line),
            Some(Err(status)) => {
                let status = status.map(|status| status.to_string()).unwrap_or_default();
                bail!("{} ended ({status}) without `{needle}`{}", self.name, Tail(&self.log()))
            }
            None => {
                bail!("{} said no `{needle}` in {within:?}{}", self.name, Tail(&self.log()))
            }
        }
    }

    /// Everything that it wrote, standard output first.
    pub fn log(&self) -> String {
        let (stdout, stderr) = self.output();
        let mut log = String::from_utf8_lossy(&stdout).into_owned();
        log.push_str(&String::from_utf8_lossy(&stderr));
        log
    }

    /// What it wrote on standard error behind so many bytes, and how many there are now.
    pub fn errors_from(&self, from: usize) -> (String, usize) {
        let mut state = self.shared.lock();
        state.read();
        let kept = &state.stderr.kept;
        let rest = kept.get(from..).unwrap_or_default();
        (String::from_utf8_lossy(rest).into_owned(), kept.len())
    }

    /// The last lines that it wrote, for messages.
    pub fn tail(&self) -> String {
        Tail(&self.log()).to_string()
    }

    /// Its standard output and standard error.
    pub fn output(&self) -> (Vec<u8>, Vec<u8>) {
        let mut state = self.shared.lock();
        state.read();
        (state.stdout.kept.clone(), state.stderr.kept.clone())
    }

    /// Kills it at once, as a power cut would, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::Kill)?;
        let gone = self.until(FAREWELL, |state| state.status);
        ensure!(gone.is_some(), "{} survives being killed", self.name);
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&self, within: Duration) -> Result<ExitStatus> {
        self.signal(self.farewell)?;
        self.wait(within)
    }

    fn until<T>(&self, within: Duration, check: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = check(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} (process {}){}", self.name, self.pid, self.tail());
        }
        let polite = self.signal(self.farewell);
        if polite.is_err() || self.until(FAREWELL, |state| state.status).is_none() {
            let _ = self.kill();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a command to its end, with input if there is any.
///
/// # Errors
/// It cannot be started, or does not end within the time; it is then killed.
pub fn capture(command: Command, input: Option<Vec<u8>>, within: Duration) -> Result<Captured> {
    let name = command.get_program().to_string_lossy().into_owned();
    let proc = Proc::spawn_with(&name, command, Signal::Kill, input)?;
    let status = proc.wait(within)?;
    let (stdout, stderr) = proc.output();
    Ok(Captured { name, status, stdout, stderr })
}

/// What a program that ran to its end said.
#[derive(Clone, Debug)]
pub struct Captured {
    name: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Captured {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; a signal counts as 128 and its number, as in a shell.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// It failed; the message has what it wrote.
    pub fn success(self) -> Result<String> {
        ensure!(self.status.success(), "{self}");
        Ok(self.out())
    }
}

impl fmt::Display for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, status, .. } = self;
        write!(f, "`{name}` ended with {status}{}{}", Tail(&self.out()), Tail(&self.err()))
    }
}

struct Tail<'a>(&'a str);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Forks in the thread that lives as long as we do.
fn start(command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let gone = || std::io::Error::other("the thread that starts processes is gone");
    let (sender, answer) = mpsc::channel();
    let order = (command, sender);
    starter.lock().unwrap_or_else(PoisonError::into_inner).send(order).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// The end of a pipe that a child writes to, for reading what is there without waiting for more.
fn pipe(from: impl Into<OwnedFd>) -> Result<File> {
    let end: OwnedFd = from.into();
    let fd = end.as_raw_fd();
    // SAFETY: the descriptor is open and ours, and both calls touch no memory of ours. The flag is of
    // our end alone.
    let set = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    ensure!(set, "set up a pipe: {}", std::io::Error::last_os_error());
    Ok(File::from(end))
}

/// Reads what comes on one stream, to its end, and wakes who waits for it.
fn follow(shared: &Arc<Shared>, stream: fn(&mut State) -> &mut Stream, end: File) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        loop {
            let mut awaited =
                libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `awaited` is one valid `pollfd`, and its descriptor is open as long as `end`.
            unsafe { libc::poll(&raw mut awaited, 1, -1) };
            let mut state = shared.lock();
            let stream = stream(&mut state);
            stream.read();
            let over = stream.pipe.is_none();
            drop(state);
            shared.changed.notify_all();
            if over {
                return;
            }
        }
    });
}

fn reap(shared: &Arc<Shared>, pid: libc::pid_t, mut child: Child) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let id = libc::id_t::try_from(pid).unwrap_or_default();
        loop {
            // SAFETY: zero is a valid `siginfo_t`, which `waitid` only fills; WNOWAIT leaves the
            // process to be reaped below, under the lock.
            let waited = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED | libc::WNOWAIT)
            };
            let interrupted = std::io::Error::last_os_error().kind();
            if waited == 0 || interrupted != std::io::ErrorKind::Interrupted {
                break;
            }
        }
        let mut state = shared.lock();
        state.status = Some(child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0x7f00)));
        drop(state);
        shared.changed.notify_all();
    });
}

fn find_line(text: &[u8], needle: &str) -> Option<String> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let is_whole = |line: &&[u8]| line.ends_with(b"\n");
    let found = lines
        .by_ref()
        .filter(is_whole)
        .map(String::from_utf8_lossy)
        .find(|line| line.contains(needle));
    found.map(|line| line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::TempDir;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_captured() {
        let got = capture(shell("cat; echo err >&2; exit 3"), Some(b"in".to_vec()), SOON).unwrap();
        assert_eq!((got.code(), got.out().as_str(), got.err().as_str()), (3, "in", "err\n"));
        assert!(got.success().unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn a_line_is_awaited_until_it_comes_or_cannot_come() {
        let proc = Proc::spawn("sh", shell("echo one; echo two; sleep 100")).unwrap();
        assert_eq!(proc.wait_line("tw", SOON).unwrap(), "two");
        let error = proc.wait_line("three", Duration::from_millis(10)).unwrap_err();
        assert!(error.to_string().contains("said no `three`"), "{error}");
        let ended = Proc::spawn("sh", shell("echo one; exit 7")).unwrap();
        let error = ended.wait_line("three", SOON).unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("one"), "{error}");
    }

    /// Whoever sees what a process has done sees what it wrote before.
    #[test]
    fn what_was_written_is_in_the_log_at_once() {
        let dir = TempDir::new("log").unwrap();
        for n in 0..40 {
            let done = dir.join(format!("done-{n}"));
            let script = format!("echo one; echo two >&2; : > '{}'; sleep 100", done.display());
            let proc = Proc::spawn("sh", shell(&script)).unwrap();
            let until = Instant::now() + SOON;
            while !done.exists() {
                assert!(Instant::now() < until, "{}", proc.log());
            }
            assert_eq!(proc.log(), "one\ntwo\n", "{n}");
        }
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let proc = Proc::spawn("sh", shell("echo up; exec sleep 100")).unwrap();
        proc.wait_line("up", SOON).unwrap();
        let pid = proc.pid();
        drop(proc);
        // SAFETY: signal 0 only asks.
        assert_eq!(unsafe { libc::kill(pid, 0) }, -1);
    }

    #[test]
    fn a_killed_process_says_so() {
        let proc = Proc::spawn("sleep", shell("exec sleep 100")).unwrap();
        assert!(proc.is_running());
        proc.kill().unwrap();
        assert_eq!(proc.wait(SOON).unwrap().signal(), Some(libc::SIGKILL));
        proc.signal(Signal::Terminate).unwrap();
    }
}
