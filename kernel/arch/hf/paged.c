/* Attention over frames: for each token of a tick, write its key and value to their slot, then read what it reaches.
 *
 * Invariant: what comes out for a token depends on its query and on the keys and values that it reaches, in the order
 * of their positions, and on nothing else, bit for bit: not on the other tokens of the tick, on where the frames lie,
 * or on the number of threads. So frames are walked from the first that is seen, a frame is always 16 positions wide,
 * BLOCK frames that begin at a multiple of BLOCK share a step of the softmax, each sum has one order, and a slot that
 * is not reached is not read into any sum.
 *
 * A frame is one record of all layers. In it, keys lie [head][width][FRAME], so that 16 scores are one sum of vectors,
 * and values [head][FRAME][width]; the numbers are in fp32 or in fp16, sums are always in fp32. The softmax is computed
 * as the blocks come (https://arxiv.org/abs/1805.02867).
 *
 * Compiled by native.py for the machine that runs it. Without -ffast-math: that would let sums be reordered, and would
 * switch off denormal numbers for the whole process.
 */
#include "paged.h"

/* Widest query and value; most heads of a group that are done together (their sums have to fit into registers). */
#define WIDEST 512
#define TOGETHER 4
/* Frames of one step of the softmax, and the positions in them. */
#define BLOCK 4
#define SPAN (BLOCK * FRAME)
/* Vectors of a head's sums that are in registers at a time: enough that no addition waits for the one before it. */
#define MANY (LANES == 8 ? 2 : 4)
/* The sums that a score is computed in. */
#define WAYS (MANY / PARTS)

/* Give LANES numbers of the pool. */
INLINE Floats kept(const void *pool, int64_t at, const int half)
{
    return half ? widened((const uint16_t *)pool + at) : load((const float *)pool + at);
}

INLINE void keep(void *pool, int64_t at, const int half, float x)
{
    if (half) ((uint16_t *)pool)[at] = halved(x);
    else ((float *)pool)[at] = x;
}

/* Tell the processor what will be read: it does not guess what lies in another frame. */
INLINE void announce(const void *pool, int64_t at, int64_t size, const int half)
{
    const char *from = (const char *)pool + at * (half ? 2 : 4);
    for (int64_t i = 0; i < size * (half ? 2 : 4); i += 64) __builtin_prefetch(from + i);
}

INLINE float largest(const float *x, float so_far)
{
    Floats most = load(x);
    for (int i = LANES; i < SPAN; i += LANES) {
        Floats next = load(x + i);
        most = pick(next > most, next, most);
    }
    for (int i = 0; i < LANES; i++) so_far = most[i] > so_far ? most[i] : so_far;
    return so_far;
}

INLINE float sum(const float *x)
{
    Floats total = load(x);
    for (int i = LANES; i < SPAN; i += LANES) total += load(x + i);
    float a[4] = {0};
    for (int i = 0; i < LANES; i++) a[i % 4] += total[i];
    return (a[0] + a[1]) + (a[2] + a[3]);
}

/* Scores of `count` heads against the 16 keys of a frame. */
INLINE void score(const int count, const int half, const float query[][WIDEST], const void *pool, int64_t keys,
                  int64_t width, float scores[][SPAN])
{
    Floats sums[TOGETHER][PARTS][WAYS] = {0};
    int64_t d = 0;
    for (; d + WAYS <= width; d += WAYS)
#pragma GCC unroll 4
        for (int way = 0; way < WAYS; way++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                Floats k = kept(pool, keys + (d + way) * FRAME + part * LANES, half);
#pragma GCC unroll 4
                for (int g = 0; g < count; g++) sums[g][part][way] += query[g][d + way] * k;
            }
    for (; d < width; d++)
        for (int part = 0; part < PARTS; part++) {
            Floats k = kept(pool, keys + d * FRAME + part * LANES, half);
            for (int g = 0; g < count; g++) sums[g][part][0] += query[g][d] * k;
        }
    for (int g = 0; g < count; g++)
        for (int part = 0; part < PARTS; part++) {
            for (int way = 1; way < WAYS; way++) sums[g][part][0] += sums[g][part][way];
            store(scores[g] + part * LANES, sums[g][part][0]);
        }
}

/* The slots of a block that a token reaches: first..end; `at` says where the values of each of its frames begin. */
typedef struct {
    const void *pool;
    int64_t at[BLOCK], width;
    int first, end;
} Reach;

/* Add the values of a block, times their weights, to `many` vectors of the sums of `count` heads. */
INLINE void gather(const int count, const int half, const int many, const Reach *reach, int64_t d,
                   const float weights[][SPAN], const float *shrink, float sums[][WIDEST])
{
    Floats a[TOGETHER][MANY];
    for (int g = 0; g < count; g++)
        for (int n = 0; n < many; n++) a[g][n] = load(sums[g] + d + n * LANES) * shrink[g];
    for (int i = reach->first; i < reach->end; i++) {
        const int64_t at = reach->at[i / FRAME] + i % FRAME * reach->width + d;
#pragma GCC unroll 4
        for (int n = 0; n < many; n++) {
            Floats v = kept(reach->pool, at + n * LANES, half);
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) a[g][n] += weights[g][i] * v;
        }
    }
    for (int g = 0; g < count; g++)
        for (int n = 0; n < many; n++) store(sums[g] + d + n * LANES, a[g][n]);
}

/* The same for all of them. */
INLINE void gather_all(const int count, const int half, const Reach *reach, const float weights[][SPAN],
                       const float *shrink, float sums[][WIDEST])
{
    int64_t d = 0;
    for (; d + MANY * LANES <= reach->width; d += MANY * LANES)
        gather(count, half, MANY, reach, d, weights, shrink, sums);
    for (; d + LANES <= reach->width; d += LANES) gather(count, half, 1, reach, d, weights, shrink, sums);
    for (; d < reach->width; d++)
        for (int g = 0; g < count; g++) {
            float a = sums[g][d] * shrink[g];
            for (int i = reach->first; i < reach->end; i++) {
                const int64_t at = reach->at[i / FRAME] + i % FRAME * reach->width + d;
                const float v = half ? single(((const uint16_t *)reach->pool)[at]) : ((const float *)reach->pool)[at];
                a += weights[g][i] * v;
            }
            sums[g][d] = a;
        }
}

/* Rotary positions: the halves of a vector as the two sides of many angles (https://arxiv.org/abs/2104.09864). */
INLINE void turn(const float *x, int64_t width, const float *cosine, const float *sine, float *out)
{
    const int64_t half = width / 2;
    for (int64_t d = 0; d < half; d++) {
        const float a = x[d], b = x[d + half];
        out[d] = a * cosine[d] - b * sine[d];
        out[d + half] = b * cosine[d + half] + a * sine[d + half];
    }
}

/* `count` heads of a token at `position`, which share the keys and values of `head`. */
INLINE void attend(const int count, const int half, const Layer *layer, const int32_t *table, int64_t position,
                   int64_t head, const float *query, int64_t query_head, const float *cosine, const float *sine,
                   const float *sinks, float *out)
{
    const int64_t key_width = layer->key_width, width = layer->value_width, seen = position + 1;
    const int64_t start = layer->window && layer->window < seen ? seen - layer->window : 0;
    const int64_t keys = layer->keys + head * key_width * FRAME, values = layer->values + head * FRAME * width;
    float asked[TOGETHER][WIDEST], sums[TOGETHER][WIDEST], weights[TOGETHER][SPAN];
    float top[TOGETHER], total[TOGETHER], shrink[TOGETHER];
    for (int g = 0; g < count; g++) {
        if (cosine) turn(query + g * query_head, key_width, cosine, sine, asked[g]);
        else memcpy(asked[g], query + g * query_head, key_width * sizeof(float));
        for (int64_t d = 0; d < key_width; d++) asked[g][d] *= layer->scale;
        top[g] = sinks ? sinks[g] : -1e30f;
        total[g] = sinks ? 1.f : 0.f;
        memset(sums[g], 0, width * sizeof(float));
    }
    for (int64_t base = start / SPAN * SPAN; base < seen; base += SPAN) {
        Reach reach = {layer->pool, {0}, width, start > base ? start - base : 0, seen - base < SPAN ? seen - base : SPAN};
        for (int f = reach.first / FRAME; f * FRAME < reach.end; f++) {
            const int64_t record = table[base / FRAME + f] * layer->record;
            reach.at[f] = record + values;
            announce(layer->pool, record + values, FRAME * width, half);
            if (base + f * FRAME + SPAN < seen)
                announce(layer->pool, table[base / FRAME + f + BLOCK] * layer->record + keys, FRAME * key_width, half);
            float(*scores)[SPAN] = (float(*)[SPAN])(weights[0] + f * FRAME);
            score(count, half, asked, layer->pool, record + keys, key_width, scores);
        }
        for (int g = 0; g < count; g++) {
            if (layer->softcap > 0)
                for (int i = reach.first / FRAME * FRAME; i < reach.end; i += LANES)
                    store(weights[g] + i, hyperbolic_tangent(load(weights[g] + i) / layer->softcap) * layer->softcap);
            for (int i = 0; i < reach.first; i++) weights[g][i] = -1e30f;
            for (int i = reach.end; i < SPAN; i++) weights[g][i] = -1e30f;
            const float before = top[g];
            top[g] = largest(weights[g], before);
            shrink[g] = exponential(all(before - top[g]))[0];
            for (int i = 0; i < SPAN; i += LANES)
                store(weights[g] + i, exponential(load(weights[g] + i) - top[g]));
            for (int i = 0; i < reach.first; i++) weights[g][i] = 0;
            for (int i = reach.end; i < SPAN; i++) weights[g][i] = 0;
            total[g] = total[g] * shrink[g] + sum(weights[g]);
        }
        gather_all(count, half, &reach, weights, shrink, sums);
    }
    for (int g = 0; g < count; g++)
        for (int64_t d = 0; d < width; d++) out[g * width + d] = sums[g][d] / total[g];
}

static void write(const Layer *layer, const int32_t *table, int64_t position, int64_t head, const float *key,
                  const float *cosine, const float *sine, const float *value)
{
    const int half = layer->half != 0;
    const int64_t record = table[position / FRAME] * layer->record, slot = position % FRAME;
    const int64_t keys = record + layer->keys + head * layer->key_width * FRAME + slot;
    const int64_t values = record + layer->values + (head * FRAME + slot) * layer->value_width;
    float turned[WIDEST];
    if (cosine) {
        turn(key, layer->key_width, cosine, sine, turned);
        key = turned;
    }
    for (int64_t d = 0; d < layer->key_width; d++) keep(layer->pool, keys + d * FRAME, half, key[d]);
    for (int64_t d = 0; d < layer->value_width; d++) keep(layer->pool, values + d, half, value[d]);
}

/* What a token writes of one head. */
void tokix_write_one(const Layer *layer, const Tokens *at, const Attended *of, int64_t t, int64_t h)
{
    const int64_t turns = of->cosine ? layer->key_width : 0;
    write(layer, at->tables + at->bases[t], at->positions[t], h, of->key + t * of->key_token + h * of->key_head,
          of->cosine + t * turns, of->sine + t * turns, of->value + t * of->value_token + h * of->value_head);
}

/* What a token reads with the queries of one head. All that it reaches has been written. */
void tokix_attend_one(const Layer *layer, const Tokens *at, const Attended *of, int64_t t, int64_t h)
{
    const int64_t heads = layer->heads, group = layer->group, turns = of->cosine ? layer->key_width : 0;
    for (int64_t g = 0; g < group; g += TOGETHER) {
        const int64_t first = h * group + g;
        const int32_t *table = at->tables + at->bases[t];
        const float *q = of->query + t * of->query_token + first * of->query_head;
        const float *c = of->cosine + t * turns, *s = of->sine + t * turns;
        const float *sinks = layer->sinks ? layer->sinks + first : 0;
        float *to = of->out + (t * heads * group + first) * layer->value_width;
#define ATTEND(count, half) \
    attend(count, half, layer, table, at->positions[t], h, q, of->query_head, c, s, sinks, to); \
    break
        switch ((group - g < TOGETHER ? group - g : TOGETHER) + (layer->half ? TOGETHER : 0)) {
        case 1: ATTEND(1, 0);
        case 2: ATTEND(2, 0);
        case 3: ATTEND(3, 0);
        case 4: ATTEND(4, 0);
        case 5: ATTEND(1, 1);
        case 6: ATTEND(2, 1);
        case 7: ATTEND(3, 1);
        case 8: ATTEND(4, 1);
        }
    }
}

/* Token t is at positions[t] of the table that begins at tables[bases[t]]. `out` is [tokens][heads * group][width].
 * Queries and keys are turned by cosine and sine, [tokens][key width], if these are given. */
void tokix_attend(const Layer *layer, const int32_t *tables, const int64_t *bases, const int64_t *positions,
                  int64_t tokens, const float *query, int64_t query_token, int64_t query_head, const float *key,
                  int64_t key_token, int64_t key_head, const float *value, int64_t value_token, int64_t value_head,
                  const float *cosine, const float *sine, float *out)
{
    const Tokens at = {tables, bases, positions, tokens};
    const Attended of = {query, query_token, query_head, key, key_token, key_head, value, value_token, value_head,
                         cosine, sine, out};
#pragma omp parallel
    {
#pragma omp for
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t h = 0; h < layer->heads; h++) tokix_write_one(layer, &at, &of, t, h);
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t h = 0; h < layer->heads; h++) tokix_attend_one(layer, &at, &of, t, h);
    }
}
