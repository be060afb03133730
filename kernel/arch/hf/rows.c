/* What a layer does to each row by itself. Invariant: a row gets the same bits whatever stands above and below it. */
#include <math.h>
#include "lanes.h"

/* Rows that are not worth waking a thread for. */
#define FEW 16

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void tokix_norm_one(float *from, const float *delta, const float *weight, float epsilon, int64_t width, float *to)
{
    float sums[FRAME] = {0};
    if (delta)
        for (int64_t d = 0; d < width; d++) from[d] += delta[d];
    for (int64_t d = 0; d < width; d += FRAME)
        for (int64_t i = 0; i < least(FRAME, width - d); i++) sums[i] += from[d + i] * from[d + i];
    float total = 0;
    for (int i = 0; i < FRAME; i++) total += sums[i];
    const float scale = 1.f / sqrtf(total / width + epsilon);
    for (int64_t d = 0; d < width; d++) to[d] = from[d] * scale * weight[d];
}

/* Add delta to x, if there is one; out = x / sqrt(mean(x * x) + epsilon) * weight (https://arxiv.org/abs/1910.07467). */
void tokix_norm(float *x, const float *delta, const float *weight, float epsilon, int64_t rows, int64_t width,
                float *out)
{
#pragma omp parallel for if (rows > FEW)
    for (int64_t row = 0; row < rows; row++)
        tokix_norm_one(x + row * width, delta ? delta + row * width : 0, weight, epsilon, width, out + row * width);
}

/* out[rows][width] = silu(gate) * up, from [rows][gate, up]. */
void tokix_gate(const float *both, int64_t rows, int64_t width, float *out)
{
#pragma omp parallel for if (rows > FEW)
    for (int64_t row = 0; row < rows; row++) {
        const float *gate = both + 2 * row * width, *up = gate + width;
        for (int64_t d = 0; d < width; d += LANES) {
            const size_t size = least(LANES, width - d) * sizeof(float);
            Floats g = {0}, u = {0};
            memcpy(&g, gate + d, size);
            memcpy(&u, up + d, size);
            g = silu(g) * u;
            memcpy(out + row * width + d, &g, size);
        }
    }
}
