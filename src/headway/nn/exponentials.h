/* Exponentials of which the compiler makes many at a time. */

#include <math.h>
#include <stdint.h>

static inline float clamp(float x, float low, float high) { x = x < low ? low : x; return x > high ? high : x; }

/* e^x to a few units of the last place (Cephes expf): a power of two times a polynomial on [-log 2 / 2, log 2 / 2]. */
static inline float power(float x) {
    x = clamp(x, -87.0f, 88.0f);
    float n = floorf(x * 1.44269504f + 0.5f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    union { int32_t bits; float value; } two_to_n = { .bits = ((int32_t)n + 127) << 23 };
    return (p * r * r + r + 1.0f) * two_to_n.value;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + power(-x)); }
