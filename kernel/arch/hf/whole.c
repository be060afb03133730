/* The forward of the Llama family in one call: all layers, for all tokens of a tick.
 *
 * With a few rows a layer takes some tens of microseconds, so that waking threads for each step of it would take longer
 * than the step. Here the threads go through all steps of a tick (see share.h). Invariant: which thread does a piece
 * changes no bit of it.
 */
#include <omp.h>
#include "grouped.h"
#include "paged.h"

/* Rows so few that each thread norms all of them itself, for want of waiting. */
#define FEW 4

typedef struct {
    Layer layer;
    Product together, out, gates, down;
    const float *before, *after;
    float before_epsilon, after_epsilon;
} Block;

typedef struct {
    const Block *blocks;
    int64_t count, width;
    const float *norm;
    float epsilon;
    Product head;
} Model;

/* What is done: x [tokens][width] are the embeddings; logits are wanted [asked] of some tokens. `normed` has room
 * for [threads][FEW][width] and for [max(tokens, asked)][width]; `panels` is [threads][panel]; `shares` are 0, eight for
 * each layer, and two. */
typedef struct {
    Tokens at;
    const float *cosine, *sine;
    int64_t asked, panel, threads;
    const int64_t *rows;
    float *x, *normed, *packed, *seen, *gated, *logits, *panels;
    Share *shares;
} Work;

void tokix_norm_one(float *from, const float *delta, const float *weight, float epsilon, int64_t width, float *to);

/* A thread that goes through a tick. */
typedef struct {
    const Model *model;
    const Work *work;
    int64_t threads, me;
    Share *share; /* of the next step */
    float *panel;
} Thread;

/* Give the norms of some rows of x, in order: all of them if `rows` is not given. */
static const float *normed(Thread *thread, const int64_t *rows, int64_t count, const float *weight, float epsilon)
{
    const Work *work = thread->work;
    const int64_t width = thread->model->width, few = count <= FEW;
    float *to = work->normed + (few ? thread->me * FEW * width : thread->threads * FEW * width);
    int64_t mine = 0;
    for (int64_t row; (row = few ? mine : take(thread->share)) < count; mine++)
        tokix_norm_one(work->x + (rows ? rows[row] : row) * width, 0, weight, epsilon, width, to + row * width);
    if (!few) finish(thread->share, mine, count);
    thread->share++;
    return to;
}

static void multiply(Thread *thread, const Product *product, const float *x, int64_t rows, int then, float *out)
{
    tokix_product_share(product, x, rows, then, out, thread->panel, thread->threads, thread->share++);
}

static void attend(Thread *thread, const Layer *layer)
{
    const Work *work = thread->work;
    const int64_t keys = layer->heads * layer->group * layer->key_width, values = keys + layer->heads * layer->key_width;
    const int64_t token = values + layer->heads * layer->value_width, pieces = work->at.count * layer->heads;
    const float *packed = work->packed;
    const Attended of = {packed, token, layer->key_width, packed + keys, token, layer->key_width, packed + values, token,
                         layer->value_width, work->cosine, work->sine, work->seen};
    int64_t mine = 0;
    for (int64_t piece; (piece = take(thread->share)) < pieces; mine++)
        tokix_write_one(layer, &work->at, &of, piece / layer->heads, piece % layer->heads);
    finish(thread->share++, mine, pieces);
    mine = 0;
    for (int64_t piece; (piece = take(thread->share)) < pieces; mine++)
        tokix_attend_one(layer, &work->at, &of, piece / layer->heads, piece % layer->heads);
    finish(thread->share++, mine, pieces);
}

static void go(Thread *thread)
{
    const Model *model = thread->model;
    const Work *work = thread->work;
    const int64_t tokens = work->at.count;
    for (const Block *block = model->blocks; block < model->blocks + model->count; block++) {
        const float *given = normed(thread, 0, tokens, block->before, block->before_epsilon);
        multiply(thread, &block->together, given, tokens, STORE, work->packed);
        attend(thread, &block->layer);
        multiply(thread, &block->out, work->seen, tokens, ADD, work->x);
        given = normed(thread, 0, tokens, block->after, block->after_epsilon);
        multiply(thread, &block->gates, given, tokens, GATE, work->gated);
        multiply(thread, &block->down, work->gated, tokens, ADD, work->x);
    }
    const float *last = normed(thread, work->rows, work->asked, model->norm, model->epsilon);
    multiply(thread, &model->head, last, work->asked, STORE, work->logits);
}

void tokix_whole(const Model *model, const Work *work)
{
#pragma omp parallel num_threads(work->threads)
    {
        const int64_t me = omp_get_thread_num();
        Thread thread = {model, work, omp_get_num_threads(), me, work->shares, work->panels + me * work->panel};
        go(&thread);
    }
}
