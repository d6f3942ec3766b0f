/* Sums and dot products along the edges of a neighbor table on a CPU: `headway.nn.edges` says what, this says how.

   A sum stays in registers until all neighbors are in it. Dot products of a row are vectors of partial sums, which are
   added in pairs until each lane of one vector is a product: summing up each vector alone takes longer than the products.

   Glossary: rows of a width, and as many neighbors of each; a slot is (row, neighbor). */

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

typedef struct { long rows, neighbors, width; } Sizes;

INLINE Lanes load(const float *x) { return *(const Unaligned *)x; }
INLINE void store(float *to, Lanes x) { *(Unaligned *)to = x; }
INLINE Lanes add_pairs(Lanes a, Lanes b) { return PICK(a, b, EVEN) + PICK(a, b, ODD); }

/* Vectors of a row, and where each begins: the last one reaches back where the width is no multiple. */
#define VECTORS(width) (((width) + LANES - 1) / LANES)
INLINE long begin(long i, long width) { return (i + 1) * LANES <= width ? i * LANES : width - LANES; }

/* out[k] = q . v[source[k]] of at most LANES neighbors */
INLINE void few_dots(long width, long neighbors, const float *q, const float *v, const int32_t *source, float *out) {
    Lanes asked[VECTORS(width)], sums[LANES];
    for (long i = 0; i < VECTORS(width); i++) {
        asked[i] = load(q + begin(i, width));
        for (long seen = begin(i, width); seen < i * LANES; seen++) asked[i][seen - begin(i, width)] = 0.0f;
    }
    for (long k = 0; k < LANES; k++) {
        const float *other = v + source[k < neighbors ? k : 0] * width;
        sums[k] = asked[0] * load(other);
        for (long i = 1; i < VECTORS(width); i++) sums[k] += asked[i] * load(other + begin(i, width));
    }
    for (long left = LANES / 2; left; left /= 2)
        for (long k = 0; k < left; k++) sums[k] = add_pairs(sums[2 * k], sums[2 * k + 1]);
    memcpy(out, sums, neighbors * sizeof(float));
}

INLINE void dots(long width, long neighbors, const float *q, const float *v, const int32_t *source, float *out) {
    if (width < LANES)
        for (long k = 0; k < neighbors; k++) {
            out[k] = 0.0f;
            for (long i = 0; i < width; i++) out[k] += q[i] * v[source[k] * width + i];
        }
    else if (neighbors <= LANES) /* no loop, in which gcc would leave the vectors in memory */
        few_dots(width, neighbors, q, v, source, out);
    else
        for (long k = 0; k < neighbors; k += LANES)
            few_dots(width, neighbors - k < LANES ? neighbors - k : LANES, q, v, source + k, out + k);
}

/* out = sum of w[k] v[source[k]], or of w[slot[k]] v[source[k]] */
INLINE void sum(long width, long neighbors, const float *v, const float *w, const int32_t *slot, const int32_t *source,
                float *out) {
    float few[LANES] = {0};
    Lanes sums[VECTORS(width)];
    for (long i = 0; i < VECTORS(width); i++) sums[i] = (Lanes){0};
    for (long k = 0; k < neighbors; k++) {
        const float weight = slot ? w[slot[k]] : w[k], *other = v + source[k] * width;
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
    const long width = of_width, neighbors = sizes->neighbors, rows = sizes->rows; \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") \
    for (long r = 0; r < rows; r++) { const long first = r * neighbors; WORK }

void sampled_dot(const Sizes *sizes, int threads, const float *q, const float *v, const int32_t *source, float *out) {
    EACH_ROW((void)first; dots(width, neighbors, q + r * width, v, source + first, out + first);)
}

void bag(const Sizes *sizes, int threads, const float *v, const float *w, const int32_t *source, float *out) {
    EACH_ROW(sum(width, neighbors, v, w + first, NULL, source + first, out + r * width);)
}

void bag_and_dot(const Sizes *sizes, int threads, const float *q, const float *v, const float *w, const int32_t *source,
                 float *bags, float *out) {
    EACH_ROW(sum(width, neighbors, v, w + first, NULL, source + first, bags + r * width);
             dots(width, neighbors, q + r * width, v, source + first, out + first);)
}

/* Of the rows that read a row: `owner` is who, `slot` through which, from `starts` on. */
void reverse_bag(const Sizes *sizes, int threads, const float *v, const float *w, const int32_t *owner,
                 const int32_t *slot, const int32_t *starts, float *out) {
    EACH_ROW((void)first; long from = starts[r];
             sum(width, starts[r + 1] - from, v, w, slot + from, owner + from, out + r * width);)
}
