/* The inside of a Mamba-2 block on a CPU, a sequence at a time: `headway.nn.gated_scan` says what, this says how.

       c = causal depthwise conv(mixed)        x, B, C = split(silu(c))
       M_ts = exp(sum_{r=s+1..t} d_r A) (C_t . B_s) d_s + D [t = s]            for s <= t, else 0
       y = M x                                 out = g / rms(g)   with g = y * silu(z)

   All that a sequence holds on its way stays in the cache. The backward pass makes it anew. Each share of the sequences
   adds what it finds for the weights to sums of its own, so that results do not depend on how many threads there are.

   Glossary: l steps, q the newest of them that are wanted, c = d + 2 n channels, h heads of width p = d / h. */

#include <stdlib.h>
#include <string.h>

#include "exponentials.h"

#define FORGOTTEN -40.0f /* as in gated_scan.py */
#define EPS 1e-5f

static inline float dot(const float *restrict a, const float *restrict b, long n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (long k = 0; k < n; k++) sum += a[k] * b[k];
    return sum;
}

/* to += times x */
static inline void add(float *restrict to, float times, const float *restrict x, long n) {
    for (long k = 0; k < n; k++) to[k] += times * x[k];
}

/* to += a b, element by element */
static inline void add_product(float *restrict to, const float *restrict a, const float *restrict b, long n) {
    for (long k = 0; k < n; k++) to[k] += a[k] * b[k];
}

/* a place for n numbers, where vectors load best */
static inline float *room(long n) { return aligned_alloc(64, ((n > 0 ? n : 1) * sizeof(float) + 63) / 64 * 64); }

static inline void clear(float *x, long n) { memset(x, 0, n * sizeof(float)); }

typedef struct { long sequences, wanted, steps, width, state, heads, taps, shares; } Sizes;

typedef struct {
    const float *taps; /* w c, that of the newest step first */
    const float *bias, *A, *D;
} Weights;

/* What a sequence holds: l c, l c, h l, h q l, q l, h q l, q d, q d. */
typedef struct { float *conv, *silu, *total, *decay, *scores, *M, *y, *open; } Held;

static Held hold(Sizes s) {
    long channels = s.width + 2 * s.state, pairs = s.wanted * s.steps, out = s.wanted * s.width;
    return (Held){room(s.steps * channels), room(s.steps * channels), room(s.heads * s.steps), room(s.heads * pairs),
                  room(pairs), room(s.heads * pairs), room(out), room(out)};
}

static void release(Held h) {
    free(h.conv), free(h.silu), free(h.total), free(h.decay), free(h.scores), free(h.M), free(h.y), free(h.open);
}

static void convolve(Sizes s, Weights weights, const float *mixed, Held h) {
    long c = s.width + 2 * s.state;
    for (long t = 0; t < s.steps; t++) {
        memcpy(h.conv + t * c, weights.bias, c * sizeof(float));
        for (long lag = 0; lag < s.taps && lag <= t; lag++)
            add_product(h.conv + t * c, weights.taps + lag * c, mixed + (t - lag) * c, c);
    }
#pragma omp simd
    for (long k = 0; k < s.steps * c; k++) h.silu[k] = h.conv[k] * sigmoid(h.conv[k]);
}

/* M, and what it is made of. */
static void relate(Sizes s, Weights weights, const float *d, Held h) {
    long l = s.steps, q = s.wanted, n = s.state, c = s.width + 2 * n, before = l - q;
    for (long e = 0; e < s.heads; e++) {
        float sum = 0.0f;
        for (long t = 0; t < l; t++) h.total[e * l + t] = sum += d[t * s.heads + e] * weights.A[e];
        for (long t = 0; t < q; t++)
            for (long k = 0; k < l; k++)
                h.decay[(e * q + t) * l + k] = clamp(h.total[e * l + t + before] - h.total[e * l + k], FORGOTTEN, 0.0f);
    }
#pragma omp simd
    for (long k = 0; k < s.heads * q * l; k++) h.decay[k] = power(h.decay[k]);
    for (long t = 0; t < q; t++) {
        const float *C = h.silu + (t + before) * c + s.width + n;
        for (long k = 0; k < l; k++) h.scores[t * l + k] = k <= t + before ? dot(C, h.silu + k * c + s.width, n) : 0.0f;
    }
    for (long e = 0; e < s.heads; e++)
        for (long t = 0; t < q; t++) {
            float *M = h.M + (e * q + t) * l;
            for (long k = 0; k < l; k++) M[k] = h.decay[(e * q + t) * l + k] * h.scores[t * l + k] * d[k * s.heads + e];
            M[t + before] += weights.D[e];
        }
}

static void run(Sizes s, Weights weights, const float *z, const float *mixed, const float *d, Held h) {
    long l = s.steps, q = s.wanted, c = s.width + 2 * s.state, p = s.width / s.heads, before = l - q;
    convolve(s, weights, mixed, h);
    relate(s, weights, d, h);
    clear(h.y, q * s.width);
    for (long e = 0; e < s.heads; e++)
        for (long k = 0; k < l; k++)
            for (long t = k > before ? k - before : 0; t < q; t++)
                add(h.y + t * s.width + e * p, h.M[(e * q + t) * l + k], h.silu + k * c + e * p, p);
#pragma omp simd
    for (long k = 0; k < q * s.width; k++) h.open[k] = sigmoid(z[k]);
}

/* out: sequences q d. */
void scan(const Sizes *sizes, int threads, const float *z, const float *mixed, const float *d, const float *taps,
          const float *bias, const float *A, const float *D, float *out) {
    const Sizes s = *sizes;
    const Weights weights = {taps, bias, A, D};
    const long channels = s.width + 2 * s.state, of_out = s.wanted * s.width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long share = 0; share < s.shares; share++) {
        Held h = hold(s);
        for (long r = share * s.sequences / s.shares; r < (share + 1) * s.sequences / s.shares; r++) {
            run(s, weights, z + r * of_out, mixed + r * s.steps * channels, d + r * s.steps * s.heads, h);
            for (long first = 0; first < of_out; first += s.width) {
                const float *y = h.y + first, *open = h.open + first, *of_z = z + r * of_out + first;
                float *to = out + r * of_out + first, squares = 0.0f;
#pragma omp simd reduction(+ : squares)
                for (long k = 0; k < s.width; k++) {
                    float gated = y[k] * of_z[k] * open[k];
                    squares += gated * gated;
                    to[k] = gated;
                }
                float scale = 1.0f / sqrtf(squares / s.width + EPS);
#pragma omp simd
                for (long k = 0; k < s.width; k++) to[k] *= scale;
            }
        }
        release(h);
    }
}

/* Gradients on their way back: q d, l c, h q l, l h, l h, q l. */
typedef struct { float *y, *silu, *M, *d, *total, *scores; } Back;

static Back hold_back(Sizes s) {
    long pairs = s.wanted * s.steps, steps = s.steps * s.heads;
    return (Back){room(s.wanted * s.width), room(s.steps * (s.width + 2 * s.state)), room(s.heads * pairs), room(steps),
                  room(steps), room(pairs)};
}

static void release_back(Back b) { free(b.y), free(b.silu), free(b.M), free(b.d), free(b.total), free(b.scores); }

/* Through norm and gate: writes the gradients of z and of y. */
static void gate_back(Sizes s, const float *grad, const float *z, Held h, Back b, float *grad_z) {
    for (long first = 0; first < s.wanted * s.width; first += s.width) {
        const float *y = h.y + first, *open = h.open + first, *of_z = z + first, *g = grad + first;
        float *to_z = grad_z + first, *to_y = b.y + first, squares = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : squares, along)
        for (long k = 0; k < s.width; k++) {
            float gated = y[k] * of_z[k] * open[k];
            squares += gated * gated;
            along += g[k] * gated;
        }
        float scale = 1.0f / sqrtf(squares / s.width + EPS);
        along *= scale * scale / s.width;
#pragma omp simd
        for (long k = 0; k < s.width; k++) {
            float gate = of_z[k] * open[k], of_gated = (g[k] - y[k] * gate * along) * scale;
            to_z[k] = of_gated * y[k] * open[k] * (1.0f + of_z[k] * (1.0f - open[k]));
            to_y[k] = of_gated * gate;
        }
    }
}

/* Through y = M x: writes the gradient of M, and of silu that of x. */
static void mix_back(Sizes s, Held h, Back b, float *sum_D) {
    long l = s.steps, q = s.wanted, c = s.width + 2 * s.state, p = s.width / s.heads, before = l - q;
    clear(b.silu, l * c);
    for (long t = 0; t < q; t++)
        for (long e = 0; e < s.heads; e++) {
            const float *grad = b.y + t * s.width + e * p, *M = h.M + (e * q + t) * l;
            float *grad_M = b.M + (e * q + t) * l;
            for (long k = 0; k <= t + before; k++) {
                grad_M[k] = dot(grad, h.silu + k * c + e * p, p);
                add(b.silu + k * c + e * p, M[k], grad, p);
            }
            sum_D[e] += grad_M[t + before];
        }
}

/* Through the making of M: writes the gradient of d, and of silu those of B and C. */
static void relate_back(Sizes s, Weights weights, const float *d, Held h, Back b, float *sum_A, float *grad_d) {
    long l = s.steps, q = s.wanted, n = s.state, c = s.width + 2 * n, heads = s.heads, before = l - q;
    clear(b.scores, q * l), clear(b.d, l * heads), clear(b.total, l * heads);
    for (long t = 0; t < q; t++) {
        for (long e = 0; e < heads; e++)
            for (long k = 0; k <= t + before; k++) {
                float by_decay = b.M[(e * q + t) * l + k] * h.decay[(e * q + t) * l + k];
                float of_decay = by_decay * h.scores[t * l + k]; /* times d */
                b.scores[t * l + k] += by_decay * d[k * heads + e];
                b.d[k * heads + e] += of_decay;
                b.total[(t + before) * heads + e] += of_decay * d[k * heads + e];
            }
        for (long k = 0; k <= t + before; k++) {
            const float *B = h.silu + k * c + s.width, *C = h.silu + (t + before) * c + s.width + n;
            add(b.silu + k * c + s.width, b.scores[t * l + k], C, n);
            add(b.silu + (t + before) * c + s.width + n, b.scores[t * l + k], B, n);
        }
    }
    for (long e = 0; e < heads; e++) {
        float of_rate = 0.0f; /* of d A: of all later sums of decays, each a later one less an earlier one */
        for (long k = (l - 1) * heads + e; k >= 0; k -= heads) {
            of_rate += b.total[k] - b.d[k] * d[k];
            sum_A[e] += of_rate * d[k];
            grad_d[k] = b.d[k] + of_rate * weights.A[e];
        }
    }
}

/* Through SiLU and convolution. */
static void convolve_back(
    Sizes s, Weights weights, const float *mixed, Held h, Back b, float *sum_taps, float *sum_bias, float *grad_mixed) {
    long c = s.width + 2 * s.state;
#pragma omp simd
    for (long k = 0; k < s.steps * c; k++) {
        float open = sigmoid(h.conv[k]);
        b.silu[k] *= open * (1.0f + h.conv[k] * (1.0f - open));
    }
    clear(grad_mixed, s.steps * c);
    for (long t = 0; t < s.steps; t++) {
        add(sum_bias, 1.0f, b.silu + t * c, c);
        for (long lag = 0; lag < s.taps && lag <= t; lag++) {
            add_product(grad_mixed + (t - lag) * c, b.silu + t * c, weights.taps + lag * c, c);
            add_product(sum_taps + lag * c, b.silu + t * c, mixed + (t - lag) * c, c);
        }
    }
}

/* Gradients in the shapes of what they are of; sums, which begin at 0, with the share as first dimension. */
void scan_back(const Sizes *sizes, int threads, const float *grad, const float *z, const float *mixed, const float *d,
               const float *taps, const float *bias, const float *A, const float *D, float *grad_z, float *grad_mixed,
               float *grad_d, float *sum_taps, float *sum_bias, float *sum_A, float *sum_D) {
    const Sizes s = *sizes;
    const Weights weights = {taps, bias, A, D};
    const long channels = s.width + 2 * s.state, of_out = s.wanted * s.width;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long share = 0; share < s.shares; share++) {
        Held h = hold(s);
        Back b = hold_back(s);
        for (long r = share * s.sequences / s.shares; r < (share + 1) * s.sequences / s.shares; r++) {
            const float *of_mixed = mixed + r * s.steps * channels, *of_d = d + r * s.steps * s.heads;
            run(s, weights, z + r * of_out, of_mixed, of_d, h);
            gate_back(s, grad + r * of_out, z + r * of_out, h, b, grad_z + r * of_out);
            mix_back(s, h, b, sum_D + share * s.heads);
            relate_back(s, weights, of_d, h, b, sum_A + share * s.heads, grad_d + r * s.steps * s.heads);
            convolve_back(s, weights, of_mixed, h, b, sum_taps + share * s.taps * channels,
                          sum_bias + share * channels, grad_mixed + r * s.steps * channels);
        }
        release(h);
        release_back(b);
    }
}
