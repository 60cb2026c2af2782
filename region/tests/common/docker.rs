//! Docker's default seccomp profile as a program of the kernel's filter: a list of the system calls that a container
//! without capabilities may make, and EPERM for all others. The names are those of `seccomp/default.json` in
//! `moby/profiles`. Names that no 64-bit architecture has are left out: there is no such call to allow.

use std::io;

use super::check;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NOT_THERE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` has the number, the architecture, and the halves of the first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const LOW: u32 = 16;
const HIGH: u32 = 20;

macro_rules! numbers {
    ($($name:ident),* $(,)?) => { &[$(libc::$name),*] };
}

/// What both architectures have.
#[rustfmt::skip]
const OF_BOTH: &[i64] = numbers![
    SYS_accept, SYS_accept4, SYS_adjtimex, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_chdir,
    SYS_clock_adjtime, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_close, SYS_close_range,
    SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait,
    SYS_epoll_pwait2, SYS_eventfd2, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_faccessat,
    SYS_faccessat2, SYS_fadvise64, SYS_fallocate, SYS_fanotify_mark, SYS_fchdir, SYS_fchmod, SYS_fchmodat,
    SYS_fchown, SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock,
    SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_futex_waitv, SYS_getcpu, SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid,
    SYS_getgroups, SYS_getitimer, SYS_getpeername, SYS_getpgid, SYS_getpid, SYS_getppid, SYS_getpriority,
    SYS_getrandom, SYS_getresgid, SYS_getresuid, SYS_get_robust_list, SYS_getrusage, SYS_getsid,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr,
    SYS_inotify_add_watch, SYS_inotify_init1, SYS_inotify_rm_watch, SYS_io_cancel, SYS_ioctl, SYS_io_destroy,
    SYS_io_getevents, SYS_ioprio_get, SYS_ioprio_set, SYS_io_setup, SYS_io_submit, SYS_kill,
    SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lgetxattr, SYS_linkat,
    SYS_listen, SYS_listxattr, SYS_llistxattr, SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise,
    SYS_membarrier, SYS_memfd_create, SYS_memfd_secret, SYS_mincore, SYS_mkdirat, SYS_mknodat, SYS_mlock,
    SYS_mlock2, SYS_mlockall, SYS_mmap, SYS_mprotect, SYS_mq_getsetattr, SYS_mq_notify, SYS_mq_open,
    SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink, SYS_mremap, SYS_mseal, SYS_msgctl, SYS_msgget,
    SYS_msgrcv, SYS_msgsnd, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap, SYS_name_to_handle_at,
    SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_openat2, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pipe2,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv,
    SYS_preadv2, SYS_prlimit64, SYS_process_mrelease, SYS_pselect6, SYS_pwrite64, SYS_pwritev, SYS_pwritev2,
    SYS_read, SYS_readahead, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg,
    SYS_remap_file_pages, SYS_removexattr, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigpending, SYS_rt_sigprocmask, SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo, SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_getscheduler, SYS_sched_rr_get_interval,
    SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield,
    SYS_seccomp, SYS_semctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg,
    SYS_sendto, SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setitimer, SYS_setpgid,
    SYS_setpriority, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_set_robust_list, SYS_setsid,
    SYS_setsockopt, SYS_set_tid_address, SYS_setuid, SYS_setxattr, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_shmget,
    SYS_shutdown, SYS_sigaltstack, SYS_signalfd4, SYS_socketpair, SYS_splice, SYS_statfs, SYS_statx,
    SYS_symlinkat, SYS_sync, SYS_syncfs, SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_timer_create, SYS_timer_delete,
    SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime,
    SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate, SYS_umask, SYS_uname, SYS_unlinkat, SYS_utimensat,
    SYS_vmsplice, SYS_wait4, SYS_waitid, SYS_write, SYS_writev, SYS_process_vm_readv, SYS_process_vm_writev,
    SYS_ptrace,
];

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OF_ONE: &[i64] = numbers![
    SYS_access, SYS_alarm, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create, SYS_epoll_ctl_old,
    SYS_epoll_wait, SYS_epoll_wait_old, SYS_eventfd, SYS_fork, SYS_futimesat, SYS_getdents,
    SYS_getpgrp, SYS_getrlimit, SYS_get_thread_area, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat,
    SYS_mkdir, SYS_mknod, SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_renameat,
    SYS_rmdir, SYS_select, SYS_setrlimit, SYS_set_thread_area, SYS_signalfd, SYS_stat, SYS_symlink,
    SYS_sync_file_range, SYS_time, SYS_unlink, SYS_utime, SYS_utimes, SYS_vfork,
    SYS_arch_prctl, SYS_modify_ldt,
];

/// `getrlimit`, `setrlimit`, `renameat`, `sync_file_range`, `io_pgetevents`: the `libc` crate has no names for them.
#[cfg(target_arch = "aarch64")]
const OF_ONE: &[i64] = &[163, 164, 38, 84, 292];

/// The same: `io_pgetevents`, `uretprobe`.
#[cfg(target_arch = "x86_64")]
const UNNAMED: &[i64] = &[333, 335];
#[cfg(target_arch = "aarch64")]
const UNNAMED: &[i64] = &[];

/// New calls, which have one number on all architectures: `cachestat`, `fchmodat2`, `map_shadow_stack`, `futex_wake`,
/// `futex_wait`, `futex_requeue`, `statmount`, `listmount`, `setxattrat`, `getxattrat`, `listxattrat`, `removexattrat`.
const NEW: &[i64] = &[451, 452, 453, 454, 455, 456, 457, 458, 463, 464, 465, 466];

/// The families of sockets from 12 on that are allowed. `AF_ALG` and `AF_VSOCK` are not among them.
const FAMILIES: &[u32] = &[
    13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44,
    45,
];
const PERSONALITIES: &[u32] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The flags of `clone` that make a namespace.
const NAMESPACES: u32 = 0x7e02_0000;

/// A program of the kernel's filter.
#[derive(Default)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        self.0.push(libc::sock_filter { code: code as u16, jt, jf, k });
    }

    fn load(&mut self, at: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    }

    fn end(&mut self, with: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, with, 0, 0);
    }

    /// Ends if what was loaded is `value`.
    fn end_if(&mut self, value: u32, with: u32) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, 1);
        self.end(with);
    }

    fn end_unless(&mut self, value: u32, with: u32) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 1, 0);
        self.end(with);
    }

    /// If the call is `number`, does what `rules` says, and then denies it.
    fn of(&mut self, number: i64, rules: impl FnOnce(&mut Filter)) {
        let mut inner = Filter::default();
        rules(&mut inner);
        inner.end(DENY);
        let skip = u8::try_from(inner.0.len()).unwrap();
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32, 0, skip);
        self.0.append(&mut inner.0);
    }

    fn start() -> Filter {
        let mut filter = Filter::default();
        filter.load(ARCH);
        filter.end_unless(ARCHITECTURE, KILL);
        filter.load(NUMBER);
        filter
    }

    /// Docker's default profile, for a container without capabilities.
    pub fn of_docker() -> Filter {
        let mut filter = Filter::start();
        for number in [OF_BOTH, OF_ONE, UNNAMED, NEW].into_iter().flatten() {
            filter.end_if(*number as u32, ALLOW);
        }
        filter.end_if(libc::SYS_clone3 as u32, NOT_THERE);
        filter.of(libc::SYS_clone, |rules| {
            rules.load(LOW);
            rules.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, NAMESPACES, 0, 0);
            rules.end_if(0, ALLOW);
        });
        filter.of(libc::SYS_socket, |rules| {
            rules.load(HIGH);
            rules.end_unless(0, DENY);
            rules.load(LOW);
            rules.push(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 12, 1, 0);
            rules.end(ALLOW);
            FAMILIES.iter().for_each(|family| rules.end_if(*family, ALLOW));
        });
        filter.of(libc::SYS_personality, |rules| {
            rules.load(HIGH);
            rules.end_unless(0, DENY);
            rules.load(LOW);
            PERSONALITIES.iter().for_each(|persona| rules.end_if(*persona, ALLOW));
        });
        filter.end(DENY);
        filter
    }

    /// Denies some calls and allows all others.
    pub fn without(numbers: &[i64]) -> Filter {
        Filter::that_ends(numbers, DENY)
    }

    /// Ends the process by SIGSYS at some calls, and allows all others.
    pub fn deadly(numbers: &[i64]) -> Filter {
        Filter::that_ends(numbers, KILL)
    }

    fn that_ends(numbers: &[i64], with: u32) -> Filter {
        let mut filter = Filter::start();
        numbers.iter().for_each(|number| filter.end_if(*number as u32, with));
        filter.end(ALLOW);
        filter
    }

    /// Puts all threads of this process under the filter, for ever.
    pub fn install(&mut self) -> io::Result<()> {
        // SAFETY: changes no memory.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } as isize)?;
        let len = u16::try_from(self.0.len()).unwrap();
        let program = libc::sock_fprog { len, filter: self.0.as_mut_ptr() };
        let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
        // SAFETY: the program is as long as it says, and the call only reads it.
        let done = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
        check(done as isize).map(drop)
    }
}
