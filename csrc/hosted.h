/*
 * A P2M in a process of an operating system: what surrounds the core there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_HOSTED_H
#define P2MFAST_HOSTED_H

#include <pthread.h>
#include "arena.h"
#include "events.h"
#include "heap.h"
#include "p2m.h"

struct hosted {
    struct p2mfast p2m; /* first: a p2mfast_t is a struct hosted */
    struct arena arena;
    pthread_mutex_t mutex;
    struct heap heap;
    struct events events;
    p2mfast_config_t config; /* for its functions */
    void *side_pages;        /* the one given last */
};

/* A P2M of this config, without any table yet but its roots; an error where that fails. */
struct hosted *hosted_create(const p2mfast_config_t *config, int *error);
/* Tell the embedder, who may not care. */
void hosted_log(const struct hosted *hosted, const char *message);

#endif
