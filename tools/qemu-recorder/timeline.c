/*
 * What happened, in order, and its file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "timeline.h"
#include "tracker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *grown(void *array, size_t n, size_t size)
{
    void *larger = realloc(array, n * size);

    if (!larger && n)
        recorder_fail("out of memory");
    return larger;
}

size_t timeline_add(struct timeline *timeline, enum entry_kind kind, unsigned vcpu, uint64_t icount,
                    uint64_t value)
{
    size_t index = timeline->n_entries;

    /* Other vCPUs go on while one's instructions are counted back to the one that matters. */
    if (index && icount < timeline->entries[index - 1].icount)
        icount = timeline->entries[index - 1].icount;
    timeline->entries = grown(timeline->entries, index + 1, sizeof(struct entry));
    timeline->entries[index] = (struct entry){.kind = (uint8_t)kind,
                                              .vcpu = (uint8_t)vcpu,
                                              .epoch = -1,
                                              .icount = icount,
                                              .icount_end = icount,
                                              .value = value};
    timeline->n_entries++;
    return index;
}

uint32_t *timeline_room(struct timeline *timeline, size_t pages)
{
    timeline->touched =
        grown(timeline->touched, timeline->n_touched + pages, sizeof(*timeline->touched));
    return timeline->touched + timeline->n_touched;
}

void timeline_add_epoch(struct timeline *timeline, unsigned vcpu, uint64_t icount, size_t pages)
{
    size_t epoch = timeline->n_epochs++;
    size_t index = timeline_add(timeline, ENTRY_TOUCHED, vcpu, icount, 0);

    timeline->entries[index].epoch = (int32_t)epoch;
    timeline->n_touched += pages;
    timeline->epoch_ends = grown(timeline->epoch_ends, epoch + 1, sizeof(*timeline->epoch_ends));
    timeline->epoch_ends[epoch] = timeline->n_touched;
}

static void put(FILE *file, const void *array, size_t n, size_t size)
{
    if (fwrite(array, size, n, file) != n)
        recorder_fail("the log cannot be written");
}

void timeline_write(const struct timeline *timeline, struct log_header *header, const char *path)
{
    FILE *file = fopen(path, "wb");

    if (!file)
        recorder_fail("%s cannot be created", path);
    memcpy(header->magic, LOG_MAGIC, sizeof(header->magic));
    header->entries = timeline->n_entries;
    header->epochs = timeline->n_epochs;
    header->touched = timeline->n_touched;
    put(file, header, 1, sizeof(*header));
    put(file, timeline->entries, timeline->n_entries, sizeof(struct entry));
    put(file, timeline->epoch_ends, timeline->n_epochs, sizeof(*timeline->epoch_ends));
    put(file, timeline->touched, timeline->n_touched, sizeof(*timeline->touched));
    if (fclose(file))
        recorder_fail("the log cannot be written");
}
