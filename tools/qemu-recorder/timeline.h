/*
 * What happened, in order, and its file: tools/recording/log.py reads it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_TIMELINE_H
#define RECORDER_TIMELINE_H

#include <stddef.h>
#include <stdint.h>

/* Kinds of entries, as p2mfast/data/FORMAT.md numbers them. */
enum entry_kind { ENTRY_TOUCHED, ENTRY_SET_WAY, ENTRY_SCTLR, ENTRY_VM_REG, ENTRY_RESET };

struct entry {
    uint8_t kind;
    uint8_t vcpu;
    uint16_t reserved;
    int32_t epoch; /* -1 unless TOUCHED */
    uint64_t icount;
    uint64_t icount_end;
    uint64_t value;
    uint32_t isw, csw, cisw;
    uint32_t reserved_end;
};

struct log_header {
    char magic[8];
    uint32_t bits;
    uint32_t vcpus;
    uint64_t base_gfn;
    uint64_t pages;
    uint64_t instructions;
    uint64_t zeroings;   /* DC ZVA instructions, whose stores were not seen */
    uint64_t unresolved; /* accesses that QEMU told no address of */
    uint64_t faults;     /* stage-2 faults that the engine resolved */
    uint64_t entries;    /* struct entry each, after this header */
    uint64_t epochs;     /* then the end of each epoch among the touched pages, uint64_t each */
    uint64_t touched;    /* then the pages: page << KIND_BITS | kinds, uint32_t each */
};

#define LOG_MAGIC "p2mflog1"

struct timeline {
    struct entry *entries;
    uint64_t *epoch_ends;
    uint32_t *touched;
    size_t n_entries, n_epochs, n_touched;
};

/* Both return the index of the new entry. `icount` never falls: where it would, it is the last. */
size_t timeline_add(struct timeline *timeline, enum entry_kind kind, unsigned vcpu, uint64_t icount,
                    uint64_t value);
/* Room for one more epoch, of up to `pages`: where to write them. */
uint32_t *timeline_room(struct timeline *timeline, size_t pages);
/* So many were written: they are an epoch. */
void timeline_add_epoch(struct timeline *timeline, unsigned vcpu, uint64_t icount, size_t pages);

/* Fills in the header's counts and its magic. */
void timeline_write(const struct timeline *timeline, struct log_header *header, const char *path);

#endif
