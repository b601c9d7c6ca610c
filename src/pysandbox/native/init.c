/* init.c: PID 1 of a box.
 *
 * The application makes this process with all the box's namespaces, from a sealed memfd (so nothing of the
 * application's memory is in it, and no file of the host is behind /proc/1/exe).  It carries out the box's plan,
 * then waits for requests on the control socket: run a program, open a file.
 *
 *   application --control socket--> init --fork--> the run's child: its plan, ending in EXEC
 *               <--run's socket---- started, ended
 *
 * A run and its tree.  init is the parent of a run's program, and every orphan of the run falls to init, so when
 * the program has ended init kills all that is left and then says so.  As PID 1 with one run it does that with
 * kill(-1), which no fork can outrun.  A run that starts while another is on goes to a *keeper*: a copy of init,
 * made a subreaper, that serves that one run by the same loop and ends with it.
 *
 * The end.  The box ends when the control socket closes or the application's pidfd says that it died, whichever
 * is first.  init then exits, and the kernel kills the PID namespace with it; without a PID namespace of its own
 * init kills its tree first.
 *
 * Starting is vfork-style (CLONE_VM | CLONE_VFORK, a stack of its own): nothing is copied, and a failure comes back
 * in shared memory.  What the child does in that time is pb_execute and nothing else.  It is not dumpable, as init is
 * not, so no process of the payload's uid can reach the shared memory through it (ptrace(2)); the application keeps
 * argv and env well below the run's memory limit, as an OOM kill before exec would take init along.
 *
 * Owns: the control socket, the runs' sockets, the fds received.  May call: sys.h, messages.h, files.h, steps.h.  No libc, no
 * allocation but mmap of a large request's body, no handler of any signal (all are blocked, SIGCHLD comes by signalfd).
 */
#include "files.h"
#include "messages.h"
#include "steps.h"
#include "sys.h"

#define CONTROL_FD 3 /* where spawn.c puts them */
#define APPLICATION_FD 4
#define MAX_KEEPERS 256
#define CHILD_STACK (64u << 10)

struct run {
    int socket; /* -1: no run */
    int program; /* its pid; 0 once it has been waited for */
    bool last; /* the box ends with it */
    uint64_t started; /* CLOCK_MONOTONIC */
    bool measure; /* PB_MEASURE */
    bool killing; /* what is left of it is being killed */
    bool ending; /* the program has ended, or is to be killed with all of its run */
    struct pb_reply report;
};

static struct state {
    int control; /* -1 in a keeper */
    int application;
    int signals;
    int events; /* an epoll: poll(2) would fail once a payload with our uid had lowered our RLIMIT_NOFILE */
    int children; /* /proc/thread-self/children, once it is needed: kept open for the same reason */
    bool is_pid1;
    bool is_keeper;
    uint32_t n_keepers;
    int keepers[MAX_KEEPERS];
    struct run run;
    struct pb_context context;
} state;

/* A list of n strings takes n bytes at least, so this many pointers are enough for argv and env of a small body. */
static const char *small_pointers[PB_SMALL_BODY + 2];
static char child_stack[CHILD_STACK] __attribute__((aligned(16)));

/* --- what init waits for ------------------------------------------------------------------------------------ */

static bool watch(const struct state *s, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = (uint64_t)fd};
    return SYS4(__NR_epoll_ctl, s->events, EPOLL_CTL_ADD, fd, &event) >= 0;
}

static void ignore(const struct state *s, int fd)
{
    struct epoll_event event = {0};
    SYS4(__NR_epoll_ctl, s->events, EPOLL_CTL_DEL, fd, &event);
}

/* Opens what a process of init's needs to see its children and their ends. */
static bool open_senses(struct state *s)
{
    uint64_t child = 1u << (PB_SIGCHLD - 1);
    s->events = (int)SYS1(__NR_epoll_create1, O_CLOEXEC);
    s->signals = (int)SYS4(__NR_signalfd4, -1, &child, sizeof child, O_CLOEXEC | O_NONBLOCK);
    return s->events >= 0 && s->signals >= 0 && watch(s, s->signals);
}

static bool open_children(struct state *s)
{
    if (s->children >= 0)
        return true;
    /* The host's /proc counts in the host's pids, which are ours only if we share its namespace. */
    int proc = s->context.box_proc >= 0 ? s->context.box_proc : s->is_pid1 ? -1 : s->context.host_proc;
    s->children = proc < 0 ? -1 : (int)sys_openat(proc, "thread-self/children", O_RDONLY | O_CLOEXEC, 0);
    return s->children >= 0;
}

/* --- a run's tree ----------------------------------------------------------------------------------------- */

/* SIGKILLs every child but the keepers.  Returns how many there were, or -errno. */
static long kill_children(const struct state *s)
{
    static char text[1 << 16];
    long length = 0, got;
    while ((got = SYS4(__NR_pread64, s->children, text + length, sizeof text - (size_t)length, length)) > 0)
        length += got;
    if (got < 0)
        return got;
    long found = 0;
    int pid = 0;
    for (long i = 0; i < length; i++) { /* "12 345 "; a number cut off by the buffer's end is not taken */
        if (text[i] != ' ') {
            pid = pid * 10 + (text[i] - '0');
            continue;
        }
        bool keeper = false;
        for (uint32_t k = 0; k < s->n_keepers; k++)
            keeper |= s->keepers[k] == pid;
        if (!keeper) {
            sys_kill(pid, PB_SIGKILL);
            found++;
        }
        pid = 0;
    }
    return found;
}

static void account(struct pb_reply *report, const struct rusage *used)
{
    report->user_us += (uint64_t)used->ru_utime.tv_sec * 1000000 + (uint64_t)used->ru_utime.tv_usec;
    report->system_us += (uint64_t)used->ru_stime.tv_sec * 1000000 + (uint64_t)used->ru_stime.tv_usec;
    if ((uint64_t)used->ru_maxrss > report->max_rss_kib)
        report->max_rss_kib = (uint64_t)used->ru_maxrss;
    report->voluntary += (uint64_t)used->ru_nvcsw;
    report->involuntary += (uint64_t)used->ru_nivcsw;
    report->blocks_in += (uint64_t)used->ru_inblock;
    report->blocks_out += (uint64_t)used->ru_oublock;
}

/* Nanoseconds that a process's first thread has waited for a CPU: "RUNNING WAITED SLICES" (sched-stats.rst). */
static uint64_t waited_for_cpu(const struct state *s, int pid)
{
    char path[24 + sizeof "/schedstat"], text[128];
    int proc = s->context.box_proc >= 0 ? s->context.box_proc : s->is_pid1 ? -1 : s->context.host_proc;
    size_t digits = pb_number((uint64_t)pid, path, 10);
    for (size_t n = 0; n < sizeof "/schedstat"; n++)
        path[digits + n] = "/schedstat"[n];
    long fd = proc < 0 ? -ENOENT : sys_openat(proc, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return ~0ull;
    long got = sys_read((int)fd, text, sizeof text);
    sys_close((int)fd);
    long at = 0;
    while (at < got && text[at] != ' ')
        at++;
    uint64_t waited = 0;
    for (at++; at < got && text[at] >= '0' && text[at] <= '9'; at++)
        waited = waited * 10 + (uint64_t)(text[at] - '0');
    return at < got ? waited : ~0ull;
}

/* Reads what can be read of the program only between its end and its being waited for. */
static void measure(struct state *s)
{
    int info[32] = {0}; /* a siginfo_t; the pid is its fifth int on both machines */
    long r = SYS5(__NR_waitid, PB_P_PID, s->run.program, info, PB_WEXITED | PB_WNOHANG | PB_WNOWAIT, 0);
    if (r < 0 || info[4] != s->run.program)
        return;
    s->run.measure = false;
    s->run.report.delay_ns = waited_for_cpu(s, s->run.program);
    s->run.report.sampled_ns = sys_sampled_cpu_ns(s->run.program);
}

/* Takes in every child that has ended.  Returns false when there is no child at all. */
static bool reap(struct state *s)
{
    for (;;) {
        struct rusage used;
        int status;
        if (s->run.measure && s->run.program)
            measure(s);
        long pid = sys_wait4(-1, &status, PB_WNOHANG | PB_WALL, &used);
        if (pid <= 0)
            return pid != -ECHILD;
        bool keeper = false;
        for (uint32_t k = 0; k < s->n_keepers; k++)
            if (s->keepers[k] == pid) {
                s->keepers[k] = s->keepers[--s->n_keepers];
                keeper = true;
                break;
            }
        if (keeper || s->run.socket < 0)
            continue;
        account(&s->run.report, &used);
        if (pid == s->run.program) {
            s->run.program = 0;
            s->run.ending = true;
            s->run.report.status = status;
        } else if (s->run.killing && (status & 0x7f) == PB_SIGKILL) {
            s->run.report.killed++;
        }
    }
}

static bool is_dead(int pid) { return sys_kill(pid, 0) == -ESRCH; }

/* Removes the System V objects that a run has left (sysvipc(7)): nobody's memory limit counts them any more.  The *_STAT
 * calls take an index into the kernel's table, and *_INFO gives the highest one.  Beside other runs, which may use them,
 * only memory goes that nobody has attached and whose maker is dead, as with kernel.shm_rmid_forced. */
static void remove_ipc(bool alone)
{
    char buffer[256] __attribute__((aligned(8))); /* larger than any of struct shmid64_ds, semid64_ds, msqid64_ds, *info */
    const struct shmid64_ds *segment = (const struct shmid64_ds *)buffer;
    long highest = SYS3(__NR_shmctl, 0, PB_SHM_INFO, buffer);
    for (long i = 0; i <= highest; i++) {
        long id = SYS3(__NR_shmctl, i, PB_SHM_STAT, buffer);
        if (id >= 0 && (alone || (segment->shm_nattch == 0 && is_dead(segment->shm_cpid))))
            SYS3(__NR_shmctl, id, PB_IPC_RMID, 0);
    }
    if (!alone)
        return;
    highest = SYS4(__NR_semctl, 0, 0, PB_SEM_INFO, buffer);
    for (long i = 0; i <= highest; i++) {
        long id = SYS4(__NR_semctl, i, 0, PB_SEM_STAT, buffer);
        if (id >= 0)
            SYS4(__NR_semctl, id, 0, PB_IPC_RMID, 0);
    }
    highest = SYS3(__NR_msgctl, 0, PB_MSG_INFO, buffer);
    for (long i = 0; i <= highest; i++) {
        long id = SYS3(__NR_msgctl, i, PB_MSG_STAT, buffer);
        if (id >= 0)
            SYS3(__NR_msgctl, id, PB_IPC_RMID, 0);
    }
}

/* Ends, and with it the box; a keeper ends with its run's tree alone. */
static _Noreturn void end_box(struct state *s)
{
    if (!s->is_pid1) {
        int status;
        s->n_keepers = 0;
        while (kill_children(s) > 0)
            sys_wait4(-1, &status, PB_WALL, 0);
    }
    sys_exit(0);
}

/* Takes in the dead, kills what is left of an ending run, and when nothing is, reports the end.  Called at each
 * SIGCHLD. */
static void settle(struct state *s)
{
    struct run *run = &s->run;
    bool left = reap(s); /* no child at all means no descendant either: orphans fall to us */
    if (run->socket < 0) {
        /* Nobody's: what fell to us when a payload with our uid had killed the keeper of its run. */
        if (left && s->is_pid1 && s->n_keepers == 0)
            sys_kill(-1, PB_SIGKILL);
        return;
    }
    if (!run->ending)
        return;
    run->killing = true;
    if (left && s->is_pid1 && s->n_keepers == 0) {
        sys_kill(-1, PB_SIGKILL); /* all but ourselves, at once: kill(2) */
        left = reap(s);
    } else if (left) {
        long found = kill_children(s);
        left = reap(s);
        if (found < 0 && left)
            sys_exit(1); /* what cannot be listed cannot be killed one by one: end the box */
        if (s->n_keepers)
            left = found > 0 || kill_children(s) > 0;
    }
    if (left || run->program)
        return;
    if (s->context.own_ipc)
        remove_ipc(s->n_keepers == 0 && !s->is_keeper);
    run->report.kind = PB_ENDED;
    run->report.wall_ns = sys_monotonic_ns() - run->started;
    pb_send_reply(run->socket, &run->report, -1);
    if (run->last)
        end_box(s);
    ignore(s, run->socket);
    sys_close(run->socket);
    run->socket = -1;
}

/* --- starting a run ----------------------------------------------------------------------------------------- */

struct child {
    struct state *state;
    const struct pb_plan *plan;
    struct pb_request_in *request;
    uint32_t step; /* of the failure */
    int error;
};

/* Whether the program is to be given a descriptor under this number. */
static bool is_promised(const struct pb_plan *plan, long number)
{
    for (uint32_t i = 0; i < plan->count; i++)
        if (plan->steps[i].verb == PB_VERB_STDIO && plan->steps[i].arg[1] == (uint64_t)number)
            return true;
    return false;
}

/* The program may be given descriptors under any number; ours move to numbers that are promised to nobody. */
static int out_of_the_way(const struct child *child)
{
    struct pb_request_in *request = child->request;
    for (uint32_t i = 0; i < request->n_fds; i++) {
        int fd = request->fds[i];
        for (long number = fd; is_promised(child->plan, number); request->fds[i] = (int)number) {
            long from = number == fd ? 3 : number + 1;
            number = SYS3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, from);
            if (number < 0)
                return (int)-number;
        }
    }
    return 0;
}

/* In the child, in init's memory: becomes the program, or leaves behind why not. */
static void become_program(void *argument)
{
    struct child *child = argument;
    uint64_t none = 0;
    child->error = out_of_the_way(child);
    if (!child->error) {
        SYS4(__NR_rt_sigprocmask, PB_SIG_SETMASK, &none, 0, sizeof none);
        child->error = pb_execute(&child->state->context, child->plan, &child->step);
    }
    sys_exit(127);
}

static long spawn(struct child *child)
{
    const struct pb_request_in *request = child->request;
    struct pb_context *context = &child->state->context;
    size_t room = 0;
    context->pointers = small_pointers;
    context->n_pointers = sizeof small_pointers / sizeof *small_pointers;
    if (request->head.length > PB_SMALL_BODY) {
        context->n_pointers = request->head.length + 2;
        room = context->n_pointers * sizeof(char *);
        long at = sys_mmap(room);
        if (at < 0 && at > -4096)
            return at;
        context->pointers = (const char **)at;
    }
    int fds[PB_MAX_FDS]; /* the numbers that the child moves to are its own */
    for (uint32_t i = 0; i < request->n_fds; i++)
        fds[i] = request->fds[i];
    long pid = sys_clone_on_stack(CLONE_VM | CLONE_VFORK | PB_SIGCHLD, child_stack + CHILD_STACK, become_program, child);
    for (uint32_t i = 0; i < request->n_fds; i++)
        child->request->fds[i] = fds[i];
    if (room)
        sys_munmap((void *)(uintptr_t)context->pointers, room);
    context->pointers = 0;
    context->n_pointers = 0;
    return pid;
}

static void start_run(struct state *s, struct pb_request_in *request)
{
    struct pb_plan plan;
    struct child child = {.state = s, .plan = &plan, .request = request, .step = PB_NO_STEP};
    int socket = request->fds[0];
    int error = pb_decode(request->body, request->head.length, request->fds, request->n_fds, &plan, &child.step);
    if (!error) {
        uint64_t started = sys_monotonic_ns();
        long pid = spawn(&child);
        if (pid >= 0 && !child.error) {
            s->run = (struct run){.socket = socket, .program = (int)pid, .ending = !watch(s, socket)};
            s->run.last = (request->head.request & ~PB_MEASURE) == PB_LAST_RUN;
            s->run.measure = request->head.request & PB_MEASURE;
            s->run.report.delay_ns = s->run.report.sampled_ns = ~0ull;
            s->run.started = started;
            struct pb_reply reply = {.kind = PB_STARTED, .pid = (int)pid};
            pb_send_reply(socket, &reply, -1);
            return;
        }
        if (pid >= 0)
            sys_wait4((int)pid, 0, PB_WALL, 0);
        error = pid < 0 ? (int)-pid : child.error;
    }
    pb_send_failure(socket, child.step, error);
    sys_close(socket);
}

static void serve(struct state *s);

static _Noreturn void become_keeper(struct state *s, struct pb_request_in *request)
{
    sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0);
    sys_close(s->control);
    sys_close(s->application);
    sys_close(s->run.socket);
    sys_close(s->signals);
    sys_close(s->events);
    sys_close(s->children);
    s->control = s->application = s->run.socket = s->children = -1;
    s->is_pid1 = false;
    s->is_keeper = true;
    s->n_keepers = 0;
    if (!open_senses(s) || !open_children(s)) {
        pb_send_failure(request->fds[0], PB_NO_STEP, EMFILE);
        sys_exit(1);
    }
    start_run(s, request);
    for (uint32_t i = 1; i < request->n_fds; i++)
        sys_close(request->fds[i]);
    while (s->run.socket >= 0)
        serve(s);
    sys_exit(0);
}

static void request_run(struct state *s, struct pb_request_in *request)
{
    if (request->n_fds == 0)
        return;
    if (s->run.socket < 0) {
        start_run(s, request);
        request->fds[0] = request->fds[--request->n_fds]; /* the socket has an owner now */
        return;
    }
    long pid = -EAGAIN;
    if (!open_children(s))
        pid = -ENOSYS; /* without a /proc there are no two runs at once: they could not be told apart */
    else if (s->n_keepers < MAX_KEEPERS)
        pid = SYS5(__NR_clone, PB_SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        become_keeper(s, request);
    if (pid < 0)
        pb_send_failure(request->fds[0], PB_NO_STEP, (int)-pid);
    else
        s->keepers[s->n_keepers++] = (int)pid;
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

static void request_open(struct state *s, const struct pb_request_in *request)
{
    struct pb_reply reply = {.kind = PB_READY};
    long fd = pb_open_for_application(&s->context, request);
    if (fd < 0)
        reply = (struct pb_reply){.kind = PB_FAILED, .step = PB_NO_STEP, .error = (int)-fd};
    pb_send_reply(s->control, &reply, (int)fd);
    if (fd >= 0)
        sys_close((int)fd);
}

static void request_upper(struct state *s)
{
    struct pb_reply reply = {.kind = PB_READY};
    if (s->context.upper < 0)
        reply = (struct pb_reply){.kind = PB_FAILED, .step = PB_NO_STEP, .error = ENOENT};
    pb_send_reply(s->control, &reply, s->context.upper);
}

/* Carries out a part of the box's plan; what has failed ends the box. */
static void carry_out(struct state *s, const struct pb_request_in *request, struct pb_reply *reply)
{
    struct pb_plan plan;
    int error = pb_decode(request->body, request->head.length, request->fds, request->n_fds, &plan, &reply->step);
    if (!error)
        error = pb_execute(&s->context, &plan, &reply->step);
    if (!error)
        return;
    reply->kind = PB_FAILED;
    reply->error = error;
    pb_send_reply(s->control, reply, -1);
    end_box(s);
}

static void request_prepare(struct state *s, const struct pb_request_in *request)
{
    struct pb_reply reply = {.status = 1};
    carry_out(s, request, &reply);
}

static void request_setup(struct state *s, const struct pb_request_in *request)
{
    struct pb_reply reply = {.kind = PB_READY};
    carry_out(s, request, &reply);
    if (!s->is_pid1 && !open_children(s)) {
        pb_send_failure(s->control, PB_NO_STEP, ENOSYS); /* its tree is found through /proc only */
        end_box(s);
    }
    if (s->is_pid1 && s->context.host_proc >= 0) {
        sys_close(s->context.host_proc);
        s->context.host_proc = -1;
    }
    pb_send_reply(s->control, &reply, -1);
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void take_order(struct state *s)
{
    struct pb_order order;
    struct run *run = &s->run;
    long got = sys_read(run->socket, &order, sizeof order);
    if (got == -EINTR || got == -EAGAIN)
        return;
    if (got != sizeof order || order.kind == PB_KILL) {
        /* A closed handle means the same as the order: nobody waits for this run any more. */
        run->ending = true;
        ignore(s, run->socket); /* no order matters any more, and a closed socket would be ready for ever */
        if (run->program)
            sys_kill(run->program, PB_SIGKILL);
        settle(s);
    } else if (run->program && order.signal <= 64) {
        sys_kill(order.kind == PB_SIGNAL_GROUP ? -run->program : run->program, (int)order.signal);
    }
}

static void take_request(struct state *s)
{
    struct pb_request_in request;
    if (!pb_receive(s->control, &request))
        end_box(s);
    switch (request.head.request & ~PB_MEASURE) {
    case PB_PREPARE: request_prepare(s, &request); break;
    case PB_SETUP: request_setup(s, &request); break;
    case PB_RUN:
    case PB_LAST_RUN: request_run(s, &request); break;
    case PB_OPEN: request_open(s, &request); break;
    case PB_UPPER: request_upper(s); break;
    default: end_box(s);
    }
    pb_close_request(&request);
}

/* Waits for one thing to happen, and sees to it.  What cannot be waited for any more ends the box. */
static void serve(struct state *s)
{
    struct epoll_event event;
    uint64_t none = ~0ull;
    long n = SYS6(__NR_epoll_pwait, s->events, &event, 1, -1, &none, sizeof none);
    if (n == -EINTR)
        return;
    int fd = n == 1 ? (int)event.data : -1;
    if (fd < 0 || fd == s->application) {
        end_box(s);
    } else if (fd == s->signals) {
        char drained[128 * 4];
        sys_read(s->signals, drained, sizeof drained); /* SIGCHLD does not queue: one is all there is */
        settle(s);
    } else if (fd == s->run.socket) {
        take_order(s);
    } else if (fd == s->control) {
        take_request(s);
    }
}

static void default_signals(void)
{
    /* What the application ignores would be ignored by the payload too. */
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } initial = {0};
    uint64_t all = ~0ull;
    for (int sig = 1; sig <= 64; sig++)
        SYS4(__NR_rt_sigaction, sig, &initial, 0, sizeof initial.mask);
    SYS4(__NR_rt_sigprocmask, PB_SIG_SETMASK, &all, 0, sizeof all);
}

_Noreturn void pb_init(void)
{
    struct state *s = &state;
    default_signals();
    SYS1(__NR_umask, 022);
    sys_prctl(PR_SET_NAME, (unsigned long)"pysandbox-init", 0);
    s->control = CONTROL_FD;
    s->application = APPLICATION_FD;
    s->run.socket = -1;
    s->is_pid1 = SYS0(__NR_getpid) == 1;
    pb_context_init(&s->context);
    s->context.host_proc = (int)sys_openat(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    s->children = -1;
    if (SYS1(__NR_chdir, "/") < 0 || !open_senses(s) || !watch(s, s->control) || !watch(s, s->application))
        sys_exit(1);
    if (!s->is_pid1 && sys_prctl(PR_SET_CHILD_SUBREAPER, 1, 0) < 0)
        sys_exit(1);
    for (;;)
        serve(s);
}
