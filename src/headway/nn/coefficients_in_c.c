/* The signed coefficients of edges on a CPU, and back: `headway.nn.coefficients` says what, this says how.

   Rows are about as long as a vector, and one begins where another ends: a vector that is loaded where another has just
   been stored in part has to wait for it. So the rows of a sensor are spread first, each from where a vector begins.

   Glossary: rows of a sensor in a window are (step, head), of k neighbors, wide when spread; what is the same at all
   steps is [sensor, head, neighbor], of some windows alone [window, sensor, head, neighbor]. */

#include <string.h>

#include "exponentials.h"

#define LEAST -80.0f /* as in exponentials.py */
#define NOTHING 2e-35f
#define LANES 16 /* as in coefficients.py */

typedef struct { long windows, sensors, steps, heads, neighbors, kept_windows; } Sizes;

#define EACH_SENSOR \
    const long k = sizes->neighbors, heads = sizes->heads, rows = sizes->steps * heads, sensors = sizes->sensors; \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") \
    for (long of = 0; of < sizes->windows * sensors; of++)

#define SPREAD \
    const long wide = (k + LANES - 1) / LANES * LANES, all = rows * wide, same = heads * wide;

static inline void spread(const float *packed, long rows, long k, float beyond, float *to) {
    for (; rows--; packed += k)
        for (long first = 0; first < k; first += LANES, to += LANES)
#pragma omp simd
            for (long i = 0; i < LANES; i++) to[i] = first + i < k ? packed[first + i] : beyond;
}

static inline void pack(const float *spread, long rows, long k, float *to) {
    for (; rows--; to += k)
        for (long first = 0; first < k; first += LANES, spread += LANES)
#pragma omp simd
            for (long i = 0; i < LANES; i++)
                if (first + i < k) to[first + i] = spread[i];
}

/* Scores of a row become shares; what is no number stays none, and so does its row. */
static inline __attribute__((always_inline)) void share(float *row, long wide) {
    float most = row[0], sum = 0.0f;
#pragma omp simd reduction(max : most)
    for (long i = 0; i < wide; i++) most = row[i] > most ? row[i] : most;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < wide; i++) {
        float of_most = power(clamp(row[i] - most, LEAST, 0.0f));
        row[i] = of_most <= NOTHING ? 0.0f : of_most;
        sum += row[i];
    }
    sum = 1.0f / sum;
#pragma omp simd
    for (long i = 0; i < wide; i++) row[i] *= sum;
}

/* Scores become alpha, agreement becomes signs. */
void weigh(const Sizes *sizes, int threads, const float *bias, const float *usual, float *scores, float *agreement) {
    EACH_SENSOR {
        SPREAD float x[all], y[all], more[same], base[same];
        spread(scores + of * rows * k, rows, k, -INFINITY, x);
        spread(agreement + of * rows * k, rows, k, 0.0f, y);
        spread(bias + of % sensors * heads * k, heads, k, 0.0f, more);
        spread(usual + of % sensors * heads * k, heads, k, 0.0f, base);
        for (long step = 0; step < all; step += same)
#pragma omp simd
            for (long i = 0; i < same; i++) x[step + i] += more[i], y[step + i] += base[i];
        if (wide == LANES) /* a number that the compiler knows */
            for (long row = 0; row < all; row += LANES) share(x + row, LANES);
        else
            for (long row = 0; row < all; row += wide) share(x + row, wide);
#pragma omp simd
        for (long i = 0; i < all; i++) y[i] = 2.0f * sigmoid(2.0f * y[i]) - 1.0f;
        pack(x, rows, k, scores + of * rows * k);
        pack(y, rows, k, agreement + of * rows * k);
    }
}

static inline const float *kept_of(const Sizes *sizes, long of, const float *keep) {
    long window = of / sizes->sensors % sizes->kept_windows, sensor = of % sizes->sensors;
    return keep + (window * sizes->sensors + sensor) * sizes->heads * sizes->neighbors;
}

void coefficients(const Sizes *sizes, int threads, const float *alpha, const float *sign, const float *keep, float *w) {
    EACH_SENSOR {
        const float *kept = kept_of(sizes, of, keep);
        for (long step = of * rows * k; step < (of + 1) * rows * k; step += heads * k)
#pragma omp simd
            for (long i = 0; i < heads * k; i++) w[step + i] = alpha[step + i] * sign[step + i] * kept[i];
    }
}

/* The gradient of w becomes that of the scores; that of agreement is written, and both added up over steps. */
void weigh_back(const Sizes *sizes, int threads, const float *alpha, const float *sign, const float *keep, float *grad,
                float *of_agreement, float *of_bias, float *of_usual) {
    EACH_SENSOR {
        SPREAD float a[all], s[all], x[all], y[all], kept[same], sum_x[same], sum_y[same];
        spread(alpha + of * rows * k, rows, k, 0.0f, a);
        spread(sign + of * rows * k, rows, k, 0.0f, s);
        spread(grad + of * rows * k, rows, k, 0.0f, x);
        spread(kept_of(sizes, of, keep), heads, k, 0.0f, kept);
        memset(sum_x, 0, sizeof(sum_x)), memset(sum_y, 0, sizeof(sum_y));
        for (long step = 0; step < all; step += same) {
#pragma omp simd
            for (long i = 0; i < same; i++) {
                float of_w = x[step + i] * kept[i];
                x[step + i] = of_w * s[step + i];
                y[step + i] = (of_w - x[step + i] * s[step + i]) * a[step + i];
                sum_y[i] += y[step + i];
            }
            for (long row = step; row < step + same; row += wide) {
                float along = 0.0f;
#pragma omp simd reduction(+ : along)
                for (long i = row; i < row + wide; i++) along += x[i] * a[i];
#pragma omp simd
                for (long i = row; i < row + wide; i++) {
                    x[i] = (x[i] - along) * a[i];
                    sum_x[i - step] += x[i];
                }
            }
        }
        pack(x, rows, k, grad + of * rows * k);
        pack(y, rows, k, of_agreement + of * rows * k);
        pack(sum_x, heads, k, of_bias + of * heads * k);
        pack(sum_y, heads, k, of_usual + of * heads * k);
    }
}
