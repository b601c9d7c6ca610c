"""Names of system calls by what they are for.  A name that this machine's kernel or libseccomp lacks is passed over.

After syscalls(2) and the kernel's tables; what came into the kernel after this was written is in no group, and so in no
policy: it is unknown (ENOSYS), for which programs have to be prepared.
"""

from __future__ import annotations

_TABLE = """
memory: brk mmap mmap2 munmap mprotect mremap madvise mincore msync mlock mlock2 munlock mlockall munlockall
    pkey_mprotect pkey_alloc pkey_free membarrier memfd_create map_shadow_stack mseal
time: time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep
    clock_nanosleep_time64 nanosleep alarm getitimer setitimer timer_create timer_settime timer_settime64
    timer_gettime timer_gettime64 timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_settime64
    timerfd_gettime timerfd_gettime64 times
signals: rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigtimedwait_time64 rt_sigsuspend rt_sigreturn
    sigreturn rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack signalfd signalfd4 pause restart_syscall
threads: futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue set_robust_list get_robust_list
    set_tid_address rseq gettid arch_prctl set_thread_area get_thread_area sched_yield getcpu
self: exit exit_group getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid
    getsid uname sysinfo getrusage getrlimit ugetrlimit setrlimit prlimit64 prctl capget getrandom umask getpriority
ids: setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
processes: fork vfork clone execve execveat wait4 waitid waitpid kill tkill tgkill pidfd_open pidfd_send_signal
    setpgid setsid setpriority ioprio_get ioprio_set process_mrelease
scheduling: sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 sched_getaffinity sched_setaffinity
    sched_getattr sched_setattr get_mempolicy set_mempolicy mbind
reading: read readv pread64 preadv preadv2 lseek _llseek close close_range dup dup2 dup3 fstat fstat64 stat stat64
    lstat lstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs fstatfs64 access faccessat faccessat2 readlink
    readlinkat getdents getdents64 getcwd chdir fchdir fcntl fcntl64 readahead fadvise64 fadvise64_64 cachestat
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
opening: open openat openat2 creat
output: write writev pwrite64 pwritev pwritev2
writing: truncate truncate64 ftruncate ftruncate64 fallocate mkdir mkdirat rmdir unlink unlinkat rename renameat
    renameat2 link linkat symlink symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat
    utime utimes futimesat utimensat utimensat_time64 setxattr lsetxattr fsetxattr removexattr lremovexattr
    fremovexattr fsync fdatasync sync syncfs sync_file_range copy_file_range sendfile sendfile64
locks: flock
watching: inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
polling: poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl
    epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
pipes: pipe pipe2 splice tee vmsplice
aio: io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
sockets: socket socketpair connect bind listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
    sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg recvmmsg_time64
sysv_ipc: shmget shmat shmdt shmctl semget semop semtimedop semtimedop_time64 semctl msgget msgsnd msgrcv msgctl
message_queues: mq_open mq_unlink mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64 mq_notify
    mq_getsetattr
confinement: seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self

namespaces: unshare setns
mounts: mount umount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick
    mount_setattr statmount listmount
tracing: ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp
keys: add_key request_key keyctl
kernel: bpf perf_event_open userfaultfd lookup_dcookie kexec_load kexec_file_load init_module finit_module
    delete_module create_module query_module get_kernel_syms acct quotactl quotactl_fd swapon swapoff reboot syslog
    nfsservctl fanotify_init fanotify_mark move_pages migrate_pages set_mempolicy_home_node vhangup uselib sysfs ustat
    _sysctl iopl ioperm modify_ldt vm86 vm86old pciconfig_read pciconfig_write pciconfig_iobase memfd_secret
clocks: settimeofday stime clock_settime clock_settime64 adjtimex clock_adjtime clock_adjtime64
machine: sethostname setdomainname
io_uring: io_uring_setup io_uring_enter io_uring_register
handles: name_to_handle_at open_by_handle_at
"""


def _groups() -> dict[str, tuple[str, ...]]:
    lines = _TABLE.replace("\n    ", " ").splitlines()
    named = (line.partition(": ") for line in lines if line)
    return {name: tuple(calls.split()) for name, _, calls in named}


#: group → the calls in it; the second part of them is what the default policy refuses
GROUPS = _groups()
