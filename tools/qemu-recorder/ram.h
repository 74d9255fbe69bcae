/*
 * Where RAM is in this process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_RAM_H
#define RECORDER_RAM_H

#include <stdint.h>

/* The one mapping of so many bytes that is shared, as a memory backend with share=on is. */
const uint8_t *find_ram(uint64_t size);

#endif
