/* What one state of the fused supernet computes, on a CPU: see darts/models/fused/by_hand.py and operators.py.

   A map is rows of channels, one a pixel, at a fixed distance in memory; channels come in vectors of VL floats, which
   the compiler is given (-DVL=4, 8 or 16). Every function has one argument, an array of integers: pointers, sizes and
   distances in the order in which operators.py writes them. Sums over pixels are made part by part, a part being some
   images; their order does not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef VL
#define VL 4
#endif
typedef float vec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(VL), aligned(1), may_alias));
typedef const int64_t *Arguments;
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define FLOATS(k) ((float *)a[k])
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define MOST 16     /* vectors that are summed at once: as many as registers hold */
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers; else 16 */
#define PIXELS_OF_4 4 /* how many pixels' sums of 4, 2 and 1 vectors are made at once */
#define PIXELS_OF_2 6
#define PIXELS_OF_1 8
#else
#define PIXELS_OF_4 2
#define PIXELS_OF_2 5
#define PIXELS_OF_1 8
#endif
#define TILE 96     /* pixels whose sum of maps is made at once */
#define CHUNK 128   /* pixels whose products are summed at once */

INLINE vec relu(vec v) { return (vec)((ivec)v & ~(v < (vec){0})); }      /* not a number stays it */
INLINE vec where_positive(vec v, const float *own) { return (vec)((ivec)v & ~(LOAD(own) <= (vec){0})); }
static float *floats(size_t number) { return aligned_alloc(64, (number * 4 + 64 + 63) / 64 * 64); }
INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

/* ---- sums of maps through 1x1 convolutions ---- */

typedef struct {
    const float *image, *weights; /* the latter by group, input channel, output channel */
    int64_t first, row, step, inner, per; /* `first`: the pixel that the image begins with */
} Term;

typedef struct {
    int64_t groups, terms, maps, constants, rectify;
    Term term[4];
    const float *map[4], *factors, *shift[4], *added, *by_image; /* the last: a factor for each image */
    const float *positive; /* where this map is not, the sum is 0 */
    int64_t map_row[4], numbers[4], added_row, positive_row, result_row;
    float *result;
} Sum;

INLINE void through(vec total[], const float *image, int64_t row, const float *weights, int64_t inner, const int P,
                    const int N, int64_t outer) {
    for (int64_t i = 0; i < inner; i++) {
        vec w[MOST];
        UNROLL for (int n = 0; n < N; n++) w[n] = LOAD(weights + i * outer + n * VL);
        UNROLL for (int p = 0; p < P; p++)
            UNROLL for (int n = 0; n < N; n++) total[p * N + n] += w[n] * image[p * row + i];
    }
}

/* P pixels and N vectors of a group's channels, the first of which is channel `from`; times a factor */
INLINE void summed(const Sum *s, int64_t group, int64_t pixel, int64_t from, int64_t outer, float times, const int P,
                   const int N) {
    vec total[MOST];
    UNROLL for (int n = 0; n < N; n++) {
        vec shift = {0};
        for (int64_t c = 0; c < s->constants; c++)
            for (int64_t k = 0; k < s->numbers[c]; k++)
                shift += LOAD(s->shift[c] + (group * s->numbers[c] + k) * outer + from + n * VL);
        UNROLL for (int p = 0; p < P; p++) total[p * N + n] = shift;
    }
    for (int64_t t = 0; t < s->terms; t++) {
        const Term *own = &s->term[t];
        through(total, own->image + (pixel - own->first) * own->row + group / own->per * own->step, own->row,
                own->weights + group * own->inner * outer + from, own->inner, P, N, outer);
    }
    for (int64_t m = 0; m < s->maps; m++)
        UNROLL for (int n = 0; n < N; n++) {
            vec factor = LOAD(s->factors + (group * s->maps + m) * outer + from + n * VL);
            UNROLL for (int p = 0; p < P; p++)
                total[p * N + n] += factor * LOAD(s->map[m] + (pixel + p) * s->map_row[m] + from + n * VL);
        }
    UNROLL for (int p = 0; p < P; p++)
        UNROLL for (int n = 0; n < N; n++) {
            int64_t place = group * outer + from + n * VL;
            vec sum = total[p * N + n] * times;
            if (s->positive) sum = where_positive(sum, s->positive + (pixel + p) * s->positive_row + place);
            if (s->added) sum += LOAD(s->added + (pixel + p) * s->added_row + place);
            if (s->rectify) sum = relu(sum);
            STORE(s->result + (pixel + p) * s->result_row + place, sum);
        }
}

INLINE void summed_tile(const Sum *s, int64_t group, int64_t first, int64_t end, int64_t from, int64_t outer,
                        float times, const int P, const int N) {
    int64_t pixel = first;
    for (; pixel + P <= end; pixel += P) summed(s, group, pixel, from, outer, times, P, N);
    for (; pixel < end; pixel++) summed(s, group, pixel, from, outer, times, 1, N);
}

/* The ReLU of a tile of a term's image, whose channels one group has */
static void rectify(Term *term, float *to, int64_t first, int64_t end) {
    const float *image = term->image;
    for (int64_t p = first; p < end; p++)
        for (int64_t i = 0; i < term->inner; i += VL)
            STORE(to + (p - first) * term->inner + i, relu(LOAD(image + p * term->row + i)));
    term->image = to, term->first = first, term->row = term->inner;
}

/* threads, images, pixels of one, groups, outer, rectify, result, row; added, row; a map or 0, row: where it is not
   positive the sum is 0; images' factors or 0; whether the first term's image goes through ReLU; number of terms, and
   for each image, row, step, inner, matrices, groups that share an image's channels, and the matrices' four distances;
   number of maps, factors, and for each map, row; number of constants, and for each its numbers, how many a group */
void combined(Arguments a) {
    int64_t threads = a[0], outer = a[4], at = 15;
    Sum s = {.groups = a[3], .terms = a[14], .rectify = a[5], .by_image = FLOATS(12)};
    s.result = FLOATS(6), s.result_row = a[7], s.added = FLOATS(8), s.added_row = a[9];
    s.positive = FLOATS(10), s.positive_row = a[11];
    float *packed[4];
    for (int64_t t = 0; t < s.terms; t++, at += 10) {
        int64_t inner = a[at + 3], per = a[at + 5];
        float *weights = packed[t] = floats(s.groups * inner * outer);
        for (int64_t g = 0; g < s.groups; g++)
            for (int64_t i = 0; i < inner; i++)
                for (int64_t o = 0; o < outer; o++)
                    weights[(g * inner + i) * outer + o] =
                        FLOATS(at + 4)[g / per * a[at + 6] + g % per * a[at + 7] + o * a[at + 8] + i * a[at + 9]];
        s.term[t] = (Term){FLOATS(at), weights, 0, a[at + 1], a[at + 2], inner, per};
    }
    s.maps = a[at], s.factors = FLOATS(at + 1), at += 2;
    for (int64_t m = 0; m < s.maps; m++, at += 2) s.map[m] = FLOATS(at), s.map_row[m] = a[at + 1];
    s.constants = a[at++];
    for (int64_t c = 0; c < s.constants; c++, at += 2) s.shift[c] = FLOATS(at), s.numbers[c] = a[at + 1];
    int64_t images = s.by_image ? a[1] : 1, pixels = s.by_image ? a[2] : a[1] * a[2], tiles = (pixels + TILE - 1) / TILE;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t tile = 0; tile < images * tiles; tile++) {
        int64_t image = tile / tiles, first = image * pixels + tile % tiles * TILE;
        int64_t end = least(first + TILE, (image + 1) * pixels);
        float times = s.by_image ? s.by_image[image] : 1, *rectified = a[13] ? floats(TILE * s.term[0].inner) : NULL;
        Sum own = s;
        if (rectified) rectify(own.term, rectified, first, end);
        for (int64_t g = 0; g < s.groups; g++) {
            int64_t from = 0;
            for (; from + 4 * VL <= outer; from += 4 * VL)
                summed_tile(&own, g, first, end, from, outer, times, PIXELS_OF_4, 4);
            for (; from + 2 * VL <= outer; from += 2 * VL)
                summed_tile(&own, g, first, end, from, outer, times, PIXELS_OF_2, 2);
            for (; from < outer; from += VL) summed_tile(&own, g, first, end, from, outer, times, PIXELS_OF_1, 1);
        }
        free(rectified);
    }
    for (int64_t t = 0; t < s.terms; t++) free(packed[t]);
}

/* threads, images, pixels of one, channels; image, row; factors of images; result */
void times_factors(Arguments a) {
    int64_t threads = a[0], pixels = a[2], channels = a[3];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < a[1] * pixels; p++)
        for (int64_t c = 0; c < channels; c += VL)
            STORE(FLOATS(7) + p * channels + c, LOAD(FLOATS(4) + p * a[5] + c) * FLOATS(6)[p / pixels]);
}

/* ---- sums of products over pixels ---- */

/* A rows and N vectors of the sums of left times right, or times its ReLU */
INLINE void products_block(float *sums, int64_t width, const float *left, int64_t left_row, const float *right,
                           int64_t right_row, int64_t pixels, int64_t rectify, const int A, const int N) {
    vec total[MOST];
    UNROLL for (int k = 0; k < A; k++)
        UNROLL for (int n = 0; n < N; n++) total[k * N + n] = LOAD(sums + k * width + n * VL);
    for (int64_t p = 0; p < pixels; p++) {
        vec values[MOST];
        UNROLL for (int n = 0; n < N; n++) values[n] = LOAD(right + p * right_row + n * VL);
        if (rectify) UNROLL for (int n = 0; n < N; n++) values[n] = relu(values[n]);
        UNROLL for (int k = 0; k < A; k++)
            UNROLL for (int n = 0; n < N; n++) total[k * N + n] += values[n] * left[p * left_row + k];
    }
    UNROLL for (int k = 0; k < A; k++)
        UNROLL for (int n = 0; n < N; n++) STORE(sums + k * width + n * VL, total[k * N + n]);
}

INLINE void add_products(float *sums, float *alone, const float *left, int64_t left_row, int64_t high,
                         const float *right, int64_t right_row, int64_t width, int64_t pixels, const int rectify) {
#define BLOCK(A, N) products_block(sums + k * width + from, width, left + k, left_row, right + from, right_row, pixels, rectify, A, N)
    int64_t from = 0;
    for (; from + 4 * VL <= width; from += 4 * VL)
        for (int64_t k = 0; k < high; k += 4) BLOCK(4, 4);
    for (; from + 2 * VL <= width; from += 2 * VL)
        for (int64_t k = 0; k < high; k += 4) BLOCK(4, 2);
    for (; from < width; from += VL)
        for (int64_t k = 0; k < high; k += VL) BLOCK(VL, 1);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < high; k += VL)
            STORE(alone + k, LOAD(alone + k) + LOAD(left + p * left_row + k));
}

static void add_rectified_products(float *sums, float *alone, const float *left, int64_t left_row, int64_t high,
                                   const float *right, int64_t right_row, int64_t width, int64_t pixels) {
    add_products(sums, alone, left, left_row, high, right, right_row, width, pixels, 1);
}

static void add_plain_products(float *sums, float *alone, const float *left, int64_t left_row, int64_t high,
                               const float *right, int64_t right_row, int64_t width, int64_t pixels) {
    add_products(sums, alone, left, left_row, high, right, right_row, width, pixels, 0);
}

/* threads, images, pixels of one, parts, groups, high, width, left, row, right, row, results, whether of right's ReLU */
void products(Arguments a) {
    int64_t threads = a[0], number = a[3], groups = a[4], high = a[5], width = a[6], left_row = a[8], right_row = a[10];
    int64_t size = groups * high * (width + 1);
#pragma omp parallel for num_threads(threads) collapse(2) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t first = a[1] * part / number * a[2], end = a[1] * (part + 1) / number * a[2];
            float *sums = FLOATS(11) + part * size + g * high * width;
            float *alone = FLOATS(11) + part * size + groups * high * width + g * high;
            memset(sums, 0, high * width * 4), memset(alone, 0, high * 4);
            for (int64_t p = first; p < end; p += CHUNK)
                (a[12] ? add_rectified_products : add_plain_products)(sums, alone, FLOATS(7) + p * left_row + g * high, left_row, high,
                             FLOATS(9) + p * right_row + g * width, right_row, width, least(CHUNK, end - p));
        }
}

/* Sums over parts of `number` numbers */
static void add_parts(float *to, const float *parts, int64_t count, int64_t size, int64_t number) {
    memset(to, 0, number * 4);
    for (int64_t part = 0; part < count; part++)
        for (int64_t k = 0; k < number; k++) to[k] += parts[part * size + k];
}

/* parts, numbers of one; them; of how many numbers the sums are wanted, results */
void sum_parts(Arguments a) { add_parts(FLOATS(4), FLOATS(2), a[0], a[1], a[3]); }

/* threads, images, pixels of one, parts, channels; left, row; right, row; results: by channel, sums over pixels of left
   times right, and of left */
void channel_sums(Arguments a) {
    int64_t threads = a[0], number = a[3], channels = a[4];
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++) {
        float *products = FLOATS(9) + part * 2 * channels, *alone = products + channels;
        memset(products, 0, 2 * channels * 4);
        for (int64_t p = a[1] * part / number * a[2]; p < a[1] * (part + 1) / number * a[2]; p++)
            for (int64_t c = 0; c < channels; c += VL) {
                vec left = LOAD(FLOATS(5) + p * a[6] + c);
                STORE(products + c, LOAD(products + c) + left * LOAD(FLOATS(7) + p * a[8] + c));
                STORE(alone + c, LOAD(alone + c) + left);
            }
    }
}

/* ---- batch norm ---- */

/* channels, pixels; parts, their sums (channel_sums of a map and itself); scale, shift; running mean, variance and
   count, whether they move; mean, r; factors and constants of the map; eps and momentum, doubles */
void norm(Arguments a) {
    int64_t C = a[0];
    const double n = a[1], *numbers = (const double *)a[14];
    float sums[2 * C];
    add_parts(sums, FLOATS(3), a[2], 2 * C, 2 * C);
    for (int64_t c = 0; c < C; c++) {
        double mean = sums[C + c] / n, variance = sums[c] / n - mean * mean;
        if (variance < 0) variance = 0; /* not a number stays it */
        float r = 1 / sqrt(variance + numbers[0]), factor = FLOATS(4)[c] * r;
        FLOATS(10)[c] = mean, FLOATS(11)[c] = r;
        FLOATS(12)[c] = factor, FLOATS(13)[c] = FLOATS(5)[c] - factor * mean;
        if (!a[9]) continue;
        FLOATS(6)[c] += numbers[1] * (mean - FLOATS(6)[c]);
        FLOATS(7)[c] += numbers[1] * (variance * (n / (n - 1)) - FLOATS(7)[c]);
    }
    if (a[9]) ++*(int64_t *)a[8];
}

/* channels, pixels; parts, their sums (channel_sums of the gradient and the map); scale; mean, r; gradients of scale
   and shift; of the map's gradient: factors of the result's and of the map, and constants */
void norm_gradient(Arguments a) {
    int64_t C = a[0];
    float sums[2 * C], n = a[1];
    add_parts(sums, FLOATS(3), a[2], 2 * C, 2 * C);
    for (int64_t c = 0; c < C; c++) {
        float mean = FLOATS(5)[c], r = FLOATS(6)[c], of_scale = r * (sums[c] - mean * sums[C + c]);
        float factor = FLOATS(4)[c] * r, of_map = -factor * r * of_scale / n;
        FLOATS(7)[c] = of_scale, FLOATS(8)[c] = sums[C + c];
        FLOATS(9)[c] = factor, FLOATS(9)[C + c] = of_map;
        FLOATS(10)[c] = -factor * sums[C + c] / n - of_map * mean;
    }
}

/* ---- every second pixel ---- */

/* threads, images, H, W, OH, OW, channels; image, row; result: the ReLU at even lines and columns, and in further
   channels at those one further down and right, zeros beyond */
void every_second(Arguments a) {
    int64_t threads = a[0], H = a[2], W = a[3], OH = a[4], OW = a[5], C = a[6];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < a[1] * OH * OW; p++)
        for (int64_t odd = 0; odd < 2; odd++) {
            int64_t y = p / OW % OH * 2 + odd, x = p % OW * 2 + odd;
            const float *from = FLOATS(7) + ((p / (OH * OW) * H + y) * W + x) * a[8];
            for (int64_t c = 0; c < C; c += VL)
                STORE(FLOATS(9) + (p * 2 + odd) * C + c, y < H && x < W ? relu(LOAD(from + c)) : (vec){0});
        }
}

/* threads, images, H, W, OH, OW, channels; image, row; gradient of that result, row; gradient of the image */
void every_second_gradient(Arguments a) {
    int64_t threads = a[0], H = a[2], W = a[3], OH = a[4], OW = a[5], C = a[6];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < a[1] * H * W; p++) {
        int64_t y = p / W % H, x = p % W, odd = y % 2;
        const float *from = FLOATS(9) + ((p / (H * W) * OH + y / 2) * OW + x / 2) * a[10] + odd * C;
        for (int64_t c = 0; c < C; c += VL) {
            vec own = x % 2 == odd ? where_positive(LOAD(from + c), FLOATS(7) + p * a[8] + c) : (vec){0};
            STORE(FLOATS(11) + p * C + c, own);
        }
    }
}

/* ---- depthwise convolutions ---- */

typedef struct {
    int64_t height, width; /* of an image with its border */
    float *values;
} Padded;

/* Some channels of an image with a border of zeros, its pixels `apart` from one another among zeros, perhaps its ReLU */
static void pad(Padded to, const float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
                int64_t border, int64_t apart, int64_t rectify) {
    memset(to.values, 0, to.height * to.width * channels * 4);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const float *from = image + (y * width + x) * row;
            float *own = to.values + ((y * apart + border) * to.width + x * apart + border) * channels;
            for (int64_t c = 0; c < channels; c += VL) STORE(own + c, rectify ? relu(LOAD(from + c)) : LOAD(from + c));
        }
}

#define ACROSS 8 /* pixels of a line that are convolved at once */
INLINE void convolved_block(vec total[], const float *source, int64_t width, const float *weights, int64_t side,
                            int64_t dilation, int64_t step, int64_t channels) {
    for (int64_t i = 0; i < side; i++)
        for (int64_t j = 0; j < side; j++) {
            vec w = LOAD(weights + (i * side + j) * channels);
            const float *from = source + (i * width + j) * dilation * channels;
            UNROLL for (int p = 0; p < ACROSS; p++) total[p] += w * LOAD(from + p * step);
        }
}

/* A group's convolution of an image with a border; what is `there` already is added to */
INLINE void convolve(float *result, int64_t row, int64_t height, int64_t width, Padded from, const float *weights,
                     int64_t side, int64_t stride, int64_t dilation, int64_t channels, const int there) {
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x += ACROSS)
            for (int64_t c = 0; c < channels; c += VL) {
                float *own = result + (y * width + x) * row + c;
                int64_t number = least(ACROSS, width - x);
                vec total[ACROSS];
                UNROLL for (int p = 0; p < ACROSS; p++)
                    total[p] = there && p < number ? LOAD(own + p * row) : (vec){0};
                const float *source = from.values + (y * stride * from.width + x * stride) * channels + c;
                convolved_block(total, source, from.width, weights + c, side, dilation, stride * channels, channels);
                UNROLL for (int p = 0; p < ACROSS; p++)
                    if (p < number) STORE(own + p * row, total[p]);
            }
}

static void convolve_any(float *result, int64_t row, int64_t height, int64_t width, Padded from, const float *weights,
                         int64_t side, int64_t stride, int64_t dilation, int64_t channels, int there) {
#define SIZE(C, S) \
    if (channels == (C) && stride == (S)) { \
        if (there) convolve(result, row, height, width, from, weights, side, S, dilation, C, 1); \
        else convolve(result, row, height, width, from, weights, side, S, dilation, C, 0); \
        return; \
    }
    SIZE(VL, 1) SIZE(VL, 2) SIZE(2 * VL, 1) SIZE(2 * VL, 2) SIZE(4 * VL, 1) SIZE(4 * VL, 2)
    convolve(result, row, height, width, from, weights, side, stride, dilation, channels, there);
}

typedef struct {
    int64_t groups, channels, sides[2], candidates;
    float *packed; /* by group, tap and channel */
} Kernels;

INLINE int64_t side_of(Kernels k, int64_t group) { return k.sides[k.candidates > 1 ? group % 2 : 0]; }
INLINE int64_t widest(Kernels k) { return k.sides[0] > k.sides[1] ? k.sides[0] : k.sides[1]; }
INLINE float *own_weights(Kernels k, int64_t group) {
    return k.packed + group * widest(k) * widest(k) * k.channels;
}

/* one, other, sides, candidates, groups, channels of a group */
static Kernels pack(Arguments a, int turned) {
    Kernels k = {a[5], a[6], {a[2], a[3]}, a[4], NULL};
    k.packed = floats(k.groups * widest(k) * widest(k) * k.channels);
    for (int64_t g = 0; g < k.groups; g++) {
        int64_t taps = side_of(k, g) * side_of(k, g);
        const float *own = FLOATS(k.candidates > 1 ? g % 2 : 0) + g / k.candidates * k.channels * taps;
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < k.channels; c++)
                own_weights(k, g)[t * k.channels + c] = own[c * taps + (turned ? taps - 1 - t : t)];
    }
    return k;
}

INLINE Padded bordered(int64_t height, int64_t width, int64_t border, int64_t channels) {
    Padded p = {height + 2 * border, width + 2 * border + 2 * ACROSS, NULL};
    p.values = floats((p.height + 1) * p.width * channels);
    return p;
}

/* threads, images, parts, H, W, OH, OW, stride, dilation, rectify; kernels (7); image, row, step; result, row;
   the sums' parts, or 0 */
void depthwise(Arguments a) {
    int64_t threads = a[0], images = a[1], number = a[2], H = a[3], W = a[4], OH = a[5], OW = a[6], stride = a[7];
    int64_t dilation = a[8], rectify = a[9], row = a[18], step = a[19], result_row = a[21];
    Kernels k = pack(a + 10, 0);
    int64_t C = k.channels, widest_border = widest(k) / 2 * dilation, size = k.groups * C * (C + 1);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++) {
        Padded padded = bordered(H, W, widest_border, C);
        float *parts = FLOATS(22) ? FLOATS(22) + part * size : NULL;
        if (parts) memset(parts, 0, size * 4);
        for (int64_t b = images * part / number; b < images * (part + 1) / number; b++)
            for (int64_t g = 0; g < k.groups; g++) {
                const float *image = FLOATS(17) + b * H * W * row + g * step;
                if (step || g == 0) pad(padded, image, row, H, W, C, widest_border, 1, rectify);
                int64_t side = side_of(k, g), inset = widest_border - side / 2 * dilation;
                Padded own = padded;
                own.values += (inset * padded.width + inset) * C;
                float *result = FLOATS(20) + b * OH * OW * result_row + g * C;
                convolve_any(result, result_row, OH, OW, own, own_weights(k, g), side, stride, dilation, C, 0);
                for (int64_t p = 0; parts && p < OH * OW; p += CHUNK)
                    add_plain_products(parts + g * C * C, parts + k.groups * C * C + g * C, result + p * result_row,
                                 result_row, C, result + p * result_row, result_row, C, least(CHUNK, OH * OW - p));
            }
        free(padded.values);
    }
    free(k.packed);
}

/* threads, images, H, W, OH, OW, stride, dilation; kernels (7); gradient, row; groups of the result; result;
   source, row; added, row */
void source_gradient(Arguments a) {
    int64_t threads = a[0], images = a[1], H = a[2], W = a[3], OH = a[4], OW = a[5], stride = a[6], dilation = a[7];
    int64_t row = a[16], results = a[17], source_row = a[20], added_row = a[22];
    Kernels k = pack(a + 8, 1);
    int64_t C = k.channels, border = widest(k) / 2 * dilation, each = k.groups / results, width = results * C;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t b = 0; b < images; b++) {
        Padded padded = bordered(H + stride, W + stride, border, C);
        for (int64_t g = 0; g < k.groups; g++) {
            pad(padded, FLOATS(15) + b * OH * OW * row + g * C, row, OH, OW, C, border, stride, 0);
            int64_t inset = border - side_of(k, g) / 2 * dilation;
            Padded own = padded;
            own.values += (inset * padded.width + inset) * C;
            convolve_any(FLOATS(18) + b * H * W * width + g / each * C, width, H, W, own, own_weights(k, g),
                         side_of(k, g), 1, dilation, C, g % each > 0);
        }
        for (int64_t p = b * H * W; p < (b + 1) * H * W; p++)
            for (int64_t c = 0; c < width; c += VL) {
                vec own = LOAD(FLOATS(18) + p * width + c);
                if (FLOATS(19)) own = where_positive(own, FLOATS(19) + p * source_row + c);
                if (FLOATS(21)) own += LOAD(FLOATS(21) + p * added_row + c);
                STORE(FLOATS(18) + p * width + c, own);
            }
        free(padded.values);
    }
    free(k.packed);
}

INLINE void add_taps(float *sums, const float *gradient, int64_t row, int64_t height, int64_t width, Padded from,
                     int64_t stride, int64_t dilation, int64_t channels, const int SIDE) {
    for (int64_t c = 0; c < channels; c += VL)
        for (int64_t i = 0; i < SIDE; i++) {
            vec total[SIDE];
            UNROLL for (int j = 0; j < SIDE; j++) total[j] = LOAD(sums + (i * SIDE + j) * channels + c);
            for (int64_t y = 0; y < height; y++) {
                const float *source = from.values + (y * stride + i * dilation) * from.width * channels + c;
                for (int64_t x = 0; x < width; x++) {
                    vec own = LOAD(gradient + (y * width + x) * row + c);
                    UNROLL for (int j = 0; j < SIDE; j++)
                        total[j] += own * LOAD(source + (x * stride + j * dilation) * channels);
                }
            }
            UNROLL for (int j = 0; j < SIDE; j++) STORE(sums + (i * SIDE + j) * channels + c, total[j]);
        }
}

/* threads, images, parts, H, W, OH, OW, stride, dilation, rectify; sides, candidates, groups, channels of a group;
   gradient, row; image, row, step; results of both candidates */
void kernel_gradients(Arguments a) {
    int64_t threads = a[0], images = a[1], number = a[2], H = a[3], W = a[4], OH = a[5], OW = a[6], stride = a[7];
    int64_t dilation = a[8], rectify = a[9], row = a[16], image_row = a[18], step = a[19], C = a[14];
    Kernels k = {a[13], C, {a[10], a[11]}, a[12], NULL};
    int64_t border = widest(k) / 2 * dilation, each = widest(k) * widest(k) * C, size = k.groups * each;
    float *parts = floats(number * size);
    memset(parts, 0, number * size * 4);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++) {
        Padded padded = bordered(H, W, border, C);
        for (int64_t b = images * part / number; b < images * (part + 1) / number; b++)
            for (int64_t g = 0; g < k.groups; g++) {
                if (step || g == 0)
                    pad(padded, FLOATS(17) + b * H * W * image_row + g * step, image_row, H, W, C, border, 1, rectify);
                int64_t side = side_of(k, g), inset = border - side / 2 * dilation;
                Padded own = padded;
                own.values += (inset * padded.width + inset) * C;
                const float *gradient = FLOATS(15) + b * OH * OW * row + g * C;
                float *sums = parts + part * size + g * each;
                if (side == 1) add_taps(sums, gradient, row, OH, OW, own, stride, dilation, C, 1);
                if (side == 3) add_taps(sums, gradient, row, OH, OW, own, stride, dilation, C, 3);
                if (side == 5) add_taps(sums, gradient, row, OH, OW, own, stride, dilation, C, 5);
                if (side == 7) add_taps(sums, gradient, row, OH, OW, own, stride, dilation, C, 7);
            }
        free(padded.values);
    }
    for (int64_t g = 0; g < k.groups; g++) {
        int64_t taps = side_of(k, g) * side_of(k, g);
        float *result = FLOATS(20 + (k.candidates > 1 ? g % 2 : 0)) + g / k.candidates * C * taps;
        for (int64_t c = 0; c < C; c++)
            for (int64_t t = 0; t < taps; t++) {
                float total = 0;
                for (int64_t part = 0; part < number; part++) total += parts[part * size + g * each + t * C + c];
                result[c * taps + t] = total;
            }
    }
    free(parts);
}

/* ---- folding: the formulas of darts/models/kernels/fold.py and fold_parts.py ---- */

INLINE float *own_scale(float *mixture, int64_t group, int64_t per, int64_t step, const int64_t *columns) {
    return mixture + group / per * step + columns[group % per];
}

/* threads, groups, A, B, matrices of an edge, pixels; parts, their sums; P; mixture, step, columns (2); scale and shift
   of each row, or 0; running mean, variance and count, whether they move; W, b, u, r, m, S; eps and momentum, doubles */
void fold(Arguments a) {
    int64_t threads = a[0], groups = a[1], A = a[2], B = a[3], per = a[4], count = a[6];
    int64_t size = groups * B * (B + 1);
    const double n = a[5], *numbers = (const double *)a[25];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        const float *P = FLOATS(8) + g * A * B;
        float *m = FLOATS(23) + g * B, *S = FLOATS(24) + g * B * B, row[B];
        add_parts(S, FLOATS(7) + g * B * B, count, size, B * B);
        add_parts(m, FLOATS(7) + groups * B * B + g * B, count, size, B);
        for (int64_t j = 0; j < B; j++) m[j] /= n;
        for (int64_t j = 0; j < B; j++)
            for (int64_t k = 0; k < B; k++) S[j * B + k] = S[j * B + k] / n - (double)m[j] * m[k];
        float scale = a[9] ? *own_scale(FLOATS(9), g, per, a[10], &a[11]) : 1;
        for (int64_t i = 0; i < A; i++) {
            float u = 0, v = 0;
            memset(row, 0, sizeof row);
            for (int64_t j = 0; j < B; j++) {
                u += P[i * B + j] * m[j];
                for (int64_t k = 0; k < B; k++) row[k] += P[i * B + j] * S[j * B + k];
            }
            for (int64_t j = 0; j < B; j++) v += row[j] * P[i * B + j];
            v = v < 0 ? 0 : v;
            float r = 1 / sqrtf(v + numbers[0]), *W = FLOATS(19) + ((g / per * A + i) * per + g % per) * B;
            if (a[13]) scale = FLOATS(13)[g * A + i];
            for (int64_t j = 0; j < B; j++) W[j] = scale * r * P[i * B + j];
            FLOATS(20)[g * A + i] = (a[14] ? FLOATS(14)[g * A + i] : 0) - scale * r * u;
            FLOATS(21)[g * A + i] = u, FLOATS(22)[g * A + i] = r;
            if (a[18]) {
                float *mean = FLOATS(15) + g * A + i, *variance = FLOATS(16) + g * A + i;
                *mean += numbers[1] * (u - *mean), *variance += numbers[1] * (v * (n / (n - 1)) - *variance);
            }
        }
        if (a[18]) ((int64_t *)a[17])[g]++;
    }
}

/* threads, groups, A, B, matrices of an edge, pixels; parts, their sums; P; mixture, step, columns (2), its gradient;
   scale of each row, or 0, its gradient and its shift's; u, r, m, S; gradient of P; M, c */
void fold_gradient(Arguments a) {
    int64_t threads = a[0], groups = a[1], A = a[2], B = a[3], per = a[4], count = a[6];
    int64_t sums = groups * A * B, size = sums + groups / per * A;
    const float n = a[5];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        const float *P = FLOATS(8) + g * A * B, *m = FLOATS(19) + g * B, *S = FLOATS(20) + g * B * B;
        float *M = FLOATS(22) + g * B * B, *c = FLOATS(23) + g * B, found[B], row[B];
        memset(M, 0, B * B * 4), memset(c, 0, B * 4);
        float scale = a[9] ? *own_scale(FLOATS(9), g, per, a[10], &a[11]) : 1, of_scale = 0;
        for (int64_t i = 0; i < A; i++) {
            float u = FLOATS(17)[g * A + i], r = FLOATS(18)[g * A + i], of_constant, df, v = 0;
            add_parts(found, FLOATS(7) + ((g / per * A + i) * per + g % per) * B, count, size, B);
            add_parts(&of_constant, FLOATS(7) + sums + g / per * A + i, count, size, 1);
            df = -of_constant * u;
            memset(row, 0, sizeof row);
            for (int64_t j = 0; j < B; j++) {
                df += found[j] * P[i * B + j];
                for (int64_t k = 0; k < B; k++) row[k] += P[i * B + j] * S[j * B + k];
            }
            for (int64_t j = 0; j < B; j++) v += row[j] * P[i * B + j];
            if (a[14]) {
                scale = FLOATS(14)[g * A + i];
                FLOATS(15)[g * A + i] = df * r, FLOATS(16)[g * A + i] = of_constant;
            }
            float dv = v < 0 ? 0 : -scale * df * r * r * r / 2, du = -scale * r * of_constant;
            of_scale += df * r;
            for (int64_t j = 0; j < B; j++) {
                FLOATS(21)[(g * A + i) * B + j] = scale * r * found[j] + du * m[j] + 2 * dv * row[j];
                c[j] += P[i * B + j] * du / n;
                float factor = P[i * B + j] * dv * (2 / n);
                for (int64_t k = 0; k < B; k++) M[j * B + k] += factor * P[i * B + k];
            }
        }
        for (int64_t j = 0; j < B; j++)
            for (int64_t k = 0; k < B; k++) c[j] -= M[j * B + k] * m[k];
        if (a[9]) *own_scale(FLOATS(13), g, per, a[10], &a[11]) = of_scale;
    }
}

/* ---- pools: the formulas of darts/models/kernels/pools.py ---- */

/* threads, images, parts, H, W, OH, OW, channels, side, stride, kinds, which are maxima; image, row; maps, taps,
   the sums' parts */
void pooled(Arguments a) {
    int64_t threads = a[0], images = a[1], number = a[2], H = a[3], W = a[4], OH = a[5], OW = a[6], C = a[7];
    int64_t side = a[8], stride = a[9], kinds = a[10], row = a[13];
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++) {
        float *sums = FLOATS(16) + part * 2 * kinds * C;
        memset(sums, 0, 2 * kinds * C * 4);
        for (int64_t pixel = images * part / number * OH * OW; pixel < images * (part + 1) / number * OH * OW; pixel++) {
            int64_t b = pixel / (OH * OW), top = pixel / OW % OH * stride - side / 2, left = pixel % OW * stride - side / 2;
            float *map = FLOATS(14) + pixel * kinds * C;
            uint8_t *taps = (uint8_t *)a[15] + pixel * C;
            for (int64_t c = 0; c < C; c += VL) {
                vec largest = (vec){0} - INFINITY, together = {0};
                ivec tap = {0};
                int32_t there = 0;
                for (int64_t i = 0; i < side; i++)
                    for (int64_t j = 0; j < side; j++) {
                        int64_t y = top + i, x = left + j;
                        if (y < 0 || y >= H || x < 0 || x >= W) continue;
                        vec own = LOAD(FLOATS(12) + ((b * H + y) * W + x) * row + c);
                        ivec larger = (own > largest) | (own != own); /* the first of equals, and not a number */
                        tap = (tap & ~larger) | (((ivec){0} + (int32_t)(i * side + j)) & larger);
                        largest = (vec)(((ivec)largest & ~larger) | ((ivec)own & larger));
                        together += own, there++;
                    }
                for (int64_t kind = 0; kind < kinds; kind++) {
                    int is_maximum = a[11] >> kind & 1;
                    vec own = together / (float)there;
                    if (is_maximum) own = largest;
                    float *sum = sums + kind * C + c;
                    STORE(map + kind * C + c, own);
                    STORE(sum, LOAD(sum) + own), STORE(sum + kinds * C, LOAD(sum + kinds * C) + own * own);
                    if (is_maximum) *(bytes *)(taps + c) = __builtin_convertvector(tap, bytes);
                }
            }
        }
    }
}

/* edges, channels, pools, columns (2), the plain map's column or -1, whether they are normed, pixels; parts, their
   sums; mixture, step; factors, constants, statistics; eps, double */
void fold_pools(Arguments a) {
    int64_t edges = a[0], C = a[1], pools = a[2], kinds = pools + (a[5] >= 0), row = pools * C;
    const double n = a[7], eps = *(const double *)a[15];
    float *statistics = FLOATS(14), sums[2 * row + 1];
    if (a[6]) add_parts(sums, FLOATS(9), a[8], 2 * row, 2 * row);
    for (int64_t k = 0; k < row; k++) {
        double mean = a[6] ? sums[k] / n : 0, variance = a[6] ? sums[row + k] / n - mean * mean : 0;
        if (variance < 0) variance = 0; /* not a number stays it */
        statistics[k] = mean, statistics[row + k] = variance;
        statistics[2 * row + k] = a[6] ? 1 / sqrt(variance + eps) : 1;
    }
    for (int64_t edge = 0; edge < edges; edge++)
        for (int64_t c = 0; c < C; c++) {
            float *factors = FLOATS(12) + edge * kinds * C + c, constant = 0;
            for (int64_t pool = 0; pool < pools; pool++) {
                float f = FLOATS(10)[edge * a[11] + a[3 + pool]] * statistics[2 * row + pool * C + c];
                factors[pool * C] = f, constant -= f * statistics[pool * C + c];
            }
            if (a[5] >= 0) factors[pools * C] = FLOATS(10)[edge * a[11] + a[5]];
            FLOATS(13)[edge * C + c] = constant;
        }
}

/* threads, images, pixels of one, parts, edges, channels, pools, whether the plain map is there; gradient, row; pools'
   maps, row; plain map, row; results */
void pool_products(Arguments a) {
    int64_t threads = a[0], number = a[3], edges = a[4], C = a[5], pools = a[6], plain = a[7], kinds = pools + plain;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t part = 0; part < number; part++) {
        float *parts = FLOATS(14) + part * edges * (kinds + 1) * C;
        memset(parts, 0, edges * (kinds + 1) * C * 4);
        for (int64_t p = a[1] * part / number * a[2]; p < a[1] * (part + 1) / number * a[2]; p++)
            for (int64_t edge = 0; edge < edges; edge++)
                for (int64_t c = 0; c < C; c += VL) {
                    vec own = LOAD(FLOATS(8) + p * a[9] + edge * C + c);
                    float *sums = parts + edge * (kinds + 1) * C + c;
                    for (int64_t pool = 0; pool < pools; pool++, sums += C)
                        STORE(sums, LOAD(sums) + own * LOAD(FLOATS(10) + p * a[11] + pool * C + c));
                    if (plain) STORE(sums, LOAD(sums) + own * LOAD(FLOATS(12) + p * a[13] + c));
                    STORE(sums + plain * C, LOAD(sums + plain * C) + own);
                }
    }
}

/* edges, channels, pools, columns (2), the plain map's column or -1, whether they are normed, pixels; parts, their
   sums; mixture, step, its gradient; statistics; factors and constants of the maps in their own gradient */
void fold_pools_gradient(Arguments a) {
    int64_t edges = a[0], C = a[1], pools = a[2], kinds = pools + (a[5] >= 0), row = pools * C;
    int64_t size = edges * (kinds + 1) * C;
    float sums[size], n = a[7];
    add_parts(sums, FLOATS(9), a[8], size, size);
    for (int64_t kind = 0; kind < kinds; kind++) {
        int64_t column = kind == pools ? a[5] : a[3 + kind];
        float for_column[edges];
        memset(for_column, 0, sizeof for_column);
        for (int64_t c = 0; c < C; c++) {
            float mean = kind == pools ? 0 : FLOATS(13)[kind * C + c], dr = 0, dm = 0;
            float r = kind == pools ? 1 : FLOATS(13)[2 * row + kind * C + c];
            for (int64_t edge = 0; edge < edges; edge++) {
                const float *own = sums + edge * (kinds + 1) * C + c;
                float weight = FLOATS(10)[edge * a[11] + column], q = own[kind * C] - own[kinds * C] * mean;
                for_column[edge] += q * r, dr += weight * q, dm -= weight * r * own[kinds * C];
            }
            if (kind < pools) {
                float factor = a[6] ? -r * r * r * dr / n : 0;
                FLOATS(14)[kind * C + c] = factor, FLOATS(15)[kind * C + c] = a[6] ? dm / n - factor * mean : 0;
            }
        }
        for (int64_t edge = 0; edge < edges; edge++) FLOATS(12)[edge * a[11] + column] = for_column[edge];
    }
}

/* threads, pixels, edges, channels, pools, kinds, whether they are normed; gradient, row; factors; maps, row; factors
   and constants of the maps; result */
void pool_maps_gradient(Arguments a) {
    int64_t threads = a[0], edges = a[2], C = a[3], pools = a[4], kinds = a[5];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < a[1]; p++)
        for (int64_t kind = 0; kind < pools; kind++)
            for (int64_t c = 0; c < C; c += VL) {
                vec total = {0};
                int64_t own = kind * C + c;
                if (a[6]) total = LOAD(FLOATS(12) + own) * LOAD(FLOATS(10) + p * a[11] + own) + LOAD(FLOATS(13) + own);
                for (int64_t edge = 0; edge < edges; edge++)
                    total += LOAD(FLOATS(9) + (edge * kinds + kind) * C + c) * LOAD(FLOATS(7) + p * a[8] + edge * C + c);
                STORE(FLOATS(14) + p * pools * C + own, total);
            }
}

/* threads, images, H, W, OH, OW, channels, side, stride, edges, pools, which are maxima, whether the plain map is
   there; maps' gradient; taps; gradient, row; factors; result */
void pool_source_gradient(Arguments a) {
    int64_t threads = a[0], H = a[2], W = a[3], OH = a[4], OW = a[5], C = a[6], side = a[7], stride = a[8];
    int64_t edges = a[9], pools = a[10], plain = a[12], pixels = a[1] * H * W;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < pixels; p++) {
        int64_t b = p / (H * W), line = p / W % H, column = p % W;
        float *result = FLOATS(18) + p * C;
        for (int64_t c = 0; c < C; c += VL) {
            vec total = {0};
            for (int64_t edge = 0; plain && edge < edges; edge++)
                total += LOAD(FLOATS(17) + (edge * (pools + 1) + pools) * C + c) *
                         LOAD(FLOATS(15) + p * a[16] + edge * C + c);
            STORE(result + c, total);
        }
        for (int64_t i = 0; pools && i < side; i++)
            for (int64_t j = 0; j < side; j++) {
                int64_t y = line - i + side / 2, x = column - j + side / 2; /* of the kernel's middle */
                if (y < 0 || y % stride || y / stride >= OH || x < 0 || x % stride || x / stride >= OW) continue;
                int64_t place = (b * OH + y / stride) * OW + x / stride;
                int64_t high = least(y + side / 2, H - 1) - (y < side / 2 ? 0 : y - side / 2) + 1;
                int64_t wide = least(x + side / 2, W - 1) - (x < side / 2 ? 0 : x - side / 2) + 1;
                const uint8_t *taps = (const uint8_t *)a[14] + place * C;
                float part = 1 / (float)(high * wide);
                for (int64_t kind = 0; kind < pools; kind++)
                    for (int64_t c = 0; c < C; c += VL) {
                        vec own = LOAD(FLOATS(13) + (place * pools + kind) * C + c);
                        if (a[11] >> kind & 1) {
                            ivec tap = __builtin_convertvector(*(const bytes *)(taps + c), ivec);
                            own = (vec)((ivec)own & (tap == (int32_t)(i * side + j)));
                        } else own *= part;
                        STORE(result + c, LOAD(result + c) + own);
                    }
            }
    }
}

/* ---- many calls at once: see program.py ---- */

/* The number of calls, and for each: its function, how many arguments it has and how many of them are addresses; the
   arguments; and for each address which argument it is, and of which tensor: the argument is a distance from there */
void run(Arguments program, Arguments tensors) {
    int64_t calls = *program++;
    while (calls--) {
        int64_t number = program[1], addresses = program[2], own[number];
        memcpy(own, program + 3, number * 8);
        const int64_t *address = program + 3 + number;
        for (int64_t k = 0; k < addresses; k++) own[address[2 * k]] += tensors[address[2 * k + 1]];
        ((void (*)(Arguments))program[0])(own);
        program = address + 2 * addresses;
    }
}
