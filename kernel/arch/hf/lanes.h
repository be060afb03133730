/* Vectors as wide as the processor has them; FRAME floats are PARTS of them. Shared by all kernels. */
#pragma once
#include <stdint.h>
#include <string.h>

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
