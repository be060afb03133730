/* Vectors as wide as the processor has them; FRAME floats are PARTS of them. Shared by all kernels. */
#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#define FRAME 16

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define PARTS (FRAME / LANES)
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

INLINE Floats all(float x) { return (Floats){0} + x; }
INLINE Floats load(const float *from) { Floats x; memcpy(&x, from, sizeof x); return x; }
INLINE void store(float *to, Floats x) { memcpy(to, &x, sizeof x); }
INLINE Floats pick(Ints yes, Floats a, Floats b) { return (Floats)((yes & (Ints)a) | (~yes & (Ints)b)); }

#ifdef __F16C__
INLINE uint16_t rounded(float x) { return _cvtss_sh(x, 0); }
INLINE float single(uint16_t x) { return _cvtsh_ss(x); }
#if LANES == 16
INLINE Floats widened(const uint16_t *from) { return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)from)); }
#else
INLINE Floats widened(const uint16_t *from) { return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const void *)from)); }
#endif
#else
/* The exponent of fp16 is moved to where fp32 has it, and corrected by a product, which is exact (no infinities). */
INLINE float single(uint16_t x)
{
    uint32_t bits = (x & 0x7fffu) << 13;
    float y;
    memcpy(&y, &bits, sizeof y);
    return (x & 0x8000u ? -y : y) * 0x1p112f;
}

/* To the nearest, to the even one of two: an addition does it, where the last bit that is kept is the last of a sum. */
INLINE uint16_t rounded(float x)
{
    const float size = x < 0 ? -x : x;
    float step = 0x1p-1f; /* 2^24 times the smallest number of fp16, which is that of a denormal */
    uint32_t bits;
    if (size >= 0x1p-14f) {
        memcpy(&bits, &size, sizeof bits);
        bits = (bits & 0x7f800000u) + (13u << 23); /* the power of two in it, times 2^13 */
        memcpy(&step, &bits, sizeof step);
    }
    const float near = ((size + step) - step) * 0x1p-112f;
    memcpy(&bits, &near, sizeof bits);
    return (uint16_t)(bits >> 13 | (x < 0 ? 0x8000u : 0));
}

INLINE Floats widened(const uint16_t *from)
{
    Floats x;
    for (int i = 0; i < LANES; i++) x[i] = single(from[i]);
    return x;
}
#endif

/* The nearest number of fp16; what is too large for it is its largest. */
INLINE uint16_t halved(float x)
{
    return rounded(x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x);
}

/* exp for x <= 0, to 2 units in the last place; what would be below 2^-125 is that (Cephes, expf.c). */
INLINE Floats exponential(Floats x)
{
    x = pick(x < all(-87.f), all(-87.f), x);
    Ints n = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);
    Floats whole = __builtin_convertvector(n, Floats);
    Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    return p * (Floats)((n + 127) << 23);
}

INLINE Floats hyperbolic_tangent(Floats x)
{
    Ints negative = x < all(0.f);
    Floats e = exponential(pick(negative, x, -x) * 2.f);
    Floats y = (1.f - e) / (1.f + e);
    return pick(negative, -y, y);
}

INLINE Floats silu(Floats x)
{
    Ints negative = x < all(0.f);
    Floats e = exponential(pick(negative, x, -x));
    return x * pick(negative, e, all(1.f)) / (1.f + e);
}
