/* Products with grouped weights: a weight is scale * q + least (4 bits) or scale * q (8 bits), with the scale and the
 * least of a group of 32 in fp16 (the grids of Q4_1 and Q8_0, https://github.com/ggml-org/ggml). Inputs and sums are
 * in fp32.
 *
 * Invariant: an output is one chain of sums over the input, from the first to the last, of a weight in fp32 times an
 * input, and the lanes of a vector are different outputs. So a row gets the same bits in any company, with any number
 * of threads, and with vectors of any width.
 *
 * A few rows are bound by memory: their weights are unpacked in registers. For more, weights are unpacked once, into a
 * panel that fits into the second cache, and used for all rows of a chunk, some of them at a time in registers.
 */
#include <omp.h>
#include "grouped.h"

/* Tiles and rows that are done together, so that their sums stay in registers: with a panel; in a few rows without it,
 * and the tiles for one row, for up to FEW / 2, and for up to FEW. */
#if LANES == 16
#define SIDE 2
#define ROWS 12
#define FEW 8
#define WIDE 6
#define HALF 4
#define SLIM 2
#elif LANES == 8
#define SIDE 1
#define ROWS 6
#define FEW 4
#define WIDE 2
#define HALF 2
#define SLIM 1
#else
#define SIDE 1
#define ROWS 3
#define FEW 2
#define WIDE 1
#define HALF 1
#define SLIM 1
#endif
/* Most tiles of a piece of work; groups that are asked for before they are used. */
#define MOST 6
#define AHEAD 4

typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

/* Weight 8 * j + i of output n is at bit 4 * i of words[j][n]; the grid has the least in its high half. */
typedef struct {
    uint32_t words[GROUP / 8][FRAME], grid[FRAME];
} Four;

/* Weight 4 * j + i of output n is at bit 8 * i of words[j][n]. */
typedef struct {
    uint32_t words[GROUP / 4][FRAME];
    float scale[FRAME];
} Eight;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t groups_of(int64_t width) { return (width + GROUP - 1) / GROUP; }
INLINE int64_t group_size(const int bits) { return bits == 4 ? sizeof(Four) : sizeof(Eight); }

INLINE Words load_words(const uint32_t *from) { Words x; memcpy(&x, from, sizeof x); return x; }

/* Finite numbers in fp16, from the low halves. */
INLINE Floats halves(Words bits)
{
    Floats x = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;
    return (Floats)((Words)x | (bits & 0x8000) << 16);
}

/* Ask memory for the weights some groups ahead: what follows a tile is the next one. */
INLINE void ask(const int bits, const char *group)
{
    for (int line = 0; line < group_size(bits); line += 64) __builtin_prefetch(group + AHEAD * group_size(bits) + line);
}

/* What the weights of a group have in common. */
typedef struct {
    Floats scale[PARTS], least[PARTS];
} Grid;

INLINE Grid grid_of(const int bits, const char *group)
{
    Grid grid;
    for (int part = 0; part < PARTS; part++)
        if (bits == 4) {
            const Words both = load_words(((const Four *)group)->grid + part * LANES);
            grid.scale[part] = halves(both);
            grid.least[part] = halves(both >> 16);
        } else
            grid.scale[part] = load(((const Eight *)group)->scale + part * LANES);
    return grid;
}

/* Weight k of a group, of all outputs of a part. */
INLINE Floats weight(const int bits, const char *group, const Grid *grid, int k, int part)
{
    if (bits == 4) {
        const Words words = load_words(((const Four *)group)->words[k / 8] + part * LANES);
        return __builtin_convertvector((Ints)(words >> 4 * (k % 8) & 15), Floats) * grid->scale[part] +
               grid->least[part];
    }
    const Words words = load_words(((const Eight *)group)->words[k / 4] + part * LANES);
    return __builtin_convertvector((Ints)(words << (24 - 8 * (k % 4))) >> 24, Floats) * grid->scale[part];
}

/* A few rows, and some tiles: results[rows][stride]. */
INLINE void few(const int bits, const int rows, const int tiles, const char *from, int64_t width, const float *x,
                float *results, int64_t stride)
{
    const int64_t groups = groups_of(width), size = group_size(bits);
    Floats sums[FEW][WIDE][PARTS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        const char *group[WIDE];
        Grid grid[WIDE];
        for (int tile = 0; tile < tiles; tile++) {
            group[tile] = from + (tile * groups + g) * size;
            grid[tile] = grid_of(bits, group[tile]);
            ask(bits, group[tile]);
        }
        const int64_t count = smaller(GROUP, width - g * GROUP);
        const float *given = x + g * GROUP;
        for (int64_t part = 0; part < count / 8; part++)
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
#pragma GCC unroll 6
                for (int tile = 0; tile < tiles; tile++)
                    for (int p = 0; p < PARTS; p++) {
                        const Floats w = weight(bits, group[tile], &grid[tile], 8 * part + i, p);
#pragma GCC unroll 8
                        for (int row = 0; row < rows; row++)
                            sums[row][tile][p] += given[row * width + 8 * part + i] * w;
                    }
        for (int k = count / 8 * 8; k < count; k++)
#pragma GCC unroll 6
            for (int tile = 0; tile < tiles; tile++)
                for (int p = 0; p < PARTS; p++) {
                    const Floats w = weight(bits, group[tile], &grid[tile], k, p);
#pragma GCC unroll 8
                    for (int row = 0; row < rows; row++) sums[row][tile][p] += given[row * width + k] * w;
                }
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 6
        for (int tile = 0; tile < tiles; tile++)
            for (int p = 0; p < PARTS; p++)
                store(results + row * stride + tile * FRAME + p * LANES, sums[row][tile][p]);
}

/* Do so with as many tiles at a time as there are registers. */
#define FEW_OF(rows, wide) \
    case rows: \
        for (; tile + wide <= tiles; tile += wide) \
            if (bits == 4) few(4, rows, wide, from + tile * size, width, x, results + tile * FRAME, stride); \
            else few(8, rows, wide, from + tile * size, width, x, results + tile * FRAME, stride); \
        for (; tile < tiles; tile++) \
            if (bits == 4) few(4, rows, 1, from + tile * size, width, x, results + tile * FRAME, stride); \
            else few(8, rows, 1, from + tile * size, width, x, results + tile * FRAME, stride); \
        break

static void in_registers(const int bits, int64_t rows, int64_t tiles, const char *from, int64_t width, const float *x,
                         float *results, int64_t stride)
{
    const int64_t size = groups_of(width) * group_size(bits);
    int64_t tile = 0;
    switch (rows) {
        FEW_OF(1, WIDE);
#if FEW == 2
        FEW_OF(2, SLIM);
#elif FEW == 4
        FEW_OF(2, HALF);
        FEW_OF(3, SLIM);
        FEW_OF(4, SLIM);
#else
        FEW_OF(2, HALF);
        FEW_OF(3, HALF);
        FEW_OF(4, HALF);
        FEW_OF(5, SLIM);
        FEW_OF(6, SLIM);
        FEW_OF(7, SLIM);
        FEW_OF(8, SLIM);
#endif
    }
}

/* Unpack group g of SIDE tiles: panel[GROUP][SIDE][FRAME]. */
INLINE void unpack(const int bits, const char *from, int64_t groups, int64_t g, float *panel)
{
    for (int tile = 0; tile < SIDE; tile++) {
        const char *group = from + (tile * groups + g) * group_size(bits);
        const Grid grid = grid_of(bits, group);
        ask(bits, group);
        for (int j = 0; j < GROUP; j += 8)
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                for (int p = 0; p < PARTS; p++)
                    store(panel + ((j + i) * SIDE + tile) * FRAME + p * LANES, weight(bits, group, &grid, j + i, p));
    }
}

/* Some rows, and SIDE tiles: results[rows][stride]. The panel is filled by the first rows that need it; if `once`,
 * no others do, and it is but one group long. */
INLINE void together(const int bits, const int rows, const char *from, int64_t width, const float *x, float *panel,
                     int first, int once, float *results, int64_t stride)
{
    const int64_t groups = groups_of(width);
    Floats sums[ROWS][SIDE * PARTS] = {0};
    for (int64_t g = 0; g < groups; g++) {
        const int64_t count = smaller(GROUP, width - g * GROUP);
        float *weights = once ? panel : panel + g * GROUP * SIDE * FRAME;
        if (first) unpack(bits, from, groups, g, weights);
        const float *given = x + g * GROUP;
        for (int64_t k = 0; k < count; k++) {
            Floats w[SIDE * PARTS];
            for (int p = 0; p < SIDE * PARTS; p++) w[p] = load(weights + k * SIDE * FRAME + p * LANES);
#pragma GCC unroll 12
            for (int row = 0; row < rows; row++)
                for (int p = 0; p < SIDE * PARTS; p++) sums[row][p] += given[row * width + k] * w[p];
        }
    }
#pragma GCC unroll 12
    for (int row = 0; row < rows; row++)
        for (int p = 0; p < SIDE * PARTS; p++) store(results + row * stride + p * LANES, sums[row][p]);
}

static void with_panel(const int bits, int64_t rows, const char *from, int64_t width, const float *x, float *panel,
                 float *results, int64_t stride)
{
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t row = block * rows / blocks, count = (block + 1) * rows / blocks - row;
        const float *given = x + row * width;
        float *to = results + row * stride;
        const int first = block == 0, once = blocks == 1;
#define CASE(n) \
    case n: \
        if (bits == 4) together(4, n, from, width, given, panel, first, once, to, stride); \
        else together(8, n, from, width, given, panel, first, once, to, stride); \
        break
        switch (count) {
            CASE(1); CASE(2); CASE(3);
#if ROWS > 3
            CASE(4); CASE(5); CASE(6);
#endif
#if ROWS > 6
            CASE(7); CASE(8); CASE(9); CASE(10); CASE(11); CASE(12);
#endif
        }
    }
}

/* Take results[rows][tiles][FRAME], from the tile `start` on, to where they belong. */
static void deliver(const Product *product, const float *results, int64_t rows, int64_t start, int64_t tiles, int then,
                    float *out)
{
    const int64_t paired = product->paired, part_of = product->outputs >> paired;
    const int64_t width = then == GATE ? part_of : product->outputs;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t tile = start; tile < start + tiles; tile += then == GATE ? 2 : 1)
            for (int p = 0; p < PARTS; p++) {
                const int64_t at = (tile >> paired) * FRAME + p * LANES;
                if (at >= part_of) continue;
                const float *from = results + (row * tiles + tile - start) * FRAME + p * LANES;
                const float *bias = product->bias ? product->bias + tile * FRAME + p * LANES : 0;
                float *to = out + row * width + at + (tile & paired ? part_of : 0);
                const size_t size = smaller(LANES, part_of - at) * sizeof(float);
                Floats x = bias ? load(from) + load(bias) : load(from), before = {0};
                if (then == GATE) x = silu(x) * (bias ? load(from + FRAME) + load(bias + FRAME) : load(from + FRAME));
                if (then == ADD) {
                    memcpy(&before, to, size);
                    x += before;
                }
                memcpy(to, &x, size);
            }
}

/* Give the number of tiles that are done at once, so that threads end together. */
static int64_t piece(int64_t tiles, int64_t rows, int64_t threads)
{
    if (rows > FEW) return 2;
    const int64_t six = (tiles + 5) / 6, four = (tiles + 3) / 4;
    if (rows == 1 && (six + threads - 1) / threads * 6 <= (four + threads - 1) / threads * 4) return 6;
    return rows <= 4 && four >= 4 * threads ? 4 : 2;
}

void tokix_product_share(const Product *product, const float *x, int64_t rows, int then, float *out, float *panel,
                         int64_t threads, Share *share)
{
    const int64_t part_of = product->outputs >> product->paired, width = product->width;
    const int64_t tiles = product->paired ? (part_of + FRAME - 1) / FRAME * 2 : (part_of + 2 * FRAME - 1) / (2 * FRAME) * 2;
    const int64_t wide = then == GATE ? part_of : product->outputs;
    const int64_t size = groups_of(width) * group_size(product->bits), each = piece(tiles, rows, threads);
    const int64_t pieces = (tiles + each - 1) / each, chunks = (rows + CHUNK - 1) / CHUNK;
    float results[CHUNK * 2 * FRAME > MOST * FRAME ? CHUNK * 2 * FRAME : MOST * FRAME];
    int64_t mine = 0;
    for (int64_t at; (at = take(share)) < pieces * chunks; mine++) {
        const int64_t tile = at % pieces * each, count = smaller(each, tiles - tile), row = at / pieces * CHUNK;
        const int64_t some = smaller(CHUNK, rows - row);
        const char *from = product->tiles + tile * size;
        const float *given = x + row * width;
        if (some <= FEW)
            in_registers(product->bits, some, count, from, width, given, results, count * FRAME);
        else
            for (int64_t side = 0; side < count; side += SIDE)
                with_panel(product->bits, some, from + side * size, width, given, panel, results + side * FRAME,
                     count * FRAME);
        deliver(product, results, some, tile, count, then, out + row * wide);
    }
    finish(share, mine, pieces * chunks);
}

/* out[rows][outputs] = x · weights + bias; panels are [threads][panel_size(width)]. */
void tokix_product(const Product *product, const float *x, int64_t rows, float *out, float *panels, int64_t threads)
{
    Share share = {0};
#pragma omp parallel num_threads(threads)
    tokix_product_share(product, x, rows, STORE, out, panels + omp_get_thread_num() * panel_size(product->width),
                        omp_get_num_threads(), &share);
}
