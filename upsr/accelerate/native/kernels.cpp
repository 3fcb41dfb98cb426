/* Kernels for x86-64 processors with AVX2 or AVX-512, which the Python modules beside this file call with addresses; no header of
   Python or torch is needed.

   A unit of work (one head of one group, some tiles) is done by one thread from beginning to end and knows no other: results
   depend neither on the number of threads nor on the rest of a batch. Both instruction sets add in the same order and give the
   same bits. */

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

/* The upper half of a float, rounded to the nearest, of two to the even one. */
typedef uint16_t bfloat16;

inline float widened(float x) { return x; }

inline float widened(bfloat16 x) {
    const uint32_t bits = uint32_t(x) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void put(float x, float *to) { *to = x; }

inline void put(float x, bfloat16 *to) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    *to = bfloat16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

struct Attention {
    const void *qkv;       /* rows of (q | k | v) x head x dimension, float or bfloat16 */
    const int64_t *places; /* of the tokens of each group among the rows */
    const float *bias;     /* (heads, keys, queries) or null, in units of log2 */
    void *out;             /* rows of head x dimension, as qkv */
    int64_t tokens, heads, dim;
    float scale;           /* of q k, in units of log2 */
};

struct Convolution {
    const void *x;       /* (batch, height, width, channels), float or bfloat16 */
    const float *weight; /* phases of the result x panels of PAIR outputs, the last filled up x 36 x channels x PAIR */
    const float *bias;   /* (outputs,) */
    void *out;           /* (batch, scale * height, scale * width, outputs), as x */
    int64_t height, width, channels, outputs;
    int64_t scale;       /* the result has scale x scale phases: pixels for each of x, which have weights of their own */
};

constexpr int64_t BLOCK = 64;

struct Norm {
    const void *x;                      /* (batch, pixels, channels), float or bfloat16 */
    const float *weight, *bias;         /* (channels,) */
    const float *scale, *shift;         /* (batch, channels), for the normed map, or null */
    void *out;                          /* as x */
    double *sums;                       /* (batch, blocks, 2, channels): room for sums */
    float *coefficients;                /* (batch, 3, channels): room for mean, factor, offset */
    int64_t pixels, channels, groups;
    double eps;

    /* Of an image. */
    int64_t blocks() const { return (pixels + BLOCK - 1) / BLOCK; }

    /* Of a block of the batch, the image, the place of the first number and how many pixels there are. */
    int64_t image(int64_t block) const { return block / blocks(); }
    int64_t start(int64_t block) const { return (image(block) * pixels + block % blocks() * BLOCK) * channels; }
    int64_t count(int64_t block) const {
        const int64_t left = pixels - block % blocks() * BLOCK;
        return left < BLOCK ? left : BLOCK;
    }
};

struct Field {
    const int64_t *keys;              /* of the images */
    float *out;                       /* (images, channels, rows, last - first) */
    int64_t channels, top, rows;      /* of the window: its first row, and how many */
    int64_t first, last;              /* columns */
};

constexpr double LN_2 = 0.693147180559945309417, PI = 3.14159265358979323846;

/* Half of pi in two parts. */
constexpr double PI_2 = PI / 2, REST_OF_PI_2 = 6.123233995736766e-17;

/* Mean, factor and offset of one image's channels, from the sums of its blocks. */
void find_coefficients(const Norm &p, int64_t image) {
    double *total = p.sums + image * p.blocks() * 2 * p.channels; /* the first block's */
    for (int64_t block = 1; block < p.blocks(); block++)
        for (int64_t c = 0; c < 2 * p.channels; c++)
            total[c] += total[block * 2 * p.channels + c];
    float *means = p.coefficients + image * 3 * p.channels, *factors = means + p.channels, *offsets = factors + p.channels;
    const int64_t width = p.channels / p.groups;
    for (int64_t first = 0; first < p.channels; first += width) {
        double sum = 0, squares = 0;
        for (int64_t c = first; c < first + width; c++) {
            sum += total[c];
            squares += total[p.channels + c];
        }
        const double count = double(p.pixels * width), mean = sum / count, variance = squares / count - mean * mean;
        const double inverse = 1 / std::sqrt((variance < 0 ? 0 : variance) + p.eps);
        for (int64_t c = first; c < first + width; c++) {
            double factor = p.weight[c] * inverse;
            means[c] = float(mean);
            double offset = p.bias[c] - factor * (mean - means[c]);
            if (p.scale) {
                factor *= p.scale[image * p.channels + c];
                offset = offset * p.scale[image * p.channels + c] + p.shift[image * p.channels + c];
            }
            factors[c] = float(factor);
            offsets[c] = float(offset);
        }
    }
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx2,fma")
#endif
namespace wide {
constexpr int VECTOR = 64, ROWS = 8;
#include "vectors.h"
#include "attention.h"
#include "winograd.h"
#include "norm.h"
#include "normal.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace narrow {
constexpr int VECTOR = 32, ROWS = 4;
#include "vectors.h"
#include "attention.h"
#include "winograd.h"
#include "norm.h"
#include "normal.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* The form of a kernel for the vectors and the type that the caller names. */
#define CHOSEN(kernel)                                                                                              \
    (width == 512 ? (is_bfloat16 ? wide::kernel<bfloat16> : wide::kernel<float>)                                    \
                  : (is_bfloat16 ? narrow::kernel<bfloat16> : narrow::kernel<float>))

/* work(i, scratch) for i below count, each on one of the threads; false where there is no memory for their scratch space. */
template <typename Work> bool shared_among(int threads, int64_t count, int64_t scratch_floats, const Work &work) {
    const size_t bytes = (sizeof(float) * size_t(scratch_floats) + 63) / 64 * 64;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *scratch = static_cast<float *>(aligned_alloc(64, bytes));
        failed = scratch == nullptr;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
            if (scratch)
                work(i, scratch);
        free(scratch);
    }
    return !failed;
}

}

/* The digest of the sources: a library of older ones would take other arguments. */
extern "C" const char *upsr_sources() { return UPSR_SOURCES; }

/* Bits of a vector of this processor that the kernels can use: 512, 256 or, where they cannot run, 0. */
extern "C" int upsr_width() {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return 512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 256 : 0;
}

/* The attention of some groups of float or bfloat16; tokens are a multiple of 32, dim is one of 8. Width is at most upsr_width().
   Returns 0, or 1 where memory is short. */
extern "C" int upsr_attention(const void *qkv, const int64_t *places, const float *bias, void *out, int64_t groups,
                              int64_t tokens, int64_t heads, int64_t dim, float scale, int is_bfloat16, int threads,
                              int width) {
    const Attention problem = {qkv, places, bias, out, tokens, heads, dim, scale};
    const auto attend = CHOSEN(attend);
    /* Head by head, so that one head's bias stays in the cache. */
    return !shared_among(threads, groups * heads, 2 * tokens * dim + 32 * (tokens + dim), [&](int64_t i, float *scratch) {
        attend(problem, i % groups, i / groups, scratch);
    });
}

/* A convolution of bfloat16 or float; channels and outputs are multiples of 16; each thread has `tiles` at once, a multiple of 8.
   Otherwise as above. */
extern "C" int upsr_winograd(const void *x, const float *weight, const float *bias, void *out, int64_t batch,
                             int64_t height, int64_t width_of_image, int64_t channels, int64_t outputs, int64_t scale,
                             int64_t tiles, int is_bfloat16, int threads, int width) {
    const Convolution problem = {x, weight, bias, out, height, width_of_image, channels, outputs, scale};
    const auto convolve = CHOSEN(convolve);
    const int64_t all = batch * ((height + 3) / 4) * ((width_of_image + 3) / 4);
    const int64_t scratch = 36 * (tiles * (channels + 32) + 32) + channels;
    return !shared_among(threads, (all + tiles - 1) / tiles, scratch, [&](int64_t i, float *scratch) {
        convolve(problem, i * tiles, all - i * tiles < tiles ? all - i * tiles : tiles, scratch);
    });
}

/* The group norm of a map of float or bfloat16; channels are a multiple of 16 and of the groups; sums are at a multiple of 64.
   Returns 0. */
extern "C" int upsr_norm(const void *x, const float *weight, const float *bias, const float *scale, const float *shift, void *out,
                         double *sums, float *coefficients, int64_t batch, int64_t pixels, int64_t channels, int64_t groups,
                         double eps, int is_bfloat16, int threads, int width) {
    const Norm problem = {x, weight, bias, scale, shift, out, sums, coefficients, pixels, channels, groups, eps};
    const auto add_up = CHOSEN(add_up), apply = CHOSEN(apply);
    const int64_t count = batch * problem.blocks();
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
            add_up(problem, i);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch; i++)
            find_coefficients(problem, i);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++)
            apply(problem, i);
    }
    return 0;
}

/* A window of fields of standard normal numbers, float. Returns 0, or 1 where memory is short. */
extern "C" int upsr_normal(const int64_t *keys, float *out, int64_t images, int64_t channels, int64_t top, int64_t rows,
                           int64_t first, int64_t last, int, int threads, int width) {
    const Field problem = {keys, out, channels, top, rows, first, last};
    const auto draw_row = width == 512 ? wide::draw_row : narrow::draw_row;
    return !shared_among(threads, images * channels * rows, 4 * wide::DOUBLES, [&](int64_t i, float *scratch) {
        draw_row(problem, i / (channels * rows), i / rows % channels, i % rows, scratch);
    });
}
