/* Attention over frames: for each token of a tick, write its key and value to their slot, then read what it reaches.
 *
 * Invariant: what comes out for a token depends on its query and on the keys and values that it reaches, in the order
 * of their positions, and on nothing else, bit for bit: not on the other tokens of the tick, on where the frames lie,
 * or on the number of threads. So frames are walked one by one from the first that is seen, a frame is always 16
 * positions wide, each sum has one order, and a slot that is not reached is not read into any sum.
 *
 * A frame is one record of all layers. In it, keys lie [head][width][FRAME], so that 16 scores are one sum of vectors,
 * and values [head][FRAME][width]. The softmax is computed as the frames come (https://arxiv.org/abs/1805.02867).
 *
 * Compiled by native.py for the machine that runs it. Without -ffast-math: that would let sums be reordered, and would
 * switch off denormal numbers for the whole process.
 */
#include "paged.h"

/* Widest query and value; most heads of a group that are done together (their sums have to fit into registers). */
#define WIDEST 512
#define TOGETHER 4

INLINE float largest(const float *x, float so_far)
{
    for (int i = 0; i < FRAME; i++) so_far = x[i] > so_far ? x[i] : so_far;
    return so_far;
}

INLINE float sum(const float *x)
{
    float a[4] = {0};
    for (int i = 0; i < FRAME; i++) a[i % 4] += x[i];
    return (a[0] + a[1]) + (a[2] + a[3]);
}

/* Scores of `count` heads against the 16 keys of a frame. */
INLINE void score(const int count, const float *query, int64_t query_head, const float *keys, int64_t width,
                  float scores[][FRAME])
{
    Floats sums[TOGETHER][PARTS] = {0};
    for (int64_t d = 0; d < width; d++)
        for (int part = 0; part < PARTS; part++) {
            Floats k = load(keys + d * FRAME + part * LANES);
#pragma GCC unroll 4
            for (int g = 0; g < count; g++) sums[g][part] += query[g * query_head + d] * k;
        }
    for (int g = 0; g < count; g++)
        for (int part = 0; part < PARTS; part++) store(scores[g] + part * LANES, sums[g][part]);
}

/* Add the values of a frame's positions first..end, times their weights, to the sums of `count` heads. */
INLINE void gather(const int count, const float *values, int64_t width, int first, int end,
                   float weights[][FRAME], const float *shrink, float sums[][WIDEST])
{
    int64_t d = 0;
    for (; d + FRAME <= width; d += FRAME) {
        Floats a[TOGETHER][PARTS];
        for (int g = 0; g < count; g++)
            for (int part = 0; part < PARTS; part++) a[g][part] = load(sums[g] + d + part * LANES) * shrink[g];
        for (int i = first; i < end; i++)
            for (int part = 0; part < PARTS; part++) {
                Floats v = load(values + i * width + d + part * LANES);
#pragma GCC unroll 4
                for (int g = 0; g < count; g++) a[g][part] += weights[g][i] * v;
            }
        for (int g = 0; g < count; g++)
            for (int part = 0; part < PARTS; part++) store(sums[g] + d + part * LANES, a[g][part]);
    }
    for (; d < width; d++)
        for (int g = 0; g < count; g++) {
            float a = sums[g][d] * shrink[g];
            for (int i = first; i < end; i++) a += weights[g][i] * values[i * width + d];
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
INLINE void attend(const int count, const Layer *layer, const int32_t *table, int64_t position, int64_t head,
                   const float *query, int64_t query_head, const float *cosine, const float *sine,
                   const float *sinks, float *out)
{
    float turned[TOGETHER][WIDEST];
    if (cosine) {
        for (int g = 0; g < count; g++) turn(query + g * query_head, layer->key_width, cosine, sine, turned[g]);
        query = turned[0];
        query_head = WIDEST;
    }
    const int64_t seen = position + 1, width = layer->value_width;
    const int64_t start = layer->window && layer->window < seen ? seen - layer->window : 0;
    float top[TOGETHER], total[TOGETHER], shrink[TOGETHER], weights[TOGETHER][FRAME], sums[TOGETHER][WIDEST];
    for (int g = 0; g < count; g++) {
        top[g] = sinks ? sinks[g] : -1e30f;
        total[g] = sinks ? 1.f : 0.f;
        memset(sums[g], 0, width * sizeof(float));
    }
    for (int64_t frame = start / FRAME; frame * FRAME < seen; frame++) {
        const float *record = layer->pool + table[frame] * layer->record;
        const int first = start > frame * FRAME ? start - frame * FRAME : 0;
        const int end = seen - frame * FRAME < FRAME ? seen - frame * FRAME : FRAME;
        score(count, query, query_head, record + layer->keys + head * layer->key_width * FRAME, layer->key_width,
              weights);
        for (int g = 0; g < count; g++) {
            for (int part = 0; part < PARTS; part++) {
                Floats x = load(weights[g] + part * LANES) * layer->scale;
                if (layer->softcap > 0) x = hyperbolic_tangent(x / layer->softcap) * layer->softcap;
                store(weights[g] + part * LANES, x);
            }
            for (int i = 0; i < first; i++) weights[g][i] = -1e30f;
            for (int i = end; i < FRAME; i++) weights[g][i] = -1e30f;
            const float before = top[g];
            top[g] = largest(weights[g], before);
            shrink[g] = exponential(all(before - top[g]))[0];
            for (int part = 0; part < PARTS; part++)
                store(weights[g] + part * LANES, exponential(load(weights[g] + part * LANES) - top[g]));
            for (int i = 0; i < first; i++) weights[g][i] = 0;
            for (int i = end; i < FRAME; i++) weights[g][i] = 0;
            total[g] = total[g] * shrink[g] + sum(weights[g]);
        }
        gather(count, record + layer->values + head * FRAME * width, width, first, end, weights, shrink, sums);
    }
    for (int g = 0; g < count; g++)
        for (int64_t d = 0; d < width; d++) out[g * width + d] = sums[g][d] / total[g];
}

static void write(const Layer *layer, const int32_t *table, int64_t position, int64_t head, const float *key,
                  const float *cosine, const float *sine, const float *value)
{
    float turned[WIDEST];
    if (cosine) {
        turn(key, layer->key_width, cosine, sine, turned);
        key = turned;
    }
    float *record = layer->pool + table[position / FRAME] * layer->record;
    float *keys = record + layer->keys + head * layer->key_width * FRAME + position % FRAME;
    float *values = record + layer->values + (head * FRAME + position % FRAME) * layer->value_width;
    for (int64_t d = 0; d < layer->key_width; d++) keys[d * FRAME] = key[d];
    memcpy(values, value, layer->value_width * sizeof(float));
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
        switch (group - g) {
        case 1: attend(1, layer, table, at->positions[t], h, q, of->query_head, c, s, sinks, to); break;
        case 2: attend(2, layer, table, at->positions[t], h, q, of->query_head, c, s, sinks, to); break;
        case 3: attend(3, layer, table, at->positions[t], h, q, of->query_head, c, s, sinks, to); break;
        default: attend(4, layer, table, at->positions[t], h, q, of->query_head, c, s, sinks, to);
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
