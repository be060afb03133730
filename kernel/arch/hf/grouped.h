/* Weights in groups of 32 along the input, in 4 or 8 bits, and what is done with a product of them. See grouped.c. */
#pragma once
#include "lanes.h"
#include "share.h"

#define GROUP 32
/* Rows that share one unpacking of the weights. */
#define CHUNK 96

/* A linear map. Its outputs are cut into tiles of FRAME, an even number of them, filled up at the end; a tile is its
 * groups, one after the other. If `paired`, tiles of the first half of the outputs
 * alternate with those of the second, so that a gate is beside what it gates. */
typedef struct {
    const char *tiles;
    const float *bias; /* as long as the tiles, or none */
    int64_t bits, width, outputs, paired;
} Product;

/* What becomes of the results: they are stored, added to what is there, or stored as silu(gate) * up, of pairs. */
enum { STORE, ADD, GATE };

/* Floats that a thread needs for unpacked weights of an input of this width. */
INLINE int64_t panel_size(int64_t width) { return (width + GROUP - 1) / GROUP * GROUP * FRAME * 2; }

/* Do what a thread can get of out[rows][outputs] (+)= x[rows][width] · weights + bias; all of it is done then. */
void tokix_product_share(const Product *product, const float *x, int64_t rows, int then, float *out, float *panel,
                         int64_t threads, Share *share);
