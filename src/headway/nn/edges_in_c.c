/* Sums and dot products along the edges of a neighbor table on a CPU: `headway.nn.edges` says what, this says how.

   A sum stays in registers until all neighbors are in it. Dot products of a row are vectors of partial sums, which are
   added in pairs until each lane of one vector is a product: adding up each vector alone takes longer than the products.

   A sensor has inner rows, one a step and head, and reads the same neighbors in each: row i of it row i of theirs. So
   who is read needs no number for each row, and the rows of a neighbor lie one after another.

   Glossary: rows of a width; a slot is (row, neighbor); a window's rows are those of all its sensors. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define LANES 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX__)
#define LANES 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define LANES 4
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t Places __attribute__((vector_size(4 * LANES)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, (Places){__VA_ARGS__})
#endif

typedef struct { long windows, sensors, inner, neighbors, width; } Sizes;

INLINE Lanes load(const float *x) { return *(const Unaligned *)x; }
INLINE void store(float *to, Lanes x) { *(Unaligned *)to = x; }
INLINE Lanes add_pairs(Lanes a, Lanes b) { return PICK(a, b, EVEN) + PICK(a, b, ODD); }

/* Vectors of a row, and where each begins: the last one reaches back where the width is no multiple. */
#define VECTORS(width) (((width) + LANES - 1) / LANES)
INLINE long begin(long i, long width) { return (i + 1) * LANES <= width ? i * LANES : width - LANES; }

/* out[k] = q . v of who[k], of at most LANES neighbors, the rows of which are apart */
INLINE void few_dots(
    long width, long apart, long neighbors, const float *q, const float *v, const int32_t *who, float *out) {
    Lanes asked[VECTORS(width)], sums[LANES];
    for (long i = 0; i < VECTORS(width); i++) {
        asked[i] = load(q + begin(i, width));
        for (long seen = begin(i, width); seen < i * LANES; seen++) asked[i][seen - begin(i, width)] = 0.0f;
    }
    for (long k = 0; k < LANES; k++) {
        const float *other = v + who[k < neighbors ? k : 0] * apart;
        sums[k] = asked[0] * load(other);
        for (long i = 1; i < VECTORS(width); i++) sums[k] += asked[i] * load(other + begin(i, width));
    }
    for (long left = LANES / 2; left; left /= 2)
        for (long k = 0; k < left; k++) sums[k] = add_pairs(sums[2 * k], sums[2 * k + 1]);
    memcpy(out, sums, neighbors * sizeof(float));
}

INLINE void dots(
    long width, long apart, long neighbors, const float *q, const float *v, const int32_t *who, float *out) {
    if (width < LANES)
        for (long k = 0; k < neighbors; k++) {
            out[k] = 0.0f;
            for (long i = 0; i < width; i++) out[k] += q[i] * v[who[k] * apart + i];
        }
    else if (neighbors <= LANES) /* no loop, in which gcc would leave the vectors in memory */
        few_dots(width, apart, neighbors, q, v, who, out);
    else
        for (long k = 0; k < neighbors; k += LANES)
            few_dots(width, apart, neighbors - k < LANES ? neighbors - k : LANES, q, v, who + k, out + k);
}

/* out = sum of w[k] v of who[k]; with columns, of weights that are theirs, through these columns of them */
INLINE void sum(long width, long apart, long neighbors, const float *v, const int32_t *who, const float *w,
                const int32_t *column, long weights_apart, float *out) {
    float few[LANES] = {0};
    Lanes sums[VECTORS(width)];
    for (long i = 0; i < VECTORS(width); i++) sums[i] = (Lanes){0};
    for (long k = 0; k < neighbors; k++) {
        const float weight = column ? w[who[k] * weights_apart + column[k]] : w[k], *other = v + who[k] * apart;
        if (width < LANES) for (long i = 0; i < width; i++) few[i] += weight * other[i];
        else for (long i = 0; i < VECTORS(width); i++) sums[i] += weight * load(other + begin(i, width));
    }
    if (width < LANES) memcpy(out, few, width * sizeof(float));
    else for (long i = 0; i < VECTORS(width); i++) store(out + begin(i, width), sums[i]);
}

/* Common widths are known to the compiler, so that it writes loops out and sums stay in registers. */
#define EACH_ROW(WORK) \
    switch (sizes->width) { \
    case 4: { ROWS(4, WORK) } break; \
    case 8: { ROWS(8, WORK) } break; \
    case 16: { ROWS(16, WORK) } break; \
    case 24: { ROWS(24, WORK) } break; \
    case 32: { ROWS(32, WORK) } break; \
    case 48: { ROWS(48, WORK) } break; \
    case 64: { ROWS(64, WORK) } break; \
    default: { ROWS(sizes->width, WORK) } }
#define ROWS(of_width, WORK) \
    const long width = of_width, neighbors = sizes->neighbors, inner = sizes->inner, sensors = sizes->sensors; \
    const long apart = inner * width; \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") \
    for (long of = 0; of < sizes->windows * sensors; of++) { \
        const long sensor = of % sensors; \
        for (long i = 0; i < inner; i++) { \
            const long r = of * inner + i, theirs = (of - sensor) * inner + i; /* of the first sensor of the window */ \
            const float *read = v + theirs * width; \
            WORK \
        } \
    }

void sampled_dot(const Sizes *sizes, int threads, const float *q, const float *v, const int32_t *table, float *out) {
    EACH_ROW(dots(width, apart, neighbors, q + r * width, read, table + sensor * neighbors, out + r * neighbors);)
}

void bag(const Sizes *sizes, int threads, const float *v, const float *w, const int32_t *table, float *out) {
    EACH_ROW(const int32_t *who = table + sensor * neighbors;
             sum(width, apart, neighbors, read, who, w + r * neighbors, NULL, 0, out + r * width);)
}

void bag_and_dot(const Sizes *sizes, int threads, const float *q, const float *v, const float *w, const int32_t *table,
                 float *bags, float *out) {
    EACH_ROW(const int32_t *who = table + sensor * neighbors;
             sum(width, apart, neighbors, read, who, w + r * neighbors, NULL, 0, bags + r * width);
             dots(width, apart, neighbors, q + r * width, read, who, out + r * neighbors);)
}

/* Of the sensors that read one: `reader` is who, `column` through which slot, from `starts` on. */
void reverse_bag(const Sizes *sizes, int threads, const float *v, const float *w, const int32_t *reader,
                 const int32_t *column, const int32_t *starts, float *out) {
    EACH_ROW(const long from = starts[sensor];
             sum(width, apart, starts[sensor + 1] - from, read, reader + from, w + theirs * neighbors, column + from,
                 inner * neighbors, out + r * width);)
}
