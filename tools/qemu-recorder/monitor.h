/*
 * The value of a register: API version 1 lets plugins read none, QEMU's monitor prints all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_MONITOR_H
#define RECORDER_MONITOR_H

#include <stdint.h>

struct registers {
    uint64_t general; /* the one that was asked for */
    uint32_t flags;   /* PSR; 0 in AArch64 */
};

/* Registers of a vCPU that waits in a callback, by the human monitor at this Unix socket. They are
 * in QEMU's CPU state only between translation blocks: the callback has to be that of a block's
 * start. */
struct registers monitor_registers(const char *socket_path, unsigned vcpu, unsigned bits,
                                   unsigned number);

#endif
