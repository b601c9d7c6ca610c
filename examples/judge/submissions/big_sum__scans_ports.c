/* Looks for a service on the host's loopback, and fails if there is none to talk to. */
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int port = 1; port < 10000; port++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) return 1;
        to.sin_port = htons(port);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) {
            printf("there is a service on port %d\n", port);
            return 0;
        }
        close(fd);
    }
    return 1;
}
