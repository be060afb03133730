/* Work that threads share: each takes pieces of a step until none is left, and goes on when all are done, by whoever.
 *
 * So nobody waits for a thread that has nothing in hand, such as one that the system lets wait: it comes later, finds
 * nothing to do, and skips to where the others are. Who waits spins for a moment, and then lets others run.
 */
#pragma once
#include <sched.h>
#include <stdint.h>

/* Looks at what the others do, before the processor is left to somebody else. */
#define PATIENCE 1000

/* A step. It begins as zeros. */
typedef struct {
    int64_t next, done;
} Share;

static inline int64_t take(Share *share) { return __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED); }

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Say that `mine` more pieces are done, and wait until all are. */
static inline void finish(Share *share, int64_t mine, int64_t pieces)
{
    if (__atomic_add_fetch(&share->done, mine, __ATOMIC_ACQ_REL) == pieces) return;
    for (int64_t looks = 0; __atomic_load_n(&share->done, __ATOMIC_ACQUIRE) != pieces; looks++)
        if (looks < PATIENCE) relax();
        else sched_yield();
}
