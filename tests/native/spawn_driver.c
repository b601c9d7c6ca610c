/* Calls pb_spawn as the extension does: a program that starts, one that cannot be executed, a clone that is refused. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn.h"

static int expect(const char *what, int holds)
{
    if (!holds)
        fprintf(stderr, "spawn_driver: %s\n", what);
    return !holds;
}

int main(void)
{
    int pair[2], status, wrong = 0;
    int image = open("/bin/true", O_RDONLY | O_CLOEXEC);
    int text = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    if (image < 0 || text < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return 2;
    for (int i = 0; i < 50; i++) {
        struct pb_spawned started = pb_spawn(image, pair[0], pair[1], 0, 0);
        wrong |= expect("the program starts", started.error == 0 && started.pid > 0 && started.pidfd > 2);
        waitpid(started.pid, &status, 0);
        wrong |= expect("it ends well", WIFEXITED(status) && WEXITSTATUS(status) == 0);
        close(started.pidfd);
    }
    struct pb_spawned failed = pb_spawn(text, pair[0], pair[1], 0, 0);
    wrong |= expect("a text is no program", failed.step == PB_SPAWN_EXEC && failed.error == EACCES && failed.pid < 0);
    failed = pb_spawn(image, pair[0], pair[1], 0x00010000 /* CLONE_THREAD without CLONE_SIGHAND */, 0);
    wrong |= expect("a clone is refused", failed.step == PB_SPAWN_CLONE && failed.error == EINVAL);
    wrong |= expect("no child is left", waitpid(-1, &status, WNOHANG) < 0 && errno == ECHILD);
    return wrong;
}
