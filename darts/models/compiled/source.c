/* What one state of the fused supernet and one operation of a found cell compute, on a CPU: see operators.py, and
   darts/models/fused/ (by_hand.py, computation.py and what it names) for what they make together.

   A map is rows of channels, one a pixel: `x_row` is the distance from a pixel of map x to the next, in floats.
   Channels come in vectors of VL floats, which the compiler is given (-DVL=4, 8 or 16); every number of channels is a
   multiple. A function has one argument, an array of integers: sizes, distances and addresses in the order in which its
   first lines take them, and in which operators.py writes them. Sums over pixels are made part by part, a part being
   some images, and the parts are added in their order: results do not depend on the number of threads. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef VL
#define VL 4
#endif
/* Vectors may begin at any float, and alias other types: maps are reinterpreted for the bit masks of ReLU. */
typedef float vec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(VL), aligned(1), may_alias));
typedef const int64_t *Arguments;
#define NEXT (*a++)                 /* the next argument */
#define FLOATS ((float *)NEXT)
#define DOUBLES ((const double *)NEXT)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define EACH_PART _Pragma("omp parallel for num_threads(threads) schedule(dynamic, 1)")
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define MOST 16     /* vectors that are summed at once: as many as registers hold */
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers; else 16 */
#define PIXELS_WITH_4 4 /* how many pixels' sums are made at once where each has 4, 2 or 1 vectors */
#define PIXELS_WITH_2 6
#define PIXELS_WITH_1 8
#else
#define PIXELS_WITH_4 2
#define PIXELS_WITH_2 5
#define PIXELS_WITH_1 8
#endif
#define TILE 96     /* pixels whose sum of maps is made at once, at most */
#define SMALLEST 24 /* of which the number of these pixels is a multiple: one of how many are summed at once */
#define CHUNK 128   /* pixels whose products are summed at once */

INLINE vec relu(vec v) { return (vec)((ivec)v & ~(v < (vec){0})); } /* not a number stays it */
INLINE vec where_positive(vec v, const float *own) { return (vec)((ivec)v & ~(LOAD(own) <= (vec){0})); }
INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

static float *floats(size_t number) {
    float *found = aligned_alloc(64, (number * 4 + 64 + 63) / 64 * 64);
    if (!found) abort();
    return found;
}

/* Where the images of a part begin, of `count` parts; those of the next one are the end */
INLINE int64_t begin(int64_t part, int64_t count, int64_t images) { return images * part / count; }

/* Sums over parts of `number` numbers */
static void add_parts(float *to, const float *parts, int64_t count, int64_t size, int64_t number) {
    memset(to, 0, number * 4);
    for (int64_t part = 0; part < count; part++)
        for (int64_t k = 0; k < number; k++) to[k] += parts[part * size + k];
}

/* ---- sums of maps through 1x1 convolutions ---- */

typedef struct {
    const float *image, *weights; /* the latter by group, input channel, output channel */
    float *packed;                /* they, where they did not lie so */
    int64_t first, row, step, inner, per; /* `first`: the pixel that the image begins with */
} Term;

typedef struct {
    int64_t groups, terms, maps, constants, rectify; /* the last: whether the sum goes through ReLU */
    Term term[4];
    const float *scaled[4], *factors; /* maps of the channels of one group; factors by group, map and channel */
    const float *shift[4], *added; /* constants, `numbers` a group; a map of all groups */
    const float *by_image;         /* a factor for each image */
    const float *positive;         /* where this map is not, the sum is 0 */
    int64_t scaled_row[4], numbers[4], added_row, positive_row, result_row;
    float *result;
} Sum;

/* Adds an image through a matrix to sums of P pixels and N vectors, which stay in registers */
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
                total[p * N + n] += factor * LOAD(s->scaled[m] + (pixel + p) * s->scaled_row[m] + from + n * VL);
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
static void rectify_tile(Term *term, float *to, int64_t first, int64_t end) {
    const float *image = term->image;
    for (int64_t p = first; p < end; p++)
        for (int64_t i = 0; i < term->inner; i += VL)
            STORE(to + (p - first) * term->inner + i, relu(LOAD(image + p * term->row + i)));
    term->image = to, term->first = first, term->row = term->inner;
}

/* A term's weights, by group, input channel and output channel. `per`: groups that share an image's channels. */
static Term packed_term(Arguments *arguments, int64_t groups, int64_t outer) {
    Arguments a = *arguments;
    Term term = {0};
    term.image = FLOATS, term.row = NEXT, term.step = NEXT, term.inner = NEXT;
    const float *matrices = FLOATS;
    term.per = NEXT;
    int64_t shared = NEXT, own = NEXT, of_output = NEXT, of_input = NEXT; /* the matrices' distances */
    int64_t matrix = term.inner * outer;
    int is_packed = of_output == 1 && of_input == outer && (groups == 1 || (own == matrix && shared == term.per * own));
    *arguments = a, term.weights = matrices;
    if (is_packed) return term;
    float *weights = term.packed = floats(groups * matrix);
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = 0; i < term.inner; i++)
            for (int64_t o = 0; o < outer; o++)
                weights[(g * term.inner + i) * outer + o] =
                    matrices[g / term.per * shared + g % term.per * own + o * of_output + i * of_input];
    term.weights = weights;
    return term;
}

/* The sum of terms, of maps times factors and of constants; perhaps 0 where another map is not positive, times a factor
   of each image, plus another map, through ReLU. The first term's image may go through ReLU, if there is one group. */
void combined(Arguments a) {
    Sum s = {0};
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, outer;
    s.groups = NEXT, outer = NEXT, s.rectify = NEXT;
    s.result = FLOATS, s.result_row = NEXT;
    s.added = FLOATS, s.added_row = NEXT;
    s.positive = FLOATS, s.positive_row = NEXT;
    s.by_image = FLOATS;
    int64_t rectifies = NEXT;
    s.terms = NEXT;
    for (int64_t t = 0; t < s.terms; t++) s.term[t] = packed_term(&a, s.groups, outer);
    s.maps = NEXT, s.factors = FLOATS;
    for (int64_t m = 0; m < s.maps; m++) s.scaled[m] = FLOATS, s.scaled_row[m] = NEXT;
    s.constants = NEXT;
    for (int64_t c = 0; c < s.constants; c++) s.shift[c] = FLOATS, s.numbers[c] = NEXT;
    if (!s.by_image) pixels *= images, images = 1; /* tiles may reach from an image into the next */
    int64_t size = least(TILE, (images * pixels / (2 * threads) / SMALLEST + 1) * SMALLEST); /* so that all have work */
    int64_t tiles = (pixels + size - 1) / size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t tile = 0; tile < images * tiles; tile++) {
        int64_t image = tile / tiles, first = image * pixels + tile % tiles * size;
        int64_t end = least(first + size, (image + 1) * pixels);
        float times = s.by_image ? s.by_image[image] : 1;
        float *rectified = rectifies ? floats(TILE * s.term[0].inner) : NULL;
        Sum own = s;
        if (rectified) rectify_tile(own.term, rectified, first, end);
        for (int64_t g = 0; g < s.groups; g++) {
            int64_t from = 0;
            for (; from + 4 * VL <= outer; from += 4 * VL)
                summed_tile(&own, g, first, end, from, outer, times, PIXELS_WITH_4, 4);
            for (; from + 2 * VL <= outer; from += 2 * VL)
                summed_tile(&own, g, first, end, from, outer, times, PIXELS_WITH_2, 2);
            for (; from < outer; from += VL) summed_tile(&own, g, first, end, from, outer, times, PIXELS_WITH_1, 1);
        }
        free(rectified);
    }
    for (int64_t t = 0; t < s.terms; t++) free(s.term[t].packed);
}

/* A map, perhaps times a factor of each image, perhaps plus another map */
void scaled_sum(Arguments a) {
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, channels = NEXT;
    float *result = FLOATS;
    int64_t result_row = NEXT;
    const float *image = FLOATS;
    int64_t image_row = NEXT;
    const float *factors = FLOATS, *added = FLOATS;
    int64_t added_row = NEXT;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < images; b++)
        for (int64_t p = b * pixels; p < (b + 1) * pixels; p++)
            for (int64_t c = 0; c < channels; c += VL) {
                vec own = LOAD(image + p * image_row + c);
                if (factors) own *= factors[b];
                if (added) own += LOAD(added + p * added_row + c);
                STORE(result + p * result_row + c, own);
            }
}

/* A map where another one is positive, else 0 */
void map_where_positive(Arguments a) {
    int64_t threads = NEXT, pixels = NEXT, channels = NEXT;
    const float *image = FLOATS;
    int64_t image_row = NEXT;
    const float *positive = FLOATS;
    int64_t positive_row = NEXT;
    float *result = FLOATS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < channels; c += VL)
            STORE(result + p * channels + c,
                  where_positive(LOAD(image + p * image_row + c), positive + p * positive_row + c));
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

/* Adds the sums of left times right, high x width, and of left alone. A block's A x N sums are `MOST` at most; `high`
   and `width` are multiples of VL, so of 4. */
INLINE void add_any_products(float *sums, float *alone, const float *left, int64_t left_row, int64_t high,
                             const float *right, int64_t right_row, int64_t width, int64_t pixels, const int rectify) {
#define BLOCK(A, N) \
    products_block(sums + k * width + from, width, left + k, left_row, right + from, right_row, pixels, rectify, A, N)
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

static void add_products(float *sums, float *alone, const float *left, int64_t left_row, int64_t high,
                         const float *right, int64_t right_row, int64_t width, int64_t pixels, int rectify) {
    if (rectify) add_any_products(sums, alone, left, left_row, high, right, right_row, width, pixels, 1);
    else add_any_products(sums, alone, left, left_row, high, right, right_row, width, pixels, 0);
}

/* Parts of the sums over pixels of left times right, or times its ReLU, and of left: of all groups the former first */
void products(Arguments a) {
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, count = NEXT, groups = NEXT, high = NEXT, width = NEXT;
    const float *left = FLOATS;
    int64_t left_row = NEXT;
    const float *right = FLOATS;
    int64_t right_row = NEXT;
    float *parts = FLOATS;
    int64_t rectify = NEXT, size = groups * high * (width + 1);
#pragma omp parallel for num_threads(threads) collapse(2) schedule(dynamic, 1)
    for (int64_t part = 0; part < count; part++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t end = begin(part + 1, count, images) * pixels;
            float *sums = parts + part * size + g * high * width;
            float *alone = parts + part * size + groups * high * width + g * high;
            memset(sums, 0, high * width * 4), memset(alone, 0, high * 4);
            for (int64_t p = begin(part, count, images) * pixels; p < end; p += CHUNK)
                add_products(sums, alone, left + p * left_row + g * high, left_row, high,
                             right + p * right_row + g * width, right_row, width, least(CHUNK, end - p), rectify);
        }
}

/* The first numbers of parts, summed over them */
void sum_parts(Arguments a) {
    int64_t count = NEXT, size = NEXT;
    const float *parts = FLOATS;
    int64_t number = NEXT;
    add_parts(FLOATS, parts, count, size, number);
}

/* Parts of sums over pixels, by channel: of left times (right minus the channel's middle), and of left */
void channel_sums(Arguments a) {
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, count = NEXT, channels = NEXT;
    const float *left = FLOATS;
    int64_t left_row = NEXT;
    const float *right = FLOATS;
    int64_t right_row = NEXT;
    const float *middle = FLOATS;
    float *parts = FLOATS;
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        float *products = parts + part * 2 * channels, *alone = products + channels;
        memset(products, 0, 2 * channels * 4);
        for (int64_t p = begin(part, count, images) * pixels; p < begin(part + 1, count, images) * pixels; p++)
            for (int64_t c = 0; c < channels; c += VL) {
                vec own = LOAD(left + p * left_row + c), other = LOAD(right + p * right_row + c) - LOAD(middle + c);
                STORE(products + c, LOAD(products + c) + own * other);
                STORE(alone + c, LOAD(alone + c) + own);
            }
    }
}

/* ---- batch norm: the formulas of darts/models/fused/preparation.py ---- */

/* The sum over pixels of what a map is above a middle, or of its square; four sums, which do not wait for each other */
INLINE vec total_of(const float *map, int64_t map_row, int64_t pixels, vec middle, const int squared) {
    vec total[4] = {{0}};
    int64_t p = 0;
    for (; p + 4 <= pixels; p += 4)
        UNROLL for (int k = 0; k < 4; k++) {
            vec above = LOAD(map + (p + k) * map_row) - middle;
            if (squared) above *= above;
            total[k] += above;
        }
    for (; p < pixels; p++) {
        vec above = LOAD(map + p * map_row) - middle;
        if (squared) above *= above;
        total[0] += above;
    }
    return total[0] + total[1] + (total[2] + total[3]);
}

/* Of some pixels, by channel: the sum, and the sum of squared deviations from their own mean (no cancellation) */
static void moments_of_part(float *to, const float *map, int64_t map_row, int64_t pixels, int64_t channels) {
    for (int64_t c = 0; c < channels; c += VL) {
        vec sum = total_of(map + c, map_row, pixels, (vec){0}, 0);
        STORE(to + c, sum);
        STORE(to + channels + c, total_of(map + c, map_row, pixels, sum / (float)pixels, 1));
    }
}

typedef struct {
    double mean, variance;
} Moments;

/* Of channel c, from the moments of parts (Chan et al. 1983) */
static Moments moments_of(const float *parts, int64_t count, int64_t images, int64_t pixels, int64_t channels,
                          int64_t c) {
    double mean = 0, squares = 0, n = images * pixels;
    for (int64_t part = 0; part < count; part++) mean += parts[part * 2 * channels + c] / n;
    for (int64_t part = 0; part < count; part++) {
        double own = (begin(part + 1, count, images) - begin(part, count, images)) * pixels;
        double above = parts[part * 2 * channels + c] / own - mean;
        squares += parts[(part * 2 + 1) * channels + c] + own * above * above;
    }
    return (Moments){mean, squares / n};
}

/* Parts of a map's moments */
void channel_moments(Arguments a) {
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, count = NEXT, channels = NEXT;
    const float *map = FLOATS;
    int64_t map_row = NEXT;
    float *parts = FLOATS;
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        int64_t first = begin(part, count, images) * pixels, end = begin(part + 1, count, images) * pixels;
        moments_of_part(parts + part * 2 * channels, map + first * map_row, map_row, end - first, channels);
    }
}

/* A batch norm as factors and constants of its map, whose moments come as parts; moves the running statistics */
void fold_norm(Arguments a) {
    int64_t channels = NEXT, images = NEXT, pixels = NEXT, count = NEXT;
    const float *parts = FLOATS, *scale = FLOATS, *shift = FLOATS;
    float *running_mean = FLOATS, *running_variance = FLOATS;
    int64_t *batches = (int64_t *)NEXT, moves = NEXT;
    float *mean = FLOATS, *r = FLOATS, *factors = FLOATS, *constants = FLOATS;
    const double *numbers = DOUBLES, eps = numbers[0], momentum = numbers[1], n = images * pixels;
    for (int64_t c = 0; c < channels; c++) {
        Moments own = moments_of(parts, count, images, pixels, channels, c);
        mean[c] = own.mean, r[c] = 1 / sqrt(own.variance + eps);
        factors[c] = scale[c] * r[c], constants[c] = shift[c] - factors[c] * own.mean;
        if (!moves) continue;
        running_mean[c] += momentum * (own.mean - running_mean[c]);
        running_variance[c] += momentum * (own.variance * (n / (n - 1)) - running_variance[c]);
    }
    if (moves) ++*batches;
}

/* Gradients of scale and shift; factors of the result's gradient and of the map, and constants, of the map's gradient.
   `parts`: channel_sums of the result's gradient and the map, whose middle is the mean. */
void fold_norm_gradient(Arguments a) {
    int64_t channels = NEXT, pixels = NEXT, count = NEXT;
    const float *parts = FLOATS, *scale = FLOATS, *mean = FLOATS, *r = FLOATS;
    float *of_scale = FLOATS, *of_shift = FLOATS, *factors = FLOATS, *constants = FLOATS, sums[2 * channels];
    add_parts(sums, parts, count, 2 * channels, 2 * channels);
    for (int64_t c = 0; c < channels; c++) {
        of_scale[c] = r[c] * sums[c], of_shift[c] = sums[channels + c];
        factors[c] = scale[c] * r[c], factors[channels + c] = -factors[c] * r[c] * of_scale[c] / pixels;
        constants[c] = -factors[c] * of_shift[c] / pixels - factors[channels + c] * mean[c];
    }
}

/* ---- every second pixel ---- */

/* The ReLU at even lines and columns, and as further channels at those one further down and right, zeros beyond */
void every_second(Arguments a) {
    int64_t threads = NEXT, images = NEXT, H = NEXT, W = NEXT, OH = NEXT, OW = NEXT, channels = NEXT;
    const float *image = FLOATS;
    int64_t image_row = NEXT;
    float *result = FLOATS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < images * OH * OW; p++)
        for (int64_t odd = 0; odd < 2; odd++) {
            int64_t y = p / OW % OH * 2 + odd, x = p % OW * 2 + odd;
            for (int64_t c = 0; c < channels; c += VL) {
                vec own = {0};
                if (y < H && x < W) own = relu(LOAD(image + ((p / (OH * OW) * H + y) * W + x) * image_row + c));
                STORE(result + (p * 2 + odd) * channels + c, own);
            }
        }
}

/* The image's gradient, from that of the result; perhaps plus another map */
void every_second_gradient(Arguments a) {
    int64_t threads = NEXT, images = NEXT, H = NEXT, W = NEXT, OH = NEXT, OW = NEXT, channels = NEXT;
    const float *image = FLOATS;
    int64_t image_row = NEXT;
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT;
    float *result = FLOATS;
    const float *added = FLOATS;
    int64_t added_row = NEXT;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < images * H * W; p++) {
        int64_t y = p / W % H, x = p % W, odd = y % 2, place = (p / (H * W) * OH + y / 2) * OW + x / 2;
        for (int64_t c = 0; c < channels; c += VL) {
            vec own = {0};
            if (x % 2 == odd) /* others were not read */
                own = where_positive(LOAD(gradient + place * gradient_row + odd * channels + c),
                                     image + p * image_row + c);
            if (added) own += LOAD(added + p * added_row + c);
            STORE(result + p * channels + c, own);
        }
    }
}

/* ---- depthwise convolutions ---- */

typedef struct {
    int64_t height, width; /* of an image with its border */
    float *values;
} Padded;

/* Some channels of an image with a border of zeros, its pixels `apart` from one another among zeros; or its ReLU */
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

/* Pixels of a line that are convolved at once: 8, or fewer on narrow maps. The last block of a line may compute pixels
   beyond it, which are not stored: what it reads for them lies in twice as many further columns, or in the further
   line, of `bordered` (the stride is 1 or 2). */
#define ACROSS 8
INLINE int64_t across(int64_t width) { return width <= 2 ? 2 : width <= 4 ? 4 : ACROSS; }

INLINE void convolved_block(vec total[], const float *source, int64_t width, const float *weights, int64_t side,
                            int64_t dilation, int64_t step, int64_t channels, const int NUMBER) {
    for (int64_t i = 0; i < side; i++)
        for (int64_t j = 0; j < side; j++) {
            vec w = LOAD(weights + (i * side + j) * channels);
            const float *from = source + (i * width + j) * dilation * channels;
            UNROLL for (int p = 0; p < NUMBER; p++) total[p] += w * LOAD(from + p * step);
        }
}

/* A group's convolution of an image with a border; what is `there` already is added to */
INLINE void convolve(float *result, int64_t row, int64_t height, int64_t width, Padded from, const float *weights,
                     int64_t side, int64_t stride, int64_t dilation, int64_t channels, int there, const int NUMBER) {
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x += NUMBER)
            for (int64_t c = 0; c < channels; c += VL) {
                float *own = result + (y * width + x) * row + c;
                int64_t number = least(NUMBER, width - x);
                vec total[NUMBER];
                UNROLL for (int p = 0; p < NUMBER; p++)
                    total[p] = there && p < number ? LOAD(own + p * row) : (vec){0};
                const float *source = from.values + (y * stride * from.width + x * stride) * channels + c;
                convolved_block(total, source, from.width, weights + c, side, dilation, stride * channels, channels,
                                NUMBER);
                UNROLL for (int p = 0; p < NUMBER; p++)
                    if (p < number) STORE(own + p * row, total[p]);
            }
}

/* The same, with sizes that the compiler knows where they are frequent */
static void convolve_any(float *result, int64_t row, int64_t height, int64_t width, Padded from, const float *weights,
                         int64_t side, int64_t stride, int64_t dilation, int64_t channels, int there) {
#define CONVOLVE(C, S, NUMBER) \
    convolve(result, row, height, width, from, weights, side, S, dilation, C, there, NUMBER)
#define SIZE(C, S) if (channels == (C) && stride == (S)) return CONVOLVE(C, S, ACROSS);
    if (across(width) == 2) return CONVOLVE(channels, stride, 2);
    if (across(width) == 4) return CONVOLVE(channels, stride, 4);
    SIZE(VL, 1) SIZE(VL, 2) SIZE(2 * VL, 1) SIZE(2 * VL, 2) SIZE(4 * VL, 1) SIZE(4 * VL, 2)
    CONVOLVE(channels, stride, ACROSS);
}

typedef struct {
    int64_t groups, channels, candidates, whole[2];
    int64_t sides[2]; /* without the taps that lie farther out than a map is wide: they see nothing but its border */
    float *packed;    /* by group, tap and channel */
} Kernels;

INLINE int64_t side_of(Kernels k, int64_t group) { return k.sides[k.candidates > 1 ? group % 2 : 0]; }
INLINE int64_t whole_of(Kernels k, int64_t group) { return k.whole[k.candidates > 1 ? group % 2 : 0]; }
INLINE int64_t widest(Kernels k) { return k.sides[0] > k.sides[1] ? k.sides[0] : k.sides[1]; }
INLINE float *own_weights(Kernels k, int64_t group) {
    return k.packed + group * widest(k) * widest(k) * k.channels;
}

/* `widest`: how many pixels an image has in a line or column at most */
static Kernels geometry(Arguments *arguments, int64_t widest, int64_t dilation) {
    Arguments a = *arguments;
    Kernels k = {0};
    k.whole[0] = NEXT, k.whole[1] = NEXT, k.candidates = NEXT, k.groups = NEXT, k.channels = NEXT;
    for (int one = 0; one < 2; one++) k.sides[one] = 2 * least(k.whole[one] / 2, (widest - 1) / dilation) + 1;
    *arguments = a;
    return k;
}

/* Of a kernel's tap, its place in the whole kernel */
INLINE int64_t in_whole(int64_t tap, int64_t side, int64_t whole) {
    int64_t out = (whole - side) / 2;
    return (tap / side + out) * whole + tap % side + out;
}

/* The kernels of one candidate, or of two that alternate as groups; `turned`: by half a turn */
static Kernels packed_kernels(Arguments *arguments, int64_t widest_line, int64_t dilation, int turned) {
    Arguments a = *arguments;
    const float *one = FLOATS, *other = FLOATS, *kernels[2] = {one, other};
    Kernels k = geometry(&a, widest_line, dilation);
    *arguments = a;
    k.packed = floats(k.groups * widest(k) * widest(k) * k.channels);
    for (int64_t g = 0; g < k.groups; g++) {
        int64_t side = side_of(k, g), whole = whole_of(k, g), taps = side * side, all = whole * whole;
        const float *own = kernels[k.candidates > 1 ? g % 2 : 0] + g / k.candidates * k.channels * all;
        for (int64_t t = 0; t < taps; t++)
            for (int64_t c = 0; c < k.channels; c++)
                own_weights(k, g)[t * k.channels + c] = own[c * all + in_whole(turned ? taps - 1 - t : t, side, whole)];
    }
    return k;
}

/* Memory for an image with a border, of which lines of `block` pixels more than the last are read */
INLINE Padded bordered(int64_t height, int64_t width, int64_t border, int64_t channels, int64_t block) {
    Padded p = {height + 2 * border, width + 2 * border + 2 * block, NULL};
    p.values = floats((p.height + 1) * p.width * channels);
    return p;
}

/* Within a border made for the widest kernel, where a group's own kernel begins */
INLINE Padded inset(Padded padded, Kernels k, int64_t group, int64_t border, int64_t dilation) {
    int64_t further = border - side_of(k, group) / 2 * dilation;
    padded.values += (further * padded.width + further) * k.channels;
    return padded;
}

/* The convolution of an image's ReLU or of the image, for each group of its channels or, at `step` 0, of all of them
   for every group; perhaps parts of its sums of products (as `products` has them, of the result and itself) */
void depthwise(Arguments a) {
    int64_t threads = NEXT, images = NEXT, count = NEXT, H = NEXT, W = NEXT, OH = NEXT, OW = NEXT, stride = NEXT;
    int64_t dilation = NEXT, rectify = NEXT;
    Kernels k = packed_kernels(&a, H > W ? H : W, dilation, 0);
    const float *image = FLOATS;
    int64_t image_row = NEXT, step = NEXT;
    float *result = FLOATS;
    int64_t result_row = NEXT;
    float *parts = FLOATS;
    int64_t C = k.channels, border = widest(k) / 2 * dilation, size = k.groups * C * (C + 1);
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        Padded padded = bordered(H, W, border, C, across(OW));
        float *sums = parts ? parts + part * size : NULL;
        if (sums) memset(sums, 0, size * 4);
        for (int64_t b = begin(part, count, images); b < begin(part + 1, count, images); b++)
            for (int64_t g = 0; g < k.groups; g++) {
                if (step || g == 0)
                    pad(padded, image + b * H * W * image_row + g * step, image_row, H, W, C, border, 1, rectify);
                float *own = result + b * OH * OW * result_row + g * C;
                convolve_any(own, result_row, OH, OW, inset(padded, k, g, border, dilation), own_weights(k, g),
                             side_of(k, g), stride, dilation, C, 0);
                for (int64_t p = 0; sums && p < OH * OW; p += CHUNK)
                    add_products(sums + g * C * C, sums + k.groups * C * C + g * C, own + p * result_row, result_row, C,
                                 own + p * result_row, result_row, C, least(CHUNK, OH * OW - p), 0);
            }
        free(padded.values);
    }
    free(k.packed);
}

/* The transposed convolution: of the gradient, its pixels `stride` apart, with kernels turned by half a turn (so it is
   one of stride 1; a line and column beyond the last pixel may see some of it). Groups add up to one result or have one
   each; then where the source is positive, plus another map. */
void source_gradient(Arguments a) {
    int64_t threads = NEXT, images = NEXT, H = NEXT, W = NEXT, OH = NEXT, OW = NEXT, stride = NEXT, dilation = NEXT;
    Kernels k = packed_kernels(&a, H > W ? H : W, dilation, 1);
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT, results = NEXT;
    float *result = FLOATS;
    const float *source = FLOATS;
    int64_t source_row = NEXT;
    const float *added = FLOATS;
    int64_t added_row = NEXT;
    int64_t C = k.channels, border = widest(k) / 2 * dilation, each = k.groups / results, width = results * C;
    EACH_PART
    for (int64_t b = 0; b < images; b++) {
        Padded padded = bordered(H + stride, W + stride, border, C, across(W));
        for (int64_t g = 0; g < k.groups; g++) {
            pad(padded, gradient + b * OH * OW * gradient_row + g * C, gradient_row, OH, OW, C, border, stride, 0);
            convolve_any(result + b * H * W * width + g / each * C, width, H, W, inset(padded, k, g, border, dilation),
                         own_weights(k, g), side_of(k, g), 1, dilation, C, g % each > 0);
        }
        for (int64_t p = b * H * W; p < (b + 1) * H * W; p++)
            for (int64_t c = 0; c < width; c += VL) {
                vec own = LOAD(result + p * width + c);
                if (source) own = where_positive(own, source + p * source_row + c);
                if (added) own += LOAD(added + p * added_row + c);
                STORE(result + p * width + c, own);
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

/* The kernels' gradients, of one candidate or of both */
void kernel_gradients(Arguments a) {
    int64_t threads = NEXT, images = NEXT, count = NEXT, H = NEXT, W = NEXT, OH = NEXT, OW = NEXT, stride = NEXT;
    int64_t dilation = NEXT, rectify = NEXT;
    Kernels k = geometry(&a, H > W ? H : W, dilation);
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT;
    const float *image = FLOATS;
    int64_t image_row = NEXT, step = NEXT;
    float *one = FLOATS, *other = FLOATS, *results[2] = {one, other};
    int64_t C = k.channels, border = widest(k) / 2 * dilation, each = widest(k) * widest(k) * C, size = k.groups * each;
    float *parts = floats(count * size);
    memset(parts, 0, count * size * 4);
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        Padded padded = bordered(H, W, border, C, 0);
        for (int64_t b = begin(part, count, images); b < begin(part + 1, count, images); b++)
            for (int64_t g = 0; g < k.groups; g++) {
                if (step || g == 0)
                    pad(padded, image + b * H * W * image_row + g * step, image_row, H, W, C, border, 1, rectify);
                const float *own = gradient + b * OH * OW * gradient_row + g * C;
                float *sums = parts + part * size + g * each;
                Padded from = inset(padded, k, g, border, dilation);
                int64_t side = side_of(k, g);
                if (side == 1) add_taps(sums, own, gradient_row, OH, OW, from, stride, dilation, C, 1);
                if (side == 3) add_taps(sums, own, gradient_row, OH, OW, from, stride, dilation, C, 3);
                if (side == 5) add_taps(sums, own, gradient_row, OH, OW, from, stride, dilation, C, 5);
                if (side == 7) add_taps(sums, own, gradient_row, OH, OW, from, stride, dilation, C, 7);
            }
        free(padded.values);
    }
    for (int64_t g = 0; g < k.groups; g++) {
        int64_t side = side_of(k, g), whole = whole_of(k, g), taps = side * side, all = whole * whole;
        float *result = results[k.candidates > 1 ? g % 2 : 0] + g / k.candidates * C * all;
        memset(result, 0, C * all * 4);
        for (int64_t c = 0; c < C; c++)
            for (int64_t t = 0; t < taps; t++) {
                float total = 0;
                for (int64_t part = 0; part < count; part++) total += parts[part * size + g * each + t * C + c];
                result[c * all + in_whole(t, side, whole)] = total;
            }
    }
    free(parts);
}

/* ---- folding ----

   Of a depthwise map d with mean m and covariance S over n pixels, and a 1x1 convolution P with batch norm and scale s:
   u = P m, v = diag(P S P'), r = (v + eps)^(-1/2), W = s r P, b = shift - s r u (darts/models/fused/folding.py). The
   scale is the mixture's weight of an edge, or one of each row (a batch norm with parameters); the shift is there only
   then. Of the `per` matrices of an edge, W has all side by side. */

INLINE float *own_scale(float *mixture, int64_t group, int64_t per, int64_t step, const int64_t *columns) {
    return mixture + group / per * step + columns[group % per];
}

/* The scale of a row, which is its own or its edge's */
INLINE float scale_of(int64_t row, int64_t group, const float *scales, float *mixture, int64_t per, int64_t step,
                      const int64_t *columns) {
    if (scales) return scales[row];
    return mixture ? *own_scale(mixture, group, per, step, columns) : 1;
}

/* A row of P times S, and times itself: its variance before what is added to it */
static float variance_of(float *PS, const float *P, const float *S, int64_t inner) {
    float v = 0;
    memset(PS, 0, inner * 4);
    for (int64_t j = 0; j < inner; j++)
        for (int64_t k = 0; k < inner; k++) PS[k] += P[j] * S[j * inner + k];
    for (int64_t j = 0; j < inner; j++) v += PS[j] * P[j];
    return v;
}

/* All threads, where so many rows times square matrices are worth more than one */
INLINE int64_t worth(int64_t threads, int64_t rows, int64_t inner) {
    return rows * inner * inner >= 1 << 15 ? threads : 1;
}

void fold(Arguments a) {
    int64_t threads = NEXT, groups = NEXT, outer = NEXT, inner = NEXT, per = NEXT;
    const double n = NEXT;
    int64_t count = NEXT, size = groups * inner * (inner + 1);
    const float *parts = FLOATS, *matrices = FLOATS; /* parts of the sums of d d' and d */
    float *mixture = FLOATS;
    int64_t step = NEXT, column = NEXT, other_column = NEXT, columns[2] = {column, other_column};
    const float *scales = FLOATS, *shifts = FLOATS;
    float *running_mean = FLOATS, *running_variance = FLOATS;
    int64_t *batches = (int64_t *)NEXT, moves = NEXT;
    float *to_W = FLOATS, *to_b = FLOATS, *to_u = FLOATS, *to_r = FLOATS, *to_m = FLOATS, *to_S = FLOATS;
    const double *numbers = DOUBLES, eps = numbers[0], momentum = numbers[1];
    threads = worth(threads, groups * outer, inner);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t g = 0; g < groups; g++) {
        float *m = to_m + g * inner, *S = to_S + g * inner * inner;
        add_parts(S, parts + g * inner * inner, count, size, inner * inner);
        add_parts(m, parts + groups * inner * inner + g * inner, count, size, inner);
        for (int64_t j = 0; j < inner; j++) m[j] /= n;
        for (int64_t j = 0; j < inner; j++)
            for (int64_t k = 0; k < inner; k++) S[j * inner + k] = S[j * inner + k] / n - (double)m[j] * m[k];
        if (moves) batches[g]++;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < groups * outer; row++) {
        int64_t g = row / outer, i = row % outer;
        const float *P = matrices + row * inner, *m = to_m + g * inner;
        float *W = to_W + ((g / per * outer + i) * per + g % per) * inner, PS[inner], u = 0;
        float v = variance_of(PS, P, to_S + g * inner * inner, inner);
        for (int64_t j = 0; j < inner; j++) u += P[j] * m[j];
        v = v < 0 ? 0 : v;
        float r = 1 / sqrtf(v + eps), factor = r * scale_of(row, g, scales, mixture, per, step, columns);
        for (int64_t j = 0; j < inner; j++) W[j] = factor * P[j];
        to_b[row] = (shifts ? shifts[row] : 0) - factor * u, to_u[row] = u, to_r[row] = r;
        if (!moves) continue;
        running_mean[row] += momentum * (u - running_mean[row]);
        running_variance[row] += momentum * (v * (n / (n - 1)) - running_variance[row]);
    }
}

/* With G the gradient of W d + b: `parts` of the sums of G d' and G. Gradients of P, and of the scale (and shift); M
   and c by which the gradient of d is W'G + M d + c. */
void fold_gradient(Arguments a) {
    int64_t threads = NEXT, groups = NEXT, outer = NEXT, inner = NEXT, per = NEXT;
    const float n = NEXT;
    int64_t count = NEXT, sums = groups * outer * inner, size = sums + groups / per * outer;
    const float *parts = FLOATS, *matrices = FLOATS;
    float *mixture = FLOATS;
    int64_t step = NEXT, column = NEXT, other_column = NEXT, columns[2] = {column, other_column};
    float *of_mixture = FLOATS;
    const float *scales = FLOATS;
    float *of_scales = FLOATS, *of_shifts = FLOATS;
    const float *all_u = FLOATS, *all_r = FLOATS, *all_m = FLOATS, *all_S = FLOATS;
    float *of_P = FLOATS, *to_M = FLOATS, *to_c = FLOATS;
    float *of_rows = floats(3 * groups * outer), *of_u = of_rows + groups * outer, *of_v = of_u + groups * outer;
    threads = worth(threads, groups * outer, inner);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < groups * outer; row++) {
        int64_t g = row / outer, i = row % outer;
        const float *P = matrices + row * inner, *m = all_m + g * inner;
        float of_W[inner], PS[inner], u = all_u[row], r = all_r[row], of_b;
        float v = variance_of(PS, P, all_S + g * inner * inner, inner);
        float scale = scale_of(row, g, scales, mixture, per, step, columns);
        add_parts(of_W, parts + ((g / per * outer + i) * per + g % per) * inner, count, size, inner);
        add_parts(&of_b, parts + sums + g / per * outer + i, count, size, 1);
        float df = -of_b * u; /* of s r */
        for (int64_t j = 0; j < inner; j++) df += of_W[j] * P[j];
        if (scales) of_scales[row] = df * r, of_shifts[row] = of_b;
        of_rows[row] = df * r, of_u[row] = -scale * r * of_b, of_v[row] = v < 0 ? 0 : -scale * df * r * r * r / 2;
        for (int64_t j = 0; j < inner; j++)
            of_P[row * inner + j] = scale * r * of_W[j] + of_u[row] * m[j] + 2 * of_v[row] * PS[j];
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t column = 0; column < groups * inner; column++) {
        int64_t g = column / inner, j = column % inner;
        float *M = to_M + column * inner, c = 0;
        memset(M, 0, inner * 4);
        for (int64_t row = g * outer; row < (g + 1) * outer; row++) {
            const float *P = matrices + row * inner;
            float factor = P[j] * of_v[row] * (2 / n);
            c += P[j] * of_u[row] / n;
            for (int64_t k = 0; k < inner; k++) M[k] += factor * P[k];
        }
        for (int64_t k = 0; k < inner; k++) c -= M[k] * all_m[g * inner + k];
        to_c[column] = c;
    }
    for (int64_t g = 0; mixture && g < groups; g++) {
        float of_scale = 0;
        for (int64_t row = g * outer; row < (g + 1) * outer; row++) of_scale += of_rows[row];
        *own_scale(of_mixture, g, per, step, columns) = of_scale;
    }
    free(of_rows);
}

/* ---- pools: the formulas of darts/models/kernels/pools.py ---- */

typedef struct {
    int64_t H, W, OH, OW, side, stride;
} Window;

/* One pixel's pools: the largest under the kernel and its tap, the sum, and how many pixels are there */
INLINE int32_t pool(const float *image, int64_t image_row, Window w, int64_t pixel, vec *largest, ivec *tap, vec *sum) {
    int64_t b = pixel / (w.OH * w.OW), top = pixel / w.OW % w.OH * w.stride - w.side / 2;
    int64_t left = pixel % w.OW * w.stride - w.side / 2;
    int32_t there = 0;
    for (int64_t i = 0; i < w.side; i++)
        for (int64_t j = 0; j < w.side; j++) {
            int64_t y = top + i, x = left + j;
            if (y < 0 || y >= w.H || x < 0 || x >= w.W) continue;
            vec own = LOAD(image + ((b * w.H + y) * w.W + x) * image_row);
            ivec larger = (own > *largest) | (own != own); /* the first of equals, and not a number */
            if (!there) larger = ~(ivec){0};
            *tap = (*tap & ~larger) | (((ivec){0} + (int32_t)(i * w.side + j)) & larger);
            *largest = (vec)(((ivec)*largest & ~larger) | ((ivec)own & larger));
            *sum += own, there++;
        }
    return there;
}

/* Pools of one map side by side, the taps of the maximum, and parts of the pools' moments. `maxima`: a bit a kind. */
void pooled(Arguments a) {
    int64_t threads = NEXT, images = NEXT, count = NEXT;
    Window w;
    w.H = NEXT, w.W = NEXT, w.OH = NEXT, w.OW = NEXT;
    int64_t channels = NEXT;
    w.side = NEXT, w.stride = NEXT;
    int64_t kinds = NEXT, maxima = NEXT, width = kinds * channels;
    const float *image = FLOATS;
    int64_t image_row = NEXT;
    float *maps = FLOATS;
    uint8_t *taps = (uint8_t *)NEXT;
    float *parts = FLOATS;
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        int64_t first = begin(part, count, images) * w.OH * w.OW, end = begin(part + 1, count, images) * w.OH * w.OW;
        for (int64_t pixel = first; pixel < end; pixel++)
            for (int64_t c = 0; c < channels; c += VL) {
                vec largest = {0}, sum = {0};
                ivec tap = {0};
                int32_t there = pool(image + c, image_row, w, pixel, &largest, &tap, &sum);
                for (int64_t kind = 0; kind < kinds; kind++) {
                    float *own = maps + pixel * width + kind * channels + c;
                    if (!(maxima >> kind & 1)) {
                        STORE(own, sum / (float)there);
                        continue;
                    }
                    STORE(own, largest);
                    *(bytes *)(taps + pixel * channels + c) = __builtin_convertvector(tap, bytes);
                }
            }
        moments_of_part(parts + part * 2 * width, maps + first * width, width, end - first, width);
    }
}

/* Factors and constants of pools and of the map that comes as it is (`plain`: its column, or -1), and the pools'
   statistics: mean, variance and r */
void fold_pools(Arguments a) {
    int64_t edges = NEXT, channels = NEXT, pools = NEXT, column = NEXT, other_column = NEXT, plain = NEXT;
    int64_t normed = NEXT;
    const int64_t columns[2] = {column, other_column};
    int64_t images = NEXT, pixels = NEXT, count = NEXT, width = pools * channels, kinds = pools + (plain >= 0);
    const float *parts = FLOATS, *mixture = FLOATS;
    int64_t step = NEXT;
    float *to_factors = FLOATS, *constants = FLOATS, *statistics = FLOATS;
    const double eps = *DOUBLES;
    for (int64_t k = 0; k < width; k++) {
        Moments own = normed ? moments_of(parts, count, images, pixels, width, k) : (Moments){0, 0};
        statistics[k] = own.mean, statistics[width + k] = own.variance;
        statistics[2 * width + k] = normed ? 1 / sqrt(own.variance + eps) : 1;
    }
    for (int64_t edge = 0; edge < edges; edge++)
        for (int64_t c = 0; c < channels; c++) {
            float *factors = to_factors + edge * kinds * channels + c, constant = 0;
            for (int64_t k = 0; k < pools; k++) {
                float f = mixture[edge * step + columns[k]] * statistics[2 * width + k * channels + c];
                factors[k * channels] = f, constant -= f * statistics[k * channels + c];
            }
            if (plain >= 0) factors[pools * channels] = mixture[edge * step + plain];
            constants[edge * channels + c] = constant;
        }
}

/* By edge, parts of the sums over pixels of its gradient times each kind's map, and of the gradient alone */
void pool_products(Arguments a) {
    int64_t threads = NEXT, images = NEXT, pixels = NEXT, count = NEXT, edges = NEXT, channels = NEXT, pools = NEXT;
    int64_t has_plain = NEXT, size = edges * (pools + has_plain + 1) * channels;
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT;
    const float *maps = FLOATS;
    int64_t maps_row = NEXT;
    const float *plain = FLOATS;
    int64_t plain_row = NEXT;
    float *parts = FLOATS;
    EACH_PART
    for (int64_t part = 0; part < count; part++) {
        memset(parts + part * size, 0, size * 4);
        for (int64_t p = begin(part, count, images) * pixels; p < begin(part + 1, count, images) * pixels; p++)
            for (int64_t edge = 0; edge < edges; edge++)
                for (int64_t c = 0; c < channels; c += VL) {
                    vec own = LOAD(gradient + p * gradient_row + edge * channels + c);
                    float *sums = parts + part * size + edge * (pools + has_plain + 1) * channels + c;
                    for (int64_t k = 0; k < pools; k++, sums += channels)
                        STORE(sums, LOAD(sums) + own * LOAD(maps + p * maps_row + k * channels + c));
                    if (has_plain) STORE(sums, LOAD(sums) + own * LOAD(plain + p * plain_row + c));
                    sums += has_plain * channels;
                    STORE(sums, LOAD(sums) + own);
                }
    }
}

/* Of the mixture; by what factor and constant a pool's map is in its own gradient */
void fold_pools_gradient(Arguments a) {
    int64_t edges = NEXT, channels = NEXT, pools = NEXT, column = NEXT, other_column = NEXT, plain = NEXT;
    int64_t normed = NEXT;
    const float n = NEXT;
    int64_t count = NEXT, kinds = pools + (plain >= 0), width = pools * channels, size = edges * (kinds + 1) * channels;
    const float *parts = FLOATS, *mixture = FLOATS;
    int64_t step = NEXT;
    float *of_mixture = FLOATS;
    const float *statistics = FLOATS;
    float *factors = FLOATS, *constants = FLOATS, sums[size];
    add_parts(sums, parts, count, size, size);
    const int64_t columns[2] = {column, other_column};
    for (int64_t kind = 0; kind < kinds; kind++) {
        int64_t own_column = kind == pools ? plain : columns[kind];
        float of_column[edges];
        memset(of_column, 0, sizeof of_column);
        for (int64_t c = 0; c < channels; c++) {
            float mean = kind == pools ? 0 : statistics[kind * channels + c], dr = 0, dm = 0;
            float r = kind == pools ? 1 : statistics[2 * width + kind * channels + c];
            for (int64_t edge = 0; edge < edges; edge++) {
                const float *own = sums + edge * (kinds + 1) * channels + c, of_constant = own[kinds * channels];
                float weight = mixture[edge * step + own_column], q = own[kind * channels] - of_constant * mean;
                of_column[edge] += q * r, dr += weight * q, dm -= weight * r * of_constant;
            }
            if (kind == pools) continue;
            float factor = normed ? -r * r * r * dr / n : 0;
            factors[kind * channels + c] = factor, constants[kind * channels + c] = normed ? dm / n - factor * mean : 0;
        }
        for (int64_t edge = 0; edge < edges; edge++) of_mixture[edge * step + own_column] = of_column[edge];
    }
}

/* The gradient of the pools' maps */
void pool_maps_gradient(Arguments a) {
    int64_t threads = NEXT, pixels = NEXT, edges = NEXT, channels = NEXT, pools = NEXT, kinds = NEXT, normed = NEXT;
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT;
    const float *factors = FLOATS, *maps = FLOATS; /* factors of the kinds in the edges' sums */
    int64_t maps_row = NEXT;
    const float *own_factors = FLOATS, *constants = FLOATS; /* of fold_pools_gradient */
    float *result = FLOATS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t kind = 0; kind < pools; kind++)
            for (int64_t c = 0; c < channels; c += VL) {
                vec total = {0};
                int64_t k = kind * channels + c;
                if (normed) total = LOAD(own_factors + k) * LOAD(maps + p * maps_row + k) + LOAD(constants + k);
                for (int64_t edge = 0; edge < edges; edge++)
                    total += LOAD(factors + (edge * kinds + kind) * channels + c) *
                             LOAD(gradient + p * gradient_row + edge * channels + c);
                STORE(result + p * pools * channels + k, total);
            }
}

/* Of the pools' input, from the gradient of their maps, and from the edges' where it comes as it is (the last kind);
   perhaps plus another map */
void pool_source_gradient(Arguments a) {
    int64_t threads = NEXT, images = NEXT;
    Window w;
    w.H = NEXT, w.W = NEXT, w.OH = NEXT, w.OW = NEXT;
    int64_t channels = NEXT, half;
    w.side = NEXT, w.stride = NEXT, half = w.side / 2;
    int64_t edges = NEXT, pools = NEXT, maxima = NEXT, has_plain = NEXT;
    const float *of_maps = FLOATS;
    int64_t maps_row = NEXT;
    const uint8_t *taps = (const uint8_t *)NEXT;
    const float *gradient = FLOATS;
    int64_t gradient_row = NEXT;
    const float *factors = FLOATS;
    float *to = FLOATS;
    const float *added = FLOATS;
    int64_t added_row = NEXT;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < images * w.H * w.W; p++) {
        int64_t b = p / (w.H * w.W), line = p / w.W % w.H, column = p % w.W;
        float *result = to + p * channels;
        for (int64_t c = 0; c < channels; c += VL) {
            vec total = {0};
            if (added) total = LOAD(added + p * added_row + c);
            for (int64_t edge = 0; has_plain && edge < edges; edge++)
                total += LOAD(factors + (edge * (pools + 1) + pools) * channels + c) *
                         LOAD(gradient + p * gradient_row + edge * channels + c);
            STORE(result + c, total);
        }
        for (int64_t i = 0; pools && i < w.side; i++)
            for (int64_t j = 0; j < w.side; j++) {
                int64_t y = line - i + half, x = column - j + half; /* the kernel's middle, of which this is tap i, j */
                if (y < 0 || y % w.stride || y / w.stride >= w.OH) continue;
                if (x < 0 || x % w.stride || x / w.stride >= w.OW) continue;
                int64_t place = (b * w.OH + y / w.stride) * w.OW + x / w.stride;
                int64_t high = least(y + half, w.H - 1) - (y < half ? 0 : y - half) + 1;
                int64_t wide = least(x + half, w.W - 1) - (x < half ? 0 : x - half) + 1;
                float part = 1 / (float)(high * wide);
                for (int64_t kind = 0; kind < pools; kind++)
                    for (int64_t c = 0; c < channels; c += VL) {
                        vec own = LOAD(of_maps + place * maps_row + kind * channels + c);
                        if (maxima >> kind & 1) {
                            ivec tap = __builtin_convertvector(*(const bytes *)(taps + place * channels + c), ivec);
                            own = (vec)((ivec)own & (tap == (int32_t)(i * w.side + j)));
                        } else own *= part;
                        STORE(result + c, LOAD(result + c) + own);
                    }
            }
    }
}

/* ---- many calls at once: see program.py ---- */

/* [calls] and for each {function, n, k, n arguments, k x (index of an argument, index of a tensor)}: such an argument
   is a byte offset from the tensor's address */
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
