//! `zswap compare --pid` on a process that this test starts: what the sample contains and leaves out,
//! and that the process continues whatever happens to `zswap`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure there is the test's own message"
)]

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

const PAGE: usize = 4096;
/// The environment variable that makes this program the target. Its value is the size of the heap in MiB.
const ROLE: &str = "ZSWAP_TEST_TARGET_MIB";
/// The variable in the target's environment with the mark that must not be in a sample.
const SECRET: &str = "ZSWAP_TEST_SECRET";

/// Returns 16 bytes that nothing else contains. They are computed, so that the program's file does
/// not contain them either.
fn mark(kind: u8) -> [u8; 16] {
    let seed = black_box(0x9e37_79b9_7f4a_7c15_u64).wrapping_mul(u64::from(kind) + 3);
    let mut mark = [0; 16];
    for (i, byte) in mark.iter_mut().enumerate() {
        // Only letters are used, so that the mark can be in the environment, too.
        *byte = b'a' + ((seed >> (i * 4 % 60)) as u8 ^ kind.wrapping_mul(i as u8)) % 26;
    }
    mark
}

const HEAP: u8 = 1;
const STACK: u8 = 2;
const ENVIRONMENT: u8 = 3;

/// Runs `body` while a part of the stack is full of marks.
fn with_marked_stack(body: impl FnOnce()) {
    with_marks::<{ 6 * PAGE }>(body);
}

fn with_marks<const BYTES: usize>(body: impl FnOnce()) {
    let mut stack = [0u8; BYTES];
    let mark = mark(STACK);
    for (at, byte) in stack.iter_mut().enumerate() {
        *byte = mark[at % 16];
    }
    black_box(&mut stack);
    body();
    black_box(&mut stack);
}

fn wait_for_ever() {
    loop {
        thread::park();
    }
}

static IN_HANDLER: AtomicBool = AtomicBool::new(false);

/// Never returns, so that its thread stays on the alternate signal stack. That stack has its own
/// mapping, without a guard.
extern "C" fn handler(_: libc::c_int) {
    // The alternate stack is small.
    with_marks::<512>(|| {
        IN_HANDLER.store(true, Ordering::SeqCst);
        loop {
            // SAFETY: it only waits.
            unsafe { libc::pause() };
        }
    });
}

fn sit_in_a_handler() {
    const BYTES: usize = 16 * PAGE;
    let (access, kind) = (
        // The mapping is executable, so that it is not merged with its neighbours.
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: makes a new mapping, at an address that the system chooses.
    let ss_sp = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, access, kind, -1, 0) };
    assert_ne!(ss_sp, libc::MAP_FAILED);
    let stack = libc::stack_t { ss_sp, ss_flags: 0, ss_size: BYTES };
    // SAFETY: the memory is never unmapped, and nothing else uses it.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: the handler only waits, and touches its own stack and an atomic.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    // SAFETY: raises, in this thread, the signal that is handled above.
    unsafe { libc::raise(libc::SIGUSR1) };
}

/// Not a test, but the target process: the tests below start this program again to run this function.
#[test]
#[ignore = "a process that the other tests start"]
fn the_target() {
    let Ok(mib) = std::env::var(ROLE) else { return };
    // SAFETY: lets any process of the same user attach, where that needs permission.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let mut heap = vec![0u8; mib.parse::<usize>().unwrap() << 20];
    let mark = mark(HEAP);
    for (n, page) in heap.chunks_mut(PAGE).enumerate() {
        page[..16].copy_from_slice(&mark);
        page[16..24].copy_from_slice(&n.to_le_bytes());
        page[24..].fill(n as u8 | 1);
    }
    thread::spawn(|| with_marked_stack(wait_for_ever));
    thread::spawn(|| with_marked_stack(sit_in_a_handler));
    while !IN_HANDLER.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    // The thread ends, and the C library keeps its stack for the next thread.
    thread::spawn(|| with_marked_stack(|| {})).join().unwrap();
    with_marked_stack(|| {
        let mut out = std::io::stdout();
        // Reads a page of the heap between any two writes.
        for page in heap.chunks(PAGE).cycle() {
            black_box(page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
            // Ends when the test closes the pipe.
            if out.write_all(&[b'.'; 1024]).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    });
}

/// The target process; killed on drop.
struct Target {
    child: Child,
    ticks: ChildStdout,
}

impl Target {
    fn start(mib: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "the_target", "--nocapture", "--test-threads", "1"])
            .env(ROLE, mib.to_string())
            .env(SECRET, String::from_utf8(mark(ENVIRONMENT).to_vec()).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ticks = child.stdout.take().unwrap();
        let mut target = Target { child, ticks };
        target.goes_on();
        target
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits until the target has made progress: reads more than a pipe holds, so that some of it
    /// was written after the call.
    fn goes_on(&mut self) {
        let mut seen = 0;
        let mut buffer = [0; 4096];
        // libtest's own output comes first.
        while seen < 70_000 {
            let got = self.ticks.read(&mut buffer).unwrap();
            assert!(got > 0, "the target has ended");
            seen += got;
        }
    }

    fn state(&self) -> char {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("State:")).unwrap();
        line["State:".len()..].trim().chars().next().unwrap()
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: signals the child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn zswap() -> Command {
    Command::new(env!("CARGO_BIN_EXE_zswap"))
}

const QUICK: [&str; 6] = ["--zpool", "zbud", "--compressor", "lz4", "--rounds", "1"];

/// Returns whether this machine allows attaching to a process. If not, prints that the test was skipped.
fn allowed(output: &Output) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) && stderr.contains("not allowed") {
        let _ = writeln!(std::io::stderr(), "NOT TESTED: ptrace is not permitted here: {stderr}");
        return false;
    }
    true
}

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    memmem(bytes, needle).is_some()
}

fn memmem(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn the_heap_is_in_the_sample_and_stacks_and_environment_are_not() {
    let folder = Folder::new("sample");
    let file = folder.0.join("sample.zst");
    let mut target = Target::start(8);
    let output = zswap()
        .args(["compare", "--pid", &target.pid(), "--json", "--save"])
        .arg(&file)
        .args(QUICK)
        .output()
        .unwrap();
    if !allowed(&output) {
        return;
    }
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("secrets") && stderr.lines().count() == 1, "{stderr}");
    target.goes_on();

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sample = &report[0]["sample"];
    assert_eq!(sample["pid"].to_string(), target.pid());
    // These are the main thread, the thread that runs the target, and the two that wait.
    assert_eq!(sample["threads"], 4, "{sample}");
    let stopped = sample["stopped_ms"].as_f64().unwrap();
    assert!(stopped > 0.0 && stopped < 10_000.0, "{sample}");
    assert_eq!(report[0]["verified"], true);
    let pages = report[0]["pages"].as_u64().unwrap();
    // The sample has all pages of a small process, except those that turned out to be stacks when the
    // process was stopped.
    let eligible = sample["eligible_pages"].as_u64().unwrap();
    assert!(pages <= eligible && eligible - pages <= 16, "{pages} of {eligible}");
    assert!((2048..10_000).contains(&pages), "{pages}");

    let saved = zstd::decode_all(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(saved.len() as u64, pages * PAGE as u64);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(!contains(&saved, &mark(STACK)), "a stack is in the sample");
    assert!(!contains(&saved, &mark(ENVIRONMENT)), "the environment is in the sample");
    let mut found = vec![false; 8 << 20 >> 12];
    // A large block starts after the allocator's header, in the middle of a page.
    let at = memmem(&saved, &mark(HEAP)).unwrap();
    for page in saved[at % PAGE..].chunks_exact(PAGE).filter(|page| page[..16] == mark(HEAP)) {
        let n = usize::from_le_bytes(page[16..24].try_into().unwrap());
        assert!(page[24..].iter().all(|byte| *byte == n as u8 | 1), "page {n} is torn");
        found[n] = true;
    }
    let missing = found.iter().filter(|found| !**found).count();
    assert!(missing <= 2, "{missing} of the heap's pages are not in the sample");

    // A later run can use the file, but not overwrite it.
    let again = zswap().args(["compare", "--json", "--pages"]).arg(&file).args(QUICK).output();
    let again: Value = serde_json::from_slice(&again.unwrap().stdout).unwrap();
    for key in ["pages", "same_filled", "stored", "compressed_bytes", "pool_bytes"] {
        assert_eq!(again[0][key], report[0][key], "{key}");
    }
    assert_eq!(again[0]["sample"], Value::Null);
    let line = complaint(&["--pid", &target.pid(), "--save", file.to_str().unwrap()]);
    assert!(line.contains("a name that is not taken"), "{line}");
}

#[test]
fn a_large_process_is_sampled_in_runs_spread_over_all_of_it() {
    let folder = Folder::new("runs");
    let file = folder.0.join("sample.zst");
    let target = Target::start(64);
    let output = zswap()
        .args(["compare", "--pid", &target.pid(), "--pages-max", "1600", "--json", "--save"])
        .arg(&file)
        .args(QUICK)
        .output()
        .unwrap();
    if !allowed(&output) {
        return;
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report[0]["pages"], 1600);
    let saved = zstd::decode_all(fs::File::open(&file).unwrap()).unwrap();
    let at = memmem(&saved, &mark(HEAP)).unwrap();
    let numbers: Vec<usize> = saved[at % PAGE..]
        .chunks_exact(PAGE)
        .filter(|page| page[..16] == mark(HEAP))
        .map(|page| usize::from_le_bytes(page[16..24].try_into().unwrap()))
        .collect();
    // The 16384 pages of heap are almost everything: about 100 runs, about 164 pages apart.
    assert!(numbers.len() > 1300, "{}", numbers.len());
    let jumps: Vec<usize> =
        numbers.windows(2).map(|w| w[1] - w[0]).filter(|jump| *jump > 2).collect();
    assert!(jumps.len() > 80 && jumps.iter().all(|jump| (100..220).contains(jump)), "{jumps:?}");
}

#[test]
fn a_target_goes_on_when_zswap_is_killed() {
    let mut target = Target::start(256);
    let mut killed = 0;
    for wait in [2, 5, 9, 14, 20, 30, 45, 60, 80, 110] {
        let mut child = zswap()
            .args(["compare", "--pid", &target.pid(), "--pages-max", "65536", "--rounds", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        // Kills zswap as soon as the target is stopped, or when the time is over.
        while begun.elapsed() < Duration::from_millis(2000) {
            let still = target.state() == 't';
            if still || begun.elapsed() > Duration::from_millis(1500 + wait) {
                killed += usize::from(still);
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let begun = Instant::now();
        while matches!(target.state(), 't' | 'T') {
            assert!(begun.elapsed() < Duration::from_secs(10), "the target was left stopped");
        }
        target.goes_on();
    }
    if killed == 0 {
        let output = zswap().args(["compare", "--pid", &target.pid()]).args(QUICK).output();
        assert!(!allowed(&output.unwrap()), "zswap was never killed while the target was stopped");
    }
}

#[test]
fn a_stopped_target_stays_stopped_and_goes_on_when_told() {
    let mut target = Target::start(1);
    target.signal(libc::SIGSTOP);
    while target.state() != 'T' {
        thread::yield_now();
    }
    let output = zswap().args(["compare", "--pid", &target.pid()]).args(QUICK).output().unwrap();
    if !allowed(&output) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(target.state(), 'T');
    target.signal(libc::SIGCONT);
    target.goes_on();
}

/// Runs a command line that must be refused as bad input. Returns the one line that it prints.
fn complaint(args: &[&str]) -> String {
    one_line(zswap().arg("compare").args(args).output().unwrap())
}

fn one_line(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
    assert!(stderr.starts_with("zswap: ") && stderr.lines().count() == 1, "{stderr}");
    stderr
}

#[test]
fn what_cannot_be_sampled_is_one_line() {
    let mut gone = Command::new("true").spawn().unwrap();
    let zombie = gone.id().to_string();
    while !fs::read_to_string(format!("/proc/{zombie}/stat")).unwrap().contains(") Z ") {
        thread::yield_now();
    }
    assert!(complaint(&["--pid", &zombie]).contains("has ended"));
    gone.wait().unwrap();
    for (pid, says) in [(&*zombie, "no process"), ("0", "no process"), ("-4", "no process")] {
        let line = complaint(&[&format!("--pid={pid}")]);
        assert!(line.contains(says), "{pid}: {line}");
    }
    if fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm.trim() == "kthreadd") {
        assert!(complaint(&["--pid", "2"]).contains("kernel thread"));
    }
}

#[test]
fn another_users_process_is_not_allowed() {
    // SAFETY: only returns a number.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        let line = complaint(&["--pid", "1"]);
        assert!(line.contains("not allowed") && line.contains("ptrace_scope"), "{line}");
        return;
    }
    let target = Target::start(1);
    let folder = std::env::temp_dir().join(format!("zswap-nobody-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("zswap");
    fs::copy(env!("CARGO_BIN_EXE_zswap"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = || {
        Command::new(&program)
            .args(["compare", "--pid", &target.pid()])
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
    };
    // A child that another test is starting may still have the copy open for writing.
    let output = loop {
        match as_nobody() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            output => break output,
        }
    };
    let _ = fs::remove_dir_all(&folder);
    let line = one_line(output.unwrap());
    assert!(line.contains("not allowed") && line.contains("ptrace_scope"), "{line}");
}

#[test]
fn a_target_that_is_traced_already_names_its_tracer() {
    let target = Target::start(1);
    // This test's thread is the tracer. Its attachment ends with this thread.
    let tid = target.child.id() as i32;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: attaches to the child without stopping it; passes no memory.
    let attached = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, null, null) };
    if attached != 0 {
        let _ = writeln!(std::io::stderr(), "NOT TESTED: ptrace is not permitted here");
        return;
    }
    let line = complaint(&["--pid", &target.pid()]);
    // SAFETY: only returns a number.
    let tracer = unsafe { libc::gettid() };
    assert!(line.contains(&format!("traced by process {tracer}")), "{line}");
}
