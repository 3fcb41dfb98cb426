/* Attention in groups of tokens, on x86-64 processors with AVX2 or AVX-512: one call for each kind of group.

   The tokens of a group are read where they stand and their results written there, so nothing is gathered before or after. A
   group and a head are one unit of work, which one thread does from beginning to end: results depend neither on the number
   of threads nor on the other groups. Both instruction sets add in the same order and give the same bits.

   No header of Python or torch is needed: native.py calls it with addresses. */

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct Problem {
    const float *qkv;      /* rows of (q | k | v) x head x dimension */
    const int64_t *places; /* of the tokens of each group among the rows */
    const float *bias;     /* (heads, keys, queries) or null, in units of log2 */
    float *out;            /* rows of head x dimension */
    int64_t tokens, heads, dim;
    float scale;           /* of q k, in units of log2 */
};

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx2,fma")
#endif
namespace wide {
constexpr int VECTOR = 64, ROWS = 8;
#include "attention_unit.h"
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
#include "attention_unit.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}

/* Bits of a vector of this processor that the kernel can use: 512, 256 or, where it cannot run, 0. */
extern "C" int upsr_attention_width() {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return 512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 256 : 0;
}

/* The attention of `groups` groups; tokens are a multiple of 32, dim is one of 8, width is at most upsr_attention_width().
   Returns 0, or 1 where memory is short. */
extern "C" int upsr_attention(const float *qkv, const int64_t *places, const float *bias, float *out, int64_t groups,
                              int64_t tokens, int64_t heads, int64_t dim, float scale, int threads, int width) {
    const Problem problem = {qkv, places, bias, out, tokens, heads, dim, scale};
    const auto unit = width == 512 ? wide::unit : narrow::unit;
    const size_t bytes = sizeof(float) * size_t(2 * tokens * dim + 32 * (tokens + dim)); /* a multiple of 64 */
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        float *scratch = static_cast<float *>(aligned_alloc(64, bytes));
        failed = scratch == nullptr;
        /* Head by head, so that one head's bias stays in the cache. */
#pragma omp for schedule(static)
        for (int64_t i = 0; i < groups * heads; i++)
            if (scratch)
                unit(problem, i % groups, i / groups, scratch);
        free(scratch);
    }
    return failed;
}
