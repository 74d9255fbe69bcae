/*
 * A P2M in a flat buffer, and back: a header of 64-bit words, the accesses that mem_access keeps,
 * and the table frames as they lie in memory. What comes back may be hostile: it is a P2M only if
 * p2mfast_check finds nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "hosted.h"

#include <string.h>

#define MAGIC ((uint64_t)0x00747361666d3270) /* "p2mfast", little-endian */
#define VERSION 1

/* The header, a word each. */
struct header {
    uint64_t magic;
    uint64_t version;
    uint64_t ipa_bits;
    uint64_t pa_bits;
    uint64_t vmid;
    uint64_t max_tables;
    uint64_t base_mfn;
    uint64_t rows; /* table frames, from the first root table on */
    uint64_t free; /* of them not in use, a chain from `recycled` on, as the arena keeps it */
    uint64_t recycled;
    uint64_t accesses;   /* pages of what mem_access keeps */
    uint64_t mem_access; /* on: 1 */
    uint64_t lowest_mapped_gfn;
    uint64_t max_mapped_gfn;
    uint64_t counted;
    uint64_t mappings[4];
    uint64_t shattered[4];
    uint64_t resolved_levels[4];
    uint64_t tables;
    uint64_t tlb_flushes;
    uint64_t resolved;
    uint64_t armed;
};

/* A page of what mem_access keeps: the first GFN, and a byte each. */
#define ACCESS_PAGE_BYTES ((uint64_t)1 << ACCESS_PAGE_ORDER)
#define ACCESS_RECORD_BYTES (sizeof(uint64_t) + ACCESS_PAGE_BYTES)

_Static_assert(sizeof(struct header) % sizeof(uint64_t) == 0, "the header is words");

/* ---- Out ---- */

/* Where the buffer ends is known after it has been gone through. */
struct writer {
    uint8_t *bytes;
    size_t capacity;
    size_t n;
};

static void put(struct writer *writer, const void *bytes, size_t n)
{
    if (writer->bytes && n <= writer->capacity && writer->n <= writer->capacity - n)
        memcpy(writer->bytes + writer->n, bytes, n);
    writer->n += n;
}

/* How many pages of the store there are. */
static uint64_t put_accesses(const struct p2mfast *p2m, struct writer *writer)
{
    const uint8_t *bytes;
    uint64_t gfn = 0;
    uint64_t pages = 0;

    while ((bytes = access_next_page(p2m, &gfn))) {
        put(writer, &gfn, sizeof(gfn));
        put(writer, bytes, ACCESS_PAGE_BYTES);
        gfn += ACCESS_PAGE_BYTES;
        pages++;
    }
    return pages;
}

static void put_tables(const struct hosted *hosted, struct writer *writer)
{
    uint64_t words[TABLE_WORDS];

    for (uint64_t row = 0; row < hosted->arena.in_range; row++) {
        for (unsigned i = 0; i < TABLE_WORDS; i++)
            words[i] = pte_read(&hosted->arena.memory[row * TABLE_WORDS + i]);
        put(writer, words, sizeof(words));
    }
}

static struct header header_of(const struct hosted *hosted, uint64_t accesses)
{
    const struct p2mfast *p2m = &hosted->p2m;
    struct header header = {
        .magic = MAGIC,
        .version = VERSION,
        .ipa_bits = p2m->geometry.ipa_bits,
        .pa_bits = p2m->geometry.pa_bits,
        .vmid = p2m->vmid,
        .max_tables = p2m->max_tables,
        .base_mfn = p2m->platform.base_mfn,
        .rows = hosted->arena.in_range,
        .free = hosted->arena.free,
        .recycled = hosted->arena.recycled,
        .accesses = accesses,
        .mem_access = p2m->mem_access,
        .lowest_mapped_gfn = p2m->lowest_mapped_gfn,
        .max_mapped_gfn = p2m->max_mapped_gfn,
        .counted = p2m->counted,
        .tables = p2m->stats.tables,
        .tlb_flushes = p2m->stats.tlb_flushes,
        .resolved = p2m->stats.resolved,
        .armed = p2m->stats.armed,
    };

    memcpy(header.mappings, p2m->stats.mappings, sizeof(header.mappings));
    memcpy(header.shattered, p2m->stats.shattered, sizeof(header.shattered));
    memcpy(header.resolved_levels, p2m->stats.resolved_levels, sizeof(header.resolved_levels));
    return header;
}

size_t p2mfast_checkpoint(p2mfast_t *p2m, void *buffer, size_t capacity)
{
    struct hosted *hosted = (struct hosted *)p2m;
    struct writer counter = {NULL, 0, 0};
    struct writer writer = {buffer, capacity, 0};
    struct header header;

    p2m_lock(p2m);
    header = header_of(hosted, put_accesses(p2m, &counter));
    counter.n += sizeof(header) + header.rows * TABLE_BYTES;
    if (counter.n <= capacity) {
        put(&writer, &header, sizeof(header));
        put_accesses(p2m, &writer);
        put_tables(hosted, &writer);
    }
    p2m_unlock(p2m);
    return counter.n;
}

/* ---- In ---- */

/* The header, if the buffer is as long as it says. */
static bool read_header(const void *buffer, size_t size, struct header *header)
{
    if (size < sizeof(*header))
        return false;
    memcpy(header, buffer, sizeof(*header));
    size -= sizeof(*header);
    if (header->magic != MAGIC || header->version != VERSION ||
        header->accesses > size / ACCESS_RECORD_BYTES)
        return false;
    size -= header->accesses * ACCESS_RECORD_BYTES;
    return header->rows == size / TABLE_BYTES && size % TABLE_BYTES == 0;
}

static p2mfast_config_t config_of(const struct header *header, const p2mfast_config_t *given)
{
    p2mfast_config_t config = *given;

    /* What does not fit is refused when it is looked at. */
    config.ipa_bits = header->ipa_bits < 256 ? (unsigned)header->ipa_bits : 0;
    config.pa_bits = header->pa_bits < 256 ? (unsigned)header->pa_bits : 0;
    config.vmid = header->vmid <= 0xffff ? (unsigned)header->vmid : 0x10000;
    config.max_tables = header->max_tables;
    config.table_base_mfn = header->base_mfn;
    return config;
}

static bool fits(const struct hosted *hosted, const struct header *header)
{
    uint64_t limit = hosted->p2m.geometry.gfn_limit;
    bool empty = header->lowest_mapped_gfn == P2MFAST_INVALID_GFN;

    return header->rows >= hosted->p2m.geometry.root_pages &&
           header->tables <= header->max_tables && header->max_mapped_gfn < limit &&
           (empty || header->lowest_mapped_gfn <= limit);
}

static void take_header(struct p2mfast *p2m, const struct header *header)
{
    p2m->lowest_mapped_gfn = header->lowest_mapped_gfn;
    p2m->max_mapped_gfn = header->max_mapped_gfn;
    p2m->counted = header->counted;
    memcpy(p2m->stats.mappings, header->mappings, sizeof(header->mappings));
    memcpy(p2m->stats.shattered, header->shattered, sizeof(header->shattered));
    memcpy(p2m->stats.resolved_levels, header->resolved_levels, sizeof(header->resolved_levels));
    p2m->stats.tables = header->tables;
    p2m->stats.tlb_flushes = header->tlb_flushes;
    p2m->stats.resolved = header->resolved;
    p2m->stats.armed = header->armed;
}

/* The chain goes through every frame that no table is in, once: so the next tables will lie where
 * they would have. */
static bool chain_is_sound(const struct arena *arena, const struct header *header, uint8_t *seen)
{
    uint64_t frame = header->recycled;
    uint64_t n = 0;

    for (; n < header->free; n++) {
        if (frame >= header->rows || seen[frame])
            return false;
        seen[frame] = 1;
        frame = arena_next_free(arena, frame);
    }
    for (uint64_t row = 0; row < header->rows; row++)
        if (!seen[row])
            return false;
    return frame == NO_FRAME;
}

/* The tables, if they and the chain of free ones are sound. */
static int take_tables(struct hosted *hosted, const struct header *header, const uint8_t *tables)
{
    struct arena *arena = &hosted->arena;
    uint8_t *seen = heap_take(&hosted->heap, header->rows);
    bool sound;

    if (!seen)
        return P2MFAST_ERROR_MEMORY;
    arena_take_rows(arena, header->rows);
    memcpy(arena->memory, tables, header->rows * TABLE_BYTES);
    sound = !p2mfast_check(&hosted->p2m, seen, header->rows, NULL, 0);
    memset(seen, 1, hosted->p2m.geometry.root_pages);
    sound = sound && chain_is_sound(arena, header, seen);
    heap_give(&hosted->heap, seen);
    arena->free = header->free;
    arena->recycled = header->recycled;
    return sound ? 0 : P2MFAST_ERROR_CHECKPOINT;
}

static int take_accesses(struct p2mfast *p2m, const struct header *header, const uint8_t *record)
{
    for (uint64_t i = 0; i < header->accesses; i++, record += ACCESS_RECORD_BYTES) {
        uint64_t gfn;
        int error;

        memcpy(&gfn, record, sizeof(gfn));
        if (gfn >= p2m->geometry.gfn_limit || gfn % ACCESS_PAGE_BYTES)
            return P2MFAST_ERROR_CHECKPOINT;
        error = access_put_page(p2m, gfn, record + sizeof(gfn));
        if (error)
            return error == P2MFAST_ERROR_MEMORY ? error : P2MFAST_ERROR_CHECKPOINT;
    }
    p2m->mem_access = header->mem_access != 0;
    return 0;
}

p2mfast_t *p2mfast_restore(const void *buffer, size_t size, const p2mfast_config_t *config,
                           int *error)
{
    const p2mfast_config_t standard = P2MFAST_CONFIG_DEFAULT;
    const uint8_t *accesses = (const uint8_t *)buffer + sizeof(struct header);
    struct header header;
    struct hosted *hosted = NULL;
    int result = P2MFAST_ERROR_CHECKPOINT;

    if (config && config->size != sizeof(*config)) {
        result = P2MFAST_ERROR_ABI;
    } else if (read_header(buffer, size, &header)) {
        const p2mfast_config_t full = config_of(&header, config ? config : &standard);

        hosted = hosted_create(&full, &result);
    }
    if (hosted) {
        result = fits(hosted, &header) ? 0 : P2MFAST_ERROR_CHECKPOINT;
        if (!result && header.rows > hosted->arena.frames)
            result = P2MFAST_ERROR_TABLES;
        take_header(&hosted->p2m, &header);
        if (!result)
            result = take_tables(hosted, &header, accesses + header.accesses * ACCESS_RECORD_BYTES);
        if (!result)
            result = take_accesses(&hosted->p2m, &header, accesses);
        if (result)
            p2mfast_destroy(&hosted->p2m);
        else
            p2m_invalidate(&hosted->p2m, p2m_whole(&hosted->p2m));
    }
    if (error)
        *error = result;
    return result ? NULL : &hosted->p2m;
}
