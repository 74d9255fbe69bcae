/*
 * A client of QEMU's human monitor.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "monitor.h"
#include "tracker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_BYTES 32768 /* all registers, and the echo of what is typed */
#define TIMEOUT_SECONDS 30
#define HEXADECIMAL 16
#define ZERO_REGISTER 31 /* Rt of XZR */

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    /* QEMU's main thread, which answers, may wait for this vCPU (at the end, for one). */
    const struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (strlen(path) >= sizeof(address.sun_path))
        recorder_fail("the monitor's path is too long: %s", path);
    strcpy(address.sun_path, path);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)))
        recorder_fail("no connection to QEMU's monitor at %s", path);
    return fd;
}

/* What follows this label in the monitor's words. */
static uint64_t number_after(const char *reply, const char *label, unsigned vcpu)
{
    const char *found = strstr(reply, label);

    if (!found)
        recorder_fail("QEMU's monitor tells no %s of vCPU %u", label, vcpu);
    return strtoull(found + strlen(label), NULL, HEXADECIMAL);
}

struct registers monitor_registers(const char *socket_path, unsigned vcpu, unsigned bits,
                                   unsigned number)
{
    const char *state = bits == 64 ? "PSTATE=" : "PSR=", *last;
    struct registers registers = {0, 0};
    char command[32], label[8], reply[REPLY_BYTES];
    size_t size = 0;
    int fd = connect_to(socket_path);

    snprintf(command, sizeof(command), "info registers %u\n", vcpu);
    snprintf(label, sizeof(label), bits == 64 ? "X%02u=" : "R%02u=", number);
    if (write(fd, command, strlen(command)) != (ssize_t)strlen(command))
        recorder_fail("QEMU's monitor takes no command");
    do { /* the processor state's line comes last */
        ssize_t got = read(fd, reply + size, sizeof(reply) - 1 - size);

        if (got <= 0)
            recorder_fail("QEMU's monitor does not tell the registers of vCPU %u", vcpu);
        size += (size_t)got;
        reply[size] = 0;
        last = strstr(reply, state);
    } while (!last || !strchr(last, '\n'));
    close(fd);
    if (bits == 32)
        registers.flags = (uint32_t)number_after(reply, state, vcpu);
    if (number != ZERO_REGISTER)
        registers.general = number_after(reply, label, vcpu);
    return registers;
}
