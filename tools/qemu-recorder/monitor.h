/*
 * The value of a register: API version 1 lets plugins read none, QEMU's monitor prints all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_MONITOR_H
#define RECORDER_MONITOR_H

#include <stdint.h>

/* A general register of a vCPU that waits in a callback, by the human monitor at this Unix socket.
 * Registers are in QEMU's CPU state only between translation blocks: the callback has to be that of
 * a block's start. */
uint64_t monitor_register(const char *socket_path, unsigned vcpu, unsigned bits, unsigned number);

#endif
