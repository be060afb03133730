/* What attention over frames is told: see paged.c. */
#pragma once
#include "lanes.h"

/* What is the same for all tokens of a layer. Strides count numbers, of 2 bytes if `half` is not 0, of 4 else. */
typedef struct {
    void *pool;
    int64_t half, record, keys, values; /* numbers in a frame; where keys and values of this layer begin in it */
    int64_t heads, group, key_width, value_width, window;
    float scale, softcap;
    const float *sinks;
} Layer;

/* Where tokens are: token t at positions[t] of the table that begins at tables[bases[t]]. */
typedef struct {
    const int32_t *tables;
    const int64_t *bases, *positions, count;
} Tokens;

/* What attention is given of them, and where its results go. */
typedef struct {
    const float *query;
    int64_t query_token, query_head;
    const float *key;
    int64_t key_token, key_head;
    const float *value;
    int64_t value_token, value_head;
    const float *cosine, *sine;
    float *out;
} Attended;

void tokix_write_one(const Layer *layer, const Tokens *at, const Attended *of, int64_t t, int64_t h);
void tokix_attend_one(const Layer *layer, const Tokens *at, const Attended *of, int64_t t, int64_t h);
